//! Watchers of files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use weft_reactor::{FileKey, FileState, FileStatus};

use super::kind::Kind;
use super::watcher::Watcher;
use super::watchers::kind;

/// What a file's watcher knows of it, and where it lies.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) path: PathBuf,
    /// How long, in seconds, a change may go unseen where the kernel does not tell; 0 is [`INTERVAL`].
    pub(super) interval: f64,
    /// As of the end of the last watch, or of the one before this.
    pub(super) state: FileState,
    pub(super) key: Option<FileKey>,
}

/// libev's, as are the odd parts: they keep watchers from being due together with everything that has a round number.
pub(super) const INTERVAL: f64 = 5.007_489_1;
const SHORTEST_INTERVAL: f64 = 0.107_489_1;

impl Watched {
    /// Sees to it that the interval is one.
    pub(super) fn settle_interval(&mut self) {
        if self.interval != 0.0 && self.interval < SHORTEST_INTERVAL {
            self.interval = SHORTEST_INTERVAL;
        }
    }
}

/// A watcher of what is under a name.
#[pyclass(frozen, extends = Watcher, name = "stat", module = "gevent.core")]
#[derive(Debug)]
pub(super) struct Stat {
    /// As it was given.
    path: Py<PyAny>,
}

impl Stat {
    /// What is to be watched, and the part of the watcher that says so to programs.
    pub(super) fn prepare(path: &Bound<'_, PyAny>, interval: f64) -> PyResult<(Kind, Self)> {
        let encoded = path.py().import("os")?.call_method1("fsencode", (path,))?;
        let bytes = encoded.cast::<PyBytes>()?.as_bytes();
        if bytes.contains(&0) {
            return Err(PyValueError::new_err("embedded null byte in the path of a file to watch"));
        }
        if interval.is_nan() {
            return Err(PyValueError::new_err("the interval of a stat watcher is a number of seconds"));
        }
        let watched = Watched {
            path: PathBuf::from(OsStr::from_bytes(bytes)),
            interval,
            state: FileState::default(),
            key: None,
        };
        Ok((Kind::Stat(Box::new(watched)), Self { path: path.clone().unbind() }))
    }

    fn known(slf: &Bound<'_, Self>) -> FileState {
        let core = slf.as_super().get().core(slf.py());
        let Watched { state, key, .. } = kind!(slf, Kind::Stat(watched) => &**watched);
        // SAFETY: with the GIL, for this statement.
        let reactor = core.ok().and_then(|core| unsafe { (*core).hub.reactor() });
        let current = reactor.zip(*key).and_then(|(reactor, key)| reactor.file(key));
        match current {
            Some(FileState { now, before }) => FileState { now, before: before.or(state.before) },
            None => *state,
        }
    }
}

#[pymethods]
impl Stat {
    /// Whose name it watches, as it was given.
    #[getter]
    fn path(&self, py: Python<'_>) -> Py<PyAny> {
        self.path.clone_ref(py)
    }

    #[getter]
    fn _paths<'py>(slf: &Bound<'py, Self>) -> Bound<'py, PyBytes> {
        kind!(slf, Kind::Stat(watched) => PyBytes::new(slf.py(), watched.path.as_os_str().as_bytes()))
    }

    /// How long, in seconds, a change may go unseen where the kernel does not tell of changes; 0 stands for about 5.
    #[getter]
    fn interval(slf: &Bound<'_, Self>) -> f64 {
        kind!(slf, Kind::Stat(watched) => watched.interval)
    }

    /// What is there, an `os.stat_result`; None if nothing is, and before the watcher is started.
    #[getter]
    fn attr<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::known(slf).now.map(|status| to_python(slf.py(), &status)).transpose()
    }

    /// What was there before the last change; None if nothing was, and before the first change.
    #[getter]
    fn prev<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::known(slf).before.map(|status| to_python(slf.py(), &status)).transpose()
    }

    // A path is nothing that holds a watcher, unless somebody derives from `str` to that end, and then it can let go.
    #[allow(clippy::needless_pass_by_value, reason = "the signature is PyO3's")]
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.path)
    }
}

/// As `os.lstat` has it.
fn to_python<'py>(py: Python<'py>, status: &FileStatus) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    const SECOND: i128 = 1_000_000_000;
    let class = CLASS.get_or_try_init(py, || py.import("os")?.getattr("stat_result").map(Bound::unbind))?;
    let instants = [status.accessed, status.modified, status.changed];
    let [accessed, modified, changed] = instants.map(|at| at.div_euclid(SECOND));
    let FileStatus { mode, inode, device, links, user, group, size, .. } = *status;
    let shown: Bound<'py, PyTuple> =
        (mode, inode, device, links, user, group, size, accessed, modified, changed).into_pyobject(py)?;
    let more = PyDict::new(py);
    for (name, at) in ["st_atime", "st_mtime", "st_ctime"].into_iter().zip(instants) {
        let seconds = at.div_euclid(SECOND) as f64 + 1e-9 * at.rem_euclid(SECOND) as f64;
        more.set_item(name, seconds)?;
        more.set_item(format!("{name}_ns"), at)?;
    }
    more.set_item("st_blksize", status.block_size)?;
    more.set_item("st_blocks", status.blocks)?;
    more.set_item("st_rdev", status.special_device)?;
    class.bind(py).call1((shown, more))
}
