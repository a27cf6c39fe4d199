//! A piece of shared memory, with the buffer protocol.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::{PyBufferError, PyRuntimeError, PyValueError};
use pyo3::ffi::{self, Py_ssize_t};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use weft_shm::{Handle, Region, Transit};

use super::sending;
use crate::queue::arenas::{find_arena, own_arena, shm_error};

/// As what the bytes are exported.
struct Layout {
    format: CString,
    itemsize: Py_ssize_t,
    shape: Box<[Py_ssize_t]>,
    strides: Box<[Py_ssize_t]>,
}

/// Memory that several processes use at once, and that is gone with the last of them.
///
/// A face's class derives from it and calls `_create` or `_receive` once, and then `_describe`.
#[pyclass(frozen, subclass, weakref, name = "SharedRegion", module = "weft._native")]
pub(crate) struct SharedRegion {
    region: OnceLock<Arc<Region>>,
    layout: OnceLock<Layout>,
}

impl SharedRegion {
    fn region(&self) -> PyResult<&Arc<Region>> {
        self.region
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("the shared memory was not initialised: call __init__"))
    }

    fn set(&self, region: Region) -> PyResult<()> {
        self.region
            .set(Arc::new(region))
            .map_err(|_| PyRuntimeError::new_err("the shared memory was initialised already"))
    }
}

#[pymethods]
impl SharedRegion {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self { region: OnceLock::new(), layout: OnceLock::new() }
    }

    /// Become new memory of so many bytes, all zero; MemoryError if there is not so much.
    fn _create(&self, py: Python<'_>, nbytes: usize) -> PyResult<()> {
        let arena = own_arena(py)?;
        self.set(py.detach(|| Region::create(&arena, nbytes)).map_err(shm_error)?)
    }

    /// Become the memory that `_handle` of another process's describes, by the reference that `_send` made there.
    fn _receive(&self, py: Python<'_>, arena: u64, unit: u32, generation: u64, transit: u64) -> PyResult<()> {
        let arena = find_arena(py, arena)?;
        let handle = Handle { unit, generation };
        self.set(Region::receive(&arena, handle, Transit::from_word(transit)).map_err(shm_error)?)
    }

    /// Say as what the bytes are seen by the buffer protocol: `shape` items of the format, in C order.
    fn _describe(&self, format: &str, itemsize: Py_ssize_t, shape: Vec<Py_ssize_t>) -> PyResult<()> {
        let format = CString::new(format)?;
        let mut strides = vec![itemsize; shape.len()];
        let mut bytes = Some(itemsize);
        for (stride, length) in strides.iter_mut().zip(&shape).rev() {
            *stride = bytes.unwrap_or(itemsize);
            bytes = bytes.and_then(|bytes| bytes.checked_mul(*length));
        }
        if itemsize < 1
            || shape.iter().any(|length| *length < 0)
            || bytes.and_then(|bytes| usize::try_from(bytes).ok()) != Some(self.region()?.len())
        {
            return Err(PyValueError::new_err("shape and item size do not add up to the size of the memory"));
        }
        let layout = Layout { format, itemsize, shape: shape.into(), strides: strides.into() };
        self.layout
            .set(layout)
            .map_err(|_| PyRuntimeError::new_err("the shared memory was described already"))
    }

    /// Where the memory is: its arena's id, its place in it, and its generation.
    fn _handle(&self) -> PyResult<(u64, u32, u64)> {
        let region = self.region()?;
        let Handle { unit, generation } = region.handle();
        Ok((region.arena().id(), unit, generation))
    }

    /// Make a reference for another process, which keeps the memory until it is received.
    ///
    /// In a `put` it ends with the queue; otherwise with this process, or a minute later.
    fn _send(&self) -> PyResult<u64> {
        Ok(sending::send(self.region()?).map_err(shm_error)?.to_word())
    }

    /// Whether another living process has the memory, or a reference to it is under way.
    fn _is_shared(&self, py: Python<'_>) -> PyResult<bool> {
        let region = self.region()?;
        Ok(py.detach(|| region.is_shared()))
    }

    /// Where the memory begins in this process.
    fn _address(&self) -> PyResult<usize> {
        Ok(self.region()?.as_ptr().addr())
    }

    /// How many bytes the memory has.
    #[getter]
    fn nbytes(&self) -> PyResult<usize> {
        Ok(self.region()?.len())
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let this = slf.get();
        let region = this.region()?;
        let Ok(length) = Py_ssize_t::try_from(region.len()) else {
            return Err(PyBufferError::new_err("the buffer is too long"));
        };
        let layout = this.layout.get();
        let has_one_order = layout.is_none_or(|layout| layout.shape.len() < 2);
        if !has_one_order
            && flags & ffi::PyBUF_F_CONTIGUOUS == ffi::PyBUF_F_CONTIGUOUS
            && flags & ffi::PyBUF_C_CONTIGUOUS != ffi::PyBUF_C_CONTIGUOUS
        {
            return Err(PyBufferError::new_err("the items lie in C order, not in Fortran's"));
        }
        let start = region.as_ptr().cast::<c_void>();
        // SAFETY: the interpreter gives a view to fill in; the memory stays where it is for as long as `slf`,
        // which the view keeps alive.
        if unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 0, flags) } != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        let Some(layout) = layout.filter(|_| flags & ffi::PyBUF_ND == ffi::PyBUF_ND) else {
            return Ok(()); // who does not ask for the shape gets bytes
        };
        let none = layout.shape.is_empty();
        // SAFETY: just filled in. The arrays are never changed, and live as long as `slf`.
        unsafe {
            (*view).itemsize = layout.itemsize;
            (*view).ndim = layout.shape.len() as c_int;
            (*view).shape = if none { ptr::null_mut() } else { layout.shape.as_ptr().cast_mut() };
            if flags & ffi::PyBUF_FORMAT == ffi::PyBUF_FORMAT {
                (*view).format = layout.format.as_ptr().cast_mut().cast::<c_char>();
            }
            if flags & ffi::PyBUF_STRIDES == ffi::PyBUF_STRIDES {
                (*view).strides = if none { ptr::null_mut() } else { layout.strides.as_ptr().cast_mut() };
            }
        }
        Ok(())
    }
}
