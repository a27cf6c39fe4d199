//! What the faces' executors are made of.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFunction, PyIterator, PyTuple, PyType};
use weft_pool::Call;

use super::core::{Core, RUN, Target, Wishes};
use super::futures::FutureBase;

/// Tasks that are put before results are looked at: a program that asks for none must not fill memory with them.
const STRIDE: u32 = 64;

/// An executor, without its processes: a face's class derives from it, and calls `_begin` once.
#[pyclass(frozen, subclass, weakref, name = "ExecutorBase", module = "weft._native._pool")]
pub(crate) struct ExecutorBase {
    parts: OnceLock<Parts>,
    put: AtomicU32,
}

struct Parts {
    core: Py<Core>,
    /// A class derived from [`FutureBase`].
    future: Py<PyType>,
    /// What takes the place of a function that has no name to be found by.
    portable: Option<Py<PyAny>>,
}

impl ExecutorBase {
    /// The parts, if tasks are taken.
    fn running<'a, 'py>(slf: &'a Bound<'py, Self>) -> PyResult<(&'a Parts, &'a Bound<'py, Core>)> {
        let py = slf.py();
        let Some(parts) = slf.get().parts.get() else {
            return Err(PyRuntimeError::new_err("the executor was not initialised: call __init__"));
        };
        let core = parts.core.bind(py);
        if core.get().state.load(Ordering::Relaxed) != RUN {
            slf.call_method0(intern!(py, "_refuse"))?;
            return Err(PyRuntimeError::new_err("the executor takes no tasks"));
        }
        core.get().check_process()?;
        Ok((parts, core))
    }

    fn portable<'py>(
        parts: &Parts,
        core: &Bound<'py, Core>,
        function: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match &parts.portable {
            Some(portable)
                if function.is_exact_instance_of::<PyFunction>() && !core.get().knows(function) =>
            {
                portable.bind(function.py()).call1((function,))
            }
            _ => Ok(function.clone()),
        }
    }

    fn put<'py>(
        slf: &Bound<'py, Self>,
        parts: &Parts,
        core: &Bound<'py, Core>,
        function: &Bound<'py, PyAny>,
        call: Call,
        arguments: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = core.py();
        if slf.get().put.fetch_add(1, Ordering::Relaxed) % STRIDE == STRIDE - 1 {
            core.get().collect(py)?;
        }
        let object = parts.future.bind(py).call1((core,))?;
        let future = object.cast::<FutureBase>()?;
        let wishes = Wishes { retries: core.get().get_retries(), ..Wishes::default() };
        let target = Target::Future(future.clone().unbind());
        // Whatever ran since it was looked at may have ended the executor, and its workers with it.
        Self::running(slf)?;
        let id = Core::submit(core, function, call, arguments, target, wishes)?;
        future.get().set_id(id);
        Ok(object)
    }
}

#[pymethods]
impl ExecutorBase {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self { parts: OnceLock::new(), put: AtomicU32::new(0) }
    }

    fn _begin(&self, core: Py<Core>, future: Py<PyType>, portable: Option<Py<PyAny>>) -> PyResult<()> {
        self.parts
            .set(Parts { core, future, portable })
            .map_err(|_| PyRuntimeError::new_err("the executor was initialised already"))
    }

    /// Have a worker call `fn(*args, **kwargs)`; return a future of what it returns.
    ///
    /// RuntimeError if the executor was shut down; `BrokenProcessPool`, which is one, if it cannot go on.
    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn submit<'py>(
        slf: &Bound<'py, Self>,
        r#fn: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (parts, core) = Self::running(slf)?;
        let function = Self::portable(parts, core, r#fn)?;
        match kwargs {
            None => Self::put(slf, parts, core, &function, Call::Arguments, args),
            Some(kwargs) => {
                let both = PyTuple::new(slf.py(), [args.as_any(), kwargs])?;
                Self::put(slf, parts, core, &function, Call::Named, &both)
            }
        }
    }

    /// Put a task for each `chunk` of the next `most` (None: all) tuples of arguments, and return their futures. With a chunk of
    /// more than one, the results are lists.
    fn _submit_many<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyIterator>,
        chunk: usize,
        most: Option<usize>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let mut futures = Vec::new();
        if let Err(error) = Self::put_many(slf, function, arguments, chunk, most, &mut futures) {
            // Nobody will ask for these.
            for future in &futures {
                FutureBase::cancel(future.cast::<FutureBase>()?)?;
            }
            return Err(error);
        }
        Ok(futures)
    }
}

impl ExecutorBase {
    fn put_many<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyIterator>,
        chunk: usize,
        most: Option<usize>,
        futures: &mut Vec<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let mut arguments = arguments.clone();
        let mut function = function.clone();
        while most.is_none_or(|most| futures.len() < most) {
            // Whatever the iterator runs may end the executor.
            let next: Vec<_> = arguments.by_ref().take(chunk).collect::<PyResult<_>>()?;
            let (parts, core) = Self::running(slf)?;
            if futures.is_empty() {
                function = Self::portable(parts, core, &function)?;
            }
            let future = match next.as_slice() {
                [] => break,
                [one] if chunk == 1 => Self::put(slf, parts, core, &function, Call::Arguments, one)?,
                many => {
                    let many = PyTuple::new(py, many)?;
                    Self::put(slf, parts, core, &function, Call::Tuples, &many)?
                }
            };
            futures.push(future);
        }
        Ok(())
    }
}
