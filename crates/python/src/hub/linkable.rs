//! Objects that become ready, and tell those that are linked: events, results and semaphores.
//!
//! # Telling
//!
//! What becomes ready posts *one* entry in the queue of its hub, and when its turn comes, those that are linked are told
//! one after the other: a function is called, a greenlet switched to, and the next one is told when that comes back, which it
//! does by parking. So the telling is in the queue again, in front, while somebody runs. The states:
//!
//! ```text
//!  Quiet ──post──► Posted ──► Links(n) ──► Arrived(n) ──► Quiet, and posted again if there are links and it is ready
//! ```
//!
//! `n` are those that were linked when that part began: who comes meanwhile is told in another round. Who waits for an event
//! that is set while it is telling stands behind those that had to wait (`arrived`). A semaphore tells only as long
//! as something is free. Whose turn it is takes it at once, so that nobody comes in between.
//!
//! An object belongs to the hub that first waited for it or was there when it was linked: functions are called
//! there. A greenlet of another thread waits all the same; its own hub is told.

mod functions;
mod methods;
mod telling;
mod waiting;

use std::ffi::c_int;
use std::ptr;

use pyo3::ffi::{self, PyObject, PyTypeObject};
use weft_hub::WaiterKey;

use super::class::{Class, Visit, own};
use super::core::Core;
use super::here::{self, Here, here_if_exists};
use super::links::Links;
use crate::gil::GilCell;
use crate::greenlet::object::{Life, PyGreenlet, body, clear, owned};

pub(super) use functions::call_link;
pub(super) use methods::{init_hub, make_by_call, ready};
pub(super) use telling::{check_and_notify, orphaned, step};
pub(super) use waiting::{is_telling, link, unlink, wait, wait_for};

/// What an object is ready for.
#[derive(Debug)]
pub(super) enum What {
    /// Of a class of somebody's own: its `ready()` says so.
    Other,
    /// An event, and whether it is set.
    Event(bool),
    /// A value and an exception's three parts; both null before they are set.
    Result { value: *mut PyObject, exc_info: *mut PyObject },
    /// How many are free; how many there are if that is known; which threads take them.
    Semaphore { counter: isize, bound: Option<isize>, threads: Threads },
}

/// Which threads use a semaphore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    Nobody,
    One(u64),
    Many,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Quiet,
    /// It stands in the queue of this core, which may be gone, with this key.
    Posted(*mut Core, WaiterKey),
    Links(usize),
    Arrived(usize),
}

/// What such an object has.
#[derive(Debug)]
pub(super) struct Linkable {
    pub(super) what: What,
    /// Owned; null if it belongs to nobody yet.
    pub(super) hub: *mut PyObject,
    links: Links,
    arrived: Links,
    phase: Phase,
    /// Functions that were called in this round, owned: each is called once.
    called: Vec<*mut PyObject>,
}

impl Class for Linkable {
    fn initial() -> Self {
        Self {
            what: What::Other,
            hub: ptr::null_mut(),
            links: Links::new(),
            arrived: Links::new(),
            phase: Phase::Quiet,
            called: Vec::new(),
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let mut references = vec![self.hub];
        if let What::Result { value, exc_info } = self.what {
            references.extend([value, exc_info]);
        }
        references.extend(&self.called);
        for object in references {
            let status = visit(object);
            if status != 0 {
                return status;
            }
        }
        match self.links.traverse(&mut *visit) {
            0 => self.arrived.traverse(visit),
            status => status,
        }
    }

    unsafe fn empty(this: *mut Self) {
        // SAFETY: each field is empty before its reference goes.
        unsafe {
            clear(&raw mut (*this).hub);
            if let What::Result { value, exc_info } = &mut (*this).what {
                let (value, exc_info) = (&raw mut *value, &raw mut *exc_info);
                clear(value);
                clear(exc_info);
            }
            Links::empty(&raw mut (*this).links);
            Links::empty(&raw mut (*this).arrived);
            while let Some(function) = (*this).called.pop() {
                ffi::Py_DECREF(function);
            }
        }
    }
}

/// To whom an object belongs, as seen by the calling thread.
#[derive(Clone, Copy)]
pub(super) enum Home {
    /// To this thread's hub.
    Here(Here),
    /// To another thread's.
    Foreign,
    /// To none.
    Nobody,
}

static TYPE: GilCell<*mut PyTypeObject> = GilCell::new(ptr::null_mut());

/// Whether it is one of these objects.
///
/// # Safety
///
/// The GIL is held; a live object.
pub(super) unsafe fn is_linkable(object: *mut PyObject) -> bool {
    // SAFETY: the caller's promise; the type is made at import.
    unsafe { ffi::PyObject_TypeCheck(object, *TYPE.get()) != 0 }
}

/// The base of their types.
pub(super) fn base() -> *mut PyTypeObject {
    // SAFETY: read with the GIL.
    unsafe { *TYPE.get() }
}

/// Says to whom it belongs; if to nobody, that is this thread's hub from now on, if there is one, or it is to be made.
/// `None` with an exception set.
///
/// # Safety
///
/// The GIL is held; `this` is a live object's.
pub(super) unsafe fn home(this: *mut Linkable, create: bool) -> Option<Home> {
    // SAFETY: nothing is borrowed while Python code may run, which making a hub does.
    unsafe {
        if let Some(here) = here_if_exists()
            && here.hub == (*this).hub
            && (*body(here.hub.cast::<PyGreenlet>())).life != Life::Dead
        {
            return Some(Home::Here(here));
        }
        if !(*this).hub.is_null() && here::has_ended((*this).hub) {
            // What was posted there is not done any more.
            (*this).phase = Phase::Quiet;
            clear(&raw mut (*this).hub);
        }
        let here = if create { Some(here::here()?) } else { here_if_exists() };
        if (*this).hub.is_null()
            && let Some(here) = here
        {
            (*this).hub = owned(here.hub);
        }
        Some(match here {
            _ if (*this).hub.is_null() => Home::Nobody,
            Some(here) if here.hub == (*this).hub => Home::Here(here),
            _ => Home::Foreign,
        })
    }
}

/// Whether it is ready; `None` with an exception set.
unsafe fn is_ready(object: *mut PyObject) -> Option<bool> {
    // SAFETY: a live object; only a class of somebody's own runs Python code.
    unsafe {
        Some(match (*own::<Linkable>(object)).what {
            What::Event(flag) => flag,
            What::Result { value, exc_info } => !value.is_null() || !exc_info.is_null(),
            What::Semaphore { counter, .. } => counter > 0,
            What::Other => {
                let result = ffi::PyObject_CallMethod(object, c"ready".as_ptr(), ptr::null());
                if result.is_null() {
                    return None;
                }
                let truth = ffi::PyObject_IsTrue(result);
                ffi::Py_DECREF(result);
                if truth < 0 {
                    return None;
                }
                truth != 0
            }
        })
    }
}
