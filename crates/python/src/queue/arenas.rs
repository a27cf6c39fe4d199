//! The arenas of this process: its own, and those that came with objects of other processes.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use weft_shm::{Arena, ShmError};

use crate::gil::GilCell;

/// Guarded by the GIL. The first one is where new objects go.
static ARENAS: GilCell<Vec<Arc<Arena>>> = GilCell::new(Vec::new());

fn known<T>(_py: Python<'_>, visit: impl FnOnce(&mut Vec<Arc<Arena>>) -> T) -> T {
    // SAFETY: the GIL is held, and `visit`, from this file, runs no Python code.
    visit(unsafe { &mut *ARENAS.get() })
}

/// The arena where new objects go.
pub(crate) fn own_arena(py: Python<'_>) -> PyResult<Arc<Arena>> {
    // One whose descriptor the program closed is of no use for anything new.
    if let Some(first) = known(py, |arenas| arenas.first().filter(|first| first.check().is_ok()).cloned()) {
        return Ok(first);
    }
    let arena = Arena::create().map_err(shm_error)?;
    known(py, |arenas| arenas.insert(0, Arc::clone(&arena)));
    Ok(arena)
}

/// The arena `id`, if this process has it.
pub(crate) fn find_arena(py: Python<'_>, id: u64) -> PyResult<Arc<Arena>> {
    known(py, |arenas| arenas.iter().find(|arena| arena.id() == id).cloned())
        .ok_or_else(|| PyRuntimeError::new_err("the shared memory of this object did not reach this process"))
}

/// The descriptor of the arena with the given id, for a process that is about to be started.
///
/// Raises RuntimeError if this process has no such arena, OSError if the program has closed the descriptor.
#[pyfunction]
pub(super) fn arena_descriptor(py: Python<'_>, id: u64) -> PyResult<i32> {
    let arena = find_arena(py, id)?;
    arena.check().map_err(shm_error)?;
    Ok(arena.as_fd().as_raw_fd())
}

/// Attach the arena with the given id, unless this process has it; `detach` gives a descriptor, which is taken over.
///
/// Raises OSError if that is no arena of this version of weft, or cannot be mapped.
#[pyfunction]
pub(super) fn attach_arena(py: Python<'_>, id: u64, detach: &Bound<'_, PyAny>) -> PyResult<()> {
    if known(py, |arenas| arenas.iter().any(|arena| arena.id() == id)) {
        return Ok(());
    }
    let descriptor: i32 = detach.call0()?.extract()?;
    if descriptor < 0 {
        return Err(PyValueError::new_err(format!("{descriptor} is no descriptor")));
    }
    // SAFETY: the caller hands the descriptor over.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let arena = Arena::attach(descriptor).map_err(shm_error)?;
    if arena.id() != id {
        return Err(PyOSError::new_err("the descriptor leads to other shared memory than it should"));
    }
    known(py, |arenas| arenas.push(arena));
    Ok(())
}

/// How many bytes of memory weft's shared objects take in all processes of the program.
#[pyfunction]
pub(super) fn shared_memory_in_use(py: Python<'_>) -> PyResult<u64> {
    let arenas = known(py, |arenas| arenas.clone());
    arenas.iter().try_fold(0, |sum, arena| Ok(sum + arena.resident().map_err(shm_error)?))
}

/// Free what processes that ended have left in shared memory. Returns how many blocks that were.
#[pyfunction]
pub(super) fn sweep_shared_memory(py: Python<'_>) -> usize {
    let arenas = known(py, |arenas| arenas.clone());
    py.detach(|| arenas.iter().map(|arena| arena.sweep()).sum())
}

/// The exception for an engine's error.
pub(crate) fn shm_error(error: ShmError) -> PyErr {
    match &error {
        ShmError::System { source, .. }
            if *source == rustix::io::Errno::NOMEM || *source == rustix::io::Errno::NOSPC =>
        {
            PyMemoryError::new_err(error.to_string())
        }
        ShmError::System { source, .. } => PyOSError::new_err((source.raw_os_error(), error.to_string())),
        ShmError::TooLarge { .. } | ShmError::Shortage { .. } => PyMemoryError::new_err(error.to_string()),
        ShmError::Gone { .. } => PyRuntimeError::new_err(error.to_string()),
        _ => PyOSError::new_err(error.to_string()),
    }
}
