//! The types, and what only the face needs of them.

use std::ffi::c_void;
use std::ptr;

use pyo3::ffi::{self, PyMethodDef, PyMethodDefPointer, PyObject};

use super::super::class::{self, Spec, attribute, boolean, method, named, none, of_class, one, plain};
use super::super::tree;
use super::lifetime::{
    clear_raw, clear_spawned, dealloc_raw, dealloc_spawned, init_raw, new_raw, new_spawned, traverse_raw,
    traverse_spawned,
};
use super::run::{free, report, run};
use super::setup::init_spawned;
use super::start::{cancel_start_method, spawn, start_later, start_method};
use super::state::{
    get_args, get_dead, get_exc_info, get_exception, get_kwargs, get_loop, get_run, get_started, get_value,
    ready_method, set_args, set_kwargs, set_run, set_value, successful, truth_of,
};
use super::wait::{get, has_links, join, raise_exception, rawlink, unlink_all, unlink_method};
use super::{Raw, Spawned, TYPES, Types, of};
use crate::gil::GilCell;
use crate::greenlet::lifetime;
use crate::greenlet::types::greenlet_type;

unsafe extern "C" fn report_method(this: *mut PyObject, info: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        if ffi::PyTuple_Check(info) == 0 || ffi::PyTuple_GET_SIZE(info) != 3 {
            ffi::PyErr_SetString(ffi::PyExc_TypeError, c"type, exception and traceback are wanted".as_ptr());
            return ptr::null_mut();
        }
        if !(*of(this)).ended {
            report(of(this), info);
        }
        none()
    }
}

unsafe extern "C" fn free_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { free(of(this)) };
    none()
}

unsafe extern "C" fn get_ended(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    boolean(unsafe { (*of(this)).ended })
}

unsafe extern "C" fn spawning_frames(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { tree::Frames::to_list(&raw const (*of(this)).frames) }
}

static RUN: GilCell<PyMethodDef> = GilCell::new(PyMethodDef {
    ml_name: c"run".as_ptr(),
    ml_meth: PyMethodDefPointer { PyCFunction: run },
    ml_flags: ffi::METH_NOARGS,
    ml_doc: c"What every Greenlet runs.".as_ptr(),
});

static AS_NUMBER: GilCell<ffi::PyNumberMethods> = GilCell::new({
    // SAFETY: a table of optional functions for which all zeroes means "none".
    let mut number: ffi::PyNumberMethods = unsafe { std::mem::zeroed() };
    number.nb_bool = Some(truth_of);
    number
});

/// Makes the types. False with an exception set.
///
/// # Safety
///
/// The GIL is held; called once.
pub(in super::super) unsafe fn ready(module: *mut PyObject) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let raw = class::blank(&Spec {
            name: c"weft.gevent.greenlet.TrackedRawGreenlet",
            doc: c"TrackedRawGreenlet(run=None, parent=None)\n\nA plain greenlet that knows who made it.",
            base: greenlet_type(),
            methods: &[],
            attributes: &tree::ATTRIBUTES,
        });
        (*raw).tp_basicsize = size_of::<Raw>().cast_signed();
        (*raw).tp_new = Some(new_raw);
        (*raw).tp_init = Some(init_raw);
        (*raw).tp_dealloc = Some(dealloc_raw);
        (*raw).tp_traverse = Some(traverse_raw);
        (*raw).tp_clear = Some(clear_raw);
        (*raw).tp_is_gc = Some(lifetime::is_gc);
        let spawned = class::blank(&Spec {
            name: c"weft._native._hub.GreenletBase",
            doc: c"GreenletBase(run=None, *args, **kwargs)",
            base: raw,
            methods: &[
                of_class(method(
                    c"spawn",
                    spawn,
                    c"spawn(run, *args, **kwargs)\n\nA new one, which is started.",
                )),
                plain(c"start", start_method, c"Have it started soon. Again does nothing."),
                one(c"start_later", start_later, c"Have it started in so many seconds."),
                plain(c"ready", ready_method, c"Whether it has ended."),
                plain(
                    c"successful",
                    successful,
                    c"Whether it has ended with a value, which a GreenletExit is as well.",
                ),
                named!(
                    c"join",
                    [c"timeout"],
                    0,
                    join,
                    c"join(timeout=None)\n\nWait until it has ended, or for so long."
                ),
                named!(
                    c"get",
                    [c"block", c"timeout"],
                    0,
                    get,
                    c"get(block=True, timeout=None)\n\n\
                    Wait for its end; return its value or raise its exception. Timeout if it has not ended.",
                ),
                one(c"rawlink", rawlink, c"Have the hub call `callback(self)` after its end."),
                one(c"unlink", unlink_method, c"Do not call it."),
                plain(c"unlink_all", unlink_all, c"Call nobody."),
                plain(c"has_links", has_links, c"How many links there are."),
                plain(c"_raise_exception", raise_exception, c"Raise what it has ended with."),
                plain(c"_cancel_start", cancel_start_method, c"Never start it, unless it was started."),
                plain(c"_free", free_method, c"Let go of what it runs."),
                one(c"_report", report_method, c"Have it end with type, exception and traceback."),
                plain(c"_spawning_frames", spawning_frames, c"Code and line of those that made it."),
            ],
            attributes: &[
                attribute(c"_run", get_run, Some(set_run), c"What to run."),
                attribute(c"args", get_args, Some(set_args), c"What it is run with."),
                attribute(c"kwargs", get_kwargs, Some(set_kwargs), c"What it is run with, by name."),
                attribute(c"value", get_value, Some(set_value), c"What it has ended with; None before."),
                attribute(
                    c"exception",
                    get_exception,
                    None,
                    c"What it has ended with, if that is an exception.",
                ),
                attribute(c"exc_info", get_exc_info, None, c"The same with its type and traceback, or None."),
                attribute(
                    c"started",
                    get_started,
                    None,
                    c"Whether it was started, or is about to be, and has not ended.",
                ),
                attribute(c"dead", get_dead, None, c"Whether it has ended, or will never run."),
                attribute(c"loop", get_loop, None, c"The loop of its hub."),
                attribute(c"_ended", get_ended, None, c"Whether it has a value or an exception."),
            ],
        });
        (*spawned).tp_basicsize = size_of::<Spawned>().cast_signed();
        (*spawned).tp_new = Some(new_spawned);
        (*spawned).tp_init = Some(init_spawned);
        (*spawned).tp_dealloc = Some(dealloc_spawned);
        (*spawned).tp_traverse = Some(traverse_spawned);
        (*spawned).tp_clear = Some(clear_spawned);
        (*spawned).tp_is_gc = Some(lifetime::is_gc);
        (*spawned).tp_as_number = AS_NUMBER.get();
        let run = ffi::PyCFunction_NewEx(RUN.get(), ptr::null_mut(), ptr::null_mut());
        *TYPES.get() = Types { raw, spawned, run, spawn_callbacks: ptr::null_mut() };
        !run.is_null() && class::ready(module, raw) && class::ready(module, spawned)
    }
}
