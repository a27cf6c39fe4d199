//! What a greenlet does, from its first instruction to its last link.

use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::super::class::none;
use super::super::core::{Core, Item};
use super::super::faces::names;
use super::super::links::{self, Link, Told};
use super::super::ready::{Step, value};
use super::super::{here, park};
use super::start::cancel_start;
use super::{Spawned, Start, is_spawned, my_loop, of};
use crate::greenlet::attributes;
use crate::greenlet::object::{Life, PyGreenlet, SavedError, body, clear, owned};
use crate::greenlet::switch::discard_object;
use crate::greenlet::types::errors;

/// What every one of them runs: the current greenlet's own function.
pub(super) unsafe extern "C" fn run(_module: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called with the GIL, by a greenlet that starts; only raw pointers are on the stack, and few, as they stay
    // there for as long as it lives.
    unsafe {
        let this = of(park::current().cast());
        if this.is_null() || !is_spawned(this.cast()) {
            ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"this is what a Greenlet runs".as_ptr());
            return ptr::null_mut();
        }
        cancel_start(this);
        (*this).start = Start::Completed;
        let result = call(this);
        end(this, result);
        none()
    }
}

pub(super) unsafe fn call(this: *mut Spawned) -> *mut PyObject {
    // SAFETY: the function and its arguments are held: `kill()` takes them away.
    unsafe {
        let function = if (*this).run.is_null() {
            ffi::PyObject_GetAttr(this.cast(), names()._run)
        } else {
            owned((*this).run)
        };
        if function.is_null() {
            return function;
        }
        let arguments =
            owned(if (*this).arguments.is_null() { errors().empty_tuple } else { (*this).arguments });
        let keywords = (*this).keywords;
        ffi::Py_XINCREF(keywords);
        let result = if keywords.is_null() && ffi::PyTuple_GET_SIZE(arguments) == 0 {
            ffi::PyObject_CallNoArgs(function)
        } else {
            ffi::PyObject_Call(function, arguments, keywords)
        };
        discard_object(function);
        discard_object(arguments);
        discard_object(keywords);
        result
    }
}

/// Notes what it has ended with, tells those that are linked, and lets go of what it ran.
pub(super) unsafe fn end(this: *mut Spawned, result: *mut PyObject) {
    // SAFETY: the current greenlet; an exception is set if there is no result.
    unsafe {
        if result.is_null() {
            end_with_exception(this);
        } else {
            end_with_value(this, result);
        }
        free(this);
    }
}

pub(super) unsafe fn end_with_value(this: *mut Spawned, result: *mut PyObject) {
    // SAFETY: a live object; the reference is taken.
    unsafe {
        let old = std::mem::replace(&mut (*this).value, result);
        (*this).ended = true;
        post_end(this);
        ffi::Py_XDECREF(old);
    }
}

pub(super) unsafe fn end_with_exception(this: *mut Spawned) {
    // SAFETY: an exception is set, which is fetched whole.
    unsafe {
        let error = SavedError::take_whole();
        let [kind, value, traceback] = error.parts();
        let info = ffi::PyTuple_Pack(3, kind, value, traceback);
        error.discard();
        if !info.is_null() {
            report(this, info);
            ffi::Py_DECREF(info);
        }
    }
}

/// Has it end with an exception's three parts; a GreenletExit is a value.
pub(super) unsafe fn report(this: *mut Spawned, info: *mut PyObject) {
    // SAFETY: live objects; the hub is held while it is told.
    unsafe {
        let value = ffi::PyTuple_GET_ITEM(info, 1);
        if ffi::PyErr_GivenExceptionMatches(value, errors().greenlet_exit) != 0 {
            end_with_value(this, owned(value));
            return;
        }
        let old = std::mem::replace(&mut (*this).exc_info, owned(info));
        ffi::Py_XDECREF(old);
        (*this).ended = true;
        post_end(this);
        let hub: *mut PyObject = attributes::parent_of(this.cast()).cast();
        if hub.is_null() {
            return;
        }
        owned(hub);
        let result = ffi::PyObject_CallMethod(
            hub,
            c"handle_error".as_ptr(),
            c"OOOO".as_ptr(),
            this,
            ffi::PyTuple_GET_ITEM(info, 0),
            value,
            ffi::PyTuple_GET_ITEM(info, 2),
        );
        if result.is_null() {
            ffi::PyErr_WriteUnraisable(this.cast());
        } else {
            ffi::Py_DECREF(result);
        }
        ffi::Py_DECREF(hub);
    }
}

/// Has those told that are linked.
pub(super) unsafe fn post_end(this: *mut Spawned) {
    // SAFETY: the core is borrowed for single statements. An exception that is set stays set.
    unsafe {
        if (*this).links.is_empty() || (*this).posted {
            return;
        }
        let saved = SavedError::take();
        match my_loop(this) {
            Some((holder, core)) => {
                (*core).hub.waiters.post(Item::Ended(owned(this.cast())));
                (*this).posted = true;
                if here::here_if_exists().is_none_or(|here| here.core != core) {
                    (*core).hub.remote().nudge();
                }
                ffi::Py_DECREF(holder);
            }
            None => {
                let error = SavedError::take();
                orphaned(this.cast());
                error.restore();
                if (*this).links.is_empty() {
                    ffi::PyErr_Clear();
                } else {
                    ffi::PyErr_WriteUnraisable(this.cast());
                }
            }
        }
        saved.restore();
    }
}

/// The loop in which it was to tell of its end is gone: tells those that wait in others.
///
/// # Safety
///
/// The GIL is held; a live greenlet, held by the caller.
pub(in super::super) unsafe fn orphaned(greenlet: *mut PyGreenlet) {
    // SAFETY: nothing of a loop is borrowed; each link is out of reach before it is told.
    unsafe {
        let this = of(greenlet.cast());
        (*this).posted = false;
        while let Some((_, link)) = (*this).links.take(|link| !matches!(link, Link::Call(_))) {
            // Nobody is to be switched to, as no loop is this thread's.
            let _ = links::tell(std::ptr::null_mut(), link, greenlet.cast());
        }
    }
}

/// Lets go of what it runs.
pub(super) unsafe fn free(this: *mut Spawned) {
    // SAFETY: each field is empty before its reference goes.
    unsafe {
        let dict = (*this).raw.greenlet.dict;
        if !dict.is_null() && (*this).run.is_null() && ffi::PyDict_Contains(dict, names()._run) == 1 {
            ffi::PyDict_DelItem(dict, names()._run);
        }
        clear(&raw mut (*this).run);
        clear(&raw mut (*this).arguments);
        clear(&raw mut (*this).keywords);
    }
}

/// Goes on with telling those that are linked, whose turn it is; takes the reference to the greenlet. `None` at the end.
///
/// # Safety
///
/// As for [`ready::next`](super::super::ready::next).
pub(in super::super) unsafe fn step(
    core: *mut Core,
    greenlet: *mut PyGreenlet,
    in_hub: bool,
) -> Option<Step> {
    // SAFETY: as for `next`; functions are called, and a greenlet that may do something when it goes is let go of, by
    // the hub.
    unsafe {
        let this = of(greenlet.cast());
        (*this).posted = false;
        loop {
            let by_hub = match (*this).links.first() {
                Some(Link::Call(_)) => true,
                // If nobody holds it any more, it takes what it waits for with it.
                Some(&Link::Gather(gather)) => ffi::Py_REFCNT(gather) == 1,
                Some(_) => false,
                None => ffi::Py_REFCNT(greenlet.cast()) == 1 && !goes_quietly(this),
            };
            if by_hub && !in_hub {
                (*this).posted = true;
                (*core).hub.waiters.post_first(Item::Ended(greenlet));
                return Some(Step::InHub);
            }
            let Some(link) = (*this).links.pop() else {
                ffi::Py_DECREF(greenlet.cast());
                return None;
            };
            if let Link::Call(function) = link {
                owned(greenlet);
                (*this).posted = true;
                (*core).hub.waiters.post_first(Item::Ended(greenlet));
                return Some(Step::Link(function, greenlet.cast()));
            }
            if let Told::Switch(next) = links::tell(core, link, greenlet.cast()) {
                if (*this).links.is_empty() && ffi::Py_REFCNT(greenlet.cast()) > 1 {
                    ffi::Py_DECREF(greenlet.cast());
                    return Some(Step::Switch(next, value()));
                }
                (*this).posted = true;
                (*core).hub.waiters.post_first(Item::Ended(greenlet));
                return Some(Step::Switch(next, value()));
            }
        }
    }
}

/// Whether no Python code can run when it is freed.
pub(super) unsafe fn goes_quietly(this: *mut Spawned) -> bool {
    // SAFETY: a live object, says the caller.
    unsafe {
        (*this).raw.greenlet.weakreflist.is_null()
            && (*this).raw.greenlet.dict.is_null()
            && (*this).exc_info.is_null()
            && ((*this).value.is_null() || ffi::PyObject_IS_GC((*this).value) == 0)
            && ((*this).raw.tree_locals.is_null() || ffi::Py_REFCNT((*this).raw.tree_locals) > 1)
            && (*body(this.cast())).life == Life::Dead
    }
}
