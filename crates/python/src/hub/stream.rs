//! Sockets that do not block the thread.
//!
//! A stream is a descriptor that is registered with the loop once, for its life. Each operation is first tried; only if the
//! kernel has nothing the greenlet is parked until it is told that there is something. A short read notes that
//! nothing is left, so that the next one parks without asking.
//!
//! Small reads go through one buffer of the process, which is not in use across a park, because the GIL is held
//! from the call of the kernel until the bytes are copied out of it.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::ptr;

use pyo3::exceptions::PyValueError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use weft_reactor::{Ready, SourceKey};

use super::core::Core;
use super::eventloop::{Loop, core_of, core_of_loop, to_exception};
use super::park::{self, Outcome, Until, check_count};
use crate::gil::GilCell;

/// A registered descriptor: `Stream(loop, fileno)`.
#[pyclass(frozen, module = "weft._native._hub")]
#[derive(Debug)]
pub(super) struct Stream {
    holder: Py<Loop>,
    descriptor: RawFd,
    /// None once it is closed.
    source: GilCell<Option<SourceKey>>,
    /// In which directions the wait that is going on was given up by somebody else.
    cancelled: GilCell<Ready>,
    /// Whether those who wait for it keep the loop from ending.
    referenced: GilCell<bool>,
    /// Whether a read that brings less than it could have says that nothing is left. Not where messages have ends, as in
    /// datagrams, nor in local sockets, where a read stops before a message that descriptors came with.
    short_reads_tell: bool,
}

/// Whether it is a stream without any marks in it: TCP.
fn is_plain_stream(descriptor: RawFd) -> bool {
    let ask = |option| {
        let (mut value, mut size): (libc::c_int, libc::socklen_t) = (0, size_of::<libc::c_int>() as u32);
        // SAFETY: room for one number, and its size.
        let status = unsafe {
            libc::getsockopt(descriptor, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut size)
        };
        (status == 0).then_some(value)
    };
    ask(libc::SO_TYPE) == Some(libc::SOCK_STREAM)
        && matches!(ask(libc::SO_DOMAIN), Some(libc::AF_INET | libc::AF_INET6))
}

#[pymethods]
impl Stream {
    #[new]
    fn new(holder: Bound<'_, Loop>, fileno: RawFd) -> PyResult<Self> {
        // SAFETY: with the GIL; nothing else borrows the core.
        let core = unsafe { core_of(holder.as_ptr()) };
        if core.is_null() {
            return Err(PyErr::fetch(holder.py()));
        }
        // SAFETY: as above.
        let source = unsafe { (*core).hub.reactor().register(fileno) };
        let source = source.map_err(|error| to_exception(&error))?;
        Ok(Self {
            holder: holder.unbind(),
            descriptor: fileno,
            source: GilCell::new(Some(source)),
            cancelled: GilCell::new(Ready::NONE),
            referenced: GilCell::new(true),
            short_reads_tell: is_plain_stream(fileno),
        })
    }

    /// The descriptor.
    fn fileno(&self) -> RawFd {
        self.descriptor
    }

    /// Ends the registration, before the descriptor is closed; who waits for it gets an error.
    fn close(&self, py: Python<'_>) {
        // SAFETY: with the GIL; nothing runs while the core is borrowed.
        unsafe {
            if let Some(source) = (*self.source.get()).take()
                && let Some(core) = self.holder.get().core(py)
            {
                (*core).hub.deregister(source);
            }
        }
    }

    /// Gives up, with an error, what others wait for: something to read, or room to write.
    fn cancel(&self, py: Python<'_>, read: bool, write: bool) {
        let mut directions = Ready::NONE;
        if read {
            directions |= Ready::READ;
        }
        if write {
            directions |= Ready::WRITE;
        }
        // SAFETY: with the GIL; nothing runs while the core is borrowed.
        unsafe {
            if let Some(source) = *self.source.get()
                && let Some(core) = self.holder.get().core(py)
            {
                *self.cancelled.get() |= (*core).hub.wake_waiting(source, directions);
            }
        }
    }

    /// Whether those who wait for it keep the loop from ending.
    #[getter(r#ref)]
    fn referenced(&self, _py: Python<'_>) -> bool {
        // SAFETY: with the GIL.
        unsafe { *self.referenced.get() }
    }

    #[setter(r#ref)]
    fn set_referenced(&self, _py: Python<'_>, value: bool) {
        // SAFETY: with the GIL. A wait that is going on keeps what it began with.
        unsafe { *self.referenced.get() = value };
    }

    /// Whether `close()` was called.
    #[getter]
    fn closed(&self, _py: Python<'_>) -> bool {
        // SAFETY: with the GIL.
        unsafe { (*self.source.get()).is_none() }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: objects are dropped with the GIL.
        let py = unsafe { Python::assume_attached() };
        self.close(py);
    }
}

/// What an operation works on; raw, as it lies on the stack across a switch.
#[derive(Clone, Copy)]
struct Place {
    holder: *mut PyObject,
    core: *mut Core,
    source: SourceKey,
    descriptor: RawFd,
    short_reads_tell: bool,
}

/// The open stream that is the first argument; `None` with an exception set if it is none.
unsafe fn place(stream: *mut PyObject) -> Option<Place> {
    // SAFETY: the GIL is held and the object alive; no reference outlives this function.
    unsafe {
        let py = Python::assume_attached();
        let found = match Borrowed::from_ptr(py, stream).cast::<Stream>() {
            Ok(stream) => {
                let stream = stream.get();
                match *stream.source.get() {
                    Some(source) => {
                        Ok((stream.holder.as_ptr(), source, stream.descriptor, stream.short_reads_tell))
                    }
                    None => Err(PyErr::from(std::io::Error::from_raw_os_error(libc::EBADF))),
                }
            }
            Err(error) => Err(error.into()),
        };
        match found {
            Ok((holder, source, descriptor, short_reads_tell)) => {
                let mut core = core_of_loop(holder);
                if core.is_null() {
                    core = core_of(holder); // which says so
                }
                (!core.is_null()).then_some(Place { holder, core, source, descriptor, short_reads_tell })
            }
            Err(error) => {
                error.restore(py);
                None
            }
        }
    }
}

/// Takes what is remembered of the stream for one wait: `look` sees the stream, which is open or was.
unsafe fn remembered<T>(stream: *mut PyObject, look: impl FnOnce(&Stream) -> T) -> Option<T> {
    // SAFETY: the GIL is held and the object alive; no reference outlives this function.
    unsafe {
        let py = Python::assume_attached();
        Borrowed::from_ptr(py, stream).cast::<Stream>().ok().map(|stream| look(stream.get()))
    }
}

/// The instant that stands for "do not wait": an operation is tried once, whatever is known of the descriptor.
const NOT_AT_ALL: u64 = 0;

/// When to give up, from an argument of seconds or None; the argument may be missing.
unsafe fn give_up_at(arguments: *const *mut PyObject, count: isize, index: isize) -> Result<Option<u64>, ()> {
    // SAFETY: vectorcall's conventions.
    unsafe {
        if count <= index || arguments.offset(index).read() == ffi::Py_None() {
            return Ok(None);
        }
        let seconds = ffi::PyFloat_AsDouble(arguments.offset(index).read());
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
const fn unless_asked_not_to(at: Option<u64>, flags: i32) -> Option<u64> {
    if flags & libc::MSG_DONTWAIT == 0 { at } else { Some(NOT_AT_ALL) }
}

/// Waits until the descriptor is ready, as far as is known. False with an exception set.
unsafe fn until_ready(stream: *mut PyObject, place: Place, direction: Ready, at: Option<u64>) -> bool {
    // SAFETY: the stream, held by the caller, holds the loop.
    unsafe {
        let Place { holder, core, source, .. } = place;
        let uncounted = remembered(stream, |known| !*known.referenced.get()) == Some(true);
        // What `park` counts is taken off beforehand, and given back to a loop that is still there.
        (*core).references -= isize::from(uncounted);
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
        match outcome {
            Outcome::Failed => false,
            Outcome::Woken if given_up == Some(true) => {
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

/// Whether the descriptor may be ready.
unsafe fn may_be_ready(place: Place, direction: Ready) -> bool {
    // SAFETY: the GIL is held; the core is borrowed for this statement.
    unsafe { (*place.core).hub.reactor().ready(place.source).is_none_or(|ready| ready.has(direction)) }
}

/// Calls the kernel until it does not block; gives what it says, or `None` with an exception set.
///
/// # Safety
///
/// `operation` touches nothing of Python's, and nothing that needs dropping is in it.
unsafe fn attempt(
    stream: *mut PyObject,
    direction: Ready,
    at: Option<u64>,
    mut operation: impl FnMut(RawFd) -> isize,
) -> Option<isize> {
    // SAFETY: the stream is held by the caller; `place` looks at it afresh after each park.
    unsafe {
        loop {
            let place = place(stream)?;
            if at == Some(NOT_AT_ALL) || may_be_ready(place, direction) {
                let outcome = operation(place.descriptor);
                if outcome >= 0 {
                    return Some(outcome);
                }
                match *libc::__errno_location() {
                    libc::EAGAIN if at != Some(NOT_AT_ALL) => {
                        (*place.core).hub.reactor().would_block(place.source, direction);
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

pub(super) const RECV_DOC: &CStr = c"recv(stream, size, flags=0, timeout=None) -> bytes\n\n\
Up to `size` bytes; none at the end.\n\n:raises TimeoutError: if none came in `timeout` seconds;\n\
:raises BlockingIOError: if there are none and `timeout` is 0.";

pub(super) unsafe extern "C" fn recv(
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

pub(super) const RECV_INTO_DOC: &CStr = c"recv_into(stream, buffer, flags=0, timeout=None) -> int\n\n\
As `recv()`, into `buffer`; returns how many bytes there were.";

pub(super) unsafe extern "C" fn recv_into(
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

pub(super) const SEND_DOC: &CStr = c"send(stream, data, flags=0, timeout=None) -> int\n\n\
Send what there is room for, at least one byte; returns how many.";

pub(super) unsafe extern "C" fn send(
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

pub(super) const SENDALL_DOC: &CStr = c"sendall(stream, data, flags=0, timeout=None) -> None\n\n\
Send all of it. After an error nobody knows how much was sent.";

pub(super) unsafe extern "C" fn sendall(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: as for `recv`.
    unsafe {
        match send_some(c"sendall", arguments, count, true) {
            Some(_) => crate::greenlet::object::owned(ffi::Py_None()),
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

pub(super) const WAIT_DOC: &CStr = c"wait(stream, write=False, timeout=None) -> None\n\n\
Park until the descriptor is ready to be read, or written. For calls of the kernel\n\
that were just refused with EAGAIN.\n\n:raises TimeoutError: if it was not in `timeout` seconds.";

pub(super) unsafe extern "C" fn wait(
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
        crate::greenlet::object::owned(ffi::Py_None())
    }
}

/// What the kernel says at this instant: a change that was told before the flag was cleared is not told again.
fn poll_now(descriptor: RawFd, direction: Ready) -> bool {
    let events = if direction.has(Ready::WRITE) { libc::POLLOUT } else { libc::POLLIN };
    let mut asked = libc::pollfd { fd: descriptor, events, revents: 0 };
    // SAFETY: one valid structure.
    unsafe { libc::poll(&raw mut asked, 1, 0) > 0 }
}
