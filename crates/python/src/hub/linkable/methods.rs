//! What programs may do with every object that becomes ready, and the types of them.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyObject};
use weft_hub::WaiterKey;

use super::super::class::{self, Object, Spec, attribute, none, none_if, one, or_none, own, plain};
use super::super::here::here_if_exists;
use super::super::links::{self, Link};
use super::super::{async_result, event, semaphore};
use super::telling::post;
use super::waiting::{note_taken, take_back_if_alone};
use super::{Linkable, Phase, TYPE, What, check_and_notify, is_ready};
use crate::greenlet::object::{clear, owned};

unsafe extern "C" fn rawlink(object: *mut PyObject, callback: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with such an object.
    unsafe {
        if ffi::PyCallable_Check(callback) == 0 {
            ffi::PyErr_Format(ffi::PyExc_TypeError, c"Expected callable: %R".as_ptr(), callback);
            return ptr::null_mut();
        }
        (*own::<Linkable>(object)).links.push(Link::Call(owned(callback)));
        none_if(check_and_notify(object))
    }
}

unsafe extern "C" fn unlink_method(object: *mut PyObject, callback: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let this: *mut Linkable = own(object);
        match links::unlink(&raw mut (*this).links, callback) {
            None => ptr::null_mut(),
            Some(found) => {
                if let Some(index) = found {
                    note_taken(this, index, false);
                }
                take_back_if_alone(this);
                none()
            }
        }
    }
}

unsafe extern "C" fn linkcount(object: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { ffi::PyLong_FromSize_t((*own::<Linkable>(object)).links.len()) }
}

unsafe extern "C" fn ready_method(object: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        if matches!((*own::<Linkable>(object)).what, What::Other) {
            ffi::PyErr_SetNone(ffi::PyExc_NotImplementedError);
            return ptr::null_mut();
        }
        match is_ready(object) {
            Some(truth) => class::boolean(truth),
            None => ptr::null_mut(),
        }
    }
}

unsafe extern "C" fn check_and_notify_method(object: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { none_if(check_and_notify(object)) }
}

/// Called by a loop that was asked to by [`post_by_call`](super::telling): has those told that are linked.
unsafe extern "C" fn notify_links(object: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with such an object.
    unsafe {
        if let Phase::Posted(_, WaiterKey::NOBODY) = (*own::<Linkable>(object)).phase
            && let Some(here) = here_if_exists()
        {
            post(here.core, object);
        }
        none()
    }
}

unsafe extern "C" fn at_fork_reinit(object: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above. What was posted is the loop's, which calls nobody for it: the object is quiet.
    unsafe {
        let this: *mut Linkable = own(object);
        (*this).phase = Phase::Quiet;
        if let What::Semaphore { counter, bound: Some(bound), .. } = &mut (*this).what {
            *counter = *bound;
        }
        clear(&raw mut (*this).hub);
        none()
    }
}

unsafe extern "C" fn get_hub(object: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*own::<Linkable>(object)).hub) }
}

unsafe extern "C" fn set_hub(object: *mut PyObject, hub: *mut PyObject, _closure: *mut c_void) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        let hub = if hub.is_null() || hub == ffi::Py_None() { ptr::null_mut() } else { owned(hub) };
        if !hub.is_null() && !crate::greenlet::object::is_greenlet(hub) {
            ffi::Py_DECREF(hub);
            ffi::PyErr_SetString(ffi::PyExc_TypeError, c"a hub is a greenlet".as_ptr());
            return -1;
        }
        let old = std::mem::replace(&mut (*own::<Linkable>(object)).hub, hub);
        ffi::Py_XDECREF(old);
        0
    }
}

/// A new object for a call of its class, which takes no arguments; null with an exception set.
///
/// # Safety
///
/// The GIL is held; a type derived from these, and vectorcall's conventions.
pub(in super::super) unsafe fn make_by_call(
    kind: *mut PyObject,
    name: &CStr,
    what: What,
    given: *const *mut PyObject,
    count: usize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as the caller says.
    unsafe {
        let count = ffi::PyVectorcall_NARGS(count);
        if class::arguments(name, &[], 0, given, count, keyword_names).is_none() {
            return ptr::null_mut();
        }
        let made = class::instance::<Linkable>(kind.cast());
        if !made.is_null() {
            (*own::<Linkable>(made)).what = what;
        }
        made
    }
}

/// Sets up the hub of an object from an argument of its `__init__`. False with an exception set.
///
/// # Safety
///
/// The GIL is held; live objects, `hub` may be null.
pub(in super::super) unsafe fn init_hub(object: *mut PyObject, hub: *mut PyObject) -> bool {
    // SAFETY: the caller's promise.
    unsafe { set_hub(object, hub, ptr::null_mut()) == 0 }
}

unsafe extern "C" fn init(this: *mut PyObject, arguments: *mut PyObject, keywords: *mut PyObject) -> c_int {
    // SAFETY: called by the interpreter with such an object.
    unsafe {
        match class::init_arguments(c"AbstractLinkable", &[c"hub"], arguments, keywords) {
            Some([hub]) if init_hub(this, hub) => 0,
            _ => -1,
        }
    }
}

/// Makes the base of the types, and these. False with an exception set.
///
/// # Safety
///
/// The GIL is held; called once.
pub(in super::super) unsafe fn ready(module: *mut PyObject) -> bool {
    const _: () = assert!(size_of::<Object<Linkable>>() <= 256);
    // SAFETY: as the caller says.
    unsafe {
        let kind = class::make::<Linkable>(&Spec {
            name: c"weft._native._hub.AbstractLinkable",
            doc: c"AbstractLinkable(hub=None)\n\nAn object that becomes ready, and then tells those that are linked.",
            base: ptr::null_mut(),
            methods: &[
                one(c"rawlink", rawlink, c"Have the hub call `callback(self)` when this is ready, or soon if it is."),
                one(c"unlink", unlink_method, c"Do not call it."),
                plain(c"linkcount", linkcount, c"How many links there are."),
                plain(c"ready", ready_method, c"Whether links are called at once."),
                plain(c"_notify_links", notify_links, c"Have the links called that were posted from another thread."),
                plain(c"_check_and_notify", check_and_notify_method, c"Have the links called, if this is ready."),
                plain(c"_at_fork_reinit", at_fork_reinit, c"In the child of a fork: be as new."),
            ],
            attributes: &[attribute(c"hub", get_hub, Some(set_hub), c"The hub that calls the links.")],
        });
        (*kind).tp_init = Some(init);
        *TYPE.get() = kind;
        class::ready(module, kind)
            && event::ready(module)
            && async_result::ready(module)
            && semaphore::ready(module)
    }
}
