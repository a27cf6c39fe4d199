//! The switch between greenlets, and a greenlet's first and last moments.
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

use std::ffi::{CStr, c_char};
use std::ptr;

use pyo3::ffi::{self, PyObject, PyThreadState};
use weft_coroutine::slotted::{Slots, SwitchError};

use super::first_last::ENTRY;
use super::object::{self, Life, PyGreenlet, SavedError, body, owned, owned_or_null};
use super::parcel::{Parcel, handle_exit};
use super::thread::{Thread, current_thread, delete_dropped_elsewhere, thread_of};
use super::tracing;
use super::types::{self, errors};
use crate::error::set_switch_error;
use crate::ffi::{METHOD_CALLS_WANT_A_DICT, current_thread_state};

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

/// How starting a greenlet ended.
enum Start {
    /// The switch happened and came back, or failed.
    Returned(*mut PyObject),
    /// Python code that ran meanwhile has started it; the parcel is still to be delivered.
    StartedMeanwhile(Parcel),
}

unsafe fn start(
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
unsafe fn start_as_from_hub(thread: *mut Thread, target: *mut object::Body) {
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

/// The way of `switch()` without keywords between greenlets that both run: no lookups, no tuples.
///
/// Gives `None` if anything is out of the ordinary; then nothing has changed.
///
/// # Safety
///
/// As for [`switch`]; `arguments` has `count` live objects.
#[inline(always)]
pub(crate) unsafe fn switch_quickly(
    greenlet: *mut PyGreenlet,
    arguments: *const *mut PyObject,
    count: isize,
) -> Option<*mut PyObject> {
    // SAFETY: as for `switch`.
    unsafe {
        let thread_state = current_thread_state();
        let thread = current_thread(thread_state);
        if thread.is_null() {
            return Some(ptr::null_mut());
        }
        let target = body(greenlet);
        let ordinary = (*target).life == Life::Active
            && (*target).main == (*thread).main
            && (*thread).current != greenlet
            && !(*target).broken.any()
            && (*thread).delete_later.is_empty()
            && count <= 1;
        if !ordinary {
            return None;
        }
        if METHOD_CALLS_WANT_A_DICT && (*greenlet).dict.is_null() {
            // Whoever is switched to once will be switched to again, by the same instruction: a sixth of the whole switch.
            let dict = ffi::PyDict_New();
            if dict.is_null() {
                return Some(ptr::null_mut());
            }
            if (*greenlet).dict.is_null() {
                (*greenlet).dict = dict;
            } else {
                ffi::Py_DECREF(dict);
            }
            // That may have collected garbage, so what was asked above may not be true any more.
            return None;
        }
        let value = owned(if count == 1 { arguments.read() } else { errors().empty_tuple });
        let origin = (*thread).current;
        let from = body(origin);
        if !(*target).coroutine.is_resident() {
            let slots = &raw mut (*thread).slots;
            let moved = Slots::bring_in(
                slots,
                thread_state,
                &raw mut (*from).coroutine,
                &raw mut (*target).coroutine,
            );
            if moved.is_err() || !(*target).coroutine.is_resident() {
                // The long way knows what to do, or what to say.
                ffi::Py_DECREF(value);
                return None;
            }
        }
        (*thread).parcel = Parcel::Value(value);
        (*thread).current = owned(greenlet);
        (*from).call_arguments = arguments;
        let origin = Slots::switch_resident(
            thread_state,
            &raw mut (*from).coroutine,
            &raw mut (*target).coroutine,
            origin.expose_provenance(),
        );
        Some(arrive(thread, ptr::with_exposed_provenance_mut(origin)))
    }
}

/// Switches to a greenlet with a reference to it that is taken: who leaves does not keep it alive for as long as it is
/// away, which a switch by a caller who holds the target does.
///
/// # Safety
///
/// As for [`switch`]; `greenlet` is owned.
pub(crate) unsafe fn switch_giving(greenlet: *mut PyGreenlet, parcel: Parcel) -> *mut PyObject {
    // SAFETY: as for `switch_quickly` and `start`; the reference becomes that of the thread's current greenlet, or is
    // dropped by the greenlet that starts.
    unsafe {
        let thread_state = current_thread_state();
        let thread = current_thread(thread_state);
        let target = body(greenlet);
        let ordinary = !thread.is_null()
            && (*thread).delete_later.is_empty()
            && !(*target).broken.any()
            && (*thread).current != greenlet;
        if ordinary && (*target).life == Life::Active && (*target).main == (*thread).main {
            let origin = (*thread).current;
            let from = body(origin);
            if (*target).coroutine.is_resident()
                || (Slots::bring_in(
                    &raw mut (*thread).slots,
                    thread_state,
                    &raw mut (*from).coroutine,
                    &raw mut (*target).coroutine,
                )
                .is_ok()
                    && (*target).coroutine.is_resident())
            {
                (*thread).parcel = parcel;
                (*thread).current = greenlet;
                (*from).call_arguments = ptr::null();
                let origin = Slots::switch_resident(
                    thread_state,
                    &raw mut (*from).coroutine,
                    &raw mut (*target).coroutine,
                    origin.expose_provenance(),
                );
                return arrive(thread, ptr::with_exposed_provenance_mut(origin));
            }
        } else if ordinary
            && (*target).life == Life::Pending
            && (*target).starts_plainly
            && !(*target).run.is_null()
            && (*target).coroutine.host.start(thread_state)
        {
            (*target).life = Life::Active;
            (*target).main = owned((*thread).main);
            start_as_from_hub(thread, target);
            (*body((*thread).current)).call_arguments = ptr::null();
            (*thread).parcel = parcel;
            // What the new greenlet drops first thing.
            (*thread).replaced_run = greenlet.cast();
            return match swap(thread, thread_state, greenlet, true, Leave::ForNow) {
                Ok(origin) => arrive(thread, origin),
                Err(failure) => {
                    (*target).life = Life::Pending;
                    (*thread).replaced_run = ptr::null_mut();
                    (*target).coroutine.host.free_datastack();
                    let main = std::mem::replace(&mut (*target).main, ptr::null_mut());
                    let result = fail(thread, greenlet, true, true, &failure);
                    let saved = SavedError::take();
                    ffi::Py_DECREF(main.cast());
                    ffi::Py_DECREF(greenlet.cast());
                    saved.restore();
                    result
                }
            };
        }
        let result = switch(greenlet, parcel);
        discard_object(greenlet.cast());
        result
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
