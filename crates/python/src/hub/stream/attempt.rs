//! An operation is tried, and the greenlet parked for as long as the kernel has nothing for it.

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use weft_reactor::Ready;

use super::super::park::{self, Outcome, Until};
use super::{Place, place, remembered};

/// The instant that stands for "do not wait": an operation is tried once, whatever is known of the descriptor.
const NOT_AT_ALL: u64 = 0;

/// When to give up, from an argument of seconds or None; the argument may be missing.
pub(super) unsafe fn give_up_at(
    arguments: *const *mut PyObject,
    count: isize,
    index: isize,
) -> Result<Option<u64>, ()> {
    // SAFETY: vectorcall's conventions.
    unsafe { if count <= index { Ok(None) } else { instant_of(arguments.offset(index).read()) } }
}

/// When to give up, from seconds or None.
pub(super) unsafe fn instant_of(limit: *mut PyObject) -> Result<Option<u64>, ()> {
    // SAFETY: the GIL is held and the object alive.
    unsafe {
        if limit == ffi::Py_None() {
            return Ok(None);
        }
        let seconds = ffi::PyFloat_AsDouble(limit);
        if seconds == -1.0 && !ffi::PyErr_Occurred().is_null() {
            Err(())
        } else if seconds <= 0.0 {
            Ok(Some(NOT_AT_ALL))
        } else {
            Ok(park::instant_after(seconds))
        }
    }
}

/// When to give up, if the call itself says that it is not to wait.
pub(super) const fn unless_asked_not_to(at: Option<u64>, flags: i32) -> Option<u64> {
    if flags & libc::MSG_DONTWAIT == 0 { at } else { Some(NOT_AT_ALL) }
}

/// Waits until the descriptor is ready, as far as is known. False with an exception set.
pub(super) unsafe fn until_ready(
    stream: *mut PyObject,
    place: Place,
    direction: Ready,
    at: Option<u64>,
) -> bool {
    // SAFETY: the stream, held by the caller, holds the loop.
    unsafe {
        let Place { holder, core, source, .. } = place;
        let uncounted = remembered(stream, |known| !*known.referenced.get());
        // What `park` counts is taken off beforehand, and given back to a loop that is still there.
        (*core).references -= isize::from(uncounted);
        let began = weft_reactor::forks();
        let outcome = park::park(holder, core, &Until::Source(source, direction), at, false);
        if uncounted {
            remembered(stream, |known| {
                if let Some(core) = known.holder.get().core(Python::assume_attached()) {
                    (*core).references += 1;
                }
            });
        }
        let given_up = remembered(stream, |known| {
            let all = &mut *known.cancelled.get();
            let given_up = all.has(direction);
            *all = all.without(direction);
            given_up
        });
        if began != weft_reactor::forks()
            && outcome != Outcome::Failed
            && !given_up
            && self::place(stream).is_some()
        {
            // A copy of one that waits in the parent, whose bytes and connections are not for this process.
            return park::for_good(holder);
        }
        match outcome {
            Outcome::Failed => false,
            Outcome::Woken if given_up => {
                park::raise_cancelled();
                false
            }
            Outcome::TimedOut => {
                ffi::PyErr_SetString(ffi::PyExc_TimeoutError, c"timed out".as_ptr());
                false
            }
            Outcome::Woken => {
                if self::place(stream).is_none() {
                    ffi::PyErr_Clear();
                    park::raise_cancelled();
                    return false;
                }
                true
            }
        }
    }
}

/// What the descriptor may be ready for; `None` with an exception set if its number is another's by now.
unsafe fn known(place: Place) -> Option<Ready> {
    // SAFETY: the GIL is held; the core is borrowed for this statement.
    let known = unsafe { (*place.core).hub.reactor() }.and_then(|reactor| reactor.ready(place.source));
    if known.is_none() {
        // It was closed without our knowing.
        // SAFETY: as above.
        unsafe {
            *libc::__errno_location() = libc::EBADF;
            ffi::PyErr_SetFromErrno(ffi::PyExc_OSError);
        }
    }
    known
}

/// Calls the kernel until it does not block; gives what it says and where that was, or `None` with an exception set.
///
/// # Safety
///
/// `operation` touches nothing of Python's, and nothing that needs dropping is in it.
pub(super) unsafe fn attempt(
    stream: *mut PyObject,
    direction: Ready,
    at: Option<u64>,
    mut operation: impl FnMut(&Place) -> isize,
) -> Option<(isize, Place)> {
    // SAFETY: the stream is held by the caller; `place` looks at it afresh after each park.
    unsafe {
        loop {
            let place = place(stream)?;
            if known(place)?.has(direction) || at == Some(NOT_AT_ALL) {
                let outcome = operation(&place);
                if outcome >= 0 {
                    return Some((outcome, place));
                }
                match *libc::__errno_location() {
                    libc::EAGAIN if at != Some(NOT_AT_ALL) => {
                        if let Some(reactor) = (*place.core).hub.reactor() {
                            reactor.would_block(place.source, direction);
                        }
                    }
                    libc::EINTR => {
                        if ffi::PyErr_CheckSignals() != 0 {
                            return None;
                        }
                        continue;
                    }
                    _ => {
                        ffi::PyErr_SetFromErrno(ffi::PyExc_OSError);
                        return None;
                    }
                }
            }
            if !until_ready(stream, place, direction, at) {
                return None;
            }
        }
    }
}
