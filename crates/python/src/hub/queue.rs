//! Queues between greenlets.
//!
//! Who waits at a queue is served in a turn of its own, an entry in the hub's queue: those that have something to put in and
//! those that want something out, one of each kind in turns, as long as there is room and there are items. Who is served goes on at
//! once, and takes its item itself. The entry is in the queue again, in front, while that one runs.
//!
//! The items of the face's own classes lie here. A class with methods of its own (`_put`, `_get`, ...) has its items in its
//! attribute `queue`, and those methods are called, by the hub while somebody waits. So has a queue whose `queue` somebody
//! asked for: from then on it is a deque.

mod methods;
mod serve;
mod wait;

use std::collections::VecDeque;
use std::ffi::c_int;
use std::ptr;

use pyo3::ffi::{self, PyObject};
use weft_hub::WaiterKey;

use super::class::{self, Class, Visit, own};
use super::faces::{faces, names};
use super::linkable::{Linkable, What};
use crate::greenlet::object::{clear, owned};

pub(super) use methods::ready;
pub(super) use serve::{orphaned, serve, step};

/// One that waits: its loop and its item, owned, and its key there. Who wants something out has no item.
#[derive(Debug)]
struct Wait {
    holder: *mut PyObject,
    key: WaiterKey,
    item: *mut PyObject,
}

/// Where the items are. References are owned.
#[derive(Debug)]
enum Store {
    Here(VecDeque<*mut PyObject>),
    Object(*mut PyObject),
}

#[derive(Debug)]
struct Queue {
    store: Store,
    /// How many there is room for; negative for any number.
    room: isize,
    getters: VecDeque<Wait>,
    putters: VecDeque<Wait>,
    hub: *mut PyObject,
    /// The event that nothing is left to be done; null if nobody counts that.
    idle: *mut PyObject,
    unfinished: isize,
    /// Whether those that wait are to be served, and nobody has begun to.
    posted: bool,
    shut_down: bool,
}

impl Class for Queue {
    fn initial() -> Self {
        Self {
            store: Store::Here(VecDeque::new()),
            room: -1,
            getters: VecDeque::new(),
            putters: VecDeque::new(),
            hub: ptr::null_mut(),
            idle: ptr::null_mut(),
            unfinished: 0,
            posted: false,
            shut_down: false,
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let mut status = visit(self.hub);
        let mut also = |object: *mut PyObject| {
            if status == 0 {
                status = visit(object);
            }
        };
        also(self.idle);
        match &self.store {
            Store::Here(items) => items.iter().for_each(|&item| also(item)),
            Store::Object(object) => also(*object),
        }
        for wait in self.getters.iter().chain(&self.putters) {
            also(wait.holder);
            also(wait.item);
        }
        status
    }

    unsafe fn empty(this: *mut Self) {
        // SAFETY: each is out of reach before it is dropped.
        unsafe {
            clear(&raw mut (*this).hub);
            clear(&raw mut (*this).idle);
            let mut store = std::mem::replace(&mut (*this).store, Store::Here(VecDeque::new()));
            match &mut store {
                Store::Here(items) => items.drain(..).for_each(|item| ffi::Py_DECREF(item)),
                Store::Object(object) => ffi::Py_XDECREF(*object),
            }
            while let Some(wait) = (*this).getters.pop_front().or_else(|| (*this).putters.pop_front()) {
                release(wait);
            }
        }
    }
}

unsafe fn release(wait: Wait) {
    // SAFETY: owned references, or null.
    unsafe {
        ffi::Py_DECREF(wait.holder);
        ffi::Py_XDECREF(wait.item);
    }
}

// --- items ------------------------------------------------------------------------------------------------------

/// The items, if they are here and the class has no methods of its own.
#[inline(always)]
unsafe fn items<'a>(object: *mut PyObject) -> Option<&'a mut VecDeque<*mut PyObject>> {
    // SAFETY: a live queue; the caller keeps the reference over nothing that runs Python code.
    unsafe {
        match &mut (*own::<Queue>(object)).store {
            Store::Here(items) => Some(items),
            Store::Object(_) => None,
        }
    }
}

/// How many there are; `None` with an exception set.
#[inline(always)]
unsafe fn size(object: *mut PyObject) -> Option<isize> {
    // SAFETY: a live queue.
    unsafe {
        if let Some(items) = items(object) {
            return Some(items.len().cast_signed());
        }
        let result = ffi::PyObject_CallMethodNoArgs(object, names()._qsize);
        if result.is_null() {
            return None;
        }
        let size = ffi::PyLong_AsSsize_t(result);
        ffi::Py_DECREF(result);
        (size != -1 || ffi::PyErr_Occurred().is_null()).then_some(size)
    }
}

/// Puts one in. False with an exception set.
unsafe fn put_in(object: *mut PyObject, item: *mut PyObject) -> bool {
    // SAFETY: a live queue and item.
    unsafe {
        if let Some(items) = items(object) {
            items.push_back(owned(item));
            count_put(object);
            return true;
        }
        let result = ffi::PyObject_CallMethodOneArg(object, names()._put, item);
        ffi::Py_XDECREF(result);
        !result.is_null()
    }
}

/// Counts one more that is to be done.
unsafe fn count_put(object: *mut PyObject) {
    // SAFETY: a live queue; its event is one.
    unsafe {
        let this: *mut Queue = own(object);
        if !(*this).idle.is_null() {
            (*this).unfinished += 1;
            (*own::<Linkable>((*this).idle)).what = What::Event(false);
        }
    }
}

/// What to do with the first item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    Out,
    Peek,
}

/// The first item, which is there. Null with an exception set.
unsafe fn take(object: *mut PyObject, how: Take) -> *mut PyObject {
    // SAFETY: a live queue.
    unsafe {
        if let Some(items) = items(object) {
            let item = match how {
                Take::Out => items.pop_front(),
                Take::Peek => items.front().map(|&item| owned(item)),
            };
            if let Some(item) = item {
                return item;
            }
            class::raise_plain(faces().empty);
            return ptr::null_mut();
        }
        let name = if how == Take::Out { names()._get } else { names()._peek };
        ffi::PyObject_CallMethodNoArgs(object, name)
    }
}

/// Whether there is room for one more, with so many in it.
const unsafe fn has_room(this: *mut Queue, size: isize) -> bool {
    // SAFETY: a live queue's.
    unsafe { (*this).room < 0 || size < (*this).room }
}
