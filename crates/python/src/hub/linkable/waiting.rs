//! Waiting for such an object, and linking to it what is no function.

use pyo3::ffi::{self, PyObject};
use weft_hub::WaiterKey;

use super::super::class::own;
use super::super::eventloop;
use super::super::here::{self, here_if_exists};
use super::super::limit::{self, Ended, Limit};
use super::super::links::{self, Link};
use super::super::park;
use super::{Home, Linkable, Phase, check_and_notify, home};
use crate::greenlet::object::owned;

/// Parks the current greenlet until the object tells it, or the limit is reached. Says also whether it was told:
/// what it `takes` is its own then, however the wait ended.
///
/// # Safety
///
/// The GIL is held; a live object, held by the caller; the arguments that `limit` borrows stay alive.
pub(in super::super) unsafe fn wait(
    object: *mut PyObject,
    limit: Limit,
    takes: bool,
    referenced: bool,
    among_arrived: bool,
) -> (Ended, bool) {
    // SAFETY: only raw pointers are on the stack across the switch.
    unsafe {
        let Some(here) = here::here() else { return (Ended::Failed, false) };
        let Some(key) = park::enter(here.core) else { return (Ended::Failed, false) };
        let this: *mut Linkable = own(object);
        let link = Link::Wait { holder: owned(here.holder), key, takes };
        if among_arrived {
            (*this).arrived.push(link);
        } else {
            (*this).links.push(link);
            if !takes {
                // A `ready()` of somebody's own may take the hub from the thread.
                let holder = owned(here.holder);
                let fine = check_and_notify(object)
                    && (!eventloop::core_of_loop(holder).is_null() || !eventloop::core_of(holder).is_null());
                if !fine {
                    park::withdraw(here.core, key);
                    unlink_wait(this, holder, key);
                }
                ffi::Py_DECREF(holder);
                if !fine {
                    return (Ended::Failed, false);
                }
            }
        }
        park::note_wait(object);
        let ended = limit::park_until(here, key, limit, referenced);
        park::note_wait(std::ptr::null_mut());
        if ended == Ended::Woken {
            return (ended, true);
        }
        let told = !unlink_wait(this, here.holder, key);
        (ended, told)
    }
}

/// Parks the current greenlet until the object is ready, or for as long as a `timeout` argument says, which may be null.
/// False with an exception set.
///
/// # Safety
///
/// The GIL is held; live objects, held by the caller.
pub(in super::super) unsafe fn wait_for(object: *mut PyObject, timeout: *mut PyObject) -> bool {
    // SAFETY: passed on.
    unsafe {
        let Some(home) = home(own(object), true) else { return false };
        let Some(limit) = limit::limit(timeout) else { return false };
        let (ended, _) = wait(object, limit, false, matches!(home, Home::Foreign), false);
        ended != Ended::Failed
    }
}

/// Takes a wait out of the links; says whether it was there.
unsafe fn unlink_wait(this: *mut Linkable, at: *mut PyObject, of: WaiterKey) -> bool {
    // SAFETY: the loop's reference is not the last one.
    unsafe {
        let is = |link: &Link| links::is_wait(link, at, of);
        if let Some((index, link)) = (*this).links.take(is) {
            note_taken(this, index, false);
            link.release();
            return true;
        }
        if let Some((index, link)) = (*this).arrived.take(is) {
            note_taken(this, index, true);
            link.release();
            return true;
        }
        false
    }
}

/// A link was taken out: this round may be shorter.
pub(super) unsafe fn note_taken(this: *mut Linkable, index: usize, among_arrived: bool) {
    // SAFETY: a live object's.
    match unsafe { &mut (*this).phase } {
        Phase::Links(left) if !among_arrived && index < *left => *left -= 1,
        Phase::Arrived(left) if among_arrived && index < *left => *left -= 1,
        _ => {}
    }
}

/// Whether it is telling, or is about to.
///
/// # Safety
///
/// The GIL is held; `this` is a live object's.
pub(in super::super) unsafe fn is_telling(this: *mut Linkable) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*this).phase != Phase::Quiet }
}

/// Adds a link that is no function.
///
/// # Safety
///
/// The GIL is held; a live object; the link's reference is taken.
pub(in super::super) unsafe fn link(object: *mut PyObject, link: Link) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        (*own::<Linkable>(object)).links.push(link);
        check_and_notify(object)
    }
}

/// Takes a gather, or a gate, out of the links. Says whether it was there.
///
/// # Safety
///
/// The GIL is held; a live object.
pub(in super::super) unsafe fn unlink(object: *mut PyObject, is: impl Fn(&Link) -> bool) -> bool {
    // SAFETY: the link is released when nothing is borrowed.
    unsafe {
        let this: *mut Linkable = own(object);
        let found = (*this).links.take(is);
        if let Some((index, link)) = found {
            note_taken(this, index, false);
            link.release();
            take_back_if_alone(this);
            return true;
        }
        false
    }
}

/// Takes back what was posted if nobody is linked any more, so that the object is not held for it.
pub(super) unsafe fn take_back_if_alone(this: *mut Linkable) {
    // SAFETY: the caller holds the object, so that the posted reference is not the last one.
    unsafe {
        // It may belong to another hub than when it was posted.
        if let Phase::Posted(core, key) = (*this).phase
            && (*this).links.is_empty()
            && (*this).arrived.is_empty()
            && let Some(here) = here_if_exists()
            && here.hub == (*this).hub
            && here.core == core
        {
            (*this).phase = Phase::Quiet;
            park::withdraw(here.core, key);
        }
    }
}
