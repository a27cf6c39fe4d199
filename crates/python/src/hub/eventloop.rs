//! The loop as programs see it: where callbacks are posted and watchers made.

use std::ffi::CStr;
use std::ptr;

use pyo3::PyClass;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use weft_reactor::ReactorError;

use super::callback::Callback;
use super::class::check_count;
use super::core::{Core, Item, Phase};
use super::here::nudge_if_anothers;
use super::kind::Kind;
use super::stat::Stat;
use super::watcher::Watcher;
use super::watchers::{Asynchronous, Child, Io, Signal, Timer};
use super::{linkable, queue, spawned};
use crate::gil::GilCell;
use crate::greenlet::object::is_greenlet;

/// A loop: `Loop(default=True)`. It is run by `weft._native._hub.run`.
///
/// The type is a base: what handles errors is the method `handle_error` of what derives from it.
#[pyclass(frozen, subclass, module = "weft._native._hub")]
#[derive(Debug)]
pub(super) struct Loop {
    /// Null once it is destroyed.
    core: GilCell<*mut Core>,
    /// The same, also when it is destroyed: whoever has it in hand while that happens finds it closed. Owned.
    memory: GilCell<*mut Core>,
    /// Keeps the greenlet alive that [`Core::greenlet`] points to.
    greenlet: GilCell<Option<Py<PyAny>>>,
    /// What a thread that was ending has left in it: to be dropped only when nothing of the thread can run any more.
    left: GilCell<Left>,
    default: bool,
}

/// What was in a loop that is destroyed. Owned.
#[derive(Debug, Default)]
struct Left {
    items: Vec<Item>,
    watchers: Vec<*mut PyObject>,
}

impl Left {
    /// Drops it all; may run Python code.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    unsafe fn release(self) {
        // SAFETY: owned.
        unsafe {
            for object in self.watchers {
                ffi::Py_DECREF(object);
            }
            for item in self.items {
                item.release();
            }
        }
    }
}

// SAFETY: the core is only touched by who holds the GIL.
unsafe impl Send for Loop {}

/// The error of the engine as Python's.
pub(super) fn to_exception(error: &ReactorError) -> PyErr {
    match (error, error.errno()) {
        (ReactorError::Closed, _) => destroyed(),
        (ReactorError::Signal { .. }, _) => PyValueError::new_err(error.to_string()),
        (_, Some(errno)) => PyOSError::new_err((errno.raw_os_error(), error.to_string())),
        (_, None) => PyRuntimeError::new_err(error.to_string()),
    }
}

/// What a loop object keeps; null with an exception set if it is none, or was destroyed.
///
/// # Safety
///
/// The GIL is held and `object` alive.
pub(super) unsafe fn core_of(object: *mut PyObject) -> *mut Core {
    // SAFETY: no reference outlives this function.
    unsafe {
        let py = Python::assume_attached();
        match Borrowed::from_ptr(py, object).cast::<Loop>() {
            Ok(found) => {
                let core = *found.get().core.get();
                if core.is_null() {
                    destroyed().restore(py);
                }
                core
            }
            Err(error) => {
                PyErr::from(error).restore(py);
                ptr::null_mut()
            }
        }
    }
}

/// The same for an object that is known to be a loop; null, and no exception, if it was destroyed.
///
/// # Safety
///
/// The GIL is held, and `object` a live loop.
#[inline(always)]
pub(super) unsafe fn core_of_loop(object: *mut PyObject) -> *mut Core {
    // SAFETY: the caller's promise; no reference outlives this function.
    unsafe {
        let py = Python::assume_attached();
        *Borrowed::from_ptr(py, object).cast_unchecked::<Loop>().get().core.get()
    }
}

/// Checks how many arguments there are, and finds what the loop keeps, the first one; null with an exception set.
///
/// # Safety
///
/// The GIL is held; vectorcall's conventions hold.
pub(super) unsafe fn loop_argument(
    name: &CStr,
    arguments: *const *mut PyObject,
    count: isize,
    least: isize,
    most: isize,
) -> *mut Core {
    // SAFETY: vectorcall's conventions.
    unsafe {
        if !check_count(name, count, least, most) {
            return ptr::null_mut();
        }
        core_of(arguments.read())
    }
}

/// Whether a loop object is the main thread's; it is one.
///
/// # Safety
///
/// The GIL is held and `object` a live loop.
pub(super) unsafe fn is_default(object: *mut PyObject) -> bool {
    // SAFETY: no reference outlives this function.
    unsafe {
        let py = Python::assume_attached();
        Borrowed::from_ptr(py, object).cast::<Loop>().is_ok_and(|found| found.get().default)
    }
}

fn destroyed() -> PyErr {
    PyValueError::new_err("operation on destroyed loop")
}

impl Loop {
    /// What it keeps, unless it was destroyed.
    pub(super) fn core(&self, _py: Python<'_>) -> Option<*mut Core> {
        // SAFETY: with the GIL, as `_py` shows.
        let core = unsafe { *self.core.get() };
        (!core.is_null()).then_some(core)
    }

    fn open(&self, py: Python<'_>) -> PyResult<*mut Core> {
        self.core(py).ok_or_else(destroyed)
    }

    fn watcher(slf: &Bound<'_, Self>, kind: Kind, referenced: bool) -> PyResult<Watcher> {
        slf.get().open(slf.py())?;
        Ok(Watcher::new(slf.clone().unbind(), kind, referenced))
    }

    /// A watcher whose class has what only its kind has.
    fn special<T>(slf: &Bound<'_, Self>, kind: Kind, referenced: bool, special: T) -> PyResult<Py<T>>
    where
        T: PyClass<BaseType = Watcher>,
    {
        let watcher = Self::watcher(slf, kind, referenced)?;
        Py::new(slf.py(), PyClassInitializer::from(watcher).add_subclass(special))
    }

    fn at_phase(slf: &Bound<'_, Self>, phase: Phase, referenced: bool) -> PyResult<Py<Watcher>> {
        Py::new(slf.py(), Self::watcher(slf, Kind::Phase(phase), referenced)?)
    }
}

impl Loop {
    /// Gives back what is the kernel's, and what has to be dropped; `None` if that was done before.
    fn close(&self, py: Python<'_>) -> Option<Left> {
        let core = self.core(py)?;
        // SAFETY: with the GIL. It is out of reach before anything of it is dropped.
        unsafe {
            *self.core.get() = ptr::null_mut();
            let greenlet = (*self.greenlet.get()).take();
            let (items, watchers) = (*core).close();
            for &object in &watchers {
                if let Ok(watcher) = Borrowed::from_ptr(py, object).cast::<Watcher>() {
                    watcher.get().forget();
                }
            }
            for item in &items {
                match item {
                    Item::Notify(object) => linkable::orphaned(*object),
                    Item::Unlock(queue, _) => queue::orphaned(*queue),
                    Item::Ended(greenlet) => spawned::orphaned(*greenlet),
                    _ => {}
                }
            }
            drop(greenlet);
            Some(Left { items, watchers })
        }
    }
}

#[pymethods]
impl Loop {
    #[new]
    #[pyo3(signature = (default = true))]
    fn new(default: bool) -> PyResult<Self> {
        let core = Core::new().map_err(|error| to_exception(&error))?;
        let memory = Box::into_raw(Box::new(core));
        let (core, memory) = (GilCell::new(memory), GilCell::new(memory));
        Ok(Self { core, memory, greenlet: GilCell::new(None), left: GilCell::new(Left::default()), default })
    }

    /// Whether it is the main thread's.
    #[getter]
    const fn default(&self) -> bool {
        self.default
    }

    /// Have `callback(*args)` called by the loop, soon and in order.
    #[pyo3(signature = (callback, *args))]
    fn run_callback(&self, py: Python<'_>, callback: Py<PyAny>, args: Py<PyTuple>) -> PyResult<Py<Callback>> {
        let posted = Py::new(py, Callback::new(callback, args))?;
        let core = self.open(py)?;
        // SAFETY: with the GIL, for these statements.
        unsafe {
            (*core).post(posted.clone_ref(py).into_ptr());
            nudge_if_anothers(core);
        }
        Ok(posted)
    }

    /// The same, from any thread.
    #[pyo3(signature = (callback, *args))]
    fn run_callback_threadsafe(
        &self,
        py: Python<'_>,
        callback: Py<PyAny>,
        args: Py<PyTuple>,
    ) -> PyResult<Py<Callback>> {
        let posted = self.run_callback(py, callback, args)?;
        let core = self.open(py)?;
        // SAFETY: with the GIL, for this statement.
        unsafe { (*core).hub.remote().nudge() };
        Ok(posted)
    }

    /// Say which greenlet runs the loop; None when it has ended.
    fn set_greenlet(&self, py: Python<'_>, greenlet: &Bound<'_, PyAny>) -> PyResult<()> {
        let core = self.open(py)?;
        // SAFETY: with the GIL; a live object, which is held from here on. What was held before is dropped last.
        let before = unsafe {
            if !greenlet.is_none() && !is_greenlet(greenlet.as_ptr()) {
                return Err(PyValueError::new_err("only a greenlet runs a loop"));
            }
            let held = (!greenlet.is_none()).then(|| greenlet.clone().unbind());
            (*core).greenlet = held.as_ref().map_or(ptr::null_mut(), |held| held.as_ptr().cast());
            std::mem::replace(&mut *self.greenlet.get(), held)
        };
        drop(before);
        Ok(())
    }

    #[pyo3(signature = (fd, events, r#ref = true, priority = None))]
    fn io(
        slf: &Bound<'_, Self>,
        fd: i32,
        events: i32,
        r#ref: bool,
        priority: Option<i32>,
    ) -> PyResult<Py<Io>> {
        let _ = priority;
        if fd < 0 {
            return Err(PyValueError::new_err(format!("fd must be non-negative: {fd}")));
        }
        if events & !3 != 0 {
            return Err(PyValueError::new_err(format!("illegal event mask: {events}")));
        }
        Self::special(slf, Kind::Io { descriptor: fd, events, watch: None }, r#ref, Io)
    }

    #[pyo3(signature = (after, repeat = 0.0, r#ref = true, priority = None))]
    fn timer(
        slf: &Bound<'_, Self>,
        after: f64,
        repeat: f64,
        r#ref: bool,
        priority: Option<i32>,
    ) -> PyResult<Py<Timer>> {
        let _ = priority;
        if repeat < 0.0 || repeat.is_nan() || after.is_nan() {
            return Err(PyValueError::new_err(format!("repeat must be positive or zero: {repeat}")));
        }
        Self::special(slf, Kind::Timer { after, repeat, at: 0, timer: None }, r#ref, Timer)
    }

    #[pyo3(name = "async_", signature = (r#ref = true, priority = None))]
    fn asynchronous(slf: &Bound<'_, Self>, r#ref: bool, priority: Option<i32>) -> PyResult<Py<Asynchronous>> {
        let _ = priority;
        Self::special(slf, Kind::Async, r#ref, Asynchronous)
    }

    #[pyo3(signature = (pid, trace = 0, r#ref = true))]
    fn child(slf: &Bound<'_, Self>, pid: i32, trace: i32, r#ref: bool) -> PyResult<Py<Child>> {
        let _ = trace;
        if !slf.get().default {
            return Err(pyo3::exceptions::PyTypeError::new_err(
                "child watchers are only available on the default loop",
            ));
        }
        Self::special(slf, Kind::Child { pid, child: None, watch: None, rpid: 0, rstatus: 0 }, r#ref, Child)
    }

    #[pyo3(signature = (signum, r#ref = true, priority = None))]
    fn signal(
        slf: &Bound<'_, Self>,
        signum: i32,
        r#ref: bool,
        priority: Option<i32>,
    ) -> PyResult<Py<Signal>> {
        let _ = priority;
        if !(1..=64).contains(&signum) {
            return Err(PyValueError::new_err(format!("illegal signal number: {signum}")));
        }
        Self::special(slf, Kind::Signal { signal: signum }, r#ref, Signal)
    }

    #[pyo3(signature = (path, interval = 0.0, r#ref = true, priority = None))]
    fn stat(
        slf: &Bound<'_, Self>,
        path: &Bound<'_, PyAny>,
        interval: f64,
        r#ref: bool,
        priority: Option<i32>,
    ) -> PyResult<Py<Stat>> {
        let _ = priority;
        let (kind, special) = Stat::prepare(path, interval)?;
        Self::special(slf, kind, r#ref, special)
    }

    #[pyo3(signature = (r#ref = true, priority = None))]
    fn prepare(slf: &Bound<'_, Self>, r#ref: bool, priority: Option<i32>) -> PyResult<Py<Watcher>> {
        let _ = priority;
        Self::at_phase(slf, Phase::Prepare, r#ref)
    }

    #[pyo3(signature = (r#ref = true, priority = None))]
    fn check(slf: &Bound<'_, Self>, r#ref: bool, priority: Option<i32>) -> PyResult<Py<Watcher>> {
        let _ = priority;
        Self::at_phase(slf, Phase::Check, r#ref)
    }

    #[pyo3(signature = (r#ref = true, priority = None))]
    fn idle(slf: &Bound<'_, Self>, r#ref: bool, priority: Option<i32>) -> PyResult<Py<Watcher>> {
        let _ = priority;
        Self::at_phase(slf, Phase::Idle, r#ref)
    }

    #[pyo3(signature = (r#ref = true, priority = None))]
    fn fork(slf: &Bound<'_, Self>, r#ref: bool, priority: Option<i32>) -> PyResult<Py<Watcher>> {
        let _ = priority;
        Self::at_phase(slf, Phase::Fork, r#ref)
    }

    /// Say that a descriptor is about to be closed: whoever watches it is told, and finds out by trying.
    fn closing_fd(&self, py: Python<'_>, fd: i32) -> PyResult<()> {
        let core = self.open(py)?;
        // SAFETY: with the GIL, for this statement.
        unsafe { (*core).note_closing(fd) };
        Ok(())
    }

    /// The loop's time: seconds of the monotonic clock, read once a turn.
    fn now(&self, py: Python<'_>) -> PyResult<f64> {
        let core = self.open(py)?;
        // SAFETY: with the GIL, for this statement.
        Ok(unsafe { (*core).hub.now() } as f64 / 1e9)
    }

    /// Read the clock.
    fn update_now(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.open(py)?;
        // SAFETY: with the GIL, for this statement.
        unsafe { (*core).hub.update_now() };
        Ok(())
    }

    /// Count one more thing that keeps the loop from ending.
    #[pyo3(name = "ref")]
    fn add_reference(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.open(py)?;
        // SAFETY: with the GIL, for this statement.
        unsafe { (*core).references += 1 };
        Ok(())
    }

    /// Count one less.
    #[pyo3(name = "unref")]
    fn drop_reference(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.open(py)?;
        // SAFETY: with the GIL, for this statement.
        unsafe { (*core).references -= 1 };
        Ok(())
    }

    /// End `run` after the present turn.
    #[pyo3(name = "break_", signature = (how = 1))]
    fn stop(&self, py: Python<'_>, how: i32) -> PyResult<()> {
        let _ = how;
        let core = self.open(py)?;
        // SAFETY: with the GIL, for this statement.
        unsafe { (*core).stop = true };
        Ok(())
    }

    /// How many things keep the loop from ending.
    #[getter]
    fn activecnt(&self, py: Python<'_>) -> PyResult<isize> {
        let core = self.open(py)?;
        // SAFETY: with the GIL, for this statement.
        Ok(unsafe { (*core).references })
    }

    /// How many events and callbacks are to be handled.
    #[getter]
    fn pendingcnt(&self, py: Python<'_>) -> PyResult<usize> {
        let core = self.open(py)?;
        // SAFETY: with the GIL, for this statement.
        Ok(unsafe {
            let told = (*core).pending.iter().filter(|(number, _)| (*core).watchers.contains_key(number));
            told.count() + (*core).hub.waiters.ready_len()
        })
    }

    /// How many turns there were.
    #[getter]
    fn iteration(&self, py: Python<'_>) -> PyResult<u64> {
        let core = self.open(py)?;
        // SAFETY: with the GIL, for this statement.
        Ok(unsafe { (*core).turns })
    }

    /// How often it is being run.
    #[getter]
    fn depth(&self, py: Python<'_>) -> PyResult<u32> {
        let core = self.open(py)?;
        // SAFETY: with the GIL, for this statement.
        Ok(unsafe { (*core).depth })
    }

    /// The kernel's set of descriptors; None once it is destroyed.
    fn fileno(&self, py: Python<'_>) -> Option<i32> {
        // SAFETY: with the GIL, for this statement.
        self.core(py).and_then(|core| unsafe { (*core).hub.reactor() }).map(|reactor| reactor.descriptor())
    }

    /// In the child of a fork: what is needed there also happens by itself, with the next turn.
    fn reinit(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.open(py)?;
        // SAFETY: with the GIL, for this statement.
        unsafe { (*core).check_fork() }.map_err(|error| to_exception(&error))?;
        Ok(())
    }

    /// Whether it was destroyed.
    #[getter]
    fn destroyed(&self, py: Python<'_>) -> bool {
        self.core(py).is_none()
    }

    /// Give everything back. Callbacks that were posted are not called any more. False if that was done before.
    fn destroy(&self, py: Python<'_>) -> bool {
        let Some(left) = self.close(py) else { return false };
        // SAFETY: with the GIL; it is nobody else's any more.
        unsafe { left.release() };
        true
    }

    /// At the end of the loop's thread: give back what is the kernel's, and keep the greenlets that wait until they cannot
    /// run any more. So they do not run now either, which who catches everything could do for ever.
    fn leave(&self, py: Python<'_>) {
        if let Some(left) = self.close(py) {
            // SAFETY: with the GIL, for this statement. It was empty, as a loop is closed once.
            unsafe { *self.left.get() = left };
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "the signature is PyO3's")]
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs with the GIL, and nothing is borrowed while Python code runs.
        visit.call(unsafe { &*self.greenlet.get() })
    }

    fn __clear__(&self) {
        // A hub and its loop, which hold each other and are held by nobody.
        // SAFETY: as above.
        let py = unsafe { Python::assume_attached() };
        self.destroy(py);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // SAFETY: objects are dropped with the GIL.
        unsafe {
            self.destroy(Python::assume_attached());
            std::mem::take(&mut *self.left.get()).release();
            // What came in after that.
            let (items, watchers) = Box::from_raw(*self.memory.get()).close();
            Left { items, watchers }.release();
        }
    }
}

/// Destroys the loop of a thread that has ended, and drops what it kept.
///
/// # Safety
///
/// The GIL is held, and `object` a live loop. May run Python code.
pub(super) unsafe fn left_by_thread(object: *mut PyObject) {
    // SAFETY: the caller's promise; what is dropped is out of reach before.
    unsafe {
        let py = Python::assume_attached();
        let found = Borrowed::from_ptr(py, object).cast_unchecked::<Loop>();
        found.get().destroy(py);
        std::mem::take(&mut *found.get().left.get()).release();
    }
}
