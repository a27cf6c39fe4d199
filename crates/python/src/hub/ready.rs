//! What comes next.
//!
//! Most of what stands in the queue is a switch, and a greenlet that parks, or has come to its end, does it itself. What
//! calls something needs the hub's greenlet: callbacks must not park, and whose exceptions they raise has to be told.

use pyo3::ffi::{self, PyObject};

use super::core::{Core, Item};
use super::{linkable, queue, spawned};
use weft_sys::prefetch::{prefetch, prefetch_range};

use crate::greenlet::object::{Body, PyGreenlet, body, owned};
use crate::greenlet::parcel::Parcel;
use crate::greenlet::types::errors;

/// One thing to do. All pointers are owned.
#[derive(Debug)]
pub(super) enum Step {
    /// Switch there with that.
    Switch(*mut PyGreenlet, Parcel),
    /// Call a [`Callback`](super::callback::Callback).
    Callback(*mut PyObject),
    /// Step a [`Coroutine`](super::coroutine::Coroutine).
    Coroutine(*mut PyObject),
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
                && matches!(
                    (*core).hub.waiters.peek_ready(),
                    Some(Item::Callback(_) | Item::Timeout(_) | Item::Coroutine(_))
                )
            {
                return Step::InHub;
            }
            if !in_hub && is_last_reference((*core).hub.waiters.peek_ready()) {
                return Step::InHub;
            }
            let Some(item) = (*core).hub.waiters.next_ready() else { return Step::Nothing };
            match item {
                Item::Greenlet(greenlet) => {
                    fetch_ahead(core);
                    return Step::Switch(greenlet, value());
                }
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
                Item::Coroutine(coroutine) => return Step::Coroutine(coroutine),
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

/// Whether what is told of goes with this entry, and with it things whose finalizers may do anything, also wait.
unsafe fn is_last_reference(item: Option<&Item>) -> bool {
    // SAFETY: what stands in the queue is alive.
    unsafe {
        match item {
            Some(&(Item::Notify(object) | Item::Unlock(object, _))) => ffi::Py_REFCNT(object) == 1,
            // For one that has ended that is looked at where it is told of.
            _ => false,
        }
    }
}

/// So many have to stand in the queue for it to be worth while to look ahead: a few are in the cache.
const CROWD: usize = 16;

/// Bytes of a greenlet's stack that going on touches: from a little below where it stands to a little above.
const TOUCHED: (usize, usize) = (256, 768);

/// Has the processor fetch what those that come after the next one were left with. Among a thousand greenlets each has been driven out
/// of the cache when its turn comes, and what leads to its stack lies in the greenlet, so it goes in steps: one is three turns
/// ahead, one two, and one is next.
///
/// # Safety
///
/// The GIL is held, and nothing of `core` borrowed.
unsafe fn fetch_ahead(core: *mut Core) {
    // SAFETY: what stands in the queue is alive, and only read; addresses are only hints.
    unsafe {
        let waiters = &(*core).hub.waiters;
        if waiters.ready_len() < CROWD {
            return;
        }
        if let Some(&Item::Greenlet(third)) = waiters.coming(2) {
            prefetch(third);
        }
        if let Some(&Item::Greenlet(second)) = waiters.coming(1) {
            prefetch_range(body(second), size_of::<Body>());
        }
        if let Some(&Item::Greenlet(first)) = waiters.coming(0) {
            let coroutine = &(*body(first)).coroutine;
            let (below, above) = TOUCHED;
            prefetch_range(coroutine.stack_pointer().wrapping_byte_sub(below), below + above);
            prefetch_range(coroutine.host.first_frames(), 320);
            prefetch_range((*body(first)).waits_for, 128);
        }
    }
}

/// What a greenlet that was parked is switched to with.
pub(super) fn value() -> Parcel {
    // SAFETY: None lives for ever.
    Parcel::Value(unsafe { owned(ffi::Py_None()) })
}
