//! What the faces' pools are made of.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyTuple};
use weft_pool::Call;

use super::core::{Core, RUN, Target, Wishes, no_arguments};
use super::result::{AsyncResult, Observers};
use super::stream::{EAGER, Manner, Reader, Stream};

/// Tasks that are put before results are looked at.
const STRIDE: usize = 256;

/// A pool of processes, without its processes: a face's class derives from it, and calls `_begin` once.
#[pyclass(frozen, subclass, weakref, name = "PoolBase", module = "weft._native._pool")]
pub(crate) struct PoolBase {
    core: OnceLock<Py<Core>>,
}

/// What a caller asked of a task: retries, seconds it may run, priority.
type Asked = (Option<u32>, Option<f64>, i64);

/// Who is told: of what was returned, of what was raised, of progress.
type Told = (Option<Py<PyAny>>, Option<Py<PyAny>>, Option<Py<PyAny>>);

const NOTHING: Asked = (None, None, 0);

fn wishes(core: &Core, (retries, timeout, priority): Asked) -> PyResult<Wishes> {
    let timeout = match timeout {
        None => 0,
        Some(seconds) if seconds > 0.0 => (seconds * 1e9) as u64,
        Some(seconds) => {
            return Err(PyValueError::new_err(format!("a task needs more time than {seconds} seconds")));
        }
    };
    Ok(Wishes { retries: retries.unwrap_or_else(|| core.get_retries()), timeout, priority })
}

/// How many calls are made of an iterable.
struct Many {
    chunksize: Option<isize>,
    /// An item is a tuple of arguments.
    star: bool,
    /// The caller waits for the results anyway, and is held back.
    patient: bool,
}

impl PoolBase {
    fn core<'a, 'py>(&'a self, py: Python<'py>) -> PyResult<&'a Bound<'py, Core>> {
        self.core
            .get()
            .map(|core| core.bind(py))
            .ok_or_else(|| PyRuntimeError::new_err("the pool was not initialised: call __init__"))
    }

    fn running<'a, 'py>(&'a self, py: Python<'py>) -> PyResult<&'a Bound<'py, Core>> {
        let core = self.core(py)?;
        if core.get().state.load(Ordering::Relaxed) != RUN {
            return Err(core.get().refusal(py));
        }
        core.get().check_process()?;
        Ok(core)
    }

    /// The result has a hold on the pool: one that nobody else has is not terminated under its tasks.
    fn call_one<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        args: Option<&Bound<'py, PyAny>>,
        kwds: Option<&Bound<'py, PyAny>>,
        observers: Option<Box<Observers>>,
        asked: Asked,
    ) -> PyResult<Bound<'py, AsyncResult>> {
        let py = function.py();
        let core = slf.get().running(py)?;
        let wishes = wishes(core.get(), asked)?;
        let is_observed = observers.is_some();
        let result = Bound::new(py, AsyncResult::single(core, slf.as_any(), observers))?;
        let none = || no_arguments(py);
        let args = args.cloned().unwrap_or_else(none);
        let target = Target::Result(result.clone().unbind(), 0);
        let named = match kwds {
            Some(kwds) if kwds.is_none() => None,
            Some(kwds) => kwds.is_truthy()?.then_some(kwds),
            None => None,
        };
        if is_observed {
            core.get().observe(py)?;
        }
        let id = match named {
            None => Core::submit(core, function, Call::Arguments, &args, target, wishes),
            Some(kwds) => PyTuple::new(py, [&args, kwds])
                .and_then(|both| Core::submit(core, function, Call::Named, &both.into_any(), target, wishes)),
        };
        let id = id.inspect_err(|_| result.get().abandon(py))?;
        result.get().set_id(id);
        Ok(result)
    }

    /// The items in chunks, each a task.
    fn call_many<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        Many { chunksize, star, patient }: Many,
        observers: Option<Box<Observers>>,
        asked: Asked,
    ) -> PyResult<Bound<'py, AsyncResult>> {
        let py = function.py();
        let core = slf.get().running(py)?;
        let wishes = wishes(core.get(), asked)?;
        let items: Vec<_> = iterable.try_iter()?.collect::<PyResult<_>>()?;
        let chunk = match chunksize {
            Some(size) => size.max(1) as usize,
            None => items.len().div_ceil((core.get().get_size() * 4).max(1)).max(1),
        };
        let is_observed = observers.is_some() && !items.is_empty();
        let single = chunk == 1;
        let many = AsyncResult::many(core, slf.as_any(), items.len(), chunk, observers);
        let result = Bound::new(py, many)?;
        if is_observed {
            core.get().observe(py)?;
        }
        let call = call_of(single, star);
        let mut part = 0;
        let mut put = |arguments: &Bound<'py, PyAny>| {
            let target = Target::Result(result.clone().unbind(), part);
            let id = Core::submit(core, function, call, arguments, target, wishes)?;
            if part == 0 {
                result.get().set_id(id);
            }
            part += 1;
            if patient && (part as usize).is_multiple_of(STRIDE) { core.get().hold_back(py) } else { Ok(()) }
        };
        let put_all = || {
            if single {
                return items.into_iter().try_for_each(|item| put(&item));
            }
            let mut items = items.into_iter();
            while items.len() > 0 {
                put(&PyTuple::new(py, items.by_ref().take(chunk).collect::<Vec<_>>())?.into_any())?;
            }
            Ok(())
        };
        // The parts that were put are done; but nobody is told of it, because the others never will be.
        put_all().inspect_err(|_| result.get().abandon(py))?;
        Ok(result)
    }

    fn map_at_once<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: Option<isize>,
        star: bool,
    ) -> PyResult<Py<PyAny>> {
        let many = Many { chunksize, star, patient: true };
        Self::call_many(slf, function, iterable, many, None, NOTHING)?.get().get_value(function.py(), None)
    }

    fn stream<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: isize,
        (ordered, star, read_ahead): (bool, bool, Option<u64>),
        asked: Asked,
    ) -> PyResult<Bound<'py, Reader>> {
        let core = slf.get().running(slf.py())?;
        let wishes = wishes(core.get(), asked)?;
        if chunksize < 1 {
            return Err(PyValueError::new_err(format!("Chunksize must be 1+, not {chunksize}")));
        }
        let source = PyIterator::from_object(iterable)?;
        let manner = Manner {
            call: call_of(chunksize == 1, star),
            chunk: chunksize as usize,
            ordered,
            eager: read_ahead.is_none(),
            window: read_ahead.map_or(EAGER, |items| (items / chunksize as u64).max(1)),
            wishes,
        };
        Stream::begin(core, slf.as_any(), function, &source, manner)
    }
}

/// How the items of an iterable are called with: one a task or many, as arguments (`star`) or each as the only one.
const fn call_of(single: bool, star: bool) -> Call {
    match (single, star) {
        (true, false) => Call::Item,
        (true, true) => Call::Arguments,
        (false, false) => Call::Items,
        (false, true) => Call::Tuples,
    }
}

#[pymethods]
impl PoolBase {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self { core: OnceLock::new() }
    }

    fn _begin(&self, core: Py<Core>) -> PyResult<()> {
        self.core.set(core).map_err(|_| PyRuntimeError::new_err("the pool was initialised already"))
    }

    #[getter]
    fn _core(&self, py: Python<'_>) -> PyResult<Py<Core>> {
        self.core(py).map(|core| core.clone().unbind())
    }

    /// "RUN", "CLOSE" or "TERMINATE".
    #[getter(_state)]
    fn get_state(&self, py: Python<'_>) -> &'static str {
        self.core.get().map_or("INIT", |core| core.bind(py).get().get_state_name())
    }

    #[setter(_state)]
    fn set_state(&self, py: Python<'_>, state: &str) -> PyResult<()> {
        self.core(py)?.get().set_state_name(state)
    }

    /// Raise ValueError unless the pool is running.
    fn _check_running(&self, py: Python<'_>) -> PyResult<()> {
        self.running(py).map(drop)
    }

    /// Call `func(*args, **kwds)` in a worker, and return what it returns, or raise what it raises.
    #[pyo3(signature = (func, args = None, kwds = None))]
    fn apply<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        args: Option<&Bound<'py, PyAny>>,
        kwds: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        Self::call_one(slf, func, args, kwds, None, NOTHING)?.get().get_value(func.py(), None)
    }

    /// As `apply`, without waiting: return an `AsyncResult`.
    ///
    /// `callback` is called with what it returns, `error_callback` with what it raises, in another thread, before the result
    /// is ready.
    #[pyo3(signature = (func, args = None, kwds = None, callback = None, error_callback = None))]
    fn apply_async<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        args: Option<&Bound<'py, PyAny>>,
        kwds: Option<&Bound<'py, PyAny>>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, AsyncResult>> {
        Self::call_one(slf, func, args, kwds, Observers::of(callback, error_callback, None), NOTHING)
    }

    /// As `apply_async`, with what else can be asked of a task: retries, seconds, priority.
    #[pyo3(signature = (func, args, kwds, callback, error_callback, asked))]
    fn _apply_async<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        args: &Bound<'py, PyAny>,
        kwds: &Bound<'py, PyAny>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        asked: Asked,
    ) -> PyResult<Bound<'py, AsyncResult>> {
        let observers = Observers::of(callback, error_callback, None);
        Self::call_one(slf, func, Some(args), Some(kwds), observers, asked)
    }

    /// Call `func` with each item, `chunksize` items a task, and return the list of results.
    #[pyo3(signature = (func, iterable, chunksize = None))]
    fn map<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: Option<isize>,
    ) -> PyResult<Py<PyAny>> {
        Self::map_at_once(slf, func, iterable, chunksize, false)
    }

    /// As `map`, with a tuple of arguments for each call.
    #[pyo3(signature = (func, iterable, chunksize = None))]
    fn starmap<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: Option<isize>,
    ) -> PyResult<Py<PyAny>> {
        Self::map_at_once(slf, func, iterable, chunksize, true)
    }

    /// As `map`, without waiting; callbacks as in `apply_async`.
    #[pyo3(signature = (func, iterable, chunksize = None, callback = None, error_callback = None))]
    fn map_async<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: Option<isize>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, AsyncResult>> {
        let told = (callback, error_callback, None);
        Self::_map_async(slf, func, iterable, chunksize, told, false, NOTHING)
    }

    /// As `starmap`, without waiting; callbacks as in `apply_async`.
    #[pyo3(signature = (func, iterable, chunksize = None, callback = None, error_callback = None))]
    fn starmap_async<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: Option<isize>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, AsyncResult>> {
        let told = (callback, error_callback, None);
        Self::_map_async(slf, func, iterable, chunksize, told, true, NOTHING)
    }

    /// As `map_async` or, with `star`, `starmap_async`, with what else can be asked of a task. Of progress is told how many items are
    /// over, and how many there are.
    #[pyo3(signature = (func, iterable, chunksize, told, star, asked))]
    fn _map_async<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: Option<isize>,
        told: Told,
        star: bool,
        asked: Asked,
    ) -> PyResult<Bound<'py, AsyncResult>> {
        let (callback, error_callback, progress) = told;
        let observers = Observers::of(callback, error_callback, progress);
        let many = Many { chunksize, star, patient: false };
        Self::call_many(slf, func, iterable, many, observers, asked)
    }

    /// As `map`, one result after the other: return an iterator. All calls are made, whether it is read or not.
    #[pyo3(signature = (func, iterable, chunksize = 1))]
    fn imap<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: isize,
    ) -> PyResult<Bound<'py, Reader>> {
        Self::stream(slf, func, iterable, chunksize, (true, false, None), NOTHING)
    }

    /// As `imap`, results in the order in which they come.
    #[pyo3(signature = (func, iterable, chunksize = 1))]
    fn imap_unordered<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: isize,
    ) -> PyResult<Bound<'py, Reader>> {
        Self::stream(slf, func, iterable, chunksize, (false, false, None), NOTHING)
    }

    /// As `imap`, with what else can be asked. The manner: whether results keep their order, whether an item is a tuple of
    /// arguments, and how many items are out at most that were not read.
    #[pyo3(signature = (func, iterable, chunksize, manner, asked))]
    fn _imap<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: isize,
        manner: (bool, bool, Option<u64>),
        asked: Asked,
    ) -> PyResult<Bound<'py, Reader>> {
        Self::stream(slf, func, iterable, chunksize, manner, asked)
    }
}
