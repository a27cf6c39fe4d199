//! Putting something in and getting something out, waiting for room or for an item.

use std::collections::VecDeque;
use std::ptr;

use pyo3::ffi::{self, PyObject};
use weft_hub::WaiterKey;

use super::super::class::{self, own};
use super::super::faces::faces;
use super::super::here::here;
use super::super::limit::{self, Ended, Limit, limit};
use super::super::park;
use super::super::timeout::is_timeout;
use super::serve::{go_on, is_in_hub, pop_if, schedule, unlink};
use super::{Queue, Take, Wait, has_room, put_in, release, size, take};
use crate::greenlet::object::{SavedError, owned};

pub(super) unsafe fn refuse_negative(block: bool, timeout: *mut PyObject) -> bool {
    // SAFETY: a live object or null.
    unsafe {
        if !block || timeout.is_null() || timeout == ffi::Py_None() || is_timeout(timeout) {
            return false;
        }
        let seconds = ffi::PyFloat_AsDouble(timeout);
        if seconds == -1.0 && !ffi::PyErr_Occurred().is_null() {
            return true;
        }
        if seconds < 0.0 {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"'timeout' must be a non-negative number".as_ptr());
            return true;
        }
        false
    }
}

/// False with an exception set.
pub(super) unsafe fn put_within(
    object: *mut PyObject,
    item: *mut PyObject,
    block: bool,
    timeout: *mut PyObject,
) -> bool {
    // SAFETY: a live queue and live arguments, held by the call; only raw pointers are on the stack across a switch.
    unsafe {
        let this: *mut Queue = own(object);
        if (*this).shut_down {
            class::raise_plain(faces().shut_down);
            return false;
        }
        let room = if (*this).room < 0 {
            true
        } else {
            let Some(count) = size(object) else { return false };
            has_room(this, count)
        };
        if room {
            if refuse_negative(block, timeout) {
                return false;
            }
            return put_in(object, item) && ((*this).getters.is_empty() || schedule(object));
        }
        if is_in_hub(this) {
            return put_in_hub(object, item);
        }
        if !block {
            class::raise_plain(faces().full);
            return false;
        }
        let Some(limit) = limit(timeout) else { return false };
        let Some(here) = here() else { return false };
        // Both may have run Python code: room that was made since then is told to nobody.
        let Some(count) = size(object) else { return false };
        if has_room(this, count) {
            return put_in(object, item) && ((*this).getters.is_empty() || schedule(object));
        }
        let Some(key) = park::enter(here.core) else { return false };
        (*this).putters.push_back(Wait { holder: owned(here.holder), key, item: owned(item) });
        if !(*this).getters.is_empty() && !schedule(object) {
            park::withdraw(here.core, key);
            unlink(&raw mut (*this).putters, here.holder, key);
            return false;
        }
        let foreign = here.hub != (*this).hub;
        park::note_wait(object);
        let ended = limit::park_until(here, key, limit, foreign);
        park::note_wait(std::ptr::null_mut());
        let served = !unlink_keeping_error(&raw mut (*this).putters, here.holder, key);
        match ended {
            Ended::Failed => false,
            _ if served => true,
            Ended::Expired => {
                limit::raise(limit, faces().full);
                false
            }
            Ended::Woken => {
                class::raise_plain(faces().shut_down);
                false
            }
        }
    }
}

pub(super) unsafe fn unlink_keeping_error(
    waits: *mut VecDeque<Wait>,
    at: *mut PyObject,
    key: WaiterKey,
) -> bool {
    // SAFETY: as for `unlink`.
    unsafe {
        let saved = SavedError::take();
        let found = unlink(waits, at, key);
        saved.restore();
        found
    }
}

/// In the hub nobody can wait; but who waits to get something out can be served, which makes room.
pub(super) unsafe fn put_in_hub(object: *mut PyObject, item: *mut PyObject) -> bool {
    // SAFETY: as for `put_within`.
    unsafe {
        let this: *mut Queue = own(object);
        loop {
            let Some(count) = size(object) else { return false };
            if has_room(this, count) {
                return put_in(object, item);
            }
            let Some(wait) = pop_if(&raw mut (*this).getters, count > 0) else {
                class::raise_plain(faces().full);
                return false;
            };
            go_on(&wait, None);
            release(wait);
        }
    }
}

/// The first item; null with an exception set.
pub(super) unsafe fn get_within(
    object: *mut PyObject,
    block: bool,
    timeout: *mut PyObject,
    how: Take,
) -> *mut PyObject {
    // SAFETY: as for `put_within`.
    unsafe {
        let this: *mut Queue = own(object);
        let Some(count) = size(object) else { return ptr::null_mut() };
        if count > 0 {
            // Who peeks makes no room.
            if how == Take::Out && !(*this).putters.is_empty() && !schedule(object) {
                return ptr::null_mut();
            }
            return take(object, how);
        }
        if (*this).shut_down {
            class::raise_plain(faces().shut_down);
            return ptr::null_mut();
        }
        if refuse_negative(block, timeout) {
            return ptr::null_mut();
        }
        if is_in_hub(this) {
            while let Some(wait) = (*this).putters.pop_front() {
                if !put_in(object, wait.item) {
                    release(wait);
                    return ptr::null_mut();
                }
                go_on(&wait, None);
                release(wait);
                match size(object) {
                    None => return ptr::null_mut(),
                    Some(0) => {}
                    Some(_) => return take(object, how),
                }
            }
            class::raise_plain(faces().empty);
            return ptr::null_mut();
        }
        if !block {
            class::raise_plain(faces().empty);
            return ptr::null_mut();
        }
        let Some(limit) = limit(timeout) else { return ptr::null_mut() };
        wait_for_item(object, limit, how)
    }
}

pub(super) unsafe fn wait_for_item(object: *mut PyObject, limit: Limit, how: Take) -> *mut PyObject {
    // SAFETY: as for `put_within`.
    unsafe {
        let this: *mut Queue = own(object);
        loop {
            let Some(here) = here() else { return ptr::null_mut() };
            // What was done since the last look, making a hub among it, may have run Python code: an item that came since
            // then is told to nobody.
            match size(object) {
                None => return ptr::null_mut(),
                Some(0) => {}
                Some(_) => {
                    if how == Take::Out && !(*this).putters.is_empty() && !schedule(object) {
                        return ptr::null_mut();
                    }
                    return take(object, how);
                }
            }
            let Some(key) = park::enter(here.core) else { return ptr::null_mut() };
            (*this).getters.push_back(Wait { holder: owned(here.holder), key, item: ptr::null_mut() });
            if !(*this).putters.is_empty() && !schedule(object) {
                park::withdraw(here.core, key);
                unlink_keeping_error(&raw mut (*this).getters, here.holder, key);
                return ptr::null_mut();
            }
            park::note_wait(object);
            let ended = limit::park_until(here, key, limit, here.hub != (*this).hub);
            park::note_wait(std::ptr::null_mut());
            let served = !unlink_keeping_error(&raw mut (*this).getters, here.holder, key);
            match ended {
                Ended::Failed => {
                    if served {
                        serve_another(object);
                    }
                    return ptr::null_mut();
                }
                _ if served => match size(object) {
                    None => return ptr::null_mut(),
                    // Somebody else was quicker, who is of another thread than the hub.
                    Some(0) => {}
                    Some(_) => return take(object, how),
                },
                Ended::Expired => return limit::raise(limit, faces().empty),
                Ended::Woken => {
                    class::raise_plain(faces().shut_down);
                    return ptr::null_mut();
                }
            }
        }
    }
}

/// Who was served cannot take the item: another one may. An exception that is set stays set.
pub(super) unsafe fn serve_another(object: *mut PyObject) {
    // SAFETY: as for `put_within`.
    unsafe {
        if (*own::<Queue>(object)).getters.is_empty() {
            return;
        }
        let saved = SavedError::take();
        if !schedule(object) {
            ffi::PyErr_WriteUnraisable(object);
        }
        saved.restore();
    }
}
