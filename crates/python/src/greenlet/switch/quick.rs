//! The quick ways of a switch, without lookups and tuples, where nothing is out of the ordinary.

use std::ptr;

use pyo3::ffi::{self, PyObject};
use weft_coroutine::slotted::Slots;

use super::super::object::{Life, PyGreenlet, SavedError, body, owned};
use super::super::parcel::Parcel;
use super::super::thread::current_thread;
use super::super::types::errors;
use super::start::start_as_from_hub;
use super::{Leave, arrive, discard_object, fail, swap, switch};
use crate::ffi::{METHOD_CALLS_WANT_A_DICT, current_thread_state};

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
