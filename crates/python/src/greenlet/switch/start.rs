//! Starting a greenlet: `run` is looked up, which may run Python code, and everything is looked at again.

use std::ptr;

use pyo3::ffi::{self, PyObject, PyThreadState};

use super::super::object::{self, Life, PyGreenlet, SavedError, body, owned};
use super::super::parcel::Parcel;
use super::super::thread::Thread;
use super::super::types::{self, errors};
use super::{
    GARBAGE, Leave, arrive, check_allowed, discard_keeping_error, discard_object, fail, set_error, swap,
};

/// How starting a greenlet ended.
pub(super) enum Start {
    /// The switch happened and came back, or failed.
    Returned(*mut PyObject),
    /// Python code that ran meanwhile has started it; the parcel is still to be delivered.
    StartedMeanwhile(Parcel),
}

pub(super) unsafe fn start(
    thread: *mut Thread,
    thread_state: *mut PyThreadState,
    target: *mut PyGreenlet,
    is_direct: bool,
    parcel: Parcel,
    leave: Leave,
) -> Start {
    // SAFETY: as for `switch`. The target is held over the lookup of `run`, which may run Python code; after it, the
    // state is looked at again.
    unsafe {
        let exact = (*body(target)).starts_plainly || ffi::Py_TYPE(target.cast()) == types::greenlet_type();
        let run = if exact && !(*body(target)).run.is_null() {
            owned((*body(target)).run)
        } else {
            let saved = SavedError::take();
            owned(target);
            let run = ffi::PyObject_GetAttr(target.cast(), errors().run);
            if ffi::Py_REFCNT(target.cast()) == 1 && !run.is_null() {
                set_error(GARBAGE.as_ptr());
            }
            if run.is_null() || !ffi::PyErr_Occurred().is_null() || !check_allowed(thread, target) {
                saved.discard();
                let failure = SavedError::take();
                ffi::Py_XDECREF(run);
                parcel.discard();
                ffi::Py_DECREF(target.cast());
                failure.restore();
                return Start::Returned(ptr::null_mut());
            }
            ffi::Py_DECREF(target.cast());
            saved.restore();
            run
        };
        let target_body = body(target);
        if (*target_body).life != Life::Pending {
            // Dropping it may run Python code that takes the target away.
            owned(target);
            discard_object(run);
            if ffi::Py_REFCNT(target.cast()) == 1 {
                discard_keeping_error(parcel);
                ffi::PyErr_Clear();
                set_error(GARBAGE.as_ptr());
                discard_object(target.cast());
                return Start::Returned(ptr::null_mut());
            }
            ffi::Py_DECREF(target.cast());
            return Start::StartedMeanwhile(parcel);
        }
        if !(*target_body).coroutine.host.start(thread_state) {
            ffi::Py_DECREF(run);
            discard_keeping_error(parcel);
            return Start::Returned(ffi::PyErr_NoMemory());
        }
        (*target_body).life = Life::Active;
        (*target_body).main = owned((*thread).main);
        start_as_from_hub(thread, target_body);
        // The old reference is dropped in the new greenlet: that may switch. Until then the new one stands aside.
        let old_run = (*target_body).run;
        (*target_body).run = run;
        (*thread).parcel = parcel;
        (*thread).replaced_run = old_run;
        match swap(thread, thread_state, target, true, leave) {
            Ok(origin) => Start::Returned(arrive(thread, origin)),
            Err(failure) => {
                (*target_body).life = Life::Pending;
                (*target_body).run = (*thread).replaced_run;
                (*thread).replaced_run = ptr::null_mut();
                (*target_body).coroutine.host.free_datastack();
                let main = std::mem::replace(&mut (*target_body).main, ptr::null_mut());
                // From here on Python code may run, and start the target after all.
                let result = fail(thread, target, is_direct, true, &failure);
                let saved = SavedError::take();
                ffi::Py_DECREF(main.cast());
                ffi::Py_DECREF(run);
                saved.restore();
                Start::Returned(result)
            }
        }
    }
}

/// A child of the hub that somebody starts in the hub's place, because it was the next one, is as deep in recursion as if
/// the hub had done it.
pub(super) unsafe fn start_as_from_hub(thread: *mut Thread, target: *mut object::Body) {
    // SAFETY: both are this thread's; the hub is suspended, as another one is current.
    unsafe {
        let hub: *mut PyGreenlet = (*thread).hub.cast();
        if !hub.is_null()
            && (*target).parent == hub
            && (*thread).current != hub
            && (*body(hub)).life == Life::Active
            && (*body(hub)).main == (*thread).main
        {
            (*target).coroutine.host.start_as_from(&(*body(hub)).coroutine.host);
        }
    }
}
