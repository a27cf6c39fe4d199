//! Waiting for the end of a greenlet, and being told of it.

use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::super::async_result::reraise;
use super::super::class::{Given, none, or_none, truth};
use super::super::here::{Here, here};
use super::super::limit::{self, Ended, limit};
use super::super::links::{self, Link, Links};
use super::super::park;
use super::run::post_end;
use super::state::is_ready;
use super::{Spawned, of};
use crate::greenlet::attributes;
use crate::greenlet::object::owned;

/// Parks the current greenlet until this one has ended.
pub(super) unsafe fn wait(this: *mut Spawned, limit: limit::Limit) -> Ended {
    // SAFETY: only raw pointers are on the stack across the switch; the call holds the greenlet.
    unsafe {
        let Some(here): Option<Here> = here() else { return Ended::Failed };
        // What was done since the last look, making a hub among it, may have run Python code.
        if is_ready(this) {
            return Ended::Woken;
        }
        let Some(key) = park::enter(here.core) else { return Ended::Failed };
        (*this).links.push(Link::Wait { holder: owned(here.holder), key, takes: false });
        let foreign = attributes::parent_of(this.cast()).cast() != here.hub;
        park::note_wait(this.cast());
        let ended = limit::park_until(here, key, limit, foreign);
        park::note_wait(std::ptr::null_mut());
        if ended != Ended::Woken
            && let Some((_, link)) = (*this).links.take(|link| links::is_wait(link, here.holder, key))
        {
            link.release();
        }
        ended
    }
}

pub(super) unsafe fn join(this: *mut PyObject, [timeout]: Given<1>) -> *mut PyObject {
    // SAFETY: called by the interpreter with such a greenlet.
    unsafe {
        if is_ready(of(this)) {
            return none();
        }
        let Some(limit) = limit(timeout) else { return ptr::null_mut() };
        if wait(of(this), limit) == Ended::Failed { ptr::null_mut() } else { none() }
    }
}

/// Its value, or null with its exception raised.
pub(super) unsafe fn outcome(this: *mut Spawned) -> *mut PyObject {
    // SAFETY: a live object, says the caller.
    unsafe {
        if !(*this).exc_info.is_null() {
            reraise((*this).exc_info);
            return ptr::null_mut();
        }
        or_none((*this).value)
    }
}

pub(super) unsafe fn get(this: *mut PyObject, [block, timeout]: Given<2>) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let this = of(this);
        if is_ready(this) {
            return outcome(this);
        }
        match truth(block, true) {
            None => return ptr::null_mut(),
            Some(false) => {
                limit::raise_timeout(ffi::Py_None());
                return ptr::null_mut();
            }
            Some(true) => {}
        }
        let Some(limit) = limit(timeout) else { return ptr::null_mut() };
        match wait(this, limit) {
            Ended::Failed => ptr::null_mut(),
            Ended::Expired if !is_ready(this) => limit::raise(limit, ptr::null_mut()),
            _ => outcome(this),
        }
    }
}

pub(super) unsafe extern "C" fn raise_exception(
    this: *mut PyObject,
    _unused: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let info = (*of(this)).exc_info;
        if info.is_null() {
            return none();
        }
        reraise(info);
        ptr::null_mut()
    }
}

/// Adds a link, whose reference is taken.
///
/// # Safety
///
/// The GIL is held; a live one of these.
pub(in super::super) unsafe fn link(object: *mut PyObject, link: Link) {
    // SAFETY: the caller's promise.
    unsafe {
        let this = of(object);
        (*this).links.push(link);
        if is_ready(this) {
            post_end(this);
        }
    }
}

/// Takes a gather out of the links.
///
/// # Safety
///
/// The GIL is held; a live one of these.
pub(in super::super) unsafe fn unlink(object: *mut PyObject, is: impl Fn(&Link) -> bool) {
    // SAFETY: the link is released when nothing is borrowed.
    unsafe {
        let found = (*of(object)).links.take(is);
        if let Some((_, link)) = found {
            link.release();
        }
    }
}

pub(super) unsafe extern "C" fn rawlink(this: *mut PyObject, callback: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with such a greenlet.
    unsafe {
        if ffi::PyCallable_Check(callback) == 0 {
            ffi::PyErr_Format(ffi::PyExc_TypeError, c"Expected callable: %R".as_ptr(), callback);
            return ptr::null_mut();
        }
        link(this, Link::Call(owned(callback)));
        none()
    }
}

pub(super) unsafe extern "C" fn unlink_method(this: *mut PyObject, callback: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        match links::unlink(&raw mut (*of(this)).links, callback) {
            Some(_) => none(),
            None => ptr::null_mut(),
        }
    }
}

pub(super) unsafe extern "C" fn unlink_all(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { Links::empty(&raw mut (*of(this)).links) };
    none()
}

pub(super) unsafe extern "C" fn has_links(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { ffi::PyLong_FromSize_t((*of(this)).links.len()) }
}
