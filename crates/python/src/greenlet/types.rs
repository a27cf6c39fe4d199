//! The type objects, and the objects that live as long as the process.
//!
//! The types are static, as greenlet's are: compiled extensions take their addresses from the capsule.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::ptr;

use pyo3::ffi::{self, PyGetSetDef, PyMethodDef, PyMethodDefPointer, PyObject, PyTypeObject};

use super::object::{PyGreenlet, body};
use super::{attributes, lifetime, methods};
use crate::definitions::{attribute, classic, method};
use crate::gil::GilCell;

/// Objects made once at import and never freed. Borrowed by everyone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Globals {
    pub(crate) greenlet_error: *mut PyObject,
    pub(crate) greenlet_exit: *mut PyObject,
    pub(crate) event_switch: *mut PyObject,
    pub(crate) event_throw: *mut PyObject,
    pub(crate) run: *mut PyObject,
    pub(crate) empty_tuple: *mut PyObject,
}

static GLOBALS: GilCell<Globals> = GilCell::new(Globals {
    greenlet_error: ptr::null_mut(),
    greenlet_exit: ptr::null_mut(),
    event_switch: ptr::null_mut(),
    event_throw: ptr::null_mut(),
    run: ptr::null_mut(),
    empty_tuple: ptr::null_mut(),
});

/// The exceptions and constants; made by [`ready`].
#[inline(always)]
pub(crate) fn errors() -> Globals {
    // SAFETY: written once at import, under the GIL, before any greenlet exists.
    unsafe { *GLOBALS.get() }
}

static GREENLET_TYPE: GilCell<PyTypeObject> = GilCell::new(EMPTY_TYPE);
static UNSWITCHABLE_TYPE: GilCell<PyTypeObject> = GilCell::new(EMPTY_TYPE);

const EMPTY_TYPE: PyTypeObject = {
    // SAFETY: a type object is plain data for which all zeroes means "nothing set".
    let mut empty: PyTypeObject = unsafe { std::mem::zeroed() };
    empty.ob_base = ffi::PyVarObject { ob_base: ffi::PyObject_HEAD_INIT, ob_size: 0 };
    empty
};

/// `greenlet.greenlet`.
#[inline(always)]
pub(crate) fn greenlet_type() -> *mut PyTypeObject {
    GREENLET_TYPE.get()
}

/// `greenlet._greenlet.UnswitchableGreenlet`.
pub(crate) fn unswitchable_type() -> *mut PyTypeObject {
    UNSWITCHABLE_TYPE.get()
}

const NO_METHOD: PyMethodDef = PyMethodDef::zeroed();

static METHODS: GilCell<[PyMethodDef; 4]> = GilCell::new([
    method(c"switch", methods::switch, methods::SWITCH_DOC),
    classic(c"throw", methods::throw, ffi::METH_VARARGS, methods::THROW_DOC),
    PyMethodDef {
        ml_name: c"__getstate__".as_ptr(),
        ml_meth: PyMethodDefPointer { PyCFunction: attributes::getstate },
        ml_flags: ffi::METH_NOARGS,
        ml_doc: ptr::null(),
    },
    NO_METHOD,
]);

const NO_ATTRIBUTE: PyGetSetDef =
    PyGetSetDef { name: ptr::null(), get: None, set: None, doc: ptr::null(), closure: ptr::null_mut() };

static ATTRIBUTES: GilCell<[PyGetSetDef; 8]> = GilCell::new([
    attribute(c"__dict__", attributes::get_dict, Some(attributes::set_dict), c"The instance's attributes."),
    attribute(
        c"run",
        attributes::get_run,
        Some(attributes::set_run),
        c"The callable that the greenlet runs when it starts. Gone once it has started.",
    ),
    attribute(
        c"parent",
        attributes::get_parent,
        Some(attributes::set_parent),
        c"The greenlet that gets the result, or the exception, at the end.",
    ),
    attribute(
        c"gr_frame",
        attributes::get_frame,
        None,
        c"The innermost frame of a suspended greenlet, else None.",
    ),
    attribute(
        c"gr_context",
        attributes::get_context,
        Some(attributes::set_context),
        c"The contextvars.Context that the greenlet runs in; None is the empty one.",
    ),
    attribute(
        c"dead",
        attributes::get_dead,
        None,
        c"Whether the greenlet has finished, or can never run again.",
    ),
    attribute(
        c"_stack_saved",
        attributes::get_stack_saved,
        None,
        c"Bytes of C stack that the greenlet keeps while it is suspended.",
    ),
    NO_ATTRIBUTE,
]);

static AS_NUMBER: GilCell<ffi::PyNumberMethods> = GilCell::new({
    // SAFETY: a table of optional functions for which all zeroes means "none".
    let mut number: ffi::PyNumberMethods = unsafe { std::mem::zeroed() };
    number.nb_bool = Some(attributes::truth);
    number
});

unsafe extern "C" fn get_break_switch(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: called by the interpreter with a greenlet.
    unsafe { ffi::PyBool_FromLong((*body(this.cast())).broken.switch.into()) }
}

unsafe extern "C" fn get_break_stack_switch(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: called by the interpreter with a greenlet.
    unsafe { ffi::PyBool_FromLong((*body(this.cast())).broken.stack_switch.into()) }
}

/// The truth of what an attribute is set to; null, and an exception, for a deletion.
unsafe fn flag(value: *mut PyObject, name: &std::ffi::CStr) -> Option<bool> {
    // SAFETY: called with what the interpreter gave to a setter.
    unsafe {
        if value.is_null() {
            ffi::PyErr_Format(ffi::PyExc_AttributeError, c"Cannot delete %s".as_ptr(), name.as_ptr());
            return None;
        }
        match ffi::PyObject_IsTrue(value) {
            -1 => None,
            truth => Some(truth != 0),
        }
    }
}

unsafe extern "C" fn set_break_switch(
    this: *mut PyObject,
    value: *mut PyObject,
    _closure: *mut c_void,
) -> c_int {
    // SAFETY: called by the interpreter with a greenlet.
    unsafe {
        match flag(value, c"force_switch_error") {
            Some(truth) => {
                (*body(this.cast())).broken.switch = truth;
                0
            }
            None => -1,
        }
    }
}

unsafe extern "C" fn set_break_stack_switch(
    this: *mut PyObject,
    value: *mut PyObject,
    _closure: *mut c_void,
) -> c_int {
    // SAFETY: called by the interpreter with a greenlet.
    unsafe {
        match flag(value, c"force_slp_switch_error") {
            Some(truth) => {
                (*body(this.cast())).broken.stack_switch = truth;
                0
            }
            None => -1,
        }
    }
}

static BREAK_ATTRIBUTES: GilCell<[PyGetSetDef; 3]> = GilCell::new([
    attribute(
        c"force_switch_error",
        get_break_switch,
        Some(set_break_switch),
        c"Pretend that switching to this greenlet fails.",
    ),
    attribute(
        c"force_slp_switch_error",
        get_break_stack_switch,
        Some(set_break_stack_switch),
        c"Pretend that the change of stacks fails, which is fatal.",
    ),
    NO_ATTRIBUTE,
]);

/// Makes the types and the global objects; false with an exception set on failure.
///
/// # Safety
///
/// The GIL is held. Called once in a process, at import.
pub(crate) unsafe fn ready() -> bool {
    // SAFETY: under the GIL, before anyone else knows these objects.
    unsafe {
        let globals = Globals {
            greenlet_error: ffi::PyErr_NewException(
                c"greenlet.error".as_ptr(),
                ptr::null_mut(),
                ptr::null_mut(),
            ),
            greenlet_exit: ffi::PyErr_NewException(
                c"greenlet.GreenletExit".as_ptr(),
                ffi::PyExc_BaseException,
                ptr::null_mut(),
            ),
            event_switch: ffi::PyUnicode_InternFromString(c"switch".as_ptr()),
            event_throw: ffi::PyUnicode_InternFromString(c"throw".as_ptr()),
            run: ffi::PyUnicode_InternFromString(c"run".as_ptr()),
            empty_tuple: ffi::PyTuple_New(0),
        };
        let all = [
            globals.greenlet_error,
            globals.greenlet_exit,
            globals.event_switch,
            globals.event_throw,
            globals.run,
            globals.empty_tuple,
        ];
        if all.iter().any(|object| object.is_null()) {
            return false;
        }
        GLOBALS.get().write(globals);

        let greenlet = greenlet_type();
        (*greenlet).tp_name = c"greenlet.greenlet".as_ptr();
        (*greenlet).tp_doc = c"greenlet(run=None, parent=None) -> greenlet\n\n\
            A coroutine with a stack of its own, not started yet.\n\n\
            - *run* -- what it calls when it is switched to for the first time.\n\
            - *parent* -- who gets its result; the current greenlet if not given."
            .as_ptr();
        (*greenlet).tp_basicsize = size_of::<PyGreenlet>().cast_signed();
        (*greenlet).tp_flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC;
        (*greenlet).tp_weaklistoffset = offset_of!(PyGreenlet, weakreflist).cast_signed();
        (*greenlet).tp_dictoffset = offset_of!(PyGreenlet, dict).cast_signed();
        (*greenlet).tp_methods = METHODS.get().cast();
        (*greenlet).tp_getset = ATTRIBUTES.get().cast();
        (*greenlet).tp_as_number = AS_NUMBER.get();
        (*greenlet).tp_repr = Some(attributes::repr);
        (*greenlet).tp_vectorcall = Some(lifetime::vectorcall);
        set_lifetime_slots(greenlet);

        let unswitchable = unswitchable_type();
        (*unswitchable).tp_name = c"greenlet._greenlet.UnswitchableGreenlet".as_ptr();
        (*unswitchable).tp_doc =
            c"A greenlet that can pretend that switching fails; for tests only.".as_ptr();
        (*unswitchable).tp_basicsize = size_of::<PyGreenlet>().cast_signed();
        (*unswitchable).tp_flags = (*greenlet).tp_flags;
        (*unswitchable).tp_getset = BREAK_ATTRIBUTES.get().cast();
        (*unswitchable).tp_base = greenlet;
        set_lifetime_slots(unswitchable);

        ffi::PyType_Ready(greenlet) == 0 && ffi::PyType_Ready(unswitchable) == 0
    }
}

unsafe fn set_lifetime_slots(kind: *mut PyTypeObject) {
    // SAFETY: a type that is being made.
    unsafe {
        (*kind).tp_new = Some(lifetime::new);
        (*kind).tp_init = Some(lifetime::init);
        (*kind).tp_alloc = Some(ffi::PyType_GenericAlloc);
        (*kind).tp_free = Some(ffi::PyObject_GC_Del);
        (*kind).tp_dealloc = Some(lifetime::dealloc);
        (*kind).tp_traverse = Some(lifetime::traverse);
        (*kind).tp_clear = Some(lifetime::tp_clear);
        (*kind).tp_is_gc = Some(lifetime::is_gc);
    }
}
