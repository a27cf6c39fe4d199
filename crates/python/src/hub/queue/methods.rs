//! A queue as programs see it.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::super::class::{
    self, Given, Spec, attribute, boolean, method, named, none, none_if, or_none, own, plain, truth,
};
use super::super::eventloop::core_of_loop;
use super::super::here::here;
use super::super::linkable::{self, Linkable, What};
use super::wait::{get_within, put_within};
use super::{Queue, Store, Take, count_put, items, size};
use crate::greenlet::object::{owned, owned_or_null};

/// Not declared by name like the others: most calls have the item alone, and shall not pay for more.
unsafe extern "C" fn put(
    this: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with a queue.
    unsafe {
        if count == 1 && keyword_names.is_null() {
            return none_if(put_within(this, given.read(), true, ptr::null_mut()));
        }
        let names = &[c"item", c"block", c"timeout"];
        let found = class::arguments(c"put", names, 1, given, count, keyword_names);
        let Some([item, block, timeout]) = found else { return ptr::null_mut() };
        let Some(block) = truth(block, true) else { return ptr::null_mut() };
        none_if(put_within(this, item, block, timeout))
    }
}

unsafe fn put_nowait(this: *mut PyObject, [item]: Given<1>) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { none_if(put_within(this, item, false, ptr::null_mut())) }
}

unsafe fn get(this: *mut PyObject, [block, timeout]: Given<2>) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let Some(block) = truth(block, true) else { return ptr::null_mut() };
        get_within(this, block, timeout, Take::Out)
    }
}

unsafe fn peek(this: *mut PyObject, [block, timeout]: Given<2>) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let Some(block) = truth(block, true) else { return ptr::null_mut() };
        get_within(this, block, timeout, Take::Peek)
    }
}

unsafe extern "C" fn get_nowait(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { get_within(this, false, ptr::null_mut(), Take::Out) }
}

unsafe extern "C" fn peek_nowait(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { get_within(this, false, ptr::null_mut(), Take::Peek) }
}

unsafe extern "C" fn qsize(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { size(this).map_or(ptr::null_mut(), |size| ffi::PyLong_FromSsize_t(size)) }
}

unsafe extern "C" fn length(this: *mut PyObject) -> isize {
    // SAFETY: as above. A subclass may say how many there are.
    unsafe {
        if items(this).is_some() {
            return size(this).unwrap_or(-1);
        }
        let result = ffi::PyObject_CallMethod(this, c"qsize".as_ptr(), ptr::null());
        if result.is_null() {
            return -1;
        }
        let size = ffi::PyLong_AsSsize_t(result);
        ffi::Py_DECREF(result);
        size
    }
}

unsafe extern "C" fn always(_this: *mut PyObject) -> c_int {
    1
}

unsafe extern "C" fn empty(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        match length(this) {
            -1 => ptr::null_mut(),
            size => boolean(size == 0),
        }
    }
}

unsafe extern "C" fn full(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let room = (*own::<Queue>(this)).room;
        if room <= 0 {
            return boolean(false);
        }
        match length(this) {
            -1 => ptr::null_mut(),
            size => boolean(size >= room),
        }
    }
}

unsafe extern "C" fn this_one(this: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { owned(this) }
}

/// Gets items until one is the class `StopIteration`.
unsafe extern "C" fn next(this: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let item = ffi::PyObject_CallMethod(this, c"get".as_ptr(), ptr::null());
        if item == ffi::PyExc_StopIteration {
            ffi::Py_DECREF(item);
            return ptr::null_mut();
        }
        item
    }
}

unsafe extern "C" fn task_done(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above; the event is one.
    unsafe {
        let queue: *mut Queue = own(this);
        if (*queue).unfinished <= 0 {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"task_done() called too many times".as_ptr());
            return ptr::null_mut();
        }
        (*queue).unfinished -= 1;
        if (*queue).unfinished == 0 && !(*queue).idle.is_null() {
            let idle = (*queue).idle;
            (*own::<Linkable>(idle)).what = What::Event(true);
            if !linkable::check_and_notify(idle) {
                return ptr::null_mut();
            }
        }
        none()
    }
}

unsafe extern "C" fn did_put_task(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { count_put(this) };
    none()
}

/// Sets up the hub, the room, and the event that nothing is left to be done: `_set_up(maxsize, idle)`.
unsafe fn set_up(this: *mut PyObject, [maxsize, idle]: Given<2>) -> *mut PyObject {
    // SAFETY: as above; old values are dropped when nothing is borrowed.
    unsafe {
        let idle = if idle == ffi::Py_None() { ptr::null_mut() } else { idle };
        if !idle.is_null() && !linkable::is_linkable(idle) {
            ffi::PyErr_SetString(ffi::PyExc_TypeError, c"idle is an Event".as_ptr());
            return ptr::null_mut();
        }
        let queue: *mut Queue = own(this);
        if set_maxsize(this, maxsize, ptr::null_mut()) != 0 {
            return ptr::null_mut();
        }
        let Some(here) = here() else { return ptr::null_mut() };
        let old = (
            std::mem::replace(&mut (*queue).hub, owned(here.hub)),
            std::mem::replace(&mut (*queue).idle, owned_or_null(idle)),
        );
        // Until `_fill` says otherwise.
        drop_store(std::mem::replace(&mut (*queue).store, Store::Object(ptr::null_mut())));
        ffi::Py_XDECREF(old.0);
        ffi::Py_XDECREF(old.1);
        none()
    }
}

/// Has the items lie here: `_fill(items)`.
unsafe extern "C" fn fill(this: *mut PyObject, given: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let list = ffi::PySequence_List(given);
        if list.is_null() {
            return list;
        }
        let items = (0..ffi::PyList_GET_SIZE(list)).map(|index| owned(ffi::PyList_GET_ITEM(list, index)));
        let new = Store::Here(items.collect());
        ffi::Py_DECREF(list);
        drop_store(std::mem::replace(&mut (*own::<Queue>(this)).store, new));
        none()
    }
}

unsafe fn drop_store(store: Store) {
    // SAFETY: out of reach; its references are owned.
    unsafe {
        match store {
            Store::Here(items) => items.into_iter().for_each(|item| ffi::Py_DECREF(item)),
            Store::Object(object) => ffi::Py_XDECREF(object),
        }
    }
}

/// A `deque` of these; null with an exception set. May run Python code: what is allocated may have the collector run finalizers.
unsafe fn make_deque(items: &[*mut PyObject]) -> *mut PyObject {
    // SAFETY: owned by the caller; every result is checked and dropped.
    unsafe {
        let list = ffi::PyList_New(items.len().cast_signed());
        if list.is_null() {
            return list;
        }
        for (index, &item) in items.iter().enumerate() {
            ffi::PyList_SET_ITEM(list, index.cast_signed(), owned(item));
        }
        let module = ffi::PyImport_ImportModule(c"collections".as_ptr());
        let deque = if module.is_null() {
            module
        } else {
            ffi::PyObject_CallMethod(module, c"deque".as_ptr(), c"O".as_ptr(), list)
        };
        ffi::Py_XDECREF(module);
        ffi::Py_DECREF(list);
        deque
    }
}

unsafe extern "C" fn get_queue(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above. Nothing runs between the look at the items and their move.
    unsafe {
        loop {
            if let Store::Object(object) = (*own::<Queue>(this)).store {
                return or_none(object);
            }
            let seen: Vec<_> = items(this).into_iter().flatten().map(|&mut item| owned(item)).collect();
            let deque = make_deque(&seen);
            // A finalizer may have put something in, or asked for the same.
            let same = items(this).is_some_and(|items| items.iter().eq(&seen));
            let moved = (same && !deque.is_null())
                .then(|| std::mem::replace(&mut (*own::<Queue>(this)).store, Store::Object(owned(deque))));
            drop_store(Store::Here(seen.into()));
            if let Some(old) = moved {
                drop_store(old);
                return deque;
            }
            if deque.is_null() {
                return deque;
            }
            ffi::Py_DECREF(deque);
        }
    }
}

unsafe extern "C" fn set_queue(this: *mut PyObject, value: *mut PyObject, _closure: *mut c_void) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        ffi::Py_XINCREF(value);
        drop_store(std::mem::replace(&mut (*own::<Queue>(this)).store, Store::Object(value)));
        0
    }
}

unsafe extern "C" fn get_maxsize(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let room = (*own::<Queue>(this)).room;
        if room > 0 { ffi::PyLong_FromSsize_t(room) } else { none() }
    }
}

unsafe extern "C" fn set_maxsize(this: *mut PyObject, value: *mut PyObject, _closure: *mut c_void) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        let mut room = -1;
        if !value.is_null() && value != ffi::Py_None() {
            room = ffi::PyNumber_AsSsize_t(value, ffi::PyExc_OverflowError);
            if room == -1 && !ffi::PyErr_Occurred().is_null() {
                return -1;
            }
        }
        (*own::<Queue>(this)).room = if room > 0 { room } else { -1 };
        0
    }
}

unsafe extern "C" fn get_hub(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*own::<Queue>(this)).hub) }
}

unsafe extern "C" fn get_idle(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*own::<Queue>(this)).idle) }
}

unsafe extern "C" fn get_unfinished(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { ffi::PyLong_FromSsize_t((*own::<Queue>(this)).unfinished) }
}

unsafe extern "C" fn set_unfinished(
    this: *mut PyObject,
    value: *mut PyObject,
    _closure: *mut c_void,
) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        let count = if value.is_null() { 0 } else { ffi::PyLong_AsSsize_t(value) };
        if count == -1 && !ffi::PyErr_Occurred().is_null() {
            return -1;
        }
        (*own::<Queue>(this)).unfinished = count;
        0
    }
}

unsafe extern "C" fn get_shut_down(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    boolean(unsafe { (*own::<Queue>(this)).shut_down })
}

unsafe extern "C" fn set_shut_down(
    this: *mut PyObject,
    value: *mut PyObject,
    _closure: *mut c_void,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        match truth(value, false) {
            Some(truth) => {
                (*own::<Queue>(this)).shut_down = truth;
                0
            }
            None => -1,
        }
    }
}

/// How many wait to get something out, and to put something in.
unsafe extern "C" fn waiting(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let queue: *mut Queue = own(this);
        ffi::Py_BuildValue(
            c"(nn)".as_ptr(),
            (*queue).getters.len().cast_signed(),
            (*queue).putters.len().cast_signed(),
        )
    }
}

/// Wakes all who wait, which find that it is shut down.
unsafe extern "C" fn wake_all(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above; cores are borrowed for single statements. They stay in the lists: that tells them.
    unsafe {
        let queue: *mut Queue = own(this);
        for wait in (*queue).getters.iter().chain(&(*queue).putters) {
            let core = core_of_loop(wait.holder);
            if !core.is_null() && (*core).hub.waiters.wake(wait.key) {
                (*core).hub.remote().nudge();
            }
        }
        none()
    }
}

/// Makes the type. False with an exception set.
///
/// # Safety
///
/// The GIL is held; called once.
pub(in super::super) unsafe fn ready(module: *mut PyObject) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let kind = class::make::<Queue>(&Spec {
            name: c"weft._native._hub.QueueBase",
            doc: c"What queues between greenlets are made of.",
            base: ptr::null_mut(),
            methods: &[
                method(c"put", put,
                    c"put(item, block=True, timeout=None)\n\nPut an item in; Full if there was no room in time.",
                ),
                named!(c"put_nowait", [c"item"], 1, put_nowait, c"put_nowait(item)\n\nPut an item in; Full if there is no room."),
                named!(c"get", [c"block", c"timeout"], 0, get,
                    c"get(block=True, timeout=None)\n\nTake an item out; Empty if there was none in time.",
                ),
                plain(c"get_nowait", get_nowait, c"Take an item out; Empty if there is none."),
                named!(c"peek", [c"block", c"timeout"], 0, peek,
                    c"peek(block=True, timeout=None)\n\nThe next item, which stays; Empty if there was none in time.",
                ),
                plain(c"peek_nowait", peek_nowait, c"The next item, which stays; Empty if there is none."),
                plain(c"qsize", qsize, c"How many items there are."),
                plain(c"empty", empty, c"Whether there is none."),
                plain(c"full", full, c"Whether there is no room."),
                plain(c"task_done", task_done, c"Report an item as done."),
                plain(c"_did_put_task", did_put_task, c"Count one more that is to be done."),
                named!(c"_set_up", [c"maxsize", c"idle"], 2, set_up, c"Set up the hub, the room, and what is counted."),
                class::one(c"_fill", fill, c"Have these items, and keep them."),
                plain(c"_waiting", waiting, c"How many wait to get something out, and to put something in."),
                plain(c"_wake_all", wake_all, c"Wake all who wait, which find that it is shut down."),
            ],
            attributes: &[
                attribute(c"queue", get_queue, Some(set_queue), c"The items."),
                attribute(
                    c"maxsize",
                    get_maxsize,
                    Some(set_maxsize),
                    c"How many there is room for; None for any number.",
                ),
                attribute(c"hub", get_hub, None, c"The hub that serves those that wait."),
                attribute(c"_cond", get_idle, None, c"The event that nothing is left to be done, or None."),
                attribute(
                    c"unfinished_tasks",
                    get_unfinished,
                    Some(set_unfinished),
                    c"How many were put in and not reported as done.",
                ),
                attribute(c"is_shutdown", get_shut_down, Some(set_shut_down), c"Whether it was shut down."),
            ],
        });
        (*kind).tp_iter = Some(this_one);
        (*kind).tp_iternext = Some(next);
        let mut number: ffi::PyNumberMethods = std::mem::zeroed();
        number.nb_bool = Some(always);
        (*kind).tp_as_number = Box::into_raw(Box::new(number));
        let mut sequence: ffi::PySequenceMethods = std::mem::zeroed();
        sequence.sq_length = Some(length);
        (*kind).tp_as_sequence = Box::into_raw(Box::new(sequence));
        class::ready(module, kind)
    }
}
