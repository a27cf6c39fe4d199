//! Waiting for many: `iwait()`, `wait()` and `joinall()`.
//!
//! A gather is linked to all its objects and is told of each as it becomes ready. Who iterates goes on with each one; who wants
//! all of them is woken only when enough have come.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::ptr;

use pyo3::ffi::{self, PyObject, PyTypeObject};
use weft_hub::WaiterKey;
use weft_sys::clock::monotonic;

use super::class::{self, Class, Given, Spec, Visit, method, none, one, own, plain};
use super::core::Core;
use super::faces::names;
use super::here::here;
use super::links::{self, Link, Told};
use super::park::{self, Outcome};
use super::{linkable, spawned};
use crate::gil::GilCell;
use crate::greenlet::object::{clear, owned};

/// What a gather has.
#[derive(Debug)]
pub(super) struct Gather {
    /// A list; null once it is linked to nobody any more.
    objects: *mut PyObject,
    /// Those that have come and were not taken yet. Owned.
    arrived: VecDeque<*mut PyObject>,
    /// How many are still to be given out.
    left: usize,
    /// Wakes whoever waits only when so many have come.
    enough: usize,
    /// Who waits: its loop, owned, and its key there.
    waiting: Option<(*mut PyObject, WaiterKey)>,
    after: Option<f64>,
    until: Option<u64>,
    begun: bool,
}

impl Class for Gather {
    fn initial() -> Self {
        Self {
            objects: ptr::null_mut(),
            arrived: VecDeque::new(),
            left: 0,
            enough: 1,
            waiting: None,
            after: None,
            until: None,
            begun: false,
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let waiting = self.waiting.map_or(ptr::null_mut(), |(holder, _)| holder);
        for &object in self.arrived.iter().chain([&self.objects, &waiting]) {
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
            clear(&raw mut (*this).objects);
            while let Some(object) = (*this).arrived.pop_front() {
                ffi::Py_DECREF(object);
            }
            if let Some((holder, _)) = (*this).waiting.take() {
                ffi::Py_DECREF(holder);
            }
        }
    }
}

static TYPE: GilCell<*mut PyTypeObject> = GilCell::new(ptr::null_mut());

/// Tells a gather that an object is ready; who is to go on now is switched to by the caller.
///
/// # Safety
///
/// As for [`links::tell`]; `gather` is a live one, `source` a live object.
pub(super) unsafe fn arrive(core: *mut Core, gather: *mut PyObject, source: *mut PyObject) -> Told {
    // SAFETY: the caller's promise; the loop's reference is not the last one.
    unsafe {
        let this: *mut Gather = own(gather);
        (*this).arrived.push_back(owned(source));
        if (*this).arrived.len() < (*this).enough {
            return Told::Done;
        }
        match (*this).waiting.take() {
            Some((holder, key)) => {
                let told = links::wake(core, holder, key);
                ffi::Py_DECREF(holder);
                told
            }
            None => Told::Done,
        }
    }
}

/// The loop at which somebody waits for it, borrowed; `None` if nobody does.
///
/// # Safety
///
/// The GIL is held; a live gather.
pub(super) unsafe fn waiting_at(gather: *mut PyObject) -> Option<*mut PyObject> {
    // SAFETY: the caller's promise.
    unsafe { (*own::<Gather>(gather)).waiting.map(|(holder, _)| holder) }
}

/// A new one for a list, or what can be made one; null with an exception set.
unsafe fn make(objects: *mut PyObject, timeout: *mut PyObject, count: *mut PyObject) -> *mut PyObject {
    // SAFETY: live objects or null.
    unsafe {
        let mut after = None;
        if !timeout.is_null() && timeout != ffi::Py_None() {
            let seconds = ffi::PyFloat_AsDouble(timeout);
            if seconds == -1.0 && !ffi::PyErr_Occurred().is_null() {
                return ptr::null_mut();
            }
            after = Some(seconds);
        }
        let mut most = isize::MAX;
        if !count.is_null() && count != ffi::Py_None() {
            most = ffi::PyLong_AsSsize_t(count);
            if most == -1 && !ffi::PyErr_Occurred().is_null() {
                return ptr::null_mut();
            }
        }
        let list = ffi::PySequence_List(objects);
        if list.is_null() {
            return list;
        }
        let gather = class::instance::<Gather>(*TYPE.get());
        if gather.is_null() {
            ffi::Py_DECREF(list);
            return gather;
        }
        let this: *mut Gather = own(gather);
        (*this).left = most.clamp(0, ffi::PyList_GET_SIZE(list)).cast_unsigned();
        (*this).objects = list;
        (*this).after = after;
        gather
    }
}

/// Links it to all objects, once. False with an exception set.
unsafe fn begin(gather: *mut PyObject) -> bool {
    // SAFETY: nothing is borrowed while Python code runs, which what is linked to may be. The list is held meanwhile.
    unsafe {
        let this: *mut Gather = own(gather);
        if (*this).begun {
            return true;
        }
        (*this).begun = true;
        let list = owned((*this).objects);
        let mut fine = true;
        for index in 0..ffi::PyList_GET_SIZE(list) {
            if !fine || (*this).objects.is_null() {
                // Somebody has ended it: whoever was linked is no more, and nobody else is to be.
                break;
            }
            fine = link_to(ffi::PyList_GET_ITEM(list, index), gather);
        }
        ffi::Py_DECREF(list);
        (*this).until = (*this).after.map(|after| monotonic() + super::kind::nanoseconds(after));
        fine
    }
}

/// Has an object tell the gather that it is ready. False with an exception set.
unsafe fn link_to(object: *mut PyObject, gather: *mut PyObject) -> bool {
    // SAFETY: live objects, held by the caller.
    unsafe {
        if spawned::is_spawned(object) {
            spawned::link(object, Link::Gather(owned(gather)));
            return true;
        }
        if linkable::is_linkable(object) {
            return linkable::link(object, Link::Gather(owned(gather)));
        }
        let result = ffi::PyObject_CallMethodOneArg(object, names().rawlink, gather);
        ffi::Py_XDECREF(result);
        !result.is_null()
    }
}

/// Links it to nobody any more. An exception that is set stays set.
unsafe fn finish(gather: *mut PyObject) {
    // SAFETY: as above; the list is ours alone once it is taken.
    unsafe {
        let this: *mut Gather = own(gather);
        let list = std::mem::replace(&mut (*this).objects, ptr::null_mut());
        (*this).left = 0;
        if list.is_null() {
            return;
        }
        let saved = crate::greenlet::object::SavedError::take();
        if (*this).begun {
            let ours = |link: &Link| matches!(link, Link::Gather(other) if *other == gather);
            for index in 0..ffi::PyList_GET_SIZE(list) {
                let object = ffi::PyList_GET_ITEM(list, index);
                if spawned::is_spawned(object) {
                    spawned::unlink(object, ours);
                } else if linkable::is_linkable(object) {
                    linkable::unlink(object, ours);
                } else {
                    let result = ffi::PyObject_CallMethodOneArg(object, names().unlink, gather);
                    if !result.is_null() {
                        ffi::Py_DECREF(result);
                    } else if ffi::PyErr_ExceptionMatches(ffi::PyExc_AttributeError) != 0 {
                        ffi::PyErr_Clear(); // it cannot be unlinked
                    } else {
                        ffi::PyErr_WriteUnraisable(object);
                    }
                }
            }
        }
        ffi::Py_DECREF(list);
        saved.restore();
    }
}

/// Parks until enough have come. False if the time is over; `None` with an exception set.
unsafe fn park(gather: *mut PyObject) -> Option<bool> {
    // SAFETY: only raw pointers are on the stack across the switch; the caller holds the gather.
    unsafe {
        let this: *mut Gather = own(gather);
        let here = here()?;
        if (*this).waiting.is_some() {
            super::faces::raise(
                super::faces::faces().concurrent_use,
                c"this is waited for by another greenlet",
            );
            return None;
        }
        let key = park::enter(here.core)?;
        (*this).waiting = Some((owned(here.holder), key));
        let outcome = park::park_entered(here.holder, here.core, key, (*this).until, (*this).until.is_some());
        if let Some((holder, _)) = (*this).waiting.take() {
            ffi::Py_DECREF(holder);
        }
        match outcome {
            Outcome::Woken => Some(true),
            Outcome::TimedOut => Some(false),
            Outcome::Failed => None,
        }
    }
}

/// The next object that is ready; null at the end, or with an exception set.
unsafe extern "C" fn next(gather: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with one of these.
    unsafe {
        let this: *mut Gather = own(gather);
        if (*this).objects.is_null() || !begin(gather) {
            finish(gather);
            return ptr::null_mut();
        }
        if (*this).left == 0 {
            finish(gather);
            return ptr::null_mut();
        }
        while (*this).arrived.is_empty() {
            match park(gather) {
                Some(true) => {}
                Some(false) if !(*this).arrived.is_empty() => {}
                Some(false) | None => {
                    finish(gather);
                    return ptr::null_mut();
                }
            }
        }
        (*this).left -= 1;
        (*this).arrived.pop_front().unwrap_or(ptr::null_mut())
    }
}

/// `wait_all(objects, timeout=None, count=None)`.
pub(super) unsafe fn wait_all(_module: *mut PyObject, [objects, timeout, most]: Given<3>) -> *mut PyObject {
    // SAFETY: called by the interpreter; only raw pointers are on the stack across a switch.
    unsafe {
        let gather = make(objects, timeout, most);
        if gather.is_null() {
            return gather;
        }
        let this: *mut Gather = own(gather);
        let mut fine = begin(gather);
        while fine && (*this).arrived.len() < (*this).left {
            (*this).enough = (*this).left;
            match park(gather) {
                Some(true) => {}
                Some(false) => break,
                None => fine = false,
            }
        }
        let wanted = (*this).left;
        finish(gather);
        let list = if fine { ffi::PyList_New(0) } else { ptr::null_mut() };
        if !list.is_null() {
            for _ in 0..wanted {
                let Some(object) = (*this).arrived.pop_front() else { break };
                let status = ffi::PyList_Append(list, object);
                ffi::Py_DECREF(object);
                if status != 0 {
                    ffi::Py_DECREF(list);
                    ffi::Py_DECREF(gather);
                    return ptr::null_mut();
                }
            }
        }
        ffi::Py_DECREF(gather);
        list
    }
}

/// As a link of objects that are of no type known here.
unsafe extern "C" fn call(
    gather: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with one of these, in the hub.
    unsafe {
        let Some([source]) = class::init_arguments(c"arrive", &[c"source"], arguments, keywords) else {
            return ptr::null_mut();
        };
        if source.is_null() {
            ffi::PyErr_SetString(ffi::PyExc_TypeError, c"it is called with what is ready".as_ptr());
            return ptr::null_mut();
        }
        let core = super::here::here_if_exists().map_or(ptr::null_mut(), |here| here.core);
        if let Told::Switch(greenlet) = arrive(core, gather, source) {
            // Soon, as this is a call in the middle of something.
            (*core).hub.waiters.post(super::core::Item::Greenlet(greenlet));
        }
        none()
    }
}

unsafe extern "C" fn switch_method(gather: *mut PyObject, source: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { ffi::PyObject_CallOneArg(gather, source) }
}

unsafe extern "C" fn this_one(gather: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with a live object.
    unsafe { owned(gather) }
}

unsafe extern "C" fn enter(gather: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { owned(gather) }
}

unsafe extern "C" fn exit(
    gather: *mut PyObject,
    _given: *const *mut PyObject,
    _count: isize,
    _keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { finish(gather) };
    none()
}

unsafe extern "C" fn new(
    _kind: *mut PyTypeObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with a tuple, and a dictionary or null.
    unsafe {
        const NAMES: [&std::ffi::CStr; 3] = [c"objects", c"timeout", c"count"];
        let found = class::init_arguments(c"WaitIterator", &NAMES, arguments, keywords);
        let Some([objects, timeout, count]) = found else { return ptr::null_mut() };
        if objects.is_null() {
            ffi::PyErr_SetString(ffi::PyExc_TypeError, c"WaitIterator() takes the objects".as_ptr());
            return ptr::null_mut();
        }
        make(objects, timeout, count)
    }
}

/// Makes the types. False with an exception set.
///
/// # Safety
///
/// The GIL is held; called once.
pub(super) unsafe fn ready(module: *mut PyObject) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let spec = Spec {
            name: c"weft._native._hub.WaitIterator",
            doc: c"WaitIterator(objects, timeout=None, count=None)\n\n\
                Gives each of the objects as it becomes ready, until all or `count` were, or for so long.",
            base: ptr::null_mut(),
            methods: &[
                plain(c"__enter__", enter, c"The iterator."),
                method(c"__exit__", exit, c"Wait for nothing any more."),
                one(c"switch", switch_method, c"As a link: tell that an object is ready."),
            ],
            attributes: &[],
        };
        let kind = class::make::<Gather>(&spec);
        (*kind).tp_flags &= !ffi::Py_TPFLAGS_BASETYPE;
        (*kind).tp_iter = Some(this_one);
        (*kind).tp_iternext = Some(next);
        (*kind).tp_call = Some(call);
        *TYPE.get() = kind;
        (*kind).tp_new = Some(new);
        class::ready(module, kind)
    }
}
