//! A large buffer that came with a message, as the receiver sees it.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::sync::Arc;

use weft_shm::robust::RobustMutex;
use weft_shm::{PrivateSpan, Span};

use super::codec::bytearray;

/// What this process holds of received buffers, in bytes; beyond the budget they are copied out of shared memory.
static HELD: AtomicUsize = AtomicUsize::new(0);
const BUDGET: usize = 256 << 20;

/// Writable memory, private to this process, of a buffer that another process sent.
///
/// It goes back to shared memory when the last user of it (an array, a memoryview) is gone.
#[pyclass(frozen, name = "SharedBuffer", module = "weft._native")]
pub(crate) struct SharedBuffer {
    span: Arc<PrivateSpan>,
}

impl SharedBuffer {
    /// The received `span` as an object with the buffer protocol: itself, or a copy if too much is held already.
    pub(crate) fn wrap(py: Python<'_>, span: Span<RobustMutex>) -> PyResult<Bound<'_, PyAny>> {
        let length = span.len();
        if HELD.load(Ordering::Relaxed).saturating_add(length) > BUDGET {
            // SAFETY: a span is its holder's alone and has this length.
            let bytes = unsafe { std::slice::from_raw_parts(span.as_ptr(), length) };
            // Without memory for a copy the budget is exceeded: better than to lose the message.
            if let Ok(copy) = bytearray(py, bytes) {
                return Ok(copy);
            }
        }
        HELD.fetch_add(length, Ordering::Relaxed);
        Ok(Bound::new(py, Self { span: PrivateSpan::new(span) })?.into_any())
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        HELD.fetch_sub(self.span.len(), Ordering::Relaxed);
    }
}

#[pymethods]
impl SharedBuffer {
    fn __len__(&self) -> usize {
        self.span.len()
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let span = &slf.get().span;
        let Ok(length) = ffi::Py_ssize_t::try_from(span.len()) else {
            return Err(PyBufferError::new_err("the buffer is too long"));
        };
        let start = span.as_ptr().cast::<c_void>();
        // SAFETY: the interpreter gives a view to fill in; the memory stays where it is for as long as `slf`,
        // which the view keeps alive.
        if unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 0, flags) } != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }
}
