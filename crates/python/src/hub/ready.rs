//! What comes next.
//!
//! Most of what stands in the queue is a switch, and a greenlet that parks, or has come to its end, does it itself. What
//! calls something needs the hub's greenlet: callbacks must not park, and whose exceptions they raise has to be told.

use pyo3::ffi::{self, PyObject};

use super::core::{Core, Item};
use super::{linkable, queue, spawned};
use crate::greenlet::object::{PyGreenlet, owned};
use crate::greenlet::parcel::Parcel;
use crate::greenlet::types::errors;

/// One thing to do. All pointers are owned.
#[derive(Debug)]
pub(super) enum Step {
    /// Switch there with that.
    Switch(*mut PyGreenlet, Parcel),
    /// Call a [`Callback`](super::callback::Callback).
    Callback(*mut PyObject),
    /// Call a link with the object that it is a link of.
    Link(*mut PyObject, *mut PyObject),
    /// Raise a [`Timeout`](super::timeout) where it was started.
    Timeout(*mut PyObject),
    /// Serve a [`queue`] whose methods are Python's.
    Serve(*mut PyObject),
    /// Only the hub's greenlet may do it; it is still in the queue.
    InHub,
    /// There is nothing.
    Nothing,
}

/// Takes the next thing out of the queue; for the hub's greenlet, or one that parks.
///
/// # Safety
///
/// The GIL is held, and nothing of `core` borrowed. Runs no Python code unless `in_hub`.
pub(super) unsafe fn next(core: *mut Core, in_hub: bool) -> Step {
    // SAFETY: the core is borrowed for single statements; items own what they have.
    unsafe {
        loop {
            if !in_hub
                && matches!((*core).hub.waiters.peek_ready(), Some(Item::Callback(_) | Item::Timeout(_)))
            {
                return Step::InHub;
            }
            let Some(item) = (*core).hub.waiters.next_ready() else { return Step::Nothing };
            match item {
                Item::Greenlet(greenlet) => return Step::Switch(greenlet, value()),
                Item::Start(greenlet) => {
                    spawned::is_starting(greenlet);
                    return Step::Switch(
                        greenlet,
                        Parcel::Arguments(owned(errors().empty_tuple), std::ptr::null_mut()),
                    );
                }
                Item::StartWith(greenlet, arguments) => {
                    return Step::Switch(greenlet, Parcel::Arguments(arguments, std::ptr::null_mut()));
                }
                Item::Callback(callback) => return Step::Callback(callback),
                Item::Timeout(timeout) => return Step::Timeout(timeout),
                Item::Notify(object) => {
                    if let Some(step) = linkable::step(core, object, in_hub) {
                        return step;
                    }
                }
                Item::Ended(greenlet) => {
                    if let Some(step) = spawned::step(core, greenlet, in_hub) {
                        return step;
                    }
                }
                Item::Unlock(queue, turn) => {
                    if let Some(step) = queue::step(core, queue, turn, in_hub) {
                        return step;
                    }
                }
            }
        }
    }
}

/// What a greenlet that was parked is switched to with.
pub(super) fn value() -> Parcel {
    // SAFETY: None lives for ever.
    Parcel::Value(unsafe { owned(ffi::Py_None()) })
}
