//! Watchers of each kind: what they have beside what all have. Those of files are in [`stat`](super::stat).

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::kind::Kind;
use super::watcher::Watcher;

/// What the watcher watches, which its class says.
macro_rules! kind {
    ($watcher:expr, $pattern:pat => $value:expr) => {
        match &mut $watcher.as_super().get().state($watcher.py()).kind {
            $pattern => $value,
            _ => unreachable!("a loop makes each watcher with the kind of its class"),
        }
    };
}
pub(super) use kind;

/// A watcher of a descriptor.
#[pyclass(frozen, extends = Watcher, name = "io", module = "gevent.core")]
#[derive(Debug)]
pub(super) struct Io;

impl Io {
    fn check_passive(slf: &Bound<'_, Self>, name: &str) -> PyResult<()> {
        if slf.as_super().get().state(slf.py()).active {
            return Err(PyAttributeError::new_err(format!(
                "'io' watcher attribute '{name}' is read-only while watcher is active"
            )));
        }
        Ok(())
    }
}

#[pymethods]
impl Io {
    #[getter]
    fn fd(slf: &Bound<'_, Self>) -> i32 {
        kind!(slf, Kind::Io { descriptor, .. } => *descriptor)
    }

    #[setter]
    fn set_fd(slf: &Bound<'_, Self>, fd: i32) -> PyResult<()> {
        Self::check_passive(slf, "fd")?;
        kind!(slf, Kind::Io { descriptor, .. } => *descriptor = fd);
        Ok(())
    }

    #[getter]
    fn events(slf: &Bound<'_, Self>) -> i32 {
        kind!(slf, Kind::Io { events, .. } => *events)
    }

    #[setter]
    fn set_events(slf: &Bound<'_, Self>, value: i32) -> PyResult<()> {
        Self::check_passive(slf, "events")?;
        kind!(slf, Kind::Io { events, .. } => *events = value);
        Ok(())
    }
}

/// A watcher of the time.
#[pyclass(frozen, extends = Watcher, name = "timer", module = "gevent.core")]
#[derive(Debug)]
pub(super) struct Timer;

#[pymethods]
impl Timer {
    /// When it is due, in seconds of the loop's clock.
    #[getter]
    fn at(slf: &Bound<'_, Self>) -> f64 {
        kind!(slf, Kind::Timer { at, .. } => *at as f64 / 1e9)
    }

    /// Start again with its interval; stop it if it has none.
    #[pyo3(signature = (callback, *args, update = true))]
    fn again(
        slf: &Bound<'_, Self>,
        callback: Py<PyAny>,
        args: &Bound<'_, PyTuple>,
        update: bool,
    ) -> PyResult<()> {
        let base = slf.as_super();
        let core = base.get().core(slf.py())?;
        let (before, interval) = kind!(slf, Kind::Timer { after, repeat, .. } => (*after, *repeat));
        if update {
            // SAFETY: with the GIL, for this statement.
            unsafe { (*core).hub.update_now() };
        }
        Watcher::deactivate(base);
        if interval > 0.0 {
            kind!(slf, Kind::Timer { after, .. } => *after = interval);
            let started = Watcher::begin(base, callback, args, false);
            kind!(slf, Kind::Timer { after, .. } => *after = before);
            return started;
        }
        Ok(())
    }
}

/// A watcher that is told by whoever calls `send`.
#[pyclass(frozen, extends = Watcher, name = "async_", module = "gevent.core")]
#[derive(Debug)]
pub(super) struct Asynchronous;

#[pymethods]
impl Asynchronous {
    /// Have it called, from any thread.
    fn send(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.as_super().get();
        let core = this.core(slf.py())?;
        // SAFETY: with the GIL, for these statements.
        unsafe {
            if this.state(slf.py()).active && !(*core).sent.contains(&this.number()) {
                (*core).sent.push(this.number());
            }
            (*core).hub.remote().nudge();
        }
        Ok(())
    }

    /// The same, whatever the argument.
    fn send_ignoring_arg(slf: &Bound<'_, Self>, _ignored: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::send(slf)
    }
}

/// A watcher of the end of a child process.
#[pyclass(frozen, extends = Watcher, name = "child", module = "gevent.core")]
#[derive(Debug)]
pub(super) struct Child;

#[pymethods]
impl Child {
    #[getter]
    fn pid(slf: &Bound<'_, Self>) -> i32 {
        kind!(slf, Kind::Child { pid, .. } => *pid)
    }

    /// The number of the child that has ended; 0 before.
    #[getter]
    fn rpid(slf: &Bound<'_, Self>) -> i32 {
        kind!(slf, Kind::Child { rpid, .. } => *rpid)
    }

    /// How it has ended, as `waitpid` says it.
    #[getter]
    fn rstatus(slf: &Bound<'_, Self>) -> i32 {
        kind!(slf, Kind::Child { rstatus, .. } => *rstatus)
    }
}

/// A watcher of a signal.
#[pyclass(frozen, extends = Watcher, name = "signal", module = "gevent.core")]
#[derive(Debug)]
pub(super) struct Signal;

#[pymethods]
impl Signal {
    #[getter]
    fn signum(slf: &Bound<'_, Self>) -> i32 {
        kind!(slf, Kind::Signal { signal } => *signal)
    }
}
