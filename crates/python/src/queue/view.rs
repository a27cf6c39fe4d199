//! The bytes of an object with the buffer protocol.

use pyo3::ffi;
use pyo3::prelude::*;

/// An exported buffer.
pub(crate) struct View(ffi::Py_buffer);

impl View {
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut view = std::mem::MaybeUninit::<ffi::Py_buffer>::uninit();
        // SAFETY: the GIL is held, and the view is filled in if the call succeeds.
        unsafe {
            if ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), ffi::PyBUF_FULL_RO) != 0 {
                return Err(PyErr::fetch(object.py()));
            }
            Ok(Self(view.assume_init()))
        }
    }

    /// In one piece, in either order.
    pub(crate) fn is_in_one_piece(&self) -> bool {
        // SAFETY: a filled-in view.
        unsafe { ffi::PyBuffer_IsContiguous(&raw const self.0, b'A' as _) != 0 }
    }

    /// In one piece, the last index changing fastest.
    pub(crate) fn is_contiguous(&self) -> bool {
        // SAFETY: a filled-in view.
        unsafe { ffi::PyBuffer_IsContiguous(&raw const self.0, b'C' as _) != 0 }
    }

    pub(crate) const fn is_read_only(&self) -> bool {
        self.0.readonly != 0
    }

    /// The bytes, in the order they lie in; only if it is contiguous.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.0.len == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps so many bytes there until the view is released.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast(), self.0.len as usize) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: filled in by `of`, released once, with the GIL.
        unsafe { ffi::PyBuffer_Release(&raw mut self.0) };
    }
}
