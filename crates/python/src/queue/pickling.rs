//! Everything that is not encoded natively: the interpreter's pickler, protocol 5, large buffers out of band.
//!
//! Making a `ForkingPickler` costs more than pickling a small dictionary, so each thread keeps one, as long as the reducers
//! are those that it was made with: it has a copy of the tables. A pickler in use, by
//! an object whose reduction puts something into another queue, is left alone: a second one is made.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::{PyBufferError, PyException};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList};
use weft_shm::Arena;

use super::codec::{Arrives, Failure, Spans, filled};
use super::view::View;
use crate::kept;

/// Buffers of at least so many bytes travel out of band.
const LARGE: usize = 8 << 10;
/// A buffer that grew beyond this is not kept.
pub(super) const KEPT: usize = 1 << 20;

const PROTOCOL: i32 = 5;
/// What the standard library uses: arrays arrive writable, whatever they were.
const OLD_PROTOCOL: i32 = 4;

/// Where a pickler writes, and what it asks about buffers.
#[pyclass(frozen, name = "_PickleSink", module = "weft._native")]
struct Sink(Mutex<Written>);

#[derive(Default)]
struct Written {
    /// Where large buffers go: the arena of the queue that the object is put into.
    arena: Option<Arc<Arena>>,
    bytes: Vec<u8>,
    spans: Spans,
    /// A buffer cannot go out of band, because it would arrive read-only.
    read_only: bool,
    /// There was no shared memory for a buffer.
    no_memory: bool,
}

#[pymethods]
impl Sink {
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        written(data, |piece| self.0.lock().bytes.extend_from_slice(piece))
    }

    /// The pickler's `buffer_callback`: true for a buffer that it shall write itself.
    fn keep_in_band(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        let view = View::of(buffer)?;
        if view.is_read_only() {
            self.0.lock().read_only = true;
            return Ok(true);
        }
        let (full, arena) = {
            let written = self.0.lock();
            (written.spans.len() + 1 >= weft_shm::queue::MOST_SPANS, written.arena.clone())
        };
        let Some(arena) = arena else { return Ok(true) };
        if !view.is_in_one_piece() || view.bytes().len() < LARGE || full {
            return Ok(true);
        }
        // While the GIL is given up the export keeps the memory where it is.
        match filled(buffer.py(), &arena, view.bytes(), Arrives::InPlace) {
            Ok(span) => self.0.lock().spans.push(span),
            Err(error) => {
                self.0.lock().no_memory = true;
                return Err(error);
            }
        }
        Ok(false)
    }
}

/// A pickler and where it writes.
struct Kept {
    class: Py<PyAny>,
    sink: Py<Sink>,
    dump: Py<PyAny>,
    clear_memo: Py<PyAny>,
    /// `None` if the class keeps them in another way; then it is not known whether they changed.
    reducers: Option<Reducers>,
}

/// The tables of reducers, and what was in them.
struct Reducers {
    tables: [Py<PyDict>; 2],
    /// Addresses of types and reducers. The pickler's copy keeps them alive, so nothing else can have them.
    entries: Vec<(usize, usize)>,
}

impl Reducers {
    fn of(class: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = class.py();
        let own = class.getattr("_extra_reducers")?.cast_into::<PyDict>()?;
        let common = py.import("copyreg")?.getattr("dispatch_table")?.cast_into::<PyDict>()?;
        let mut reducers = Self { tables: [own.unbind(), common.unbind()], entries: Vec::new() };
        let mut entries = Vec::new();
        reducers.each(py, |entry| {
            entries.push(entry);
            true
        });
        reducers.entries = entries;
        Ok(reducers)
    }

    /// Shows `look` all entries, until it has seen enough.
    fn each(&self, _py: Python<'_>, mut look: impl FnMut((usize, usize)) -> bool) {
        for table in &self.tables {
            let (mut place, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: a dictionary, and the GIL is held; `look` runs no Python code that could change it.
            while unsafe { ffi::PyDict_Next(table.as_ptr(), &mut place, &mut key, &mut value) } != 0 {
                if !look((key as usize, value as usize)) {
                    return;
                }
            }
        }
    }

    /// Whether the same is in them still.
    fn are_current(&self, py: Python<'_>) -> bool {
        let length = |table: &Py<PyDict>| table.bind(py).len();
        if self.tables.iter().map(length).sum::<usize>() != self.entries.len() {
            return false;
        }
        let (mut known, mut same) = (self.entries.iter(), true);
        self.each(py, |entry| {
            same = known.next() == Some(&entry);
            same
        });
        same
    }
}

/// A piece of a pickle that a pickler writes; how long it is.
pub(crate) fn written(data: &Bound<'_, PyAny>, keep: impl FnOnce(&[u8])) -> PyResult<usize> {
    if let Ok(bytes) = data.cast_exact::<PyBytes>() {
        keep(bytes.as_bytes());
        return Ok(bytes.as_bytes().len());
    }
    let view = View::of(data)?;
    if !view.is_in_one_piece() {
        return Err(PyBufferError::new_err("a pickle is written in pieces that are contiguous"));
    }
    keep(view.bytes());
    Ok(view.bytes().len())
}

thread_local! {
    static KEPT_PICKLER: kept::Kept<Kept> = const { kept::Kept::new() };
}

/// `multiprocessing.reduction`.
pub(crate) fn reduction(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static MODULE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    MODULE
        .get_or_try_init(py, || Ok(py.import("multiprocessing.reduction")?.into_any().unbind()))
        .map(|module| module.bind(py))
}

/// The exception for an object, called `name`, that was to be sent and could not be pickled: with the way to what is to blame, which
/// stands for the {} in `sending`.
#[cold]
pub(crate) fn refused(object: &Bound<'_, PyAny>, error: PyErr, sending: &str, name: &str) -> PyErr {
    static EXPLAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = object.py();
    if !error.is_instance_of::<PyException>(py) {
        return error;
    }
    let explain = EXPLAIN
        .get_or_try_init(py, || Ok::<_, PyErr>(py.import("weft._unpicklable")?.getattr("refused")?.unbind()));
    match explain.and_then(|explain| explain.bind(py).call1((error.value(py), object, sending, name))) {
        Ok(explained) => PyErr::from_value(explained),
        Err(_) => error,
    }
}

impl Kept {
    fn new(py: Python<'_>, class: Bound<'_, PyAny>, protocol: i32) -> PyResult<Self> {
        let sink = Bound::new(py, Sink(Mutex::default()))?;
        let callback = if protocol >= PROTOCOL { Some(sink.getattr("keep_in_band")?) } else { None };
        // By position: the class's constructor takes nothing else.
        let pickler = class.call1((&sink, protocol, true, callback))?;
        Ok(Self {
            reducers: Reducers::of(&class).ok(),
            dump: pickler.getattr("dump")?.unbind(),
            clear_memo: pickler.getattr("clear_memo")?.unbind(),
            sink: sink.unbind(),
            class: class.unbind(),
        })
    }

    fn is_current(&self, py: Python<'_>) -> bool {
        self.reducers.as_ref().is_some_and(|reducers| reducers.are_current(py))
    }

    fn dump(&self, object: &Bound<'_, PyAny>, arena: Option<&Arc<Arena>>) -> Result<Written, Failure> {
        let py = object.py();
        self.sink.get().0.lock().arena = arena.cloned();
        let outcome = self.dump.bind(py).call1((object,));
        let written = std::mem::take(&mut *self.sink.get().0.lock());
        outcome.map_err(if written.no_memory { Failure::Memory } else { Failure::Pickle })?;
        self.clear_memo.bind(py).call0()?;
        Ok(written)
    }
}

/// Appends the pickle of `object` to `body`, and its large buffers to `spans`, which are of `arena`.
///
/// A pickler that cannot be made counts as the object's failure, too.
pub(super) fn dump(
    object: &Bound<'_, PyAny>,
    arena: &Arc<Arena>,
    body: &mut Vec<u8>,
    spans: &mut Spans,
) -> Result<(), Failure> {
    let py = object.py();
    let class = reduction(py)?.getattr(pyo3::intern!(py, "ForkingPickler"))?;
    let kept = KEPT_PICKLER.with(kept::Kept::take);
    let kept = kept.filter(|kept| kept.class.is(&class) && kept.is_current(py));
    let kept = match kept {
        Some(kept) => kept,
        None => Kept::new(py, class.clone(), PROTOCOL)?,
    };
    // A pickler whose dump failed is thrown away.
    let mut written = kept.dump(object, Some(arena))?;
    if written.read_only {
        written = Kept::new(py, class, OLD_PROTOCOL)?.dump(object, Some(arena))?;
    }
    body.extend_from_slice(&written.bytes);
    spans.append(&mut written.spans);
    if written.bytes.capacity() <= KEPT {
        written.bytes.clear();
        kept.sink.get().0.lock().bytes = written.bytes;
    }
    KEPT_PICKLER.with(|place| place.put(kept));
    Ok(())
}

/// Appends the pickle of `object` to `body`, with all of its buffers.
pub(super) fn dump_whole(object: &Bound<'_, PyAny>, body: &mut Vec<u8>) -> Result<(), Failure> {
    thread_local! {
        static KEPT_WHOLE: kept::Kept<Kept> = const { kept::Kept::new() };
    }
    let py = object.py();
    let class = reduction(py)?.getattr(pyo3::intern!(py, "ForkingPickler"))?;
    let kept = KEPT_WHOLE.with(kept::Kept::take).filter(|kept| kept.class.is(&class));
    let kept = match kept {
        Some(kept) => kept,
        None => Kept::new(py, class, OLD_PROTOCOL)?,
    };
    let written = kept.dump(object, None)?;
    body.extend_from_slice(&written.bytes);
    KEPT_WHOLE.with(|place| place.put(kept));
    Ok(())
}

/// The object that `data` is the pickle of.
pub(crate) fn load<'py>(
    data: &Bound<'py, PyAny>,
    buffers: Option<&Bound<'py, PyList>>,
) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = data.py();
    let loads = LOADS.get_or_try_init(py, || {
        Ok::<_, PyErr>(reduction(py)?.getattr("ForkingPickler")?.getattr("loads")?.unbind())
    })?;
    match buffers {
        None => loads.bind(py).call1((data,)),
        Some(buffers) => {
            let keywords = PyDict::new(py);
            keywords.set_item(pyo3::intern!(py, "buffers"), buffers)?;
            loads.bind(py).call((data,), Some(&keywords))
        }
    }
}
