//! What is done with streams: receiving, sending, and waiting for calls of the kernel that are made elsewhere.

use std::ffi::{CStr, c_void};
use std::os::fd::RawFd;
use std::ptr;

use pyo3::exceptions::PyValueError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use weft_reactor::Ready;

use super::super::class::check_count;
use super::super::class::none;
use super::attempt::{attempt, give_up_at, unless_asked_not_to, until_ready};
use super::{Kind, place};
use crate::gil::GilCell;

unsafe extern "C" {
    fn _PyBytes_Resize(bytes: *mut *mut PyObject, size: isize) -> std::ffi::c_int;
}

/// So much is read through the buffer at most.
const SMALL: usize = 64 << 10;

static BUFFER: GilCell<[u8; SMALL]> = GilCell::new([0; SMALL]);

/// Reads what there is, up to `size` bytes, waiting for some; `None` with an exception set.
unsafe fn receive(
    stream: *mut PyObject,
    room: *mut c_void,
    size: usize,
    flags: i32,
    at: Option<u64>,
) -> Option<isize> {
    // SAFETY: the caller's room is its own until this returns, or stays alone on a stack that never goes on.
    unsafe {
        if size == 0 {
            // Nothing is asked for, so nothing is waited for.
            return super::place(stream).map(|_| 0);
        }
        let mut marked = false;
        let (got, place) = attempt(stream, Ready::READ, at, |place| {
            let flags = flags | libc::MSG_DONTWAIT;
            if place.kind != Kind::Local {
                return libc::recv(place.descriptor, room, size, flags);
            }
            let mut part = libc::iovec { iov_base: room, iov_len: size };
            let mut message: libc::msghdr = std::mem::zeroed();
            (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
            let got = libc::recvmsg(place.descriptor, &raw mut message, flags);
            // There was no room for anything beside the bytes, and no need to have it.
            marked = message.msg_flags & libc::MSG_CTRUNC != 0;
            got
        })?;
        // What is only looked at stays there, and urgent data comes by another way.
        if got > 0
            && (got as usize) < size
            && flags & !libc::MSG_DONTWAIT == 0
            && !marked
            && place.kind != Kind::Marked
            && let Some(reactor) = (*place.core).hub.reactor()
        {
            reactor.was_short(place.source);
        }
        Some(got)
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
        let Some((size, flags)) = size_and_flags(arguments.add(1), count - 1) else {
            return ptr::null_mut();
        };
        let Ok(at) = give_up_at(arguments, count, 3) else { return ptr::null_mut() };
        bytes_received(stream, size, flags, at)
    }
}

/// Up to `size` bytes as an object; null with an exception set.
///
/// # Safety
///
/// The GIL is held; the caller holds the stream.
pub(super) unsafe fn bytes_received(
    stream: *mut PyObject,
    size: usize,
    flags: i32,
    at: Option<u64>,
) -> *mut PyObject {
    // SAFETY: what is made here is given back, or stays alone on a stack that never goes on.
    unsafe {
        let at = unless_asked_not_to(at, flags);
        if size <= SMALL {
            let Some(got) = receive(stream, BUFFER.get().cast(), size, flags, at) else {
                return ptr::null_mut();
            };
            return ffi::PyBytes_FromStringAndSize(BUFFER.get().cast(), got);
        }
        let mut bytes = ffi::PyBytes_FromStringAndSize(ptr::null(), size as isize);
        if bytes.is_null() {
            return bytes;
        }
        let room = ffi::PyBytes_AsString(bytes);
        let Some(got) = receive(stream, room.cast(), size, flags, at) else {
            ffi::Py_DECREF(bytes);
            return ptr::null_mut();
        };
        _PyBytes_Resize(&raw mut bytes, got);
        bytes
    }
}

/// The arguments of `recv`; `None` with an exception set.
pub(super) unsafe fn size_and_flags(arguments: *const *mut PyObject, count: isize) -> Option<(usize, i32)> {
    // SAFETY: vectorcall's conventions; at least one argument.
    unsafe {
        let size = ffi::PyLong_AsSsize_t(arguments.read());
        if size == -1 && !ffi::PyErr_Occurred().is_null() {
            return None;
        }
        let Ok(size) = usize::try_from(size) else {
            PyValueError::new_err("negative buffersize in recv").restore(Python::assume_attached());
            return None;
        };
        Some((size, flags_argument(arguments, count, 1)?))
    }
}

pub(super) unsafe fn flags_argument(
    arguments: *const *mut PyObject,
    count: isize,
    index: isize,
) -> Option<i32> {
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
        let got = receive(stream, room, size, flags, at);
        ffi::PyBuffer_Release(&raw mut view);
        let Some(got) = got else { return ptr::null_mut() };
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
        sent(stream, arguments.add(1).read(), flags, at, all)
    }
}

/// Sends what there is room for, or `all`; how much that was, or `None` with an exception set.
///
/// # Safety
///
/// The GIL is held; the caller holds the stream and the data.
pub(super) unsafe fn sent(
    stream: *mut PyObject,
    data: *mut PyObject,
    flags: i32,
    at: Option<u64>,
    all: bool,
) -> Option<isize> {
    // SAFETY: the view is given back, or stays alone on a stack that never goes on.
    unsafe {
        let at = unless_asked_not_to(at, flags);
        if ffi::PyBytes_CheckExact(data) != 0 {
            let start = ffi::PyBytes_AsString(data).cast_const().cast();
            return sent_from(stream, start, ffi::PyBytes_Size(data) as usize, flags, at, all);
        }
        let mut view = view(data, false)?;
        let outcome = sent_from(stream, view.buf.cast_const().cast(), view.len as usize, flags, at, all);
        ffi::PyBuffer_Release(&raw mut view);
        outcome
    }
}

/// The same for bytes that stay where they are.
unsafe fn sent_from(
    stream: *mut PyObject,
    start: *const u8,
    size: usize,
    flags: i32,
    at: Option<u64>,
    all: bool,
) -> Option<isize> {
    // SAFETY: the caller's promise.
    unsafe {
        if all && size == 0 {
            return super::place(stream).map(|_| 0);
        }
        let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let mut sent = 0;
        loop {
            let (now, _) = attempt(stream, Ready::WRITE, at, |place| {
                libc::send(place.descriptor, start.add(sent).cast(), size - sent, flags)
            })?;
            sent += now as usize;
            if !all || sent >= size {
                return Some(sent as isize);
            }
        }
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
        if let Some(reactor) = (*place.core).hub.reactor() {
            reactor.would_block(place.source, direction);
        }
        if !poll_now(place.descriptor, direction) && !until_ready(stream, place, direction, at) {
            return ptr::null_mut();
        }
        none()
    }
}

/// What the kernel says at this instant: a change that was told before the flag was cleared is not told again. Errors that lie in
/// a queue of their own are not what was asked for: any other one the call would have been told.
fn poll_now(descriptor: RawFd, direction: Ready) -> bool {
    let events = if direction.has(Ready::WRITE) { libc::POLLOUT } else { libc::POLLIN };
    let mut asked = libc::pollfd { fd: descriptor, events, revents: 0 };
    // SAFETY: one valid structure.
    unsafe { libc::poll(&raw mut asked, 1, 0) > 0 && asked.revents & !libc::POLLERR != 0 }
}
