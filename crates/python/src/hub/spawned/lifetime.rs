//! The birth and the death of greenlets that a hub starts.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi::{PyObject, PyTypeObject, visitproc};

use super::super::faces::faces;
use super::super::here::here;
use super::super::links::Links;
use super::super::tree;
use super::{Raw, Start, TYPES, of};
use crate::greenlet::lifetime;
use crate::greenlet::object::{self, PyGreenlet, body, clear, owned};

unsafe fn allocate(kind: *mut PyTypeObject, concrete: bool) -> *mut PyGreenlet {
    // SAFETY: the new object is known to nobody else yet.
    unsafe {
        let Some(here) = here() else { return ptr::null_mut() };
        let greenlet = object::allocate_known(kind, false, concrete);
        if !greenlet.is_null() {
            (*body(greenlet)).parent = owned(here.hub.cast());
        }
        greenlet
    }
}

pub(super) unsafe extern "C" fn new_raw(
    kind: *mut PyTypeObject,
    _arguments: *mut PyObject,
    _keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with a type whose objects begin with a `Raw`, which zeroes make.
    unsafe { allocate(kind, kind.cast() == faces().raw_greenlet).cast() }
}

pub(super) unsafe extern "C" fn init_raw(
    this: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> c_int {
    // SAFETY: called by the interpreter with such a greenlet.
    unsafe {
        if lifetime::init(this, arguments, keywords) != 0 {
            return -1;
        }
        tree::note_spawner(this.cast()).map_or(-1, |()| 0)
    }
}

pub(super) unsafe extern "C" fn new_spawned(
    kind: *mut PyTypeObject,
    _arguments: *mut PyObject,
    _keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with a type whose objects begin with a `Spawned`.
    unsafe { make(kind, kind.cast() == faces().greenlet).cast() }
}

/// One that was not set up.
pub(super) unsafe fn make(kind: *mut PyTypeObject, concrete: bool) -> *mut PyGreenlet {
    // SAFETY: the fields are written before anybody sees the object; those of `Raw` are null.
    unsafe {
        let greenlet = allocate(kind, concrete);
        if !greenlet.is_null() {
            let this = of(greenlet.cast());
            (&raw mut (*this).links).write(Links::new());
            (&raw mut (*this).start).write(Start::Never);
            (&raw mut (*this).frames).write(tree::Frames::new());
            (*body(greenlet)).run = owned((*TYPES.get()).run);
            (*body(greenlet)).starts_plainly = concrete;
        }
        greenlet
    }
}

unsafe fn empty(object: *mut PyObject) {
    // SAFETY: each field is empty before its reference goes.
    unsafe {
        let this = of(object);
        clear(&raw mut (*this).run);
        clear(&raw mut (*this).arguments);
        clear(&raw mut (*this).keywords);
        clear(&raw mut (*this).value);
        clear(&raw mut (*this).exc_info);
        Links::empty(&raw mut (*this).links);
        tree::Frames::empty(&raw mut (*this).frames);
        empty_raw(object);
    }
}

unsafe fn empty_raw(object: *mut PyObject) {
    // SAFETY: as above.
    unsafe {
        let this: *mut Raw = object.cast();
        clear(&raw mut (*this).spawner);
        clear(&raw mut (*this).tree_locals);
    }
}

unsafe fn empty_and_drop(object: *mut PyObject) {
    // SAFETY: the object is about to be freed.
    unsafe {
        empty(object);
        ptr::drop_in_place(&raw mut (*of(object)).links);
        ptr::drop_in_place(&raw mut (*of(object)).frames);
    }
}

pub(super) unsafe extern "C" fn dealloc_raw(object: *mut PyObject) {
    // SAFETY: called by the interpreter with a greenlet whose last reference is gone.
    unsafe { lifetime::dealloc_with(object, empty_raw) };
}

pub(super) unsafe extern "C" fn dealloc_spawned(object: *mut PyObject) {
    // SAFETY: as above.
    unsafe { lifetime::dealloc_with(object, empty_and_drop) };
}

pub(super) unsafe extern "C" fn clear_raw(object: *mut PyObject) -> c_int {
    // SAFETY: called by the collector with a greenlet that is not active.
    unsafe {
        empty_raw(object);
        lifetime::tp_clear(object)
    }
}

pub(super) unsafe extern "C" fn clear_spawned(object: *mut PyObject) -> c_int {
    // SAFETY: as above.
    unsafe {
        empty(object);
        lifetime::tp_clear(object)
    }
}

pub(super) unsafe extern "C" fn traverse_raw(
    object: *mut PyObject,
    visit: visitproc,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: called by the collector with a live greenlet; only owned references are visited.
    unsafe {
        let this: *mut Raw = object.cast();
        for reference in [(*this).spawner, (*this).tree_locals] {
            if !reference.is_null() {
                let status = visit(reference, argument);
                if status != 0 {
                    return status;
                }
            }
        }
        lifetime::traverse(object, visit, argument)
    }
}

pub(super) unsafe extern "C" fn traverse_spawned(
    object: *mut PyObject,
    visit: visitproc,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let this = of(object);
        let mut each =
            |reference: *mut PyObject| if reference.is_null() { 0 } else { visit(reference, argument) };
        for reference in [(*this).run, (*this).arguments, (*this).keywords, (*this).value, (*this).exc_info] {
            let status = each(reference);
            if status != 0 {
                return status;
            }
        }
        let status = (*this).links.traverse(&mut each);
        if status != 0 {
            return status;
        }
        let status = (*this).frames.traverse(&mut each);
        if status != 0 {
            return status;
        }
        traverse_raw(object, visit, argument)
    }
}
