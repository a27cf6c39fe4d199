//! Functions by reference.
//!
//! Most tasks of a pool call the same few functions of a module. Pickling one costs more than the rest of a small task, and
//! so does finding it again. So the owner keeps the pickles of those it met, and a worker what they led to. Both keep
//! only what pickles by its name, and look whether the name still leads there: the outcome is that of pickling anew.

use std::collections::HashMap;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyCFunction, PyDict, PyFunction, PyString, PyType};

/// So many functions are remembered; then all are forgotten.
const MOST: usize = 256;
/// Longer references travel with the arguments.
pub(super) const LONGEST: usize = 1024;

/// A function that a name leads to.
pub(super) struct Known {
    function: Py<PyAny>,
    /// The module's names, and its name among them.
    names: Py<PyDict>,
    name: Py<PyString>,
    reference: Box<[u8]>,
}

impl Known {
    /// What is known of a function that pickles by its name; `None` for all others. Runs Python code: of modules, and, where
    /// objects are made, finalizers.
    pub(super) fn of(function: &Bound<'_, PyAny>, reference: &[u8]) -> Option<Self> {
        let by_name = function.is_exact_instance_of::<PyFunction>()
            || function.is_exact_instance_of::<PyCFunction>()
            || function.is_exact_instance_of::<PyType>();
        if !by_name || reference.len() > LONGEST {
            return None;
        }
        let py = function.py();
        let module: String = function.getattr("__module__").ok()?.extract().ok()?;
        let name = function.getattr("__qualname__").ok()?.cast_into::<PyString>().ok()?;
        let modules = py.import("sys").ok()?.getattr("modules").ok()?;
        let names = modules.get_item(module).ok()?.getattr("__dict__").ok()?.cast_into::<PyDict>().ok()?;
        let known = Self {
            function: function.clone().unbind(),
            names: names.unbind(),
            name: name.unbind(),
            reference: reference.into(),
        };
        known.is_true(py).then_some(known)
    }

    /// Whether the name leads there still.
    fn is_true(&self, py: Python<'_>) -> bool {
        let found = self.names.bind(py).get_item(&self.name);
        found.is_ok_and(|found| found.is_some_and(|found| found.is(&self.function)))
    }
}

/// What the owner of a pool knows, by the address of the function.
#[derive(Default)]
pub(super) struct References {
    known: HashMap<usize, Known>,
}

impl References {
    /// Whether `function` has a reference.
    #[inline]
    pub(super) fn has(&self, function: &Bound<'_, PyAny>) -> bool {
        let known = self.known.get(&(function.as_ptr() as usize));
        known.is_some_and(|known| known.is_true(function.py()))
    }

    /// Appends the reference to `function` to `message`, and says its length. `None` if it has none, and must travel with
    /// the arguments.
    #[inline]
    pub(super) fn append(&self, function: &Bound<'_, PyAny>, message: &mut Vec<u8>) -> Option<u16> {
        let known = self.known.get(&(function.as_ptr() as usize))?;
        if !known.is_true(function.py()) {
            return None;
        }
        message.extend_from_slice(&known.reference);
        Some(known.reference.len() as u16)
    }

    /// Remembers a function. Returns what is to be let go of.
    #[must_use]
    pub(super) fn learn(&mut self, known: Known) -> impl Sized + use<> {
        let full = if self.known.len() >= MOST { std::mem::take(&mut self.known) } else { HashMap::new() };
        let before = self.known.insert(known.function.as_ptr() as usize, known);
        (full, before)
    }
}

/// The pickle of a function that has one by its name, for [`References::learn`]; `None` for all others.
pub(super) fn reference_to<'py>(function: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = function.py();
    let by_name = function.is_exact_instance_of::<PyFunction>()
        || function.is_exact_instance_of::<PyCFunction>()
        || function.is_exact_instance_of::<PyType>();
    if !by_name {
        return Ok(None);
    }
    let dumps = DUMPS.get_or_try_init(py, || {
        let pickler = py.import("multiprocessing.reduction")?.getattr("ForkingPickler")?;
        Ok::<_, PyErr>(pickler.getattr("dumps")?.unbind())
    })?;
    let pickled = dumps.bind(py).call1((function,))?;
    let bytes = PyBytes::new(py, crate::queue::view::View::of(&pickled)?.bytes());
    Ok((bytes.as_bytes().len() <= LONGEST).then_some(bytes))
}

/// What a worker knows, by the reference.
#[derive(Default)]
pub(super) struct Functions {
    known: HashMap<Box<[u8]>, Known>,
}

impl Functions {
    /// The function that `reference` leads to.
    pub(super) fn find<'py>(&mut self, py: Python<'py>, reference: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if let Some(known) = self.known.get(reference)
            && known.is_true(py)
        {
            return Ok(known.function.bind(py).clone());
        }
        let loads = LOADS.get_or_try_init(py, || {
            let pickler = py.import("multiprocessing.reduction")?.getattr("ForkingPickler")?;
            Ok::<_, PyErr>(pickler.getattr("loads")?.unbind())
        })?;
        let function = loads.bind(py).call1((PyBytes::new(py, reference),))?;
        if self.known.len() >= MOST {
            self.known.clear();
        }
        if let Some(known) = Known::of(&function, reference) {
            self.known.insert(reference.into(), known);
        }
        Ok(function)
    }
}
