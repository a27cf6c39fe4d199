//! The switch between greenlets.
//!
//! # Algorithm
//!
//! What a switch brings (arguments, or an exception that is set in the thread state) travels in the thread's
//! [`Parcel`]: it is put there when nothing more can run Python code before the stacks change, and taken out first
//! thing afterwards. Everything in between is memory moves. So a switch that happens while another one is being
//! prepared (looking up `run` may run Python code that switches) cannot mix up their parcels.
//!
//! The greenlet that is left is handed over as the switch's transfer value, with a reference. The greenlet that is
//! entered drops that reference, after it has taken its parcel: dropping it may be the end of the other one, which is
//! then unwound by a further switch.
//!
//! A dead greenlet stands for its parent. The real target is the first in the chain of parents that is not dead;
//! if that was not started, it is started.
//!
//! # What may lie on a stack across a switch
//!
//! Nothing that needs dropping: a suspended greenlet may never continue, and a finished one never does. All functions here
//! keep raw pointers only.

mod quick;
mod start;

use std::ffi::{CStr, c_char};
use std::ptr;

use pyo3::ffi::{self, PyObject, PyThreadState};
use weft_coroutine::slotted::{Slots, SwitchError};

use super::first_last::ENTRY;
use super::object::{Life, PyGreenlet, SavedError, body, owned, owned_or_null};
use super::parcel::{Parcel, handle_exit};
use super::thread::{Thread, current_thread, delete_dropped_elsewhere, thread_of};
use super::tracing;
use super::types::errors;
use crate::error::set_switch_error;
use crate::ffi::current_thread_state;

pub(crate) use quick::{switch_giving, switch_quickly};
use start::{Start, start};

/// Whether a switch from the calling thread may go to `target`; if not, the exception is set.
unsafe fn check_allowed(thread: *mut Thread, target: *mut PyGreenlet) -> bool {
    // SAFETY: the GIL is held; the chain of parents consists of live greenlets.
    unsafe {
        let mut greenlet = target;
        let main = loop {
            let main = (*body(greenlet)).main;
            if !main.is_null() {
                break main;
            }
            greenlet = (*body(greenlet)).parent;
            if greenlet.is_null() {
                set_error(GARBAGE.as_ptr());
                return false;
            }
        };
        if main == (*thread).main {
            return true;
        }
        if thread_of(main).is_null() {
            set_error(c"cannot switch to a different thread (which happens to have exited)".as_ptr());
        } else {
            ffi::PyErr_Format(
                errors().greenlet_error,
                c"Cannot switch to a different thread\n\tCurrent:  %R\n\tExpected: %R".as_ptr(),
                (*thread).main,
                main,
            );
        }
        false
    }
}

/// The error for a greenlet whose parents the collector has taken apart.
const GARBAGE: &CStr = c"cannot switch to a garbage collected greenlet";

unsafe fn set_error(message: *const c_char) {
    // SAFETY: the GIL is held.
    unsafe { ffi::PyErr_SetString(errors().greenlet_error, message) };
}

/// Why [`swap`] did not happen; nothing has changed then.
enum Failure {
    Engine(SwitchError),
    Pretended,
}

/// Whether the greenlet that switches means to be switched back to.
///
/// A greenlet that has come to its end leaves for ever with its result, and only with that: what may run on its stack before
/// (the look-up of its parent's `run`, the unwinding of a greenlet that was dropped) switches as usual.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    ForNow,
    ForEver,
}

/// Changes the stacks. Returns, when somebody switches back, who that was, with a reference.
///
/// # Safety
///
/// The parcel is packed, `target` is active and not current (or about to start, with `entry`), nothing can go wrong
/// any more but the engine.
#[inline(always)]
unsafe fn swap(
    thread: *mut Thread,
    thread_state: *mut PyThreadState,
    target: *mut PyGreenlet,
    entry: bool,
    leave: Leave,
) -> Result<*mut PyGreenlet, Failure> {
    // SAFETY: both greenlets are this thread's and kept alive: the target by the caller, the origin by the reference
    // that was `current`'s. After the engine returns on this stack, only locals from before and fresh loads are used.
    unsafe {
        let origin = (*thread).current;
        let from = &raw mut (*body(origin)).coroutine;
        let to = &raw mut (*body(target)).coroutine;
        let slots = &raw mut (*thread).slots;
        if (*body(target)).broken.switch {
            return Err(Failure::Pretended);
        }
        if (*body(target)).broken.stack_switch {
            ffi::Py_FatalError(
                c"greenlet: Failed low-level slp_switch(). The stack is probably corrupt.".as_ptr(),
            );
        }
        (*thread).current = owned(target);
        let transfer = origin.expose_provenance();
        if leave == Leave::ForEver {
            (*body(origin)).life = Life::Dead;
        }
        let outcome = if leave == Leave::ForNow {
            if entry {
                Slots::start(slots, thread_state, from, to, ENTRY, transfer)
            } else {
                Slots::switch(slots, thread_state, from, to, transfer)
            }
        } else if entry {
            Err(Slots::finish_into(slots, thread_state, from, to, ENTRY, transfer))
        } else {
            Err(Slots::finish(slots, thread_state, from, to, transfer))
        };
        match outcome {
            Ok(origin) => Ok(ptr::with_exposed_provenance_mut(origin)),
            Err(error) => {
                (*thread).current = origin;
                (*body(origin)).life = Life::Active;
                ffi::Py_DECREF(target.cast());
                Err(Failure::Engine(error))
            }
        }
    }
}

/// What the greenlet that was entered does first: takes the parcel, tells the tracer, lets go of the origin.
///
/// Returns what `switch()` returns.
#[inline(always)]
unsafe fn arrive(thread: *mut Thread, origin: *mut PyGreenlet) -> *mut PyObject {
    // SAFETY: runs on the entered greenlet's stack, as `thread`'s current greenlet, with the GIL.
    unsafe {
        // Read where it lies: moving the whole would have to wait for the stores that have just been made.
        if let Parcel::Value(value) = (*thread).parcel
            && (*thread).tracefunc.is_null()
            && ffi::Py_REFCNT(origin.cast()) > 1
            && (*body(origin)).life != Life::Dead
        {
            // Nobody watches, and nothing dies.
            (*thread).parcel = Parcel::Empty;
            ffi::Py_DECREF(origin.cast());
            return value;
        }
        arrive_slowly(thread, origin)
    }
}

#[inline(never)]
unsafe fn arrive_slowly(thread: *mut Thread, origin: *mut PyGreenlet) -> *mut PyObject {
    // SAFETY: as for `arrive`.
    unsafe {
        let parcel = std::mem::replace(&mut (*thread).parcel, Parcel::Empty);
        let mut result = parcel.into_value();
        if !(*thread).tracefunc.is_null() {
            result = trace_arrival(thread, origin, result);
        }
        drop_origin(origin);
        result
    }
}

/// Calls the tracer; an exception that it raises takes the place of what the switch brought.
unsafe fn trace_arrival(
    thread: *mut Thread,
    origin: *mut PyGreenlet,
    result: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as for `arrive`; the current greenlet stays alive while it runs.
    unsafe {
        let event = if result.is_null() { tracing::Event::Throw } else { tracing::Event::Switch };
        if tracing::call(thread, event, origin, (*thread).current) {
            result
        } else {
            ffi::Py_XDECREF(result);
            ptr::null_mut()
        }
    }
}

/// Lets go of the greenlet that was left; if it is finished, of its data stack too.
///
/// An exception that is set stays set.
pub(super) unsafe fn drop_origin(origin: *mut PyGreenlet) {
    // SAFETY: the reference is ours, and a finished greenlet's data stack is not used by anybody.
    unsafe {
        if (*body(origin)).life == Life::Dead {
            (*body(origin)).coroutine.host.free_datastack();
            // The parent that it went to; see `last_moments`.
            let parent = std::mem::replace(&mut (*body(origin)).run, ptr::null_mut());
            discard_object(parent);
        }
        ffi::Py_DECREF(origin.cast());
    }
}

/// Switches to `greenlet`, or to whom it stands for, with `parcel`.
///
/// Returns what the switch back brings, or null with an exception set. From a finished greenlet it returns
/// only if the switch fails.
///
/// # Safety
///
/// The GIL is held, `greenlet` is a live greenlet that the caller keeps alive.
pub(crate) unsafe fn switch(greenlet: *mut PyGreenlet, parcel: Parcel) -> *mut PyObject {
    // SAFETY: passed on.
    unsafe { deliver(greenlet, parcel, ptr::null(), Leave::ForNow) }
}

/// The same for a call of `switch()`, whose arguments lie at `arguments`.
///
/// # Safety
///
/// As for [`switch`].
pub(crate) unsafe fn switch_from_call(
    greenlet: *mut PyGreenlet,
    parcel: Parcel,
    arguments: *const *mut PyObject,
) -> *mut PyObject {
    // SAFETY: passed on.
    unsafe { deliver(greenlet, parcel, arguments, Leave::ForNow) }
}

pub(super) unsafe fn deliver(
    greenlet: *mut PyGreenlet,
    parcel: Parcel,
    arguments: *const *mut PyObject,
    leave: Leave,
) -> *mut PyObject {
    // SAFETY: every greenlet in the chain is held by the one before it, the first by the caller; whatever runs Python
    // code is followed by a fresh look at the state.
    unsafe {
        let thread_state = current_thread_state();
        let thread = current_thread(thread_state);
        if thread.is_null() {
            parcel.discard();
            return ptr::null_mut();
        }
        if !(*thread).delete_later.is_empty() {
            delete_dropped_elsewhere(thread);
        }
        if !check_allowed(thread, greenlet) {
            discard_keeping_error(parcel);
            return ptr::null_mut();
        }
        (*body((*thread).current)).call_arguments = arguments;
        let mut parcel = parcel;
        let mut target = greenlet;
        loop {
            match (*body(target)).life {
                Life::Active => {
                    return switch_to_active(thread, thread_state, target, target == greenlet, parcel, leave);
                }
                Life::Pending => match start(thread, thread_state, target, target == greenlet, parcel, leave)
                {
                    Start::Returned(result) => return result,
                    Start::StartedMeanwhile(unused) => parcel = unused,
                },
                Life::Dead => {
                    target = (*body(target)).parent;
                    if target.is_null() {
                        discard_keeping_error(parcel);
                        set_error(GARBAGE.as_ptr());
                        return ptr::null_mut();
                    }
                    // It may have been given a parent in another thread before it was started.
                    if !check_allowed(thread, target) {
                        discard_keeping_error(parcel);
                        return ptr::null_mut();
                    }
                }
            }
        }
    }
}

pub(super) unsafe fn discard_keeping_error(parcel: Parcel) {
    // SAFETY: the GIL is held.
    unsafe {
        let saved = SavedError::take();
        parcel.discard();
        saved.restore();
    }
}

unsafe fn switch_to_active(
    thread: *mut Thread,
    thread_state: *mut PyThreadState,
    target: *mut PyGreenlet,
    is_direct: bool,
    parcel: Parcel,
    leave: Leave,
) -> *mut PyObject {
    // SAFETY: as for `switch`.
    unsafe {
        if (*thread).current == target {
            // Nobody to switch to: what was sent comes straight back.
            let result = parcel.into_value();
            if (*thread).tracefunc.is_null() { result } else { trace_arrival(thread, target, result) }
        } else {
            (*thread).parcel = parcel;
            match swap(thread, thread_state, target, false, leave) {
                Ok(origin) => arrive(thread, origin),
                Err(failure) => fail(thread, target, is_direct, false, &failure),
            }
        }
    }
}

/// The switch did not happen: drops the parcel and sets the exception.
#[cold]
unsafe fn fail(
    thread: *mut Thread,
    target: *mut PyGreenlet,
    is_direct: bool,
    was_start: bool,
    failure: &Failure,
) -> *mut PyObject {
    // SAFETY: as for `switch`; nothing has changed since the parcel was packed.
    unsafe {
        let parcel = std::mem::replace(&mut (*thread).parcel, Parcel::Empty);
        match failure {
            Failure::Engine(error) => {
                discard_keeping_error(parcel);
                ffi::PyErr_Clear();
                set_switch_error(error);
            }
            Failure::Pretended => {
                discard_keeping_error(parcel);
                if ffi::PyErr_Occurred().is_null() {
                    let message = if was_start {
                        c"Failed to switch stacks into a greenlet for the first time."
                    } else {
                        c"Failed to switch stacks into a running greenlet."
                    };
                    ffi::PyErr_SetString(ffi::PyExc_SystemError, message.as_ptr());
                }
                if !is_direct {
                    super::lifetime::make_dead(target);
                }
            }
        }
        ptr::null_mut()
    }
}

/// Drops a reference, if there is one; an exception that is set stays set.
///
/// # Safety
///
/// An owned reference or null, with the GIL.
#[inline]
pub(crate) unsafe fn discard_object(object: *mut PyObject) {
    // SAFETY: an owned reference or null, with the GIL.
    unsafe {
        if object.is_null() {
            return;
        }
        if ffi::Py_REFCNT(object) > 1 {
            // Nothing runs.
            ffi::Py_DECREF(object);
        } else {
            let saved = SavedError::take();
            ffi::Py_DECREF(object);
            saved.restore();
        }
    }
}

pub(super) unsafe fn next_parent(greenlet: *mut PyGreenlet) -> *mut PyGreenlet {
    // SAFETY: a live greenlet. A main greenlet keeps something else in that field.
    unsafe { if (*body(greenlet)).is_main { ptr::null_mut() } else { (*body(greenlet)).parent } }
}

/// Throws into `greenlet` the exception that is set.
///
/// # Safety
///
/// As for [`switch`]; an exception is set.
pub(crate) unsafe fn throw(greenlet: *mut PyGreenlet) -> *mut PyObject {
    // SAFETY: passed on.
    unsafe {
        let parcel = if (*body(greenlet)).life == Life::Dead {
            // A dead greenlet takes `GreenletExit` as its return value.
            handle_exit(ptr::null_mut())
        } else {
            Parcel::Exception
        };
        switch(greenlet, parcel)
    }
}

/// A reference to the current greenlet; null with an exception set if there cannot be one.
///
/// # Safety
///
/// The GIL is held.
pub(crate) unsafe fn current() -> *mut PyGreenlet {
    if crate::ffi::is_finalizing() {
        // SAFETY: the GIL is held.
        unsafe {
            ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"greenlet is being finalized".as_ptr());
        }
        return ptr::null_mut();
    }
    // SAFETY: passed on.
    unsafe {
        let thread = current_thread(current_thread_state());
        if thread.is_null() {
            return ptr::null_mut();
        }
        if !(*thread).delete_later.is_empty() {
            delete_dropped_elsewhere(thread);
        }
        owned_or_null((*thread).current)
    }
}
