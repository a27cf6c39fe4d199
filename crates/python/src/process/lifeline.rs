//! The lifeline's functions.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use weft_process::lifeline::{self, Role};

use super::error::exception;

/// Takes over a descriptor that Python code gives away.
pub(super) fn owned(descriptor: RawFd) -> PyResult<OwnedFd> {
    if descriptor < 0 {
        return Err(PyValueError::new_err("a descriptor cannot be negative"));
    }
    // SAFETY: the caller gives it away; a wrong number is an error of the call that uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A descriptor that Python code keeps open during the call.
pub(super) fn borrowed<'a>(descriptor: RawFd) -> PyResult<BorrowedFd<'a>> {
    if descriptor < 0 {
        return Err(PyValueError::new_err("a descriptor cannot be negative"));
    }
    // SAFETY: the caller keeps it; a wrong number is an error of the call that uses it.
    Ok(unsafe { BorrowedFd::borrow_raw(descriptor) })
}

/// Makes this process a root unless it hangs on a lifeline, and returns the descriptor to pass on to an executed child.
#[pyfunction]
pub(super) fn lifeline_ensure() -> PyResult<RawFd> {
    lifeline::ensure().map(|reader| reader.as_raw_fd()).map_err(|error| exception(&error))
}

/// Has this process, just forked by weft, die with the root.
#[pyfunction]
pub(super) fn lifeline_arm() -> PyResult<()> {
    lifeline::arm_after_fork().map_err(|error| exception(&error))
}

/// Has this process, executed with this descriptor, die with the root. The descriptor is taken over.
#[pyfunction]
pub(super) fn lifeline_join(descriptor: RawFd) -> PyResult<()> {
    lifeline::join(owned(descriptor)?).map_err(|error| exception(&error))
}

/// Has this process die with the holder of another lifeline too. Returns the descriptor to keep open.
#[pyfunction]
pub(super) fn lifeline_also(descriptor: RawFd) -> PyResult<RawFd> {
    lifeline::arm_also(borrowed(descriptor)?).map(IntoRawFd::into_raw_fd).map_err(|error| exception(&error))
}

/// Which root this process hangs on or is; 0 if none.
#[pyfunction]
pub(super) fn lifeline_identity() -> u64 {
    lifeline::identity()
}

/// "none", "root", "member" or "forked".
#[pyfunction]
pub(super) fn lifeline_role() -> &'static str {
    match lifeline::role() {
        Role::None => "none",
        Role::Root => "root",
        Role::Member => "member",
        Role::Forked => "forked",
    }
}
