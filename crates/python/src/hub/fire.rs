//! What happens when a watcher is told of something: its function is called.

use std::ptr;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use weft_reactor::{ChildExit, ExitStatus};

use super::core::TIMER;
use super::kind::{Kind, nanoseconds};
use super::turns;
use super::watcher::Watcher;
use crate::greenlet::object::owned;

/// An exit with the code 255, as asyncio says of such children.
const UNKNOWN_STATUS: i32 = 0xff00;

/// Calls what a watcher is to call; `bits` say what happened.
///
/// # Safety
///
/// The GIL is held; both objects are alive and held by the caller, `object` is a watcher.
pub(super) unsafe fn fire(holder: *mut PyObject, object: *mut PyObject, bits: i32) {
    // SAFETY: everything is raw before anything can switch.
    unsafe {
        let Some((callback, arguments)) = prepare(object, bits) else { return };
        let result = if arguments.is_null() {
            ptr::null_mut()
        } else {
            ffi::PyObject_Call(callback, arguments, ptr::null_mut())
        };
        if result.is_null() {
            turns::handle_error(holder, object);
        } else {
            ffi::Py_DECREF(result);
        }
        ffi::Py_DECREF(callback);
        ffi::Py_XDECREF(arguments);
    }
}

/// What to call, both owned; arguments are null if an exception is set. `None` if there is nothing to call.
unsafe fn prepare(object: *mut PyObject, bits: i32) -> Option<(*mut PyObject, *mut PyObject)> {
    // SAFETY: with the GIL; a live watcher.
    unsafe {
        let py = Python::assume_attached();
        let watcher = Borrowed::from_ptr(py, object).cast::<Watcher>().ok()?;
        let this = watcher.get();
        let core = this.core(py).ok()?;
        let mut ends = false;
        match &mut this.state(py).kind {
            Kind::Timer { repeat, at, timer, .. } if bits & TIMER != 0 => {
                if *repeat > 0.0 {
                    // In step with the clock, unless it was late by more than a round.
                    *at = (*at + nanoseconds(*repeat)).max((*core).hub.now());
                    *timer = Some((*core).hub.tell_at(*at, this.number()));
                } else {
                    *timer = None;
                    ends = true;
                }
            }
            Kind::Child { child: Some(child), watch, .. } if child.is_parents() => {
                // In a fork's child its end is nobody's business.
                if let Some(watch) = watch.take() {
                    (*core).hub.unwatch(watch);
                }
                return None;
            }
            Kind::Child { pid, child, rpid, rstatus, .. } => match child.as_ref().map(ChildExit::try_reap) {
                Some(Ok(Some(status))) => {
                    *rpid = *pid;
                    // Of one that somebody else waited for nothing is known but that it ended. It is not to look like a success.
                    *rstatus = match status {
                        ExitStatus::Taken => UNKNOWN_STATUS,
                        known => known.raw().unwrap_or(0),
                    };
                    ends = true;
                }
                _ => return None,
            },
            _ => {}
        }
        let callback = this.state(py).callback.as_ref().map(|it| it.clone_ref(py))?.into_ptr();
        let arguments = this.state(py).arguments.as_ref().map(|it| it.clone_ref(py));
        let arguments =
            arguments.map_or_else(|| owned(crate::greenlet::types::errors().empty_tuple), Py::into_ptr);
        let arguments = if this.state(py).pass_events { with_events(arguments, bits) } else { arguments };
        if ends {
            Watcher::deactivate(&watcher);
            // Its function is called once, so nothing of it is kept.
            let state = this.state(py);
            let (old_callback, old_arguments) = (state.callback.take(), state.arguments.take());
            drop((old_callback, old_arguments));
        }
        Some((callback, arguments))
    }
}

/// The arguments with the first one replaced by the events; takes a reference and gives one.
unsafe fn with_events(arguments: *mut PyObject, bits: i32) -> *mut PyObject {
    // SAFETY: an owned tuple.
    unsafe {
        let count = ffi::PyTuple_GET_SIZE(arguments);
        let tuple = ffi::PyTuple_New(count.max(1));
        if !tuple.is_null() {
            ffi::PyTuple_SET_ITEM(tuple, 0, ffi::PyLong_FromLong((bits & 0xff).into()));
            for index in 1..count {
                ffi::PyTuple_SET_ITEM(tuple, index, owned(ffi::PyTuple_GET_ITEM(arguments, index)));
            }
        }
        ffi::Py_DECREF(arguments);
        tuple
    }
}
