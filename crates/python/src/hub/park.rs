//! How a greenlet waits.
//!
//! It enters itself in the table of waiters, arranges to be woken, and switches away: straight to the next one that is ready, if
//! that is a greenlet, the turn is not over and nobody watches switches; else to the hub's greenlet. When somebody
//! switches back, it looks whether its wait is over. If it is not, that was no wake-up but a switch by somebody who
//! had no business here, or an exception thrown into it; the wait is withdrawn either way.
//!
//! Only raw pointers lie on the stack across a switch.

mod errors;
mod functions;
mod hand_over;

use std::ptr;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use weft_hub::WaiterKey;
use weft_reactor::TimerKey;
use weft_sys::clock::monotonic;

use super::core::{Core, Item};
use super::eventloop::{core_of, core_of_loop};
use crate::ffi::current_thread_state;
use crate::greenlet::object::{Life, PyGreenlet, body, is_greenlet, owned};
use crate::greenlet::thread::current_thread;

pub(super) use errors::{raise_cancelled, raise_in_use, raise_invalid_switch, set_exceptions};
pub(super) use functions::{GIVE_WAY_DOC, PAUSE_DOC, SLEEP_DOC, SWITCH_DOC, give_way, pause, sleep, switch};
pub(super) use hand_over::{successor, switch_away, type_lookup};

/// The greenlet that runs; null with an exception set if there cannot be one.
pub(super) unsafe fn current() -> *mut PyGreenlet {
    // SAFETY: the GIL is held.
    unsafe {
        let thread = current_thread(current_thread_state());
        if thread.is_null() { ptr::null_mut() } else { (*thread).current }
    }
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Somebody woke it.
    Woken,
    /// Its time was over.
    TimedOut,
    /// An exception is set.
    Failed,
}

/// What one waits for, beside the time.
pub(super) enum Until {
    Nothing,
    Source(weft_reactor::SourceKey, weft_reactor::Ready),
}

/// Enters the current greenlet in the table; `None` with an exception set.
///
/// # Safety
///
/// The GIL is held, and nothing of `core` borrowed.
pub(super) unsafe fn enter(core: *mut Core) -> Option<WaiterKey> {
    // SAFETY: as the caller says.
    unsafe {
        let me = current();
        if me.is_null() {
            return None;
        }
        Some((*core).hub.waiters.park(Item::Greenlet(owned(me))))
    }
}

/// Notes what the current greenlet waits for, for those who ask; null when the wait is over. The caller holds it.
///
/// # Safety
///
/// The GIL is held.
pub(super) unsafe fn note_wait(what: *mut PyObject) {
    // SAFETY: the current greenlet is alive.
    unsafe {
        let me = current();
        if me.is_null() {
            ffi::PyErr_Clear();
        } else {
            (*body(me)).waits_for = what;
        }
    }
}

/// What a greenlet of the calling thread waits for, if that is an event, a queue, another greenlet and so on; or None.
#[pyfunction]
pub(super) fn waits_for(greenlet: &Bound<'_, PyAny>) -> Option<Py<PyAny>> {
    // SAFETY: with the GIL. The object is held as long as the greenlet is suspended in the wait for it, in a thread that lives.
    unsafe {
        let object: *mut PyGreenlet = greenlet.as_ptr().cast();
        if !is_greenlet(greenlet.as_ptr()) || (*body(object)).life != Life::Active {
            return None;
        }
        let thread = current_thread(current_thread_state());
        if thread.is_null() || (*body(object)).main != (*thread).main || (*thread).current == object {
            ffi::PyErr_Clear();
            return None;
        }
        Bound::from_borrowed_ptr_or_opt(greenlet.py(), (*body(object)).waits_for).map(Bound::unbind)
    }
}

/// Parks the current greenlet, which [`enter`]ed, until it is woken, or until the instant `at`.
///
/// With `referenced`, the wait keeps the loop from ending.
///
/// # Safety
///
/// The GIL is held; `holder` is the object that holds `core`, and nothing of it is borrowed.
pub(super) unsafe fn park_entered(
    holder: *mut PyObject,
    core: *mut Core,
    key: WaiterKey,
    at: Option<u64>,
    referenced: bool,
) -> Outcome {
    // SAFETY: `core` is borrowed for single statements and held by the reference taken here.
    unsafe {
        let timer: Option<TimerKey> = at.map(|at| (*core).hub.wake_at(at, key));
        owned(holder);
        let counted = isize::from(referenced);
        (*core).references += counted;
        let result = switch_away(holder, core);
        // It may have been destroyed meanwhile, or before; then it has forgotten its timers.
        let closed = core_of_loop(holder).is_null();
        (*core).references -= counted;
        let fired = timer.is_some_and(|timer| !(*core).hub.cancel_timer(timer)) && !closed;
        let was_waiting = withdraw(core, key);
        ffi::Py_DECREF(holder);
        if result.is_null() {
            return Outcome::Failed;
        }
        if was_waiting {
            raise_invalid_switch(current(), result);
            ffi::Py_DECREF(result);
            return Outcome::Failed;
        }
        ffi::Py_DECREF(result);
        if fired { Outcome::TimedOut } else { Outcome::Woken }
    }
}

/// Parks the current greenlet until it is woken: by what `until` says, at the instant `at`, if there is one, or at once
/// if `posted`.
///
/// # Safety
///
/// The GIL is held; `holder` is the object that holds `core`, and nothing of it is borrowed.
pub(super) unsafe fn park(
    holder: *mut PyObject,
    core: *mut Core,
    until: &Until,
    at: Option<u64>,
    posted: bool,
) -> Outcome {
    // SAFETY: as the caller says.
    unsafe {
        let Some(key) = enter(core) else { return Outcome::Failed };
        if posted {
            (*core).hub.waiters.wake(key);
        }
        if let Until::Source(source, direction) = *until
            && (*core).hub.wake_when_ready(source, direction, key).is_err()
        {
            withdraw(core, key);
            raise_in_use();
            return Outcome::Failed;
        }
        park_entered(holder, core, key, at, true)
    }
}

/// In the child of a fork, in the copy of a greenlet that waited for what is the parent's: waits for nothing. An exception ends that:
/// returns false with it set.
///
/// # Safety
///
/// The GIL is held; `holder` is a live loop.
#[cold]
pub(super) unsafe fn for_good(holder: *mut PyObject) -> bool {
    // SAFETY: as the caller says; the loop is looked for again after each switch.
    unsafe {
        loop {
            let core = core_of(holder);
            if core.is_null() {
                return false;
            }
            let Some(key) = enter(core) else { return false };
            if park_entered(holder, core, key, None, true) == Outcome::Failed {
                return false;
            }
        }
    }
}

/// Takes a wait out of the table; says whether it was still there.
///
/// # Safety
///
/// The GIL is held, and nothing of `core` borrowed.
pub(super) unsafe fn withdraw(core: *mut Core, key: WaiterKey) -> bool {
    // SAFETY: passed on; the item is released when nothing is borrowed. The greenlet that it holds is the current one, so
    // that nothing dies.
    unsafe {
        match (*core).hub.waiters.withdraw(key) {
            Some(item) => {
                item.release();
                true
            }
            None => false,
        }
    }
}

/// Seconds from now as an instant; never, if that is too far.
pub(super) fn instant_after(seconds: f64) -> Option<u64> {
    let nanoseconds = seconds * 1e9;
    if nanoseconds >= (1_u64 << 62) as f64 { None } else { Some(monotonic() + nanoseconds.max(0.0) as u64) }
}
