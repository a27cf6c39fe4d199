//! What is done with streams: receiving, sending, and waiting for calls of the kernel that are made elsewhere.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::ptr;

use pyo3::exceptions::PyValueError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use weft_reactor::Ready;

use super::super::class::check_count;
use super::super::class::none;
use super::attempt::{attempt, give_up_at, unless_asked_not_to, until_ready};
use super::place;
use crate::gil::GilCell;

unsafe extern "C" {
    fn _PyBytes_Resize(bytes: *mut *mut PyObject, size: isize) -> std::ffi::c_int;
}

/// So much is read through the buffer at most.
const SMALL: usize = 64 << 10;

static BUFFER: GilCell<[u8; SMALL]> = GilCell::new([0; SMALL]);

unsafe fn was_short(stream: *mut PyObject, got: isize, wanted: usize, flags: i32) {
    // SAFETY: the GIL is held; nothing ran since the stream was looked at.
    unsafe {
        // What is only looked at stays there, and urgent data comes by another way.
        if got > 0
            && (got as usize) < wanted
            && flags & !libc::MSG_DONTWAIT == 0
            && let Some(place) = place(stream)
            && place.short_reads_tell
        {
            (*place.core).hub.reactor().was_short(place.source);
        }
    }
}

pub(in super::super) const RECV_DOC: &CStr = c"recv(stream, size, flags=0, timeout=None) -> bytes\n\n\
Up to `size` bytes; none at the end.\n\n:raises TimeoutError: if none came in `timeout` seconds;\n\
:raises BlockingIOError: if there are none and `timeout` is 0.";

pub(in super::super) unsafe extern "C" fn recv(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: called by the interpreter; the arguments are alive throughout.
    unsafe {
        if !check_count(c"recv", count, 2, 4) {
            return ptr::null_mut();
        }
        let stream = arguments.read();
        let Some((size, flags)) = size_and_flags(arguments, count) else { return ptr::null_mut() };
        let Ok(at) = give_up_at(arguments, count, 3) else { return ptr::null_mut() };
        let at = unless_asked_not_to(at, flags);
        if size <= SMALL {
            let got = attempt(stream, Ready::READ, at, |descriptor| {
                libc::recv(descriptor, BUFFER.get().cast(), size, flags | libc::MSG_DONTWAIT)
            });
            let Some(got) = got else { return ptr::null_mut() };
            was_short(stream, got, size, flags);
            return ffi::PyBytes_FromStringAndSize(BUFFER.get().cast(), got);
        }
        let mut bytes = ffi::PyBytes_FromStringAndSize(ptr::null(), size as isize);
        if bytes.is_null() {
            return bytes;
        }
        let room = ffi::PyBytes_AsString(bytes);
        let got = attempt(stream, Ready::READ, at, |descriptor| {
            libc::recv(descriptor, room.cast(), size, flags | libc::MSG_DONTWAIT)
        });
        let Some(got) = got else {
            ffi::Py_DECREF(bytes);
            return ptr::null_mut();
        };
        was_short(stream, got, size, flags);
        _PyBytes_Resize(&raw mut bytes, got);
        bytes
    }
}

unsafe fn size_and_flags(arguments: *const *mut PyObject, count: isize) -> Option<(usize, i32)> {
    // SAFETY: vectorcall's conventions; at least two arguments.
    unsafe {
        let size = ffi::PyLong_AsSsize_t(arguments.add(1).read());
        if size == -1 && !ffi::PyErr_Occurred().is_null() {
            return None;
        }
        let Ok(size) = usize::try_from(size) else {
            PyValueError::new_err("negative buffersize in recv").restore(Python::assume_attached());
            return None;
        };
        Some((size, flags_argument(arguments, count, 2)?))
    }
}

unsafe fn flags_argument(arguments: *const *mut PyObject, count: isize, index: isize) -> Option<i32> {
    // SAFETY: vectorcall's conventions.
    unsafe {
        if count <= index {
            return Some(0);
        }
        let flags = ffi::PyLong_AsLong(arguments.offset(index).read());
        if flags == -1 && !ffi::PyErr_Occurred().is_null() { None } else { Some(flags as i32) }
    }
}

/// A view of an object's bytes, as it lies on the stack across a switch: given back by hand.
unsafe fn view(object: *mut PyObject, writable: bool) -> Option<ffi::Py_buffer> {
    // SAFETY: the GIL is held; a zeroed structure is what the interpreter fills in.
    unsafe {
        let mut view: ffi::Py_buffer = std::mem::zeroed();
        let flags = if writable { ffi::PyBUF_WRITABLE } else { ffi::PyBUF_SIMPLE };
        (ffi::PyObject_GetBuffer(object, &raw mut view, flags) == 0).then_some(view)
    }
}

pub(in super::super) const RECV_INTO_DOC: &CStr =
    c"recv_into(stream, buffer, flags=0, timeout=None) -> int\n\n\
As `recv()`, into `buffer`; returns how many bytes there were.";

pub(in super::super) unsafe extern "C" fn recv_into(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: as for `recv`.
    unsafe {
        if !check_count(c"recv_into", count, 2, 4) {
            return ptr::null_mut();
        }
        let stream = arguments.read();
        let Some(flags) = flags_argument(arguments, count, 2) else { return ptr::null_mut() };
        let Ok(at) = give_up_at(arguments, count, 3) else { return ptr::null_mut() };
        let at = unless_asked_not_to(at, flags);
        let Some(mut view) = view(arguments.add(1).read(), true) else { return ptr::null_mut() };
        let (room, size) = (view.buf, view.len as usize);
        let got = attempt(stream, Ready::READ, at, |descriptor| {
            libc::recv(descriptor, room, size, flags | libc::MSG_DONTWAIT)
        });
        ffi::PyBuffer_Release(&raw mut view);
        let Some(got) = got else { return ptr::null_mut() };
        was_short(stream, got, size, flags);
        ffi::PyLong_FromSsize_t(got)
    }
}

pub(in super::super) const SEND_DOC: &CStr = c"send(stream, data, flags=0, timeout=None) -> int\n\n\
Send what there is room for, at least one byte; returns how many.";

pub(in super::super) unsafe extern "C" fn send(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: as for `recv`.
    unsafe {
        match send_some(c"send", arguments, count, false) {
            Some(sent) => ffi::PyLong_FromSsize_t(sent),
            None => ptr::null_mut(),
        }
    }
}

pub(in super::super) const SENDALL_DOC: &CStr = c"sendall(stream, data, flags=0, timeout=None) -> None\n\n\
Send all of it. After an error nobody knows how much was sent.";

pub(in super::super) unsafe extern "C" fn sendall(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: as for `recv`.
    unsafe {
        match send_some(c"sendall", arguments, count, true) {
            Some(_) => none(),
            None => ptr::null_mut(),
        }
    }
}

unsafe fn send_some(name: &CStr, arguments: *const *mut PyObject, count: isize, all: bool) -> Option<isize> {
    // SAFETY: as for `recv`.
    unsafe {
        if !check_count(name, count, 2, 4) {
            return None;
        }
        let stream = arguments.read();
        let flags = flags_argument(arguments, count, 2)?;
        let Ok(at) = give_up_at(arguments, count, 3) else { return None };
        let at = unless_asked_not_to(at, flags);
        let mut view = view(arguments.add(1).read(), false)?;
        let (start, size) = (view.buf.cast_const().cast::<u8>(), view.len as usize);
        let mut sent = 0;
        let outcome = loop {
            let outcome = attempt(stream, Ready::WRITE, at, |descriptor| {
                let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                libc::send(descriptor, start.add(sent).cast(), size - sent, flags)
            });
            let Some(now) = outcome else { break None };
            sent += now as usize;
            if !all || sent >= size {
                break Some(sent as isize);
            }
        };
        ffi::PyBuffer_Release(&raw mut view);
        outcome
    }
}

pub(in super::super) const WAIT_DOC: &CStr = c"wait(stream, write=False, timeout=None) -> None\n\n\
Park until the descriptor is ready to be read, or written. For calls of the kernel\n\
that were just refused with EAGAIN.\n\n:raises TimeoutError: if it was not in `timeout` seconds.";

pub(in super::super) unsafe extern "C" fn wait(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: as for `recv`.
    unsafe {
        if !check_count(c"wait", count, 1, 3) {
            return ptr::null_mut();
        }
        let write = if count > 1 { ffi::PyObject_IsTrue(arguments.add(1).read()) } else { 0 };
        if write < 0 {
            return ptr::null_mut();
        }
        let direction = if write != 0 { Ready::WRITE } else { Ready::READ };
        let Ok(at) = give_up_at(arguments, count, 2) else { return ptr::null_mut() };
        let stream = arguments.read();
        // Whoever calls this was refused; but what came since then was told, or will be. So only the flag is cleared.
        let Some(place) = place(stream) else { return ptr::null_mut() };
        (*place.core).hub.reactor().would_block(place.source, direction);
        if !poll_now(place.descriptor, direction) && !until_ready(stream, place, direction, at) {
            return ptr::null_mut();
        }
        none()
    }
}

/// What the kernel says at this instant: a change that was told before the flag was cleared is not told again.
fn poll_now(descriptor: RawFd, direction: Ready) -> bool {
    let events = if direction.has(Ready::WRITE) { libc::POLLOUT } else { libc::POLLIN };
    let mut asked = libc::pollfd { fd: descriptor, events, revents: 0 };
    // SAFETY: one valid structure.
    unsafe { libc::poll(&raw mut asked, 1, 0) > 0 }
}
