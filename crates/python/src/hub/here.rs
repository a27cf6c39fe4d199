//! The hub of the calling thread.
//!
//! What a thread keeps for its greenlets has its hub as well, so that finding it is a few loads. It is made at the first call of
//! [`here`], by a function of the face's.

use std::ptr;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use super::core::Core;
use super::{eventloop, park};
use crate::ffi::current_thread_state;
use crate::gil::GilCell;
use crate::greenlet::lifetime::make_dead;
use crate::greenlet::object::{Life, PyGreenlet, body, is_greenlet, owned, owned_or_null};
use crate::greenlet::thread::{Thread, belongs_to_ended_thread, current_thread};

/// A thread's hub, as long as the thread keeps it; everything borrowed.
#[derive(Clone, Copy)]
pub(super) struct Here {
    pub(super) hub: *mut PyObject,
    /// The loop.
    pub(super) holder: *mut PyObject,
    pub(super) core: *mut Core,
}

struct Face {
    /// Makes the hub of a thread.
    make: *mut PyObject,
    /// The class whose `switch` needs nobody to look on.
    class: *mut PyObject,
}

static FACE: GilCell<Face> = GilCell::new(Face { make: ptr::null_mut(), class: ptr::null_mut() });

/// Says how hubs are made: `make()` gives one, and `hub_class` is the class that they derive from.
#[pyfunction]
pub(super) fn set_hub_class(hub_class: Py<PyAny>, make: Py<PyAny>) {
    let face = Face { make: make.into_ptr(), class: hub_class.into_ptr() };
    // SAFETY: with the GIL. What was there before stays alive, as somebody may be calling it.
    unsafe { *FACE.get() = face };
}

unsafe fn thread() -> *mut Thread {
    // SAFETY: the GIL is held, says the caller.
    unsafe { current_thread(current_thread_state()) }
}

/// The calling thread's hub, if there is one whose loop still runs; without an exception if there is not.
///
/// # Safety
///
/// The GIL is held.
#[inline(always)]
pub(super) unsafe fn here_if_exists() -> Option<Here> {
    // SAFETY: the loop of a thread's hub was checked to be one.
    unsafe {
        let thread = thread();
        if thread.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        if (*thread).hub.is_null() {
            return None;
        }
        let holder = (*thread).hub_loop;
        let core = eventloop::core_of_loop(holder);
        (!core.is_null()).then_some(Here { hub: (*thread).hub, holder, core })
    }
}

/// The calling thread's hub, made if there is none. `None` with an exception set. May run Python code.
///
/// # Safety
///
/// The GIL is held.
#[inline(always)]
pub(super) unsafe fn here() -> Option<Here> {
    // SAFETY: passed on.
    unsafe {
        match here_if_exists() {
            Some(here) => Some(here),
            None => make(),
        }
    }
}

#[cold]
unsafe fn make() -> Option<Here> {
    // SAFETY: the GIL is held; the made hub enters itself.
    unsafe {
        let thread = thread();
        if thread.is_null() {
            return None;
        }
        if (*thread).hub.is_null() {
            let make = (*FACE.get()).make;
            if make.is_null() {
                ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"weft.gevent.hub is not imported".as_ptr());
                return None;
            }
            let hub = ffi::PyObject_CallNoArgs(make);
            if hub.is_null() {
                return None;
            }
            let entered = (*thread).hub == hub;
            let status = if entered { Ok(()) } else { enter(Python::assume_attached(), hub) };
            ffi::Py_DECREF(hub);
            if let Err(error) = status {
                error.restore(Python::assume_attached());
                return None;
            }
        }
        let found = here_if_exists();
        if found.is_none() && ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"operation on destroyed loop".as_ptr());
        }
        found
    }
}

unsafe fn enter(py: Python<'_>, hub: *mut PyObject) -> PyResult<()> {
    // SAFETY: with the GIL; what was there before is dropped last.
    unsafe {
        let bound = Borrowed::from_ptr(py, hub);
        if !is_greenlet(hub) {
            return Err(PyTypeError::new_err("a hub is a greenlet"));
        }
        let found = bound.getattr("loop")?;
        let looped = found.cast::<eventloop::Loop>()?.clone();
        let class = (*FACE.get()).class;
        let watches = class.is_null() || {
            let base = Borrowed::from_ptr(py, class).getattr("switch")?;
            !bound.get_type().getattr("switch")?.is(&base)
        };
        let thread = thread();
        if thread.is_null() {
            return Err(PyErr::fetch(py));
        }
        let old = (
            std::mem::replace(&mut (*thread).hub, owned(hub)),
            std::mem::replace(&mut (*thread).hub_loop, looped.into_any().into_ptr()),
        );
        (*thread).hub_watches = watches;
        (*thread).successor = Some(park::successor);
        (*thread).hub_left = Some(left_by_thread);
        super::process_waits::note_hub();
        retire(thread, old);
        Ok(())
    }
}

/// Keeps what was the thread's hub, and its loop, until nobody can have them in hand any more: an operation under way may, which
/// has run Python code that took the hub from the thread.
unsafe fn retire(thread: *mut Thread, (hub, hub_loop): (*mut PyObject, *mut PyObject)) {
    // SAFETY: the calling thread's; both are owned, or null.
    unsafe { (*thread).retired.extend([hub, hub_loop].into_iter().filter(|object| !object.is_null())) };
}

/// Lets go of the hubs that this thread had before: between two turns of its present one, when no operation is under way but
/// those of greenlets that wait, which have what they need.
///
/// # Safety
///
/// The GIL is held. May run Python code.
pub(super) unsafe fn release_retired() {
    // SAFETY: passed on.
    unsafe {
        let thread = thread();
        if thread.is_null() {
            ffi::PyErr_Clear();
        } else if !(*thread).retired.is_empty() {
            crate::greenlet::thread::release_retired(thread);
        }
    }
}

/// Takes the loop, and the greenlet, of a hub whose thread has ended: a [`HubLeft`](crate::greenlet::thread::HubLeft).
///
/// Most hubs have taken leave by then, and only what their loop kept is left.
unsafe fn left_by_thread(hub: *mut PyObject, hub_loop: *mut PyObject) {
    // SAFETY: with the GIL; both are held by the caller. Nothing of the thread can run any more.
    unsafe {
        eventloop::left_by_thread(hub_loop);
        for (object, name) in [(hub_loop, c"error_handler"), (hub, c"loop")] {
            if ffi::PyObject_SetAttrString(object, name.as_ptr(), ffi::Py_None()) != 0 {
                ffi::PyErr_WriteUnraisable(object);
            }
        }
        make_dead(hub.cast());
    }
}

/// The hub of this thread, made at the first call.
#[pyfunction]
pub(super) fn get_hub(py: Python<'_>) -> PyResult<Py<PyAny>> {
    // SAFETY: with the GIL.
    unsafe {
        let thread = thread();
        if thread.is_null() {
            return Err(PyErr::fetch(py));
        }
        if (*thread).hub.is_null() && make().is_none() {
            return Err(PyErr::fetch(py));
        }
        Ok(Bound::from_borrowed_ptr(py, (*thread).hub).unbind())
    }
}

/// The hub of this thread, or None.
#[pyfunction]
pub(super) fn get_hub_if_exists(py: Python<'_>) -> Option<Py<PyAny>> {
    // SAFETY: with the GIL.
    unsafe {
        let thread = thread();
        if thread.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        Bound::from_owned_ptr_or_opt(py, owned_or_null((*thread).hub)).map(Bound::unbind)
    }
}

/// Makes a hub this thread's; None if it is to have none.
#[pyfunction]
pub(super) fn set_hub(py: Python<'_>, hub: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    // SAFETY: with the GIL; the fields are empty before anything is dropped.
    unsafe {
        match hub {
            Some(hub) => enter(py, hub.as_ptr()),
            None => {
                let thread = thread();
                if thread.is_null() {
                    return Err(PyErr::fetch(py));
                }
                let old = (
                    std::mem::replace(&mut (*thread).hub, ptr::null_mut()),
                    std::mem::replace(&mut (*thread).hub_loop, ptr::null_mut()),
                );
                retire(thread, old);
                Ok(())
            }
        }
    }
}

/// Has a hub look at its queue that is not the calling thread's, and may sleep.
///
/// # Safety
///
/// The GIL is held; the loop that has the core is alive.
pub(super) unsafe fn nudge_if_anothers(core: *mut Core) {
    // SAFETY: the core is borrowed for this statement.
    unsafe {
        if here_if_exists().is_none_or(|here| here.core != core) {
            (*core).hub.remote().nudge();
        }
    }
}

/// Whether the hub has ended, or its thread has, or does not exist in this child of a fork.
///
/// # Safety
///
/// The GIL is held; `hub` is a live greenlet.
pub(super) unsafe fn has_ended(hub: *mut PyObject) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let hub = hub.cast::<PyGreenlet>();
        (*body(hub)).life == Life::Dead || belongs_to_ended_thread(hub)
    }
}

/// The loop of a hub, owned, and what it keeps; `None`, without an exception, if it has none (any more).
///
/// # Safety
///
/// The GIL is held; `hub` is a live object. May run Python code, unless it is this thread's.
pub(super) unsafe fn loop_of(hub: *mut PyObject) -> Option<(*mut PyObject, *mut Core)> {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(here) = here_if_exists()
            && here.hub == hub
        {
            return Some((owned(here.holder), here.core));
        }
        // What looks it up may let go of the hub.
        let hub = owned(hub);
        let holder = ffi::PyObject_GetAttrString(hub, c"loop".as_ptr());
        ffi::Py_DECREF(hub);
        if holder.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        let core = eventloop::core_of(holder);
        if core.is_null() {
            ffi::PyErr_Clear();
            ffi::Py_DECREF(holder);
            return None;
        }
        Some((holder, core))
    }
}
