//! The Python faces of weft: the only crate that knows PyO3 and CPython.
//!
//! * [`ffi`]: the interpreter's state that a coroutine switch saves, one file per version of CPython.
//! * [`queue`]: process queues and their messages.
//! * [`shared`]: shared memory, and values with a lock in it.
//! * [`pipe`]: connections between processes.
//! * [`manager`]: calls to a manager's server through shared memory.
//! * [`map`]: dictionaries in shared memory.
//! * [`pool`]: tasks for worker processes.
//! * [`process`]: starting processes, the template process, and the lifeline to the root program.
//! * [`sync`]: locks, semaphores, conditions, events and barriers between processes.
//! * [`greenlet`]: the `greenlet` type, its module functions and its C API.
//! * [`hub`]: the hub for greenlets: its loop, watchers, and sockets that park.

mod definitions;
mod error;
mod ffi;
mod gil;
mod greenlet;
mod hub;
mod kept;
mod manager;
mod map;
mod pipe;
mod pool;
mod process;
mod queue;
mod shared;
mod sync;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// Refuses interpreters that the switch does not know how to serve.
fn check_interpreter(py: Python<'_>) -> PyResult<()> {
    let version = py.version_info();
    let built_for = ((ffi::layout::HEADER_VERSION >> 24) as u8, (ffi::layout::HEADER_VERSION >> 16) as u8);
    if (version.major, version.minor) != built_for {
        return Err(PyImportError::new_err(format!(
            "this build of weft is for CPython {}.{}, but the interpreter is {}.{}; install weft for it",
            built_for.0, built_for.1, version.major, version.minor
        )));
    }
    if ffi::layout::GIL_DISABLED != 0 {
        return Err(PyImportError::new_err(
            "weft does not support free-threaded CPython yet; use the build with the GIL",
        ));
    }
    // SAFETY: both say what the current thread state is, with the GIL held.
    let as_expected = unsafe { ffi::current_thread_state() == pyo3::ffi::PyThreadState_Get() };
    if !as_expected {
        return Err(PyImportError::new_err(
            "this build of weft does not fit this release of CPython; install weft for it from source",
        ));
    }
    // SAFETY: both may be called with the GIL held.
    let in_main = unsafe { pyo3::ffi::PyInterpreterState_Get() == pyo3::ffi::PyInterpreterState_Main() };
    if !in_main {
        return Err(PyImportError::new_err(
            "weft does not support sub-interpreters: import it in the main interpreter only",
        ));
    }
    Ok(())
}

/// The native half of weft.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    check_interpreter(module.py())?;
    module.setattr("__version__", env!("CARGO_PKG_VERSION"))?;
    queue::init(module)?;
    shared::init(module)?;
    pipe::init(module)?;
    manager::init(module)?;
    module.add_class::<map::SharedDictBase>()?;
    pool::init(module)?;
    process::init(module)?;
    sync::init(module)?;
    greenlet::init(module)?;
    hub::init(module)
}
