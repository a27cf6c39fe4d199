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

mod lifetime;
mod raw;
mod run;
mod setup;
mod start;
mod state;
mod types;
mod wait;

use std::ptr;

use pyo3::ffi::{self, PyObject, PyTypeObject};
use weft_hub::WaiterKey;
use weft_reactor::TimerKey;

use super::class::or_none;
use super::core::Core;
use super::here;
use super::links::Links;
use super::tree;
use crate::gil::GilCell;
use crate::greenlet::attributes;
use crate::greenlet::object::PyGreenlet;
use crate::greenlet::types::greenlet_type;

pub(super) use raw::spawn_raw;
pub(super) use run::{orphaned, step};
pub(super) use setup::make_by_call;
pub(super) use start::{is_starting, set_spawn_callbacks};
pub(super) use types::ready;
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
    // SAFETY: the caller's promise; the types are made at import. A main greenlet is the most frequent one that is not.
    unsafe {
        ffi::Py_TYPE(object) != greenlet_type() && ffi::PyObject_TypeCheck(object, (*TYPES.get()).raw) != 0
    }
}

const unsafe fn of(object: *mut PyObject) -> *mut Spawned {
    object.cast()
}

/// The loop of its hub, owned, and what that keeps; `None` with an exception set.
unsafe fn my_loop(this: *mut Spawned) -> Option<(*mut PyObject, *mut Core)> {
    // SAFETY: a live object, says the caller.
    unsafe {
        // What looks up its loop may give it another one.
        let parent = or_none(attributes::parent_of(this.cast()).cast());
        let found = if parent == ffi::Py_None() { None } else { here::loop_of(parent) };
        if found.is_none() {
            ffi::PyErr_Format(
                ffi::PyExc_TypeError,
                c"Cannot convert %R, the parent of a Greenlet, to a hub whose loop runs".as_ptr(),
                parent,
            );
        }
        ffi::Py_DECREF(parent);
        found
    }
}
