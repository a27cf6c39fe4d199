//! How long a wait may last: what a `timeout` argument says.

use std::ptr;

use pyo3::ffi::{self, PyObject};
use weft_hub::WaiterKey;
use weft_sys::clock::monotonic;

use super::faces::faces;
use super::here::Here;
use super::park::{self, Outcome};
use super::timeout;
use crate::greenlet::object::SavedError;

/// What a `timeout` argument says. Objects are borrowed from the caller's arguments.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// It lasts as long as it takes.
    Never,
    /// Until this instant, which is so many seconds from the call.
    At(u64, *mut PyObject),
    /// Until this [`timeout`] raises itself.
    Timeout(*mut PyObject),
}

/// Reads the argument, which may be null. `None` with an exception set.
///
/// # Safety
///
/// The GIL is held; a live object or null.
#[inline]
pub(super) unsafe fn limit(argument: *mut PyObject) -> Option<Limit> {
    // SAFETY: the caller's promise.
    unsafe {
        if argument.is_null() || argument == ffi::Py_None() {
            return Some(Limit::Never);
        }
        if timeout::is_timeout(argument) {
            return Some(Limit::Timeout(argument));
        }
        let seconds = ffi::PyFloat_AsDouble(argument);
        if seconds == -1.0 && !ffi::PyErr_Occurred().is_null() {
            return None;
        }
        Some(Limit::At(monotonic() + super::kind::nanoseconds(seconds), argument))
    }
}

/// How a wait with a limit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Ended {
    /// Somebody woke it.
    Woken,
    /// The limit was reached; no exception is set.
    Expired,
    /// An exception is set.
    Failed,
}

/// Parks the current greenlet, which entered the table with `key`, until it is woken or the limit is reached.
///
/// With `referenced`, the wait keeps the loop from ending.
///
/// # Safety
///
/// The GIL is held; the arguments that `limit` borrows stay alive.
pub(super) unsafe fn park_until(here: Here, key: WaiterKey, limit: Limit, referenced: bool) -> Ended {
    // SAFETY: only raw pointers are on the stack across the switch.
    unsafe {
        let at = match limit {
            Limit::At(at, _) => Some(at),
            Limit::Never => None,
            Limit::Timeout(timeout) => {
                if !timeout::is_pending(timeout) && !timeout::start(timeout) {
                    park::withdraw(here.core, key);
                    return Ended::Failed;
                }
                None
            }
        };
        let outcome = park::park_entered(here.holder, here.core, key, at, referenced || at.is_some());
        let Limit::Timeout(timeout) = limit else {
            return match outcome {
                Outcome::Woken => Ended::Woken,
                Outcome::TimedOut => Ended::Expired,
                Outcome::Failed => Ended::Failed,
            };
        };
        let saved = SavedError::take();
        timeout::cancel(timeout);
        if outcome == Outcome::Failed {
            if saved.is(timeout) {
                saved.discard();
                return Ended::Expired;
            }
            saved.restore();
            return Ended::Failed;
        }
        saved.discard();
        Ended::Woken
    }
}

/// Raises what says that a limit was reached: `kind()`, or if that is null the timeout itself.
///
/// # Safety
///
/// The GIL is held; `limit` is not [`Limit::Never`].
pub(super) unsafe fn raise(limit: Limit, kind: *mut PyObject) -> *mut PyObject {
    // SAFETY: the caller's promise.
    unsafe {
        match limit {
            Limit::Timeout(timeout) => ffi::PyErr_SetObject(ffi::Py_TYPE(timeout).cast(), timeout),
            _ if !kind.is_null() => ffi::PyErr_SetObject(kind, ptr::null_mut()),
            Limit::At(_, seconds) => raise_timeout(seconds),
            Limit::Never => raise_timeout(ffi::Py_None()),
        }
        ptr::null_mut()
    }
}

/// Raises `Timeout(seconds)`.
///
/// # Safety
///
/// The GIL is held; a live object.
pub(super) unsafe fn raise_timeout(seconds: *mut PyObject) {
    // SAFETY: the caller's promise.
    unsafe {
        let kind = faces().timeout;
        let made = timeout::make(kind, seconds, ptr::null_mut());
        if !made.is_null() {
            ffi::PyErr_SetObject(ffi::Py_TYPE(made).cast(), made);
            ffi::Py_DECREF(made);
        }
    }
}
