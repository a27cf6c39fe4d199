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

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyMethodDef, PyMethodDefPointer, PyObject, PyTypeObject, visitproc};
use weft_hub::WaiterKey;
use weft_reactor::TimerKey;
use weft_sys::clock::monotonic;

use super::async_result::reraise;
use super::class::{self, Spec, attribute, boolean, class_method, method, none, one, or_none, plain, truth};
use super::core::{Core, Item};
use super::faces::{faces, names};
use super::here::{self, Here, here};
use super::limit::{self, Ended, limit};
use super::links::{self, Link, Links, Told};
use super::ready::{Step, value};
use super::{park, tree};
use crate::gil::GilCell;
use crate::greenlet::object::{Life, PyGreenlet, SavedError, body, clear, owned};
use crate::greenlet::switch::discard_object;
use crate::greenlet::types::{errors, greenlet_type};
use crate::greenlet::{attributes, lifetime, object};

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

// --- start ------------------------------------------------------------------------------------------------------

/// Calls who wants to know of every start. False with an exception set.
unsafe fn call_spawn_callbacks(this: *mut PyObject) -> bool {
    // SAFETY: a list of its own is gone through, as callbacks may change the set.
    unsafe {
        let callbacks = (*TYPES.get()).spawn_callbacks;
        if callbacks.is_null() {
            return true;
        }
        let list = ffi::PySequence_List(callbacks);
        if list.is_null() {
            return false;
        }
        let mut fine = true;
        for index in 0..ffi::PyList_GET_SIZE(list) {
            let result = ffi::PyObject_CallOneArg(ffi::PyList_GET_ITEM(list, index), this);
            fine = !result.is_null();
            ffi::Py_XDECREF(result);
            if !fine {
                break;
            }
        }
        ffi::Py_DECREF(list);
        fine
    }
}

/// Has it started soon. False with an exception set.
unsafe fn start(this: *mut Spawned) -> bool {
    // SAFETY: the core is borrowed for single statements.
    unsafe {
        if !matches!((*this).start, Start::Never) {
            return true;
        }
        if !call_spawn_callbacks(this.cast()) {
            return false;
        }
        let Some((holder, core)) = my_loop(this) else { return false };
        let key = (*core).hub.waiters.post(Item::Start(owned(this.cast())));
        (*this).start = Start::Posted(core, key);
        ffi::Py_DECREF(holder);
        true
    }
}

unsafe extern "C" fn start_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with such a greenlet.
    unsafe { if start(of(this)) { none() } else { ptr::null_mut() } }
}

unsafe extern "C" fn start_later(this: *mut PyObject, seconds: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let after = ffi::PyFloat_AsDouble(seconds);
        if after == -1.0 && !ffi::PyErr_Occurred().is_null() {
            return ptr::null_mut();
        }
        let this = of(this);
        if !matches!((*this).start, Start::Never) {
            return none();
        }
        if !call_spawn_callbacks(this.cast()) {
            return ptr::null_mut();
        }
        let Some((holder, core)) = my_loop(this) else { return ptr::null_mut() };
        let key = (*core).hub.waiters.park(Item::Start(owned(this.cast())));
        let timer = (*core).hub.wake_at(monotonic() + super::kind::nanoseconds(after), key);
        (*core).references += 1;
        (*this).start = Start::Timed(core, key, timer);
        ffi::Py_DECREF(holder);
        none()
    }
}

/// Its start was taken out of the queue.
///
/// # Safety
///
/// The GIL is held; a live one of these.
pub(super) unsafe fn is_starting(greenlet: *mut PyGreenlet) {
    // SAFETY: the core is the one whose queue it was in.
    unsafe {
        let this = of(greenlet.cast());
        if let Start::Timed(core, ..) = (*this).start {
            (*core).references -= 1;
        }
        (*this).start = Start::Fired;
    }
}

/// Sees to it that it is never started, unless it was. The caller holds it.
unsafe fn cancel_start(this: *mut Spawned) {
    // SAFETY: a key means something only to the loop that it was made by, which is asked for afresh.
    unsafe {
        match (*this).start {
            Start::Never => (*this).start = Start::Cancelled,
            Start::Posted(posted, key) => {
                (*this).start = Start::Aborted;
                withdraw_start(this, posted, key, None);
            }
            Start::Timed(posted, key, timer) => {
                (*this).start = Start::Aborted;
                withdraw_start(this, posted, key, Some(timer));
            }
            _ => {}
        }
    }
}

unsafe fn withdraw_start(this: *mut Spawned, posted: *mut Core, key: WaiterKey, timer: Option<TimerKey>) {
    // SAFETY: as above.
    unsafe {
        let saved = SavedError::take();
        match my_loop(this) {
            Some((holder, core)) => {
                if core == posted {
                    if let Some(timer) = timer {
                        (*core).references -= 1;
                        (*core).hub.cancel_timer(timer);
                    }
                    park::withdraw(core, key);
                }
                ffi::Py_DECREF(holder);
            }
            None => ffi::PyErr_Clear(),
        }
        saved.restore();
    }
}

unsafe extern "C" fn cancel_start_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with such a greenlet.
    unsafe { cancel_start(of(this)) };
    none()
}

unsafe extern "C" fn spawn(
    kind: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with the class.
    unsafe {
        if kind == faces().greenlet {
            let greenlet = make_for_call(given, count, keyword_names);
            if !greenlet.is_null() && !start(of(greenlet.cast())) {
                ffi::Py_DECREF(greenlet.cast());
                return ptr::null_mut();
            }
            return greenlet.cast();
        }
        let made = ffi::PyObject_Vectorcall(kind, given, count.cast_unsigned(), keyword_names);
        if made.is_null() {
            return made;
        }
        let result = ffi::PyObject_CallMethodNoArgs(made, names().start);
        if result.is_null() {
            ffi::Py_DECREF(made);
            return ptr::null_mut();
        }
        ffi::Py_DECREF(result);
        made
    }
}

// --- run --------------------------------------------------------------------------------------------------------

/// What every one of them runs: the current greenlet's own function.
unsafe extern "C" fn run(_module: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called with the GIL, by a greenlet that starts; only raw pointers are on the stack, and few, as they stay
    // there for as long as it lives.
    unsafe {
        let this = of(park::current().cast());
        if this.is_null() || !is_spawned(this.cast()) {
            ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"this is what a Greenlet runs".as_ptr());
            return ptr::null_mut();
        }
        cancel_start(this);
        (*this).start = Start::Completed;
        let result = call(this);
        end(this, result);
        none()
    }
}

unsafe fn call(this: *mut Spawned) -> *mut PyObject {
    // SAFETY: the function and its arguments are held: `kill()` takes them away.
    unsafe {
        let function = if (*this).run.is_null() {
            ffi::PyObject_GetAttr(this.cast(), names()._run)
        } else {
            owned((*this).run)
        };
        if function.is_null() {
            return function;
        }
        let arguments =
            owned(if (*this).arguments.is_null() { errors().empty_tuple } else { (*this).arguments });
        let keywords = (*this).keywords;
        ffi::Py_XINCREF(keywords);
        let result = if keywords.is_null() && ffi::PyTuple_GET_SIZE(arguments) == 0 {
            ffi::PyObject_CallNoArgs(function)
        } else {
            ffi::PyObject_Call(function, arguments, keywords)
        };
        discard_object(function);
        discard_object(arguments);
        discard_object(keywords);
        result
    }
}

/// Notes what it has ended with, tells those that are linked, and lets go of what it ran.
unsafe fn end(this: *mut Spawned, result: *mut PyObject) {
    // SAFETY: the current greenlet; an exception is set if there is no result.
    unsafe {
        if result.is_null() {
            end_with_exception(this);
        } else {
            end_with_value(this, result);
        }
        free(this);
    }
}

unsafe fn end_with_value(this: *mut Spawned, result: *mut PyObject) {
    // SAFETY: a live object; the reference is taken.
    unsafe {
        let old = std::mem::replace(&mut (*this).value, result);
        (*this).ended = true;
        post_end(this);
        ffi::Py_XDECREF(old);
    }
}

unsafe fn end_with_exception(this: *mut Spawned) {
    // SAFETY: an exception is set, which is fetched whole.
    unsafe {
        let (mut kind, mut value, mut traceback) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        #[allow(deprecated, reason = "the one set of functions that all supported versions have")]
        {
            ffi::PyErr_Fetch(&raw mut kind, &raw mut value, &raw mut traceback);
            ffi::PyErr_NormalizeException(&raw mut kind, &raw mut value, &raw mut traceback);
        }
        if !traceback.is_null() && !value.is_null() {
            ffi::PyException_SetTraceback(value, traceback);
        }
        let info = ffi::PyTuple_New(3);
        if !info.is_null() {
            for (index, object) in [kind, value, traceback].into_iter().enumerate() {
                let object = if object.is_null() { none() } else { object };
                ffi::PyTuple_SET_ITEM(info, index.cast_signed(), object);
            }
            report(this, info);
            ffi::Py_DECREF(info);
        }
    }
}

/// Has it end with an exception's three parts; a GreenletExit is a value.
unsafe fn report(this: *mut Spawned, info: *mut PyObject) {
    // SAFETY: live objects; the hub is held while it is told.
    unsafe {
        let value = ffi::PyTuple_GET_ITEM(info, 1);
        if ffi::PyErr_GivenExceptionMatches(value, errors().greenlet_exit) != 0 {
            end_with_value(this, owned(value));
            return;
        }
        let old = std::mem::replace(&mut (*this).exc_info, owned(info));
        ffi::Py_XDECREF(old);
        (*this).ended = true;
        post_end(this);
        let hub: *mut PyObject = attributes::parent_of(this.cast()).cast();
        if hub.is_null() {
            return;
        }
        owned(hub);
        let result = ffi::PyObject_CallMethod(
            hub,
            c"handle_error".as_ptr(),
            c"OOOO".as_ptr(),
            this,
            ffi::PyTuple_GET_ITEM(info, 0),
            value,
            ffi::PyTuple_GET_ITEM(info, 2),
        );
        if result.is_null() {
            ffi::PyErr_WriteUnraisable(this.cast());
        } else {
            ffi::Py_DECREF(result);
        }
        ffi::Py_DECREF(hub);
    }
}

/// Has those told that are linked.
unsafe fn post_end(this: *mut Spawned) {
    // SAFETY: the core is borrowed for single statements. An exception that is set stays set.
    unsafe {
        if (*this).links.is_empty() || (*this).posted {
            return;
        }
        let saved = SavedError::take();
        match my_loop(this) {
            Some((holder, core)) => {
                (*core).hub.waiters.post(Item::Ended(owned(this.cast())));
                (*this).posted = true;
                if here::here_if_exists().is_none_or(|here| here.core != core) {
                    (*core).hub.remote().nudge();
                }
                ffi::Py_DECREF(holder);
            }
            None => ffi::PyErr_WriteUnraisable(this.cast()),
        }
        saved.restore();
    }
}

/// Lets go of what it runs.
unsafe fn free(this: *mut Spawned) {
    // SAFETY: each field is empty before its reference goes.
    unsafe {
        let dict = (*this).raw.greenlet.dict;
        if !dict.is_null() && (*this).run.is_null() && ffi::PyDict_Contains(dict, names()._run) == 1 {
            ffi::PyDict_DelItem(dict, names()._run);
        }
        clear(&raw mut (*this).run);
        clear(&raw mut (*this).arguments);
        clear(&raw mut (*this).keywords);
    }
}

/// Goes on with telling those that are linked, whose turn it is; takes the reference to the greenlet. `None` at the end.
///
/// # Safety
///
/// As for [`ready::next`](super::ready::next).
pub(super) unsafe fn step(core: *mut Core, greenlet: *mut PyGreenlet, in_hub: bool) -> Option<Step> {
    // SAFETY: as for `next`; functions are called, and a greenlet that may do something when it goes is let go of, by
    // the hub.
    unsafe {
        let this = of(greenlet.cast());
        (*this).posted = false;
        loop {
            let by_hub = match (*this).links.first() {
                Some(Link::Call(_)) => true,
                Some(_) => false,
                None => ffi::Py_REFCNT(greenlet.cast()) == 1 && !goes_quietly(this),
            };
            if by_hub && !in_hub {
                (*this).posted = true;
                (*core).hub.waiters.post_first(Item::Ended(greenlet));
                return Some(Step::InHub);
            }
            let Some(link) = (*this).links.pop() else {
                ffi::Py_DECREF(greenlet.cast());
                return None;
            };
            if let Link::Call(function) = link {
                owned(greenlet);
                (*this).posted = true;
                (*core).hub.waiters.post_first(Item::Ended(greenlet));
                return Some(Step::Link(function, greenlet.cast()));
            }
            if let Told::Switch(next) = links::tell(core, link, greenlet.cast()) {
                if (*this).links.is_empty() && ffi::Py_REFCNT(greenlet.cast()) > 1 {
                    ffi::Py_DECREF(greenlet.cast());
                    return Some(Step::Switch(next, value()));
                }
                (*this).posted = true;
                (*core).hub.waiters.post_first(Item::Ended(greenlet));
                return Some(Step::Switch(next, value()));
            }
        }
    }
}

/// Whether no Python code can run when it is freed.
unsafe fn goes_quietly(this: *mut Spawned) -> bool {
    // SAFETY: a live object, says the caller.
    unsafe {
        (*this).raw.greenlet.weakreflist.is_null()
            && (*this).raw.greenlet.dict.is_null()
            && (*this).exc_info.is_null()
            && ((*this).value.is_null() || ffi::PyObject_IS_GC((*this).value) == 0)
            && ((*this).raw.tree_locals.is_null() || ffi::Py_REFCNT((*this).raw.tree_locals) > 1)
            && (*body(this.cast())).life == Life::Dead
    }
}

// --- state ------------------------------------------------------------------------------------------------------

unsafe fn is_dead(this: *mut Spawned) -> bool {
    // SAFETY: a live object, says the caller.
    unsafe {
        // One that begins to run is not dead, whatever its start looks like.
        if park::current().cast() == this {
            return false;
        }
        matches!((*this).start, Start::Cancelled | Start::Aborted | Start::Fired)
            || !attributes::is_not_dead(this.cast())
    }
}

unsafe fn is_ready(this: *mut Spawned) -> bool {
    // SAFETY: as above.
    unsafe { (*this).ended || is_dead(this) }
}

unsafe extern "C" fn truth_of(this: *mut PyObject) -> c_int {
    // SAFETY: called by the interpreter with such a greenlet.
    unsafe { c_int::from(!matches!((*of(this)).start, Start::Never) && !(*of(this)).ended) }
}

unsafe extern "C" fn get_started(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { boolean(truth_of(this) != 0) }
}

unsafe extern "C" fn get_dead(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { boolean(is_dead(of(this))) }
}

unsafe extern "C" fn ready_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { boolean(is_ready(of(this))) }
}

unsafe extern "C" fn successful(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { boolean((*of(this)).ended && (*of(this)).exc_info.is_null()) }
}

unsafe extern "C" fn get_exception(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let info = (*of(this)).exc_info;
        if info.is_null() { none() } else { owned(ffi::PyTuple_GET_ITEM(info, 1)) }
    }
}

unsafe extern "C" fn get_exc_info(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*of(this)).exc_info) }
}

unsafe extern "C" fn get_loop(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let parent: *mut PyObject = attributes::parent_of(this.cast()).cast();
        let parent = if parent.is_null() { ffi::Py_None() } else { parent };
        ffi::PyObject_GetAttr(parent, names().r#loop)
    }
}

macro_rules! field {
    ($get:ident, $set:ident, $field:ident, $empty:expr) => {
        unsafe extern "C" fn $get(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
            // SAFETY: called by the interpreter with such a greenlet.
            unsafe {
                let place = &raw mut (*of(this)).$field;
                if (*place).is_null() {
                    let made: *mut PyObject = $empty;
                    if made.is_null() {
                        return made;
                    }
                    *place = made;
                }
                owned(*place)
            }
        }

        unsafe extern "C" fn $set(this: *mut PyObject, value: *mut PyObject, _closure: *mut c_void) -> c_int {
            // SAFETY: as above; null is a deletion.
            unsafe {
                ffi::Py_XINCREF(value);
                let old = std::mem::replace(&mut (*of(this)).$field, value);
                ffi::Py_XDECREF(old);
                0
            }
        }
    };
}

field!(get_args, set_args, arguments, owned(errors().empty_tuple));
field!(get_kwargs, set_kwargs, keywords, ffi::PyDict_New());
field!(get_value, set_value, value, none());

static DEFAULT_RUN: GilCell<PyMethodDef> = GilCell::new(PyMethodDef {
    ml_name: c"_run".as_ptr(),
    ml_meth: PyMethodDefPointer { PyCFunction: default_run },
    ml_flags: ffi::METH_VARARGS,
    ml_doc: c"What to run, if nothing was given.".as_ptr(),
});

unsafe extern "C" fn default_run(_this: *mut PyObject, _arguments: *mut PyObject) -> *mut PyObject {
    none()
}

unsafe extern "C" fn get_run(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above; the definition is a static.
    unsafe {
        let run = (*of(this)).run;
        if run.is_null() {
            ffi::PyCFunction_NewEx(DEFAULT_RUN.get(), this, ptr::null_mut())
        } else {
            owned(run)
        }
    }
}

unsafe extern "C" fn set_run(this: *mut PyObject, run: *mut PyObject, _closure: *mut c_void) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        ffi::Py_XINCREF(run);
        let old = std::mem::replace(&mut (*of(this)).run, run);
        ffi::Py_XDECREF(old);
        0
    }
}

// --- waiting ----------------------------------------------------------------------------------------------------

/// Parks the current greenlet until this one has ended.
unsafe fn wait(this: *mut Spawned, limit: limit::Limit) -> Ended {
    // SAFETY: only raw pointers are on the stack across the switch; the call holds the greenlet.
    unsafe {
        let Some(here): Option<Here> = here() else { return Ended::Failed };
        let Some(key) = park::enter(here.core) else { return Ended::Failed };
        (*this).links.push(Link::Wait { holder: owned(here.holder), key, takes: false });
        let foreign = attributes::parent_of(this.cast()).cast() != here.hub;
        let ended = limit::park_until(here, key, limit, foreign);
        if ended != Ended::Woken {
            let is = |link: &Link| matches!(link, Link::Wait { key: other, .. } if *other == key);
            if let Some((_, link)) = (*this).links.take(is) {
                link.release();
            }
        }
        ended
    }
}

unsafe extern "C" fn join(
    this: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with such a greenlet.
    unsafe {
        let found = class::arguments(c"join", &[c"timeout"], 0, given, count, keyword_names);
        let Some([timeout]) = found else { return ptr::null_mut() };
        if is_ready(of(this)) {
            return none();
        }
        let Some(limit) = limit(timeout) else { return ptr::null_mut() };
        if wait(of(this), limit) == Ended::Failed { ptr::null_mut() } else { none() }
    }
}

/// Its value, or null with its exception raised.
unsafe fn outcome(this: *mut Spawned) -> *mut PyObject {
    // SAFETY: a live object, says the caller.
    unsafe {
        if !(*this).exc_info.is_null() {
            reraise((*this).exc_info);
            return ptr::null_mut();
        }
        or_none((*this).value)
    }
}

unsafe extern "C" fn get(
    this: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let found = class::arguments(c"get", &[c"block", c"timeout"], 0, given, count, keyword_names);
        let Some([block, timeout]) = found else { return ptr::null_mut() };
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

unsafe extern "C" fn raise_exception(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
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

// --- links ------------------------------------------------------------------------------------------------------

/// Adds a link, whose reference is taken.
///
/// # Safety
///
/// The GIL is held; a live one of these.
pub(super) unsafe fn link(object: *mut PyObject, link: Link) {
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
pub(super) unsafe fn unlink(object: *mut PyObject, is: impl Fn(&Link) -> bool) {
    // SAFETY: the link is released when nothing is borrowed.
    unsafe {
        let found = (*of(object)).links.take(is);
        if let Some((_, link)) = found {
            link.release();
        }
    }
}

unsafe extern "C" fn rawlink(this: *mut PyObject, callback: *mut PyObject) -> *mut PyObject {
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

unsafe extern "C" fn unlink_method(this: *mut PyObject, callback: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        match links::unlink(&raw mut (*of(this)).links, callback) {
            Some(_) => none(),
            None => ptr::null_mut(),
        }
    }
}

unsafe extern "C" fn unlink_all(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { Links::empty(&raw mut (*of(this)).links) };
    none()
}

unsafe extern "C" fn has_links(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { ffi::PyLong_FromSize_t((*of(this)).links.len()) }
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

/// Has a plain greenlet run `function(*args, **kwargs)`, soon. It has no links and no result.
pub(super) unsafe extern "C" fn spawn_raw(
    _module: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter; vectorcall's conventions.
    unsafe {
        if count < 1 || ffi::PyCallable_Check(given.read()) == 0 {
            let kind = if count < 1 { c"nothing".as_ptr() } else { object::type_name(given.read()) };
            ffi::PyErr_Format(ffi::PyExc_TypeError, c"function must be callable, not %s".as_ptr(), kind);
            return ptr::null_mut();
        }
        let Some(here) = here() else { return ptr::null_mut() };
        let Some(parcel) = crate::greenlet::parcel::pack(given.add(1), count - 1, keyword_names) else {
            return ptr::null_mut();
        };
        let crate::greenlet::parcel::Parcel::Arguments(arguments, keywords) = parcel else {
            return ptr::null_mut();
        };
        let kind: *mut PyTypeObject = faces().raw_greenlet.cast();
        let kind = if kind.is_null() { (*TYPES.get()).raw } else { kind };
        let greenlet = object::allocate_known(kind, false, true);
        if greenlet.is_null() {
            ffi::Py_DECREF(arguments);
            ffi::Py_XDECREF(keywords);
            return ptr::null_mut();
        }
        (*body(greenlet)).parent = owned(here.hub.cast());
        let function =
            if keywords.is_null() { owned(given.read()) } else { with_keywords(given.read(), keywords) };
        (*body(greenlet)).run = function;
        (*body(greenlet)).starts_plainly = true;
        if function.is_null() || tree::note_spawner(greenlet.cast()).is_none() {
            ffi::Py_DECREF(arguments);
            ffi::Py_DECREF(greenlet.cast());
            return ptr::null_mut();
        }
        (*here.core).hub.waiters.post(Item::StartWith(owned(greenlet), arguments));
        greenlet.cast()
    }
}

/// `functools.partial(function, **keywords)`; takes the dictionary.
unsafe fn with_keywords(function: *mut PyObject, keywords: *mut PyObject) -> *mut PyObject {
    // SAFETY: live objects; every result is checked.
    unsafe {
        let module = ffi::PyImport_ImportModule(c"functools".as_ptr());
        let partial = if module.is_null() {
            ptr::null_mut()
        } else {
            ffi::PyObject_GetAttrString(module, c"partial".as_ptr())
        };
        let made = if partial.is_null() {
            ptr::null_mut()
        } else {
            let arguments = [function];
            ffi::PyObject_VectorcallDict(partial, arguments.as_ptr(), 1, keywords)
        };
        ffi::Py_XDECREF(module);
        ffi::Py_XDECREF(partial);
        ffi::Py_DECREF(keywords);
        made
    }
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
