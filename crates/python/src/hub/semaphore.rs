//! `Semaphore` and `BoundedSemaphore`.
//!
//! What is released goes to who has waited longest when that one's turn comes; until then anybody may take it. Greenlets
//! of other threads wait in their own hubs, and a thread without a hub sleeps in the kernel: semaphores guard what
//! threads share, also before any of them has a hub.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::ffi::{self, PyObject, PyTypeObject};
use weft_sys::clock::monotonic;

use super::class::{self, Given, Spec, attribute, boolean, method, named, none_if, own, plain, truth};
use super::eventloop::is_default;
use super::here::{self, here_if_exists};
use super::limit::{Ended, Limit, limit};
use super::linkable::{self, Home, Linkable, Threads, What};
use super::links::{Gate, Link};
use super::timeout;
use crate::ffi::{current_thread_state, thread_id};
use crate::greenlet::object::{SavedError, clear, owned};

/// How long a thread without a hub sleeps at once: signals are looked at in between.
const SLICE: Duration = Duration::from_millis(100);

unsafe fn set_up(
    this: *mut PyObject,
    name: &std::ffi::CStr,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
    bounded: bool,
) -> c_int {
    // SAFETY: called by the interpreter with a semaphore.
    unsafe {
        let Some([value, hub]) = class::init_arguments(name, &[c"value", c"hub"], arguments, keywords) else {
            return -1;
        };
        let counter = if value.is_null() { 1 } else { ffi::PyLong_AsSsize_t(value) };
        if counter == -1 && !ffi::PyErr_Occurred().is_null() {
            return -1;
        }
        if counter < 0 {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"semaphore initial value must be >= 0".as_ptr());
            return -1;
        }
        (*own::<Linkable>(this)).what =
            What::Semaphore { counter, bound: bounded.then_some(counter), threads: Threads::Nobody };
        if linkable::init_hub(this, hub) { 0 } else { -1 }
    }
}

unsafe extern "C" fn init(this: *mut PyObject, arguments: *mut PyObject, keywords: *mut PyObject) -> c_int {
    // SAFETY: as above.
    unsafe { set_up(this, c"Semaphore", arguments, keywords, false) }
}

unsafe extern "C" fn init_bounded(
    this: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> c_int {
    // SAFETY: as above.
    unsafe { set_up(this, c"BoundedSemaphore", arguments, keywords, true) }
}

unsafe fn counter(this: *mut PyObject) -> isize {
    // SAFETY: a live semaphore, says the caller.
    unsafe {
        match (*own::<Linkable>(this)).what {
            What::Semaphore { counter, .. } => counter,
            _ => 0,
        }
    }
}

unsafe fn add(this: *mut PyObject, count: isize) {
    // SAFETY: as above.
    unsafe {
        if let What::Semaphore { counter, .. } = &mut (*own::<Linkable>(this)).what {
            *counter += count;
        }
    }
}

/// Notes that this thread takes it; says whether others did too.
unsafe fn note_thread(this: *mut PyObject) -> bool {
    // SAFETY: as above, with the GIL.
    unsafe {
        let me = thread_id(current_thread_state());
        if let What::Semaphore { threads, .. } = &mut (*own::<Linkable>(this)).what {
            *threads = match *threads {
                Threads::Nobody => Threads::One(me),
                Threads::One(known) if known == me => Threads::One(known),
                _ => Threads::Many,
            };
            return *threads == Threads::Many;
        }
        false
    }
}

/// Takes one: true, or false if there was none in time. `None` with an exception set.
unsafe fn acquire_within(this: *mut PyObject, blocking: bool, timeout: *mut PyObject) -> Option<bool> {
    // SAFETY: a live semaphore and its arguments, held by the call.
    unsafe {
        let shared = note_thread(this);
        linkable::home(own(this), false)?;
        if counter(this) > 0 {
            add(this, -1);
            return Some(true);
        }
        if !blocking {
            return Some(false);
        }
        let limit = limit(timeout)?;
        let here = match here_if_exists() {
            Some(here) => here,
            None if shared => return sleep_in_kernel(this, limit),
            None => here::here()?,
        };
        let home = linkable::home(own(this), true)?;
        // The look at the limit, and the making of a hub, may have run Python code: one that was free since then is told to nobody.
        if counter(this) > 0 {
            add(this, -1);
            return Some(true);
        }
        // Other threads may release it, except where nobody could be told that it is in vain.
        let referenced = matches!(home, Home::Foreign) || !is_default(here.holder);
        let (ended, told) = linkable::wait(this, limit, true, referenced, false);
        match ended {
            Ended::Failed => {
                if told {
                    give_back(this);
                }
                None
            }
            _ => Some(told),
        }
    }
}

/// Gives back what was handed to a greenlet that cannot take it. An exception that is set stays set.
unsafe fn give_back(this: *mut PyObject) {
    // SAFETY: as above.
    unsafe {
        let saved = SavedError::take();
        add(this, 1);
        if !linkable::check_and_notify(this) {
            ffi::PyErr_WriteUnraisable(this);
        }
        saved.restore();
    }
}

/// As [`acquire_within`], in a thread without a hub.
unsafe fn sleep_in_kernel(this: *mut PyObject, limit: Limit) -> Option<bool> {
    // SAFETY: as above; nothing of Python's is touched while the GIL is given up.
    unsafe {
        let gate = Arc::new(Gate::default());
        let until = match limit {
            Limit::At(at, _) => Some(Instant::now() + Duration::from_nanos(at.saturating_sub(monotonic()))),
            Limit::Never => None,
            Limit::Timeout(timeout) => {
                // A timeout needs a hub, so there is one now.
                if !timeout::is_pending(timeout) && !timeout::start(timeout) {
                    return None;
                }
                return acquire_within(this, true, timeout);
            }
        };
        if !linkable::link(this, Link::Gate(Arc::clone(&gate))) {
            return None;
        }
        let ours = |link: &Link| matches!(link, Link::Gate(other) if Arc::ptr_eq(other, &gate));
        loop {
            let state = ffi::PyEval_SaveThread();
            let open = gate.sleep(until, SLICE);
            ffi::PyEval_RestoreThread(state);
            // It may have been opened while the GIL was being waited for.
            if open || gate.sleep(until, Duration::ZERO) {
                return Some(true);
            }
            if ffi::PyErr_CheckSignals() != 0 {
                if !linkable::unlink(this, ours) {
                    give_back(this);
                }
                return None;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Some(!linkable::unlink(this, ours));
            }
        }
    }
}

unsafe fn acquire(this: *mut PyObject, [blocking, timeout]: Given<2>) -> *mut PyObject {
    // SAFETY: called by the interpreter with a semaphore.
    unsafe {
        let Some(blocking) = truth(blocking, true) else { return ptr::null_mut() };
        acquire_within(this, blocking, timeout).map_or(ptr::null_mut(), boolean)
    }
}

/// Adds one. False with an exception set.
unsafe fn release_one(this: *mut PyObject) -> bool {
    // SAFETY: a live semaphore, held by the call.
    unsafe {
        let own = own::<Linkable>(this);
        let bound = match (*own).what {
            What::Semaphore { bound, .. } => bound,
            _ => None,
        };
        if bound.is_some_and(|bound| counter(this) >= bound) {
            let kind = ffi::PyObject_GetAttrString(this, c"_OVER_RELEASE_ERROR".as_ptr());
            if !kind.is_null() {
                ffi::PyErr_SetString(kind, c"Semaphore released too many times".as_ptr());
                ffi::Py_DECREF(kind);
            }
            return false;
        }
        if counter(this) == isize::MAX {
            ffi::PyErr_SetString(
                ffi::PyExc_OverflowError,
                c"the counter of a semaphore cannot become greater".as_ptr(),
            );
            return false;
        }
        add(this, 1);
        if !linkable::check_and_notify(this) {
            return false;
        }
        if bound == Some(counter(this)) {
            // Nobody holds it: it is free to belong to another thread.
            clear(&raw mut (*own).hub);
        }
        true
    }
}

unsafe extern "C" fn release(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with a semaphore.
    unsafe { if release_one(this) { ffi::PyLong_FromSsize_t(counter(this)) } else { ptr::null_mut() } }
}

unsafe fn wait(this: *mut PyObject, [timeout]: Given<1>) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        if counter(this) <= 0 && !linkable::wait_for(this, timeout) {
            return ptr::null_mut();
        }
        ffi::PyLong_FromSsize_t(counter(this))
    }
}

unsafe extern "C" fn locked(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    boolean(unsafe { counter(this) <= 0 })
}

unsafe extern "C" fn is_ready(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    boolean(unsafe { counter(this) > 0 })
}

unsafe extern "C" fn enter(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { none_if(acquire_within(this, true, ptr::null_mut()).is_some()) }
}

unsafe extern "C" fn exit(
    this: *mut PyObject,
    _given: *const *mut PyObject,
    _count: isize,
    _keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { none_if(release_one(this)) }
}

unsafe extern "C" fn get_counter(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { ffi::PyLong_FromSsize_t(counter(this)) }
}

unsafe extern "C" fn set_counter(this: *mut PyObject, value: *mut PyObject, _closure: *mut c_void) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        if value.is_null() {
            ffi::PyErr_SetString(ffi::PyExc_AttributeError, c"cannot delete counter".as_ptr());
            return -1;
        }
        let count = ffi::PyLong_AsSsize_t(value);
        if count == -1 && !ffi::PyErr_Occurred().is_null() {
            return -1;
        }
        add(this, count - counter(this));
        0
    }
}

unsafe extern "C" fn get_bound(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        match (*own::<Linkable>(this)).what {
            What::Semaphore { bound: Some(bound), .. } => ffi::PyLong_FromSsize_t(bound),
            _ => owned(ffi::Py_None()),
        }
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
        let kind: *mut PyTypeObject = class::make::<Linkable>(&Spec {
            name: c"weft._native._hub.SemaphoreBase",
            doc: c"SemaphoreBase(value=1, hub=None)",
            base: linkable::base(),
            methods: &[
                named!(c"acquire", [c"blocking", c"timeout"], 0, acquire,
                    c"acquire(blocking=True, timeout=None) -> bool\n\nTake one. False if there was none (in time).",
                ),
                plain(c"release", release, c"Add one; who has waited longest gets it. Gives the counter."),
                named!(c"wait", [c"timeout"], 0, wait,
                    c"wait(timeout=None) -> int\n\nWait until `acquire` would not wait; return the counter.",
                ),
                plain(c"locked", locked, c"Whether `acquire` would wait."),
                plain(c"ready", is_ready, c"Whether `acquire` would not wait."),
                plain(c"__enter__", enter, c"Take one."),
                method(c"__exit__", exit, c"Add one."),
            ],
            attributes: &[attribute(c"counter", get_counter, Some(set_counter), c"How many are free.")],
        });
        (*kind).tp_init = Some(init);
        if !class::ready(module, kind) {
            return false;
        }
        let bounded = class::make::<Linkable>(&Spec {
            name: c"weft._native._hub.BoundedSemaphoreBase",
            doc: c"BoundedSemaphoreBase(value=1, hub=None)",
            base: kind,
            methods: &[],
            attributes: &[attribute(c"_initial_value", get_bound, None, c"How many there are.")],
        });
        (*bounded).tp_init = Some(init_bounded);
        class::ready(module, bounded)
    }
}
