//! Telling those that are linked, one after the other.

use std::ptr;

use pyo3::ffi::{self, PyObject};
use weft_hub::WaiterKey;

use super::super::class::own;
use super::super::core::{Core, Item};
use super::super::faces::{faces, names};
use super::super::here;
use super::super::links::{self, Link, Told};
use super::super::ready::{Step, value};
use super::functions::call_link;
use super::{Home, Linkable, Phase, What, home, is_ready};
use crate::greenlet::object::{clear, owned};

/// Has those told that are linked, if it is ready. False with an exception set.
///
/// # Safety
///
/// The GIL is held; a live object.
pub(in super::super) unsafe fn check_and_notify(object: *mut PyObject) -> bool {
    // SAFETY: nothing is borrowed while Python code may run.
    unsafe {
        let this: *mut Linkable = own(object);
        if (*this).links.is_empty() || (*this).phase != Phase::Quiet {
            return true;
        }
        match is_ready(object) {
            Some(true) => {}
            Some(false) => return true,
            None => return false,
        }
        match home(this, false) {
            None => return false,
            Some(Home::Here(here)) => post(here.core, object),
            Some(Home::Foreign) => {
                let Some((holder, core)) = here::loop_of((*this).hub) else {
                    return post_by_call(object);
                };
                if (*this).phase == Phase::Quiet {
                    post(core, object);
                    (*core).hub.remote().nudge();
                }
                ffi::Py_DECREF(holder);
            }
            Some(Home::Nobody) => tell_without_hub(object),
        }
        true
    }
}

/// As [`post`], where the hub's loop is something that only stands for one. False with an exception set.
unsafe fn post_by_call(object: *mut PyObject) -> bool {
    // SAFETY: a live object with a hub; every result is checked and dropped.
    unsafe {
        let this: *mut Linkable = own(object);
        let looped = ffi::PyObject_GetAttr((*this).hub, names().r#loop);
        if looped.is_null() || looped == ffi::Py_None() {
            ffi::Py_XDECREF(looped);
            super::super::faces::raise(faces().invalid_thread, c"the hub that this belongs to is gone");
            return false;
        }
        (*this).phase = Phase::Posted(ptr::null_mut(), WaiterKey::NOBODY);
        let notify = ffi::PyObject_GetAttrString(object, c"_notify_links".as_ptr());
        let result = if notify.is_null() {
            notify
        } else {
            ffi::PyObject_CallMethod(looped, c"run_callback_threadsafe".as_ptr(), c"O".as_ptr(), notify)
        };
        ffi::Py_XDECREF(notify);
        ffi::Py_DECREF(looped);
        if result.is_null() {
            (*this).phase = Phase::Quiet;
            return false;
        }
        ffi::Py_DECREF(result);
        true
    }
}

pub(super) unsafe fn post(core: *mut Core, object: *mut PyObject) {
    // SAFETY: the core is borrowed for this statement.
    unsafe {
        let key = (*core).hub.waiters.post(Item::Notify(owned(object)));
        (*own::<Linkable>(object)).phase = Phase::Posted(core, key);
    }
}

/// Tells all at once: there is no hub to do it.
unsafe fn tell_without_hub(object: *mut PyObject) {
    // SAFETY: the object is held; nothing is borrowed while functions run.
    unsafe {
        let this: *mut Linkable = own(object);
        (*this).phase = Phase::Links((*this).links.len());
        owned(object);
        while let Some(link) = next_link(object) {
            match link {
                Link::Call(function) => call_link(ptr::null_mut(), function, object),
                other => drop(tell_one(ptr::null_mut(), other, object)),
            }
        }
        (*this).phase = Phase::Quiet;
        ffi::Py_DECREF(object);
    }
}

/// Takes the next link of this round; `None` at its end.
unsafe fn next_link(object: *mut PyObject) -> Option<Link> {
    // SAFETY: a live object; only a class of somebody's own runs Python code, and nothing is borrowed then.
    unsafe {
        let this: *mut Linkable = own(object);
        if matches!((*this).what, What::Semaphore { counter: ..=0, .. }) {
            return None;
        }
        loop {
            match &mut (*this).phase {
                Phase::Links(0) => (*this).phase = Phase::Arrived((*this).arrived.len()),
                Phase::Arrived(0) | Phase::Quiet | Phase::Posted(..) => return None,
                Phase::Links(left) => {
                    *left -= 1;
                    if let Some(link) = (*this).links.pop() {
                        return Some(link);
                    }
                    *left = 0;
                }
                Phase::Arrived(left) => {
                    *left -= 1;
                    if let Some(link) = (*this).arrived.pop() {
                        return Some(link);
                    }
                    *left = 0;
                }
            }
        }
    }
}

/// Tells a link that is no function; what is free goes to who takes it.
unsafe fn tell_one(core: *mut Core, link: Link, object: *mut PyObject) -> Told {
    // SAFETY: as for `links::tell`.
    unsafe {
        let takes = link.takes();
        let told = links::tell(core, link, object);
        if takes
            && !matches!(told, Told::Nobody)
            && let What::Semaphore { counter, .. } = &mut (*own::<Linkable>(object)).what
        {
            *counter -= 1;
        }
        told
    }
}

/// Goes on with telling, of which this is the turn; takes the reference to the object. `None` when it has come to its end.
///
/// # Safety
///
/// As for [`ready::next`](super::super::ready::next).
pub(in super::super) unsafe fn step(core: *mut Core, object: *mut PyObject, in_hub: bool) -> Option<Step> {
    // SAFETY: as for `next`: functions are called by the hub, and only a class of somebody's own runs Python code, in the hub.
    unsafe {
        let this: *mut Linkable = own(object);
        if let Phase::Posted(..) = (*this).phase {
            (*this).phase = Phase::Links((*this).links.len());
        }
        if !in_hub && needs_hub(this) {
            (*core).hub.waiters.post_first(Item::Notify(object));
            return Some(Step::InHub);
        }
        while let Some(link) = next_link(object) {
            match link {
                Link::Call(function) => {
                    if (*this).called.contains(&function) {
                        ffi::Py_DECREF(function);
                        continue;
                    }
                    (*this).called.push(owned(function));
                    owned(object);
                    (*core).hub.waiters.post_first(Item::Notify(object));
                    return Some(Step::Link(function, object));
                }
                other => {
                    if let Told::Switch(greenlet) = tell_one(core, other, object) {
                        let over = !matches!((*this).what, What::Event(_))
                            && (*this).called.is_empty()
                            && (*this).links.is_empty()
                            && (*this).arrived.is_empty();
                        if over {
                            // Whoever is linked from here on posts by itself.
                            (*this).phase = Phase::Quiet;
                            ffi::Py_DECREF(object);
                        } else {
                            (*core).hub.waiters.post_first(Item::Notify(object));
                        }
                        return Some(Step::Switch(greenlet, value()));
                    }
                }
            }
            if !in_hub && needs_hub(this) {
                (*core).hub.waiters.post_first(Item::Notify(object));
                return Some(Step::InHub);
            }
        }
        let mut arrived = std::mem::take(&mut (*this).arrived);
        (*this).links.append(&mut arrived);
        (*this).phase = Phase::Quiet;
        while let Some(function) = (*this).called.pop() {
            ffi::Py_DECREF(function);
        }
        if !check_and_notify(object) {
            ffi::PyErr_WriteUnraisable(object);
        }
        ffi::Py_DECREF(object);
        None
    }
}

/// The loop in which it was to tell is gone: has those told that wait in others, or in threads without one.
///
/// # Safety
///
/// The GIL is held; a live object, held by the caller. May run Python code.
pub(in super::super) unsafe fn orphaned(object: *mut PyObject) {
    // SAFETY: nothing is borrowed while Python code may run.
    unsafe {
        let this: *mut Linkable = own(object);
        let mut arrived = std::mem::take(&mut (*this).arrived);
        (*this).links.append(&mut arrived);
        (*this).phase = Phase::Quiet;
        while let Some(function) = (*this).called.pop() {
            ffi::Py_DECREF(function);
        }
        clear(&raw mut (*this).hub);
        if is_ready(object) != Some(true) {
            if !ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_WriteUnraisable(object);
            }
            return;
        }
        match (*this).links.living_loop() {
            Some(core) if !(*core).greenlet.is_null() => {
                (*this).hub = owned((*core).greenlet.cast());
                post(core, object);
                (*core).hub.remote().nudge();
            }
            _ if (*this).links.has_gates() => tell_without_hub(object),
            _ => {}
        }
    }
}

/// Whether the next thing to do, or the end, may run Python code.
unsafe fn needs_hub(this: *mut Linkable) -> bool {
    // SAFETY: a live object's, says the caller.
    unsafe {
        let next = match (*this).phase {
            Phase::Arrived(_) => (*this).arrived.first(),
            Phase::Links(0) => (*this).arrived.first(),
            _ => (*this).links.first(),
        };
        // One that nobody holds any more takes what it waits for with it.
        let is_last = |gather: *mut PyObject| ffi::Py_REFCNT(gather) == 1;
        matches!(next, Some(Link::Call(_)))
            || matches!(next, Some(&Link::Gather(gather)) if is_last(gather))
            || !(*this).called.is_empty()
            || matches!((*this).what, What::Other)
    }
}
