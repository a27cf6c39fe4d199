//! `Timeout`: an exception that raises itself where it was started, after a while.
//!
//! A started one is a parked entry of the table of waiters, which a timer wakes; what is done then is done in the hub's greenlet.
//! So to start and to cancel one are a few stores each.

mod methods;

use std::ffi::c_int;
use std::ptr;

use pyo3::ffi::{self, PyBaseExceptionObject, PyObject, PyTypeObject};
use pyo3::prelude::*;
use weft_hub::WaiterKey;
use weft_reactor::TimerKey;
use weft_sys::clock::monotonic;

use super::class::{self, none, or_none, truth};
use super::core::{Core, Item};
use super::eventloop::core_of_loop;
use super::here::here;
use super::{park, process_waits};
use crate::gil::GilCell;
use crate::greenlet::object::{Life, PyGreenlet, body, clear, owned};
use crate::greenlet::parcel::Parcel;
use crate::greenlet::switch::{discard_object, switch_giving};

pub(super) use methods::ready;

/// A timeout as the interpreter sees it.
#[repr(C)]
struct Timeout {
    base: PyBaseExceptionObject,
    own: Own,
}

/// A timer that was started.
#[derive(Clone, Copy)]
struct Started {
    key: WaiterKey,
    timer: TimerKey,
}

/// What it has beside an exception's fields. References are owned, or null.
struct Own {
    seconds: *mut PyObject,
    exception: *mut PyObject,
    /// The loop; null if it never raises, or was closed.
    holder: *mut PyObject,
    /// Where it was started: a greenlet, or a coroutine.
    greenlet: *mut PyGreenlet,
    coroutine: *mut PyObject,
    after: f64,
    started: Option<Started>,
    referenced: bool,
    one_shot: bool,
}

static TYPE: GilCell<*mut PyTypeObject> = GilCell::new(ptr::null_mut());

/// Whether an object is a timeout.
///
/// # Safety
///
/// The GIL is held; a live object.
pub(super) unsafe fn is_timeout(object: *mut PyObject) -> bool {
    // SAFETY: the caller's promise; the type is made at import.
    unsafe { ffi::PyObject_TypeCheck(object, *TYPE.get()) != 0 }
}

const unsafe fn own(object: *mut PyObject) -> *mut Own {
    // SAFETY: a live timeout, say the callers.
    unsafe { &raw mut (*object.cast::<Timeout>()).own }
}

unsafe fn base() -> *mut PyTypeObject {
    // SAFETY: the exception's type lives for ever.
    unsafe { ffi::PyExc_BaseException.cast() }
}

unsafe extern "C" fn new(
    kind: *mut PyTypeObject,
    _arguments: *mut PyObject,
    _keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with a type whose objects begin with a `Timeout`; nothing runs before it is filled in.
    unsafe {
        let Some(make) = (*base()).tp_new else { return ptr::null_mut() };
        let object = make(kind, crate::greenlet::types::errors().empty_tuple, ptr::null_mut());
        if !object.is_null() {
            own(object).write(Own {
                seconds: none(),
                exception: none(),
                holder: ptr::null_mut(),
                greenlet: ptr::null_mut(),
                coroutine: ptr::null_mut(),
                after: 0.0,
                started: None,
                referenced: true,
                one_shot: false,
            });
        }
        object
    }
}

unsafe extern "C" fn init(this: *mut PyObject, arguments: *mut PyObject, keywords: *mut PyObject) -> c_int {
    // SAFETY: called by the interpreter with a timeout.
    unsafe {
        const NAMES: [&std::ffi::CStr; 5] = [c"seconds", c"exception", c"ref", c"priority", c"_one_shot"];
        let found = class::init_arguments(c"Timeout", &NAMES, arguments, keywords);
        let Some([seconds, exception, referenced, _, one_shot]) = found else { return -1 };
        let Some(referenced) = truth(referenced, true) else { return -1 };
        let Some(one_shot) = truth(one_shot, false) else { return -1 };
        if set_up(this, seconds, exception, referenced, one_shot) { 0 } else { -1 }
    }
}

/// `Timeout(seconds=None, exception=None, ref=True, priority=-1)`.
pub(super) unsafe extern "C" fn make_by_call(
    kind: *mut PyObject,
    given: *const *mut PyObject,
    count: usize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with the face's class.
    unsafe {
        const NAMES: [&std::ffi::CStr; 5] = [c"seconds", c"exception", c"ref", c"priority", c"_one_shot"];
        let count = ffi::PyVectorcall_NARGS(count);
        let found = class::arguments(c"Timeout", &NAMES, 0, given, count, keyword_names);
        let Some([seconds, exception, referenced, _, one_shot]) = found else { return ptr::null_mut() };
        let Some(referenced) = truth(referenced, true) else { return ptr::null_mut() };
        let Some(one_shot) = truth(one_shot, false) else { return ptr::null_mut() };
        let made = new(kind.cast(), ptr::null_mut(), ptr::null_mut());
        if !made.is_null() && !set_up(made, seconds, exception, referenced, one_shot) {
            ffi::Py_DECREF(made);
            return ptr::null_mut();
        }
        made
    }
}

unsafe fn set_up(
    this: *mut PyObject,
    seconds: *mut PyObject,
    exception: *mut PyObject,
    referenced: bool,
    one_shot: bool,
) -> bool {
    // SAFETY: live objects or null; the old ones are dropped when nothing is borrowed.
    unsafe {
        let mut after = 0.0;
        let mut holder = ptr::null_mut();
        if !seconds.is_null() && seconds != ffi::Py_None() {
            after = ffi::PyFloat_AsDouble(seconds);
            if after == -1.0 && !ffi::PyErr_Occurred().is_null() {
                return false;
            }
            let Some(here) = here() else { return false };
            holder = owned(here.holder);
        }
        stop(this);
        let own = own(this);
        let old = [
            std::mem::replace(&mut (*own).seconds, or_none(seconds)),
            std::mem::replace(&mut (*own).exception, or_none(exception)),
            std::mem::replace(&mut (*own).holder, holder),
        ];
        (*own).after = after;
        (*own).referenced = referenced;
        (*own).one_shot = one_shot;
        for object in old {
            ffi::Py_XDECREF(object);
        }
        true
    }
}

/// A timeout of the face's own class, started. Null with an exception set.
///
/// # Safety
///
/// The GIL is held; live objects, `exception` may be null.
pub(super) unsafe fn make(
    kind: *mut PyObject,
    seconds: *mut PyObject,
    exception: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as the caller says.
    unsafe {
        let kind: *mut PyTypeObject = if kind.is_null() { *TYPE.get() } else { kind.cast() };
        let object = new(kind, ptr::null_mut(), ptr::null_mut());
        if !object.is_null() && !set_up(object, seconds, exception, true, true) {
            ffi::Py_DECREF(object);
            return ptr::null_mut();
        }
        object
    }
}

/// Begins to count. False with an exception set.
///
/// # Safety
///
/// The GIL is held; a live timeout.
pub(super) unsafe fn start(this: *mut PyObject) -> bool {
    // SAFETY: the core is borrowed for single statements.
    unsafe {
        let own = own(this);
        if (*own).started.is_some() {
            ffi::PyErr_Format(
                ffi::PyExc_AssertionError,
                c"%R is already started; to restart it, cancel it first".as_ptr(),
                this,
            );
            return false;
        }
        if (*own).seconds == ffi::Py_None() {
            return true;
        }
        if (*own).holder.is_null() {
            ffi::PyErr_SetString(
                ffi::PyExc_AssertionError,
                c"non-expiring timer cannot be started: this timeout was closed".as_ptr(),
            );
            return false;
        }
        let core = core_of_loop((*own).holder);
        if core.is_null() {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"operation on destroyed loop".as_ptr());
            return false;
        }
        let current = park::current();
        if current.is_null() {
            return false;
        }
        let stepping = process_waits::stepping(Python::assume_attached());
        let (greenlet, coroutine) = match stepping {
            Some(coroutine) => (ptr::null_mut(), owned(coroutine)),
            None => (owned(current), ptr::null_mut()),
        };
        let old = (
            std::mem::replace(&mut (*own).greenlet, greenlet),
            std::mem::replace(&mut (*own).coroutine, coroutine),
        );
        let key = (*core).hub.waiters.park(Item::Timeout(owned(this)));
        let at = monotonic() + super::kind::nanoseconds((*own).after);
        let timer = (*core).hub.wake_at(at, key);
        (*core).references += isize::from((*own).referenced);
        (*own).started = Some(Started { key, timer });
        ffi::Py_XDECREF(old.0.cast());
        ffi::Py_XDECREF(old.1);
        true
    }
}

/// Whether it counts, or is about to raise.
///
/// # Safety
///
/// The GIL is held; a live timeout.
pub(super) unsafe fn is_pending(this: *mut PyObject) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*own(this)).started.is_some() }
}

/// Has it not raise. The caller holds it.
///
/// # Safety
///
/// The GIL is held; a live timeout.
pub(super) unsafe fn stop(this: *mut PyObject) {
    // SAFETY: the core is borrowed for single statements; the table's reference is not the last one.
    unsafe {
        let own = own(this);
        if let Some(Started { key, timer }) = (*own).started.take() {
            let core: *mut Core = core_of_loop((*own).holder);
            if !core.is_null() {
                (*core).hub.cancel_timer(timer);
                (*core).references -= isize::from((*own).referenced);
                park::withdraw(core, key);
            }
        }
        clear(&raw mut (*own).greenlet);
        clear(&raw mut (*own).coroutine);
    }
}

/// The end of its use: as `cancel()`, which closes what was made for one use.
///
/// # Safety
///
/// The GIL is held; a live timeout.
pub(super) unsafe fn cancel(this: *mut PyObject) {
    // SAFETY: the caller's promise.
    unsafe {
        stop(this);
        if (*own(this)).one_shot {
            clear(&raw mut (*own(this)).holder);
        }
    }
}

/// What it raises, borrowed.
unsafe fn raises(this: *mut PyObject) -> *mut PyObject {
    // SAFETY: a live timeout.
    unsafe {
        let given = (*own(this)).exception;
        let itself = given == ffi::Py_None()
            || given == ffi::Py_False()
            || ffi::PyUnicode_Check(given) != 0
            || ffi::PyBytes_Check(given) != 0;
        if itself { this } else { given }
    }
}

unsafe fn refuse(given: *mut PyObject) {
    // SAFETY: a live object.
    unsafe {
        ffi::PyErr_Format(
            ffi::PyExc_TypeError,
            c"exceptions must be classes, or instances, not %s".as_ptr(),
            crate::greenlet::object::type_name(given),
        );
    }
}

/// The same in a coroutine; takes both references.
unsafe fn raise_in_coroutine(this: *mut PyObject, coroutine: *mut PyObject) -> bool {
    // SAFETY: live objects, held here; every result is checked and dropped.
    unsafe {
        let given = raises(this);
        let error = if ffi::PyExceptionInstance_Check(given) != 0 {
            owned(given)
        } else if ffi::PyExceptionClass_Check(given) != 0 {
            ffi::PyObject_CallNoArgs(given)
        } else {
            refuse(given);
            ptr::null_mut()
        };
        let mut fine = false;
        if !error.is_null() {
            let result = ffi::PyObject_CallMethod(coroutine, c"_throw".as_ptr(), c"O".as_ptr(), error);
            fine = !result.is_null();
            ffi::Py_XDECREF(result);
            ffi::Py_DECREF(error);
        }
        ffi::Py_DECREF(coroutine);
        ffi::Py_DECREF(this);
        fine
    }
}

/// Raises it where it was started; takes the reference to it. False with an exception set, which came back.
///
/// # Safety
///
/// The GIL is held, in the hub's greenlet; a live timeout that was taken out of the queue.
pub(super) unsafe fn expire(this: *mut PyObject) -> bool {
    // SAFETY: nothing is owned by this stack across the switch: the hub may not come back for long.
    unsafe {
        let own = own(this);
        if (*own).started.take().is_some() {
            let core: *mut Core = core_of_loop((*own).holder);
            if !core.is_null() {
                (*core).references -= isize::from((*own).referenced);
            }
        }
        let coroutine = std::mem::replace(&mut (*own).coroutine, ptr::null_mut());
        if !coroutine.is_null() {
            return raise_in_coroutine(this, coroutine);
        }
        let greenlet = std::mem::replace(&mut (*own).greenlet, ptr::null_mut());
        if greenlet.is_null() || (*body(greenlet)).life != Life::Active {
            ffi::Py_XDECREF(greenlet.cast());
            ffi::Py_DECREF(this);
            return true;
        }
        let given = raises(this);
        let fine = if ffi::PyExceptionInstance_Check(given) != 0 {
            ffi::PyErr_SetObject(ffi::Py_TYPE(given).cast(), given);
            true
        } else if ffi::PyExceptionClass_Check(given) != 0 {
            ffi::PyErr_SetNone(given);
            true
        } else {
            refuse(given);
            false
        };
        discard_object(this);
        if !fine {
            discard_object(greenlet.cast());
            return false;
        }
        let result = switch_giving(greenlet, Parcel::Exception);
        ffi::Py_XDECREF(result);
        !result.is_null()
    }
}
