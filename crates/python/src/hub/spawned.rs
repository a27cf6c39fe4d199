//! `Greenlet`: a greenlet that a hub starts, and whose end others wait for. And the plainer one of `spawn_raw`.
//!
//! Its start is an entry in the hub's queue; so is its end, if anybody is linked. Between the two lies nothing but what it
//! runs: it is started by whoever parks before it, and hands over to whoever comes next.
//!
//! ```text
//!  Never ──start──► Posted/Timed ──► Fired ──run──► Completed
//!    └───────kill───────┐  └─────kill────► Aborted
//!                   Cancelled
//! ```

mod raw;
mod run;
mod start;
mod state;
mod wait;

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyMethodDef, PyMethodDefPointer, PyObject, PyTypeObject, visitproc};
use weft_hub::WaiterKey;
use weft_reactor::TimerKey;

use super::class::{self, Spec, attribute, boolean, class_method, method, none, one, plain};
use super::core::Core;
use super::faces::{faces, names};
use super::here::{self, here};
use super::links::Links;
use super::tree;
use crate::gil::GilCell;
use crate::greenlet::object::{PyGreenlet, body, clear, owned};
use crate::greenlet::types::{errors, greenlet_type};
use crate::greenlet::{attributes, lifetime, object};

pub(super) use raw::spawn_raw;
pub(super) use run::step;
use run::{free, report, run};
pub(super) use start::is_starting;
use start::{cancel_start_method, spawn, start_later, start_method};
use state::{
    get_args, get_dead, get_exc_info, get_exception, get_kwargs, get_loop, get_run, get_started, get_value,
    ready_method, set_args, set_kwargs, set_run, set_value, successful, truth_of,
};
use wait::{get, has_links, join, raise_exception, rawlink, unlink_all, unlink_method};
pub(super) use wait::{link, unlink};

/// A greenlet of `spawn_raw`. References are owned, or null.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Raw {
    greenlet: PyGreenlet,
    /// A weak reference to who made it.
    pub(super) spawner: *mut PyObject,
    /// A dictionary that all below the same child of the main greenlet share; made when it is asked for.
    pub(super) tree_locals: *mut PyObject,
}

/// How far the start of a [`Spawned`] is.
#[derive(Debug, Clone, Copy)]
enum Start {
    Never,
    Posted(*mut Core, WaiterKey),
    Timed(*mut Core, WaiterKey, TimerKey),
    Fired,
    Completed,
    Cancelled,
    Aborted,
}

/// A `Greenlet`. References are owned, or null.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) raw: Raw,
    /// What to run, if it is not the class's `_run`.
    run: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
    value: *mut PyObject,
    /// Type, exception and traceback of one that failed.
    exc_info: *mut PyObject,
    links: Links,
    start: Start,
    frames: tree::Frames,
    ended: bool,
    /// Whether its end stands in the queue.
    posted: bool,
}

struct Types {
    raw: *mut PyTypeObject,
    spawned: *mut PyTypeObject,
    /// What every one of them runs.
    run: *mut PyObject,
    spawn_callbacks: *mut PyObject,
}

static TYPES: GilCell<Types> = GilCell::new(Types {
    raw: ptr::null_mut(),
    spawned: ptr::null_mut(),
    run: ptr::null_mut(),
    spawn_callbacks: ptr::null_mut(),
});

/// Whether it is a greenlet with links.
///
/// # Safety
///
/// The GIL is held; a live object.
pub(super) unsafe fn is_spawned(object: *mut PyObject) -> bool {
    // SAFETY: the caller's promise; the types are made at import.
    unsafe { ffi::PyObject_TypeCheck(object, (*TYPES.get()).spawned) != 0 }
}

/// Whether it knows who made it.
///
/// # Safety
///
/// The GIL is held; a live object.
pub(super) unsafe fn is_raw(object: *mut PyObject) -> bool {
    // SAFETY: the caller's promise; the types are made at import.
    unsafe { ffi::PyObject_TypeCheck(object, (*TYPES.get()).raw) != 0 }
}

const unsafe fn of(object: *mut PyObject) -> *mut Spawned {
    object.cast()
}

// --- birth and death --------------------------------------------------------------------------------------------

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

unsafe extern "C" fn new_raw(
    kind: *mut PyTypeObject,
    _arguments: *mut PyObject,
    _keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with a type whose objects begin with a `Raw`, which zeroes make.
    unsafe { allocate(kind, kind.cast() == faces().raw_greenlet).cast() }
}

unsafe extern "C" fn init_raw(
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

unsafe extern "C" fn new_spawned(
    kind: *mut PyTypeObject,
    _arguments: *mut PyObject,
    _keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with a type whose objects begin with a `Spawned`.
    unsafe { make(kind, kind.cast() == faces().greenlet).cast() }
}

/// One that was not set up.
unsafe fn make(kind: *mut PyTypeObject, concrete: bool) -> *mut PyGreenlet {
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

unsafe extern "C" fn dealloc_raw(object: *mut PyObject) {
    // SAFETY: called by the interpreter with a greenlet whose last reference is gone.
    unsafe { lifetime::dealloc_with(object, empty_raw) };
}

unsafe extern "C" fn dealloc_spawned(object: *mut PyObject) {
    // SAFETY: as above.
    unsafe { lifetime::dealloc_with(object, empty_and_drop) };
}

unsafe extern "C" fn clear_raw(object: *mut PyObject) -> c_int {
    // SAFETY: called by the collector with a greenlet that is not active.
    unsafe {
        empty_raw(object);
        lifetime::tp_clear(object)
    }
}

unsafe extern "C" fn clear_spawned(object: *mut PyObject) -> c_int {
    // SAFETY: as above.
    unsafe {
        empty(object);
        lifetime::tp_clear(object)
    }
}

unsafe extern "C" fn traverse_raw(object: *mut PyObject, visit: visitproc, argument: *mut c_void) -> c_int {
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

unsafe extern "C" fn traverse_spawned(
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

// --- set up -----------------------------------------------------------------------------------------------------

/// Whether its class is the face's own, so that what it runs is in its field.
unsafe fn is_exact(this: *mut Spawned) -> bool {
    // SAFETY: a live object, says the caller.
    unsafe { ffi::Py_TYPE(this.cast()).cast() == faces().greenlet }
}

/// Says what it runs; references are taken. False with an exception set.
unsafe fn set_up(
    this: *mut Spawned,
    run: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> bool {
    // SAFETY: a live object; old values are dropped when nothing is borrowed.
    unsafe {
        let object: *mut PyObject = this.cast();
        let old = [
            std::mem::replace(&mut (*this).arguments, arguments),
            std::mem::replace(&mut (*this).keywords, keywords),
        ];
        for mut object in old {
            clear(&raw mut object);
        }
        let mut run = run;
        let mut fine = true;
        if run == ffi::Py_None() {
            clear(&raw mut run);
        }
        if is_exact(this) {
            if run.is_null() || ffi::PyCallable_Check(run) != 0 {
                let old = std::mem::replace(&mut (*this).run, run);
                ffi::Py_XDECREF(old);
            } else {
                ffi::Py_DECREF(run);
                fine = false;
            }
        } else {
            if !run.is_null() {
                let status = ffi::PyObject_SetAttr(object, names()._run, run);
                ffi::Py_DECREF(run);
                if status != 0 {
                    return false;
                }
            }
            let found = ffi::PyObject_GetAttr(object, names()._run);
            if found.is_null() {
                return false;
            }
            fine = ffi::PyCallable_Check(found) != 0;
            ffi::Py_DECREF(found);
        }
        if !fine {
            ffi::PyErr_SetString(
                ffi::PyExc_TypeError,
                c"The run argument or self._run must be callable".as_ptr(),
            );
            return false;
        }
        if tree::note_spawner(this.cast()).is_none() {
            return false;
        }
        if tree::is_tracked() {
            tree::Frames::note(&raw mut (*this).frames, ffi::Py_TYPE(object));
        }
        true
    }
}

unsafe extern "C" fn init_spawned(
    this: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> c_int {
    // SAFETY: called by the interpreter with such a greenlet, a tuple, and a dictionary or null.
    unsafe {
        let count = ffi::PyTuple_GET_SIZE(arguments);
        let mut run = if count > 0 { owned(ffi::PyTuple_GET_ITEM(arguments, 0)) } else { ptr::null_mut() };
        let rest = ffi::PyTuple_GetSlice(arguments, count.min(1), count);
        if rest.is_null() {
            ffi::Py_XDECREF(run);
            return -1;
        }
        let mut named = ptr::null_mut();
        if !keywords.is_null() && ffi::PyDict_Size(keywords) > 0 {
            named = ffi::PyDict_Copy(keywords);
            if named.is_null() || !take_run(named, &mut run) {
                ffi::Py_XDECREF(run);
                ffi::Py_DECREF(rest);
                ffi::Py_XDECREF(named);
                return -1;
            }
        }
        // Its class may say otherwise what it was made with, but the hub is this thread's.
        let Some(here) = here() else { return -1 };
        let greenlet: *mut PyGreenlet = this.cast();
        if (*body(greenlet)).parent.cast() != here.hub {
            let old = std::mem::replace(&mut (*body(greenlet)).parent, owned(here.hub.cast()));
            ffi::Py_XDECREF(old.cast());
        }
        if set_up(of(this), run, rest, named) { 0 } else { -1 }
    }
}

/// Takes `run` out of the keywords, if it is there. False with an exception set.
unsafe fn take_run(keywords: *mut PyObject, run: &mut *mut PyObject) -> bool {
    // SAFETY: a dictionary of ours.
    unsafe {
        let found = ffi::PyDict_GetItemString(keywords, c"run".as_ptr());
        if found.is_null() {
            return true;
        }
        if !run.is_null() {
            ffi::PyErr_SetString(
                ffi::PyExc_TypeError,
                c"Greenlet() got multiple values for argument 'run'".as_ptr(),
            );
            return false;
        }
        *run = owned(found);
        ffi::PyDict_DelItemString(keywords, c"run".as_ptr()) == 0
    }
}

/// `Greenlet(run, *args, **kwargs)`.
pub(super) unsafe extern "C" fn make_by_call(
    _kind: *mut PyObject,
    given: *const *mut PyObject,
    count: usize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with the face's class.
    unsafe { make_for_call(given, ffi::PyVectorcall_NARGS(count), keyword_names).cast() }
}

/// One of the face's class for a call's arguments; null with an exception set.
unsafe fn make_for_call(
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyGreenlet {
    // SAFETY: vectorcall's conventions.
    unsafe {
        let mut run = if count > 0 { owned(given.read()) } else { ptr::null_mut() };
        let arguments = if count <= 1 {
            owned(errors().empty_tuple)
        } else {
            let tuple = ffi::PyTuple_New(count - 1);
            if !tuple.is_null() {
                for index in 1..count {
                    ffi::PyTuple_SET_ITEM(tuple, index - 1, owned(given.offset(index).read()));
                }
            }
            tuple
        };
        let mut keywords = ptr::null_mut();
        let mut fine = !arguments.is_null();
        if fine && !keyword_names.is_null() {
            keywords = ffi::PyDict_New();
            fine = !keywords.is_null();
            for index in 0..ffi::PyTuple_GET_SIZE(keyword_names) {
                fine = fine
                    && ffi::PyDict_SetItem(
                        keywords,
                        ffi::PyTuple_GET_ITEM(keyword_names, index),
                        given.offset(count + index).read(),
                    ) == 0;
            }
            fine = fine && take_run(keywords, &mut run);
        }
        let greenlet = if fine { make(faces().greenlet.cast(), true) } else { ptr::null_mut() };
        if greenlet.is_null() {
            ffi::Py_XDECREF(run);
            ffi::Py_XDECREF(arguments);
            ffi::Py_XDECREF(keywords);
            return greenlet;
        }
        if !set_up(of(greenlet.cast()), run, arguments, keywords) {
            ffi::Py_DECREF(greenlet.cast());
            return ptr::null_mut();
        }
        greenlet
    }
}

// --- its hub ----------------------------------------------------------------------------------------------------

/// The loop of its hub, owned, and what that keeps; `None` with an exception set.
unsafe fn my_loop(this: *mut Spawned) -> Option<(*mut PyObject, *mut Core)> {
    // SAFETY: a live object, says the caller.
    unsafe {
        let parent: *mut PyObject = attributes::parent_of(this.cast()).cast();
        let found = if parent.is_null() { None } else { here::loop_of(parent) };
        if found.is_none() {
            let parent = if parent.is_null() { ffi::Py_None() } else { parent };
            ffi::PyErr_Format(
                ffi::PyExc_TypeError,
                c"Cannot convert %R, the parent of a Greenlet, to a hub whose loop runs".as_ptr(),
                parent,
            );
        }
        found
    }
}

// --- for the face -----------------------------------------------------------------------------------------------

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
    unsafe { (*of(this)).frames.to_list() }
}

/// Says who wants to be called with every greenlet that is started: a set, or None.
pub(super) unsafe extern "C" fn set_spawn_callbacks(
    _module: *mut PyObject,
    callbacks: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter.
    unsafe {
        let callbacks = if callbacks == ffi::Py_None() { ptr::null_mut() } else { owned(callbacks) };
        let old = std::mem::replace(&mut (*TYPES.get()).spawn_callbacks, callbacks);
        ffi::Py_XDECREF(old);
        none()
    }
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
pub(super) unsafe fn ready(module: *mut PyObject) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let raw = class::blank(&Spec {
            name: c"weft._native._hub.TrackedRawGreenlet",
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
                class_method(c"spawn", spawn, c"spawn(run, *args, **kwargs)\n\nA new one, which is started."),
                plain(c"start", start_method, c"Have it started soon. Again does nothing."),
                one(c"start_later", start_later, c"Have it started in so many seconds."),
                plain(c"ready", ready_method, c"Whether it has ended."),
                plain(
                    c"successful",
                    successful,
                    c"Whether it has ended with a value, which a GreenletExit is as well.",
                ),
                method(c"join", join, c"join(timeout=None)\n\nWait until it has ended, or for so long."),
                method(
                    c"get",
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
