//! Sockets that do not block the thread.
//!
//! A stream is a descriptor that is registered with the loop once, for its life. Each operation is first tried; only if the
//! kernel has nothing the greenlet is parked until it is told that there is something. A short read notes that
//! nothing is left, so that the next one parks without asking.
//!
//! Small reads go through one buffer of the process, which is not in use across a park, because the GIL is held
//! from the call of the kernel until the bytes are copied out of it.

mod attempt;
mod calls;
pub(super) mod socket_methods;

use std::os::fd::RawFd;

use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use weft_reactor::{ReactorError, Ready, SourceKey};

use super::core::Core;
use super::eventloop::{Loop, core_of, core_of_loop, to_exception};
use super::here::nudge_if_anothers;

use crate::gil::GilCell;

pub(super) use calls::{
    RECV_DOC, RECV_INTO_DOC, SEND_DOC, SENDALL_DOC, WAIT_DOC, recv, recv_into, send, sendall, wait,
};

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
    kind: Kind,
}

/// What a read that brings less than it could have says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// That nothing is left: a stream without any marks in it, TCP.
    Plain,
    /// The same, unless something came with the bytes: in a local stream a read ends with a message that descriptors came with,
    /// and, if the socket asked for senders' identities, with what one sender sent. The kernel says that there was something.
    Local,
    /// Nothing: messages have ends, as in datagrams.
    Marked,
}

fn kind_of(descriptor: RawFd) -> Kind {
    let ask = |option| {
        let (mut value, mut size): (libc::c_int, libc::socklen_t) = (0, size_of::<libc::c_int>() as u32);
        // SAFETY: room for one number, and its size.
        let status = unsafe {
            libc::getsockopt(descriptor, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut size)
        };
        (status == 0).then_some(value)
    };
    if ask(libc::SO_TYPE) != Some(libc::SOCK_STREAM) {
        return Kind::Marked;
    }
    match ask(libc::SO_DOMAIN) {
        Some(libc::AF_INET | libc::AF_INET6) => Kind::Plain,
        Some(libc::AF_UNIX) => Kind::Local,
        _ => Kind::Marked,
    }
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
        let reactor = unsafe { (*core).hub.reactor() };
        let source = reactor.ok_or(ReactorError::Closed).and_then(|reactor| reactor.register(fileno));
        let source = source.map_err(|error| to_exception(&error))?;
        Ok(Self {
            holder: holder.unbind(),
            descriptor: fileno,
            source: GilCell::new(Some(source)),
            cancelled: GilCell::new(Ready::NONE),
            referenced: GilCell::new(true),
            kind: kind_of(fileno),
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
                nudge_if_anothers(core);
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
                nudge_if_anothers(core);
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
    kind: Kind,
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
                    Some(source) => Ok((stream.holder.as_ptr(), source, stream.descriptor, stream.kind)),
                    None => Err(PyErr::from(std::io::Error::from_raw_os_error(libc::EBADF))),
                }
            }
            Err(error) => Err(error.into()),
        };
        match found {
            Ok((holder, source, descriptor, kind)) => {
                let mut core = core_of_loop(holder);
                if core.is_null() {
                    core = core_of(holder); // which says so
                }
                (!core.is_null()).then_some(Place { holder, core, source, descriptor, kind })
            }
            Err(error) => {
                error.restore(py);
                None
            }
        }
    }
}

/// Shows a stream, which was [`place`]d and may be closed by now.
unsafe fn remembered<T>(stream: *mut PyObject, look: impl FnOnce(&Stream) -> T) -> T {
    // SAFETY: the GIL is held and the object alive, and a stream, as was looked at; no reference outlives this function.
    unsafe {
        let py = Python::assume_attached();
        look(Borrowed::from_ptr(py, stream).cast_unchecked::<Stream>().get())
    }
}
