//! Serving those that wait at a queue.

use std::collections::VecDeque;
use std::ptr;

use pyo3::ffi::{self, PyObject};
use weft_hub::WaiterKey;

use super::super::class::own;
use super::super::core::{Core, Item, Turn};
use super::super::eventloop::core_of_loop;
use super::super::here::{self, Here, here, here_if_exists};
use super::super::links::{self, Told};
use super::super::ready::{Step, value};
use super::super::{park, turns};
use super::{Queue, Wait, count_put, has_room, items, put_in, release, size};
use crate::greenlet::object::{SavedError, owned};
use crate::greenlet::switch;

/// Has those served that wait. False with an exception set.
pub(super) unsafe fn schedule(object: *mut PyObject) -> bool {
    // SAFETY: the core is borrowed for single statements.
    unsafe {
        let this: *mut Queue = own(object);
        if (*this).posted {
            return true;
        }
        if let Some(here) = here_if_exists()
            && here.hub == (*this).hub
        {
            (*here.core).hub.waiters.post(Item::Unlock(owned(object), Turn::Putters));
            (*this).posted = true;
            return true;
        }
        let home = if (*this).hub.is_null() { None } else { here::loop_of((*this).hub) };
        match home {
            Some((holder, core)) => {
                (*core).hub.waiters.post(Item::Unlock(owned(object), Turn::Putters));
                (*core).hub.remote().nudge();
                (*this).posted = true;
                ffi::Py_DECREF(holder);
                true
            }
            None => {
                // The hub that it was made in is gone: it belongs to this thread's.
                let Some(here) = here() else { return false };
                let old = std::mem::replace(&mut (*this).hub, owned(here.hub));
                ffi::Py_XDECREF(old);
                (*here.core).hub.waiters.post(Item::Unlock(owned(object), Turn::Putters));
                (*this).posted = true;
                true
            }
        }
    }
}

/// The loop in which it was to be served is gone: has it served in one where somebody waits for it.
///
/// # Safety
///
/// The GIL is held; a live queue, held by the caller.
pub(in super::super) unsafe fn orphaned(object: *mut PyObject) {
    // SAFETY: the core is borrowed for single statements; who waits holds its loop.
    unsafe {
        let this: *mut Queue = own(object);
        (*this).posted = false;
        let waits = (*this).getters.iter().chain(&(*this).putters);
        let living = waits.map(|wait| core_of_loop(wait.holder)).find(|core| !core.is_null());
        if let Some(core) = living
            && !(*core).greenlet.is_null()
        {
            (*core).hub.waiters.post(Item::Unlock(owned(object), Turn::Putters));
            (*core).hub.remote().nudge();
            (*this).posted = true;
            let old = std::mem::replace(&mut (*this).hub, owned((*core).greenlet.cast()));
            ffi::Py_XDECREF(old);
        }
    }
}

/// The first one, if it may be served.
pub(super) unsafe fn pop_if(waits: *mut VecDeque<Wait>, may: bool) -> Option<Wait> {
    // SAFETY: a live queue's.
    unsafe { if may { (*waits).pop_front() } else { None } }
}

/// Whether anybody waits.
pub(super) unsafe fn is_waited_for(this: *mut Queue) -> bool {
    // SAFETY: a live queue's.
    unsafe { !(*this).getters.is_empty() || !(*this).putters.is_empty() }
}

/// Goes on with serving, of which this is the turn; takes the reference to the queue. `None` when it has come to its end.
///
/// # Safety
///
/// As for [`ready::next`](super::super::ready::next).
pub(in super::super) unsafe fn step(
    core: *mut Core,
    object: *mut PyObject,
    turn: Turn,
    in_hub: bool,
) -> Option<Step> {
    // SAFETY: as for `next`: where the items are here nothing of Python's runs. Who waits holds the queue.
    unsafe {
        let this: *mut Queue = own(object);
        if items(object).is_none() {
            if in_hub {
                (*this).posted = false;
                return Some(Step::Serve(object));
            }
            (*core).hub.waiters.post_first(Item::Unlock(object, turn));
            return Some(Step::InHub);
        }
        (*this).posted = false;
        let mut turn = turn;
        loop {
            let size = items(object).map_or(0, |items| items.len().cast_signed());
            let (told, next) = match turn {
                Turn::Putters => match pop_if(&raw mut (*this).putters, has_room(this, size)) {
                    Some(wait) => {
                        if let Some(items) = items(object) {
                            items.push_back(wait.item);
                        }
                        count_put(object);
                        (links::wake(core, wait.holder, wait.key), Some((wait.holder, Turn::Getters(true))))
                    }
                    None => (Told::Nobody, None),
                },
                Turn::Getters(_) => match pop_if(&raw mut (*this).getters, size > 0) {
                    Some(wait) => {
                        (links::wake(core, wait.holder, wait.key), Some((wait.holder, Turn::Putters)))
                    }
                    None => (Told::Nobody, None),
                },
            };
            match (next, turn) {
                (Some((holder, next)), _) => {
                    ffi::Py_DECREF(holder);
                    turn = next;
                }
                (None, Turn::Putters) => turn = Turn::Getters(false),
                (None, Turn::Getters(true)) => turn = Turn::Putters,
                (None, Turn::Getters(false)) => {
                    ffi::Py_DECREF(object);
                    return None;
                }
            }
            if let Told::Switch(greenlet) = told {
                if is_waited_for(this) || ffi::Py_REFCNT(object) == 1 {
                    (*core).hub.waiters.post_first(Item::Unlock(object, turn));
                } else {
                    // Who waits from here on has this posted anew.
                    ffi::Py_DECREF(object);
                }
                return Some(Step::Switch(greenlet, value()));
            }
        }
    }
}

/// Serves those that wait at a queue with methods of its own. False with an exception set.
///
/// # Safety
///
/// The GIL is held, in the hub's greenlet; a live queue, held by the caller.
pub(in super::super) unsafe fn serve(object: *mut PyObject) -> bool {
    // SAFETY: what waits is taken out before anything runs; only raw pointers are on the stack across a switch.
    unsafe {
        let this: *mut Queue = own(object);
        loop {
            let mut served = false;
            if !(*this).putters.is_empty() {
                let Some(count) = size(object) else { return false };
                if has_room(this, count)
                    && let Some(wait) = (*this).putters.pop_front()
                {
                    served = true;
                    let fine = put_in(object, wait.item);
                    let error = SavedError::take();
                    if fine {
                        error.discard();
                        go_on(&wait, None);
                    } else {
                        go_on(&wait, Some(error));
                    }
                    release(wait);
                }
            }
            if !(*this).getters.is_empty() {
                let Some(count) = size(object) else { return false };
                if count > 0
                    && let Some(wait) = (*this).getters.pop_front()
                {
                    served = true;
                    go_on(&wait, None);
                    release(wait);
                }
            }
            if !served {
                return true;
            }
        }
    }
}

/// Switches to who waits, from the hub's greenlet, with an exception if there is one.
pub(super) unsafe fn go_on(wait: &Wait, error: Option<SavedError>) {
    // SAFETY: the wait's references are the caller's, over the switch.
    unsafe {
        let here = here_if_exists();
        let core = here.map_or(ptr::null_mut(), |here: Here| here.core);
        let told = links::wake(core, wait.holder, wait.key);
        match told {
            Told::Switch(greenlet) => {
                let result = match error {
                    Some(error) => {
                        error.restore();
                        let result = switch::throw(greenlet);
                        ffi::Py_DECREF(greenlet.cast::<PyObject>());
                        result
                    }
                    None => switch::switch_giving(greenlet, value()),
                };
                if result.is_null() {
                    turns::handle_error(wait.holder, wait.holder);
                } else {
                    ffi::Py_DECREF(result);
                }
            }
            Told::Done | Told::Nobody => {
                if let Some(error) = error {
                    error.restore();
                    turns::handle_error(wait.holder, wait.holder);
                }
            }
        }
    }
}

/// Whether the current greenlet is the queue's hub, which cannot wait.
pub(super) unsafe fn is_in_hub(this: *mut Queue) -> bool {
    // SAFETY: the GIL is held; a live queue's.
    unsafe { !(*this).hub.is_null() && park::current().cast::<PyObject>() == (*this).hub }
}

/// Takes a wait out. Says whether it was there.
pub(super) unsafe fn unlink(waits: *mut VecDeque<Wait>, at: *mut PyObject, key: WaiterKey) -> bool {
    // SAFETY: a live queue's; it is released when nothing is borrowed.
    unsafe {
        // Keys are told apart by their loops: every loop counts from the same number.
        let found = (*waits).iter().position(|wait| wait.key == key && wait.holder == at);
        match found.and_then(|index| (*waits).remove(index)) {
            Some(wait) => {
                release(wait);
                true
            }
            None => false,
        }
    }
}
