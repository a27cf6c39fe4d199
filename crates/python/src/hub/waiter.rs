//! `Waiter`: a meeting of one greenlet with what it waits for, in either order.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::class::{
    self, Class, Given, Spec, Visit, attribute, boolean, method, named, none, or_none, own, plain,
    source_argument,
};
use super::faces::{faces, names};
use super::here::{self, here};
use super::park;
use crate::greenlet::object::{PyGreenlet, clear, owned};
use crate::greenlet::parcel::tuple_of;

/// What has come.
#[derive(Debug)]
enum Came {
    Nothing,
    /// The value is there.
    Value,
    /// What was thrown: a tuple, owned.
    Thrown(*mut PyObject),
}

/// What a waiter has. References are owned, or null.
#[derive(Debug)]
struct Waiter {
    hub: *mut PyObject,
    greenlet: *mut PyGreenlet,
    value: *mut PyObject,
    came: Came,
}

impl Class for Waiter {
    fn initial() -> Self {
        Self { hub: ptr::null_mut(), greenlet: ptr::null_mut(), value: ptr::null_mut(), came: Came::Nothing }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let thrown = if let Came::Thrown(thrown) = self.came { thrown } else { ptr::null_mut() };
        for object in [self.hub, self.greenlet.cast(), self.value, thrown] {
            let status = visit(object);
            if status != 0 {
                return status;
            }
        }
        0
    }

    unsafe fn empty(this: *mut Self) {
        // SAFETY: each is out of reach before it is dropped.
        unsafe {
            clear(&raw mut (*this).hub);
            forget(this);
        }
    }
}

unsafe fn forget(this: *mut Waiter) {
    // SAFETY: as above.
    unsafe {
        clear(&raw mut (*this).greenlet);
        clear(&raw mut (*this).value);
        if let Came::Thrown(mut thrown) = std::mem::replace(&mut (*this).came, Came::Nothing) {
            clear(&raw mut thrown);
        }
    }
}

unsafe extern "C" fn init(this: *mut PyObject, arguments: *mut PyObject, keywords: *mut PyObject) -> c_int {
    // SAFETY: called by the interpreter with a waiter.
    unsafe {
        let Some([hub]) = class::init_arguments(c"Waiter", &[c"hub"], arguments, keywords) else { return -1 };
        let hub = if hub.is_null() || hub == ffi::Py_None() {
            let Some(here) = here() else { return -1 };
            here.hub
        } else {
            hub
        };
        let this: *mut Waiter = own(this);
        let old = std::mem::replace(&mut (*this).hub, owned(hub));
        ffi::Py_XDECREF(old);
        forget(this);
        0
    }
}

/// The greenlet that waits, owned; `None` with an exception set if this is not the hub's greenlet. Null if none waits.
unsafe fn waiting(this: *mut Waiter) -> Option<*mut PyGreenlet> {
    // SAFETY: a live waiter, says the caller.
    unsafe {
        let greenlet = (*this).greenlet;
        if greenlet.is_null() {
            return Some(greenlet);
        }
        if park::current().cast() != (*this).hub {
            ffi::PyErr_SetString(
                ffi::PyExc_AssertionError,
                c"Can only use Waiter.switch method from the Hub greenlet".as_ptr(),
            );
            return None;
        }
        Some(owned(greenlet))
    }
}

/// Tells the hub of an exception that came back. Gives None, or null.
unsafe fn handled(this: *mut Waiter, greenlet: *mut PyGreenlet, result: *mut PyObject) -> *mut PyObject {
    // SAFETY: a live waiter; the hub is held while it is told.
    unsafe {
        if result.is_null() {
            match here::loop_of((*this).hub) {
                Some((holder, _)) => {
                    super::turns::handle_error(holder, greenlet.cast());
                    ffi::Py_DECREF(holder);
                }
                None => ffi::PyErr_WriteUnraisable(greenlet.cast()),
            }
        }
        ffi::Py_XDECREF(result);
        ffi::Py_DECREF(greenlet.cast());
        none()
    }
}

unsafe fn bring(object: *mut PyObject, value: *mut PyObject) -> *mut PyObject {
    // SAFETY: a live waiter, held by the call; only raw pointers are on the stack across the switch.
    unsafe {
        let this: *mut Waiter = own(object);
        let Some(greenlet) = waiting(this) else { return ptr::null_mut() };
        if greenlet.is_null() {
            let old = std::mem::replace(&mut (*this).value, owned(value));
            let came = std::mem::replace(&mut (*this).came, Came::Value);
            ffi::Py_XDECREF(old);
            if let Came::Thrown(mut thrown) = came {
                clear(&raw mut thrown);
            }
            return none();
        }
        let result = ffi::PyObject_CallMethodOneArg(greenlet.cast(), names().switch, value);
        handled(this, greenlet, result)
    }
}

unsafe fn switch(this: *mut PyObject, [value]: Given<1>) -> *mut PyObject {
    // SAFETY: called by the interpreter with a waiter.
    unsafe { bring(this, if value.is_null() { ffi::Py_None() } else { value }) }
}

unsafe extern "C" fn switch_args(
    this: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    _keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let tuple = tuple_of(given, count);
        if tuple.is_null() {
            return tuple;
        }
        let result = bring(this, tuple);
        ffi::Py_DECREF(tuple);
        result
    }
}

unsafe extern "C" fn throw(
    this: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    _keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let this: *mut Waiter = own(this);
        let Some(greenlet) = waiting(this) else { return ptr::null_mut() };
        let arguments = tuple_of(given, count);
        if arguments.is_null() {
            ffi::Py_XDECREF(greenlet.cast());
            return arguments;
        }
        if greenlet.is_null() {
            if let Came::Thrown(mut old) = std::mem::replace(&mut (*this).came, Came::Thrown(arguments)) {
                clear(&raw mut old);
            }
            return none();
        }
        let result = throw_into(greenlet, arguments);
        handled(this, greenlet, result)
    }
}

/// `greenlet.throw(*arguments)`; takes the tuple.
unsafe fn throw_into(greenlet: *mut PyGreenlet, arguments: *mut PyObject) -> *mut PyObject {
    // SAFETY: live objects.
    unsafe {
        let method = ffi::PyObject_GetAttr(greenlet.cast(), names().throw);
        let result =
            if method.is_null() { method } else { ffi::PyObject_Call(method, arguments, ptr::null_mut()) };
        ffi::Py_XDECREF(method);
        ffi::Py_DECREF(arguments);
        result
    }
}

unsafe extern "C" fn get(object: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above; only raw pointers are on the stack across the switch.
    unsafe {
        let this: *mut Waiter = own(object);
        match (*this).came {
            Came::Value => return or_none((*this).value),
            Came::Thrown(thrown) => {
                let current = park::current();
                if current.is_null() {
                    return ptr::null_mut();
                }
                return throw_into(current, owned(thrown));
            }
            Came::Nothing => {}
        }
        if !(*this).greenlet.is_null() {
            let kind = faces().concurrent_use;
            let kind = if kind.is_null() { ffi::PyExc_RuntimeError } else { kind };
            ffi::PyErr_Format(kind, c"This Waiter is already used by %R".as_ptr(), (*this).greenlet);
            return ptr::null_mut();
        }
        let current = park::current();
        if current.is_null() {
            return ptr::null_mut();
        }
        (*this).greenlet = owned(current);
        let result = match here::here_if_exists() {
            Some(here) if here.hub == (*this).hub => park::switch_away(here.holder, here.core),
            _ => ffi::PyObject_CallMethodNoArgs((*this).hub, names().switch),
        };
        let saved = crate::greenlet::object::SavedError::take();
        clear(&raw mut (*this).greenlet);
        saved.restore();
        result
    }
}

unsafe extern "C" fn clear_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { forget(own(this)) };
    none()
}

unsafe extern "C" fn ready_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    boolean(unsafe { !matches!((*own::<Waiter>(this)).came, Came::Nothing) })
}

unsafe extern "C" fn successful(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    boolean(unsafe { matches!((*own::<Waiter>(this)).came, Came::Value) })
}

/// As a link: brings what a greenlet, or a result, has.
unsafe extern "C" fn call(
    this: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as above; every result is checked and dropped.
    unsafe {
        let source = source_argument(arguments, keywords);
        if source.is_null() {
            return source;
        }
        let exception = ffi::PyObject_GetAttr(source, names().exception);
        if exception.is_null() {
            return exception;
        }
        let (method, what) = if exception == ffi::Py_None() {
            ffi::Py_DECREF(exception);
            (names().switch, ffi::PyObject_GetAttr(source, names().value))
        } else {
            (names().throw, exception)
        };
        if what.is_null() {
            return what;
        }
        let result = ffi::PyObject_CallMethodOneArg(this, method, what);
        ffi::Py_DECREF(what);
        result
    }
}

unsafe extern "C" fn get_hub(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*own::<Waiter>(this)).hub) }
}

unsafe extern "C" fn get_greenlet(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*own::<Waiter>(this)).greenlet.cast()) }
}

unsafe extern "C" fn get_value(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*own::<Waiter>(this)).value) }
}

unsafe extern "C" fn get_exc_info(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        match (*own::<Waiter>(this)).came {
            Came::Thrown(thrown) => owned(thrown),
            _ => none(),
        }
    }
}

unsafe extern "C" fn text(this: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let own: *mut Waiter = own(this);
        let name = crate::greenlet::object::type_name(this);
        let mut short = name;
        let mut at = name;
        while at.read() != 0 {
            if at.read().cast_unsigned() == b'.' {
                short = at.add(1);
            }
            at = at.add(1);
        }
        // Held, because their texts are made by Python code.
        let greenlet = or_none((*own).greenlet.cast());
        let (format, what) = match (*own).came {
            Came::Nothing => (c"<%s greenlet=%S>", none()),
            Came::Value => (c"<%s greenlet=%S value=%R>", or_none((*own).value)),
            Came::Thrown(thrown) => (c"<%s greenlet=%S exc_info=%R>", owned(thrown)),
        };
        // One that the format does not name is not looked at.
        let text = ffi::PyUnicode_FromFormat(format.as_ptr(), short, greenlet, what);
        ffi::Py_DECREF(greenlet);
        ffi::Py_DECREF(what);
        text
    }
}

/// Makes the type. False with an exception set.
///
/// # Safety
///
/// The GIL is held; called once.
pub(super) unsafe fn ready(module: *mut PyObject) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let kind = class::make::<Waiter>(&Spec {
            name: c"weft._native._hub.WaiterBase",
            doc: c"WaiterBase(hub=None)",
            base: ptr::null_mut(),
            methods: &[
                named!(
                    c"switch",
                    [c"value"],
                    0,
                    switch,
                    c"switch(value=None)\n\nBring a value. Only the hub may."
                ),
                method(
                    c"switch_args",
                    switch_args,
                    c"switch_args(*args)\n\nBring several values, as a tuple.",
                ),
                method(c"throw", throw, c"throw(*throw_args)\n\nBring an exception. Only the hub may."),
                plain(c"get", get, c"Wait for what is brought: return it, or raise it."),
                plain(c"clear", clear_method, c"Forget what has come."),
                plain(c"ready", ready_method, c"Whether something has come."),
                plain(c"successful", successful, c"Whether a value has come."),
            ],
            attributes: &[
                attribute(c"hub", get_hub, None, c"The hub that brings something."),
                attribute(c"greenlet", get_greenlet, None, c"The greenlet that waits, or None."),
                attribute(c"value", get_value, None, c"The value that has come, or None."),
                attribute(c"exc_info", get_exc_info, None, c"What was thrown, or None."),
            ],
        });
        (*kind).tp_init = Some(init);
        (*kind).tp_call = Some(call);
        (*kind).tp_str = Some(text);
        class::ready(module, kind)
    }
}
