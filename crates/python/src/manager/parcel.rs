//! A call that is not opened yet, on its way to the thread that may run what it brings along.

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use weft_manager::Request;

use super::wire::KEYWORDS;
use crate::queue::codec;

/// The arguments of a call as they came, which `open` gives once.
#[pyclass(frozen, name = "ManagerParcel", module = "weft._native")]
pub(crate) struct ManagerParcel(Mutex<Option<(Vec<u8>, Request)>>);

impl ManagerParcel {
    pub(super) const fn new(body: Vec<u8>, request: Request) -> Self {
        Self(Mutex::new(Some((body, request))))
    }
}

#[pymethods]
impl ManagerParcel {
    /// Unpickle the arguments: those by position and those by name.
    fn open<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        let content = self.0.lock().take();
        let (body, request) = content.ok_or_else(|| PyRuntimeError::new_err("the call was opened before"))?;
        let (args, kwds) = open(py, &body, request)?;
        Ok((args, kwds.unwrap_or_else(|| PyDict::new(py))))
    }
}

type Arguments<'py> = (Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>);

/// The arguments of a call.
pub(super) fn open<'py>(py: Python<'py>, body: &[u8], mut request: Request) -> PyResult<Arguments<'py>> {
    let decoded = codec::decode(py, request.what as u8, body, &mut request.buffers);
    let decoded = decoded.map_err(|(error, _)| error)?.cast_into::<PyTuple>()?;
    if request.what & KEYWORDS == 0 {
        return Ok((decoded, None));
    }
    let (args, kwds): (Bound<'py, PyTuple>, Bound<'py, PyDict>) = decoded.extract()?;
    Ok((args, Some(kwds)))
}
