//! Long messages as they come in.

use std::ffi::c_int;

use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use weft_pipe::LongFrame;
use weft_shm::Span;
use weft_shm::robust::RobustMutex;

use super::error::pipe_error;
use super::pickles;
use crate::queue::buffer::SharedBuffer;
use crate::queue::parker::{GilParker, without_gil};

/// Memory for so much is taken when a message begins, whatever length it claims; the rest as it comes.
const BELIEVED: u64 = 1 << 20;
/// Copies of at least this size are made without the GIL.
pub(super) const LONG_COPY: usize = 256 << 10;

unsafe extern "C" {
    /// Not in pyo3's bindings.
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> c_int;
}

/// The bytes of a message that is read piece by piece.
pub(super) fn read_all<'py>(py: Python<'py>, mut frame: LongFrame<'_>) -> PyResult<Bound<'py, PyAny>> {
    let mut parker = GilParker::new(py);
    let mut size = frame.left().min(BELIEVED) as usize;
    // SAFETY: the GIL is held. A bytes object that nobody else knows may be written and resized; the call owns the
    // reference, and on failure sets the pointer to null and an exception.
    unsafe {
        let mut bytes = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size as ffi::Py_ssize_t);
        if bytes.is_null() {
            return Err(PyErr::fetch(py));
        }
        let mut filled = 0;
        while frame.left() > 0 {
            if filled == size {
                let more = (size as u64).min(frame.left());
                let Some(larger) = usize::try_from(more).ok().and_then(|more| size.checked_add(more)) else {
                    ffi::Py_DECREF(bytes);
                    return Err(PyMemoryError::new_err("the message is too long"));
                };
                size = larger;
                if _PyBytes_Resize(&raw mut bytes, size as ffi::Py_ssize_t) != 0 {
                    return Err(PyErr::fetch(py));
                }
            }
            let start = ffi::PyBytes_AsString(bytes).cast::<u8>();
            let place = std::slice::from_raw_parts_mut(start.add(filled), size - filled);
            match frame.read(place, &mut parker) {
                Ok(count) => filled += count,
                Err(error) => {
                    ffi::Py_DECREF(bytes);
                    return Err(pipe_error(py, error));
                }
            }
        }
        Ok(Bound::from_owned_ptr(py, bytes))
    }
}

fn bytes_of(span: &Span<RobustMutex>) -> &[u8] {
    // SAFETY: a span is its holder's alone, and this long.
    unsafe { std::slice::from_raw_parts(span.as_ptr(), span.len()) }
}

/// Bytes, copied without the GIL if they are many.
fn copied<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    // Not `PyBytes::new_with`, which writes zeros first: for many bytes that takes as long as the copy.
    // SAFETY: the GIL is held; the object is new, nobody else knows it, and it has room for exactly so many bytes.
    unsafe {
        let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), bytes.len() as ffi::Py_ssize_t);
        let object = Bound::from_owned_ptr_or_err(py, object)?;
        let place = ffi::PyBytes_AsString(object.as_ptr()).cast::<u8>();
        if bytes.len() >= LONG_COPY {
            without_gil(py, || place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()));
        } else {
            place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        Ok(object)
    }
}

/// The bytes of a message in shared memory.
pub(super) fn copy_span<'py>(py: Python<'py>, span: &Span<RobustMutex>) -> PyResult<Bound<'py, PyAny>> {
    copied(py, bytes_of(span))
}

/// Copies a message in shared memory to `place`, which has room for it.
pub(super) fn copy_span_to(py: Python<'_>, span: &Span<RobustMutex>, place: &mut [u8]) {
    let bytes = bytes_of(span);
    if bytes.len() >= LONG_COPY {
        without_gil(py, || place.copy_from_slice(bytes));
    } else {
        place.copy_from_slice(bytes);
    }
}

/// The object that a message in shared memory is the pickle of.
pub(super) fn load_span(py: Python<'_>, span: Span<RobustMutex>) -> PyResult<Bound<'_, PyAny>> {
    match pickles::plain(bytes_of(&span)) {
        Some(plain) => plain.object(py, copied),
        None => pickles::load(&SharedBuffer::wrap(py, span)?),
    }
}
