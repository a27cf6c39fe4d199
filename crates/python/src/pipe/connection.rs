//! The class that the faces' connections are made of.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView, PyTuple, PyType};
use weft_pipe::{End, Incoming, PipeError};
use weft_shm::{Carrier, Handle};

use super::error::{pipe_error, system_error};
use super::pickles::{self, keep_buffer, take_buffer};
use super::received::{self, LONG_COPY};
use crate::queue::arenas::{find_arena, own_arena, shm_error};
use crate::queue::parker::{GilParker, deadline, without_gil};
use crate::queue::pickling;
use crate::queue::view::View;

/// One end of a connection, without the manners of a particular face.
///
/// A face's class derives from it and from the standard library's class of that name.
#[pyclass(frozen, subclass, weakref, name = "ConnectionBase", module = "weft._native")]
pub(crate) struct ConnectionBase {
    /// None if it is closed.
    end: Mutex<Option<Arc<End>>>,
    readable: AtomicBool,
    writable: AtomicBool,
}

/// Keeps what the two ends of a pair share alive, though no end of it is open here.
#[pyclass(frozen, name = "SharedPart", module = "weft._native")]
pub(crate) struct SharedPart {
    _carrier: Arc<Carrier>,
}

/// The arena's id, the unit in it, its generation, and which side this is.
type Place = (u64, u32, u64, usize);

fn closed() -> PyErr {
    PyOSError::new_err("handle is closed")
}

impl ConnectionBase {
    #[inline]
    fn end(&self) -> PyResult<Arc<End>> {
        self.end.lock().clone().ok_or_else(closed)
    }

    /// The descriptor's number, for what only waits for it.
    pub(super) fn number(&self) -> PyResult<i32> {
        Ok(self.end()?.number())
    }

    fn to_read(&self) -> PyResult<Arc<End>> {
        let end = self.end()?;
        if !self.readable.load(Ordering::Relaxed) {
            return Err(PyOSError::new_err("connection is write-only"));
        }
        Ok(end)
    }

    fn to_write(&self) -> PyResult<Arc<End>> {
        let end = self.end()?;
        if !self.writable.load(Ordering::Relaxed) {
            return Err(PyOSError::new_err("connection is read-only"));
        }
        Ok(end)
    }

    fn set(&self, end: End, readable: bool, writable: bool) {
        self.readable.store(readable, Ordering::Relaxed);
        self.writable.store(writable, Ordering::Relaxed);
        let before = self.end.lock().replace(Arc::new(end));
        // A second __init__ leaves the first descriptor alone, as in the standard library.
        if let Some(before) = before {
            before.release();
        }
    }

    fn transmit(py: Python<'_>, end: &End, parts: &[&[u8]]) -> Result<(), PipeError<PyErr>> {
        let mut parker = GilParker::new(py);
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let Some(mut reserved) = end.reserve(length, &mut parker)? else {
            return end.send(parts, &mut parker);
        };
        let mut copy = || {
            let mut place = reserved.memory();
            for part in parts {
                let (here, rest) = place.split_at_mut(part.len());
                here.copy_from_slice(part);
                place = rest;
            }
        };
        if length >= LONG_COPY {
            without_gil(py, copy);
        } else {
            copy();
        }
        end.post(reserved, &mut parker)
    }

    /// Receives a message, and makes what is asked for of it.
    fn receive_with<'py, T>(
        &self,
        py: Python<'py>,
        most: Option<u64>,
        use_of: impl FnOnce(Body<'_, 'py>) -> PyResult<T>,
    ) -> PyResult<T> {
        let end = self.to_read()?;
        let mut buffer = take_buffer();
        let mut parker = GilParker::new(py);
        let outcome = match end.receive(&mut buffer, most, &mut parker) {
            Ok(Incoming::Short(start)) => use_of(Body::Bytes(&buffer[start..])),
            Ok(Incoming::Span(span)) => use_of(Body::Span(span)),
            Ok(Incoming::Long(frame)) => {
                received::read_all(py, frame).and_then(|all| use_of(Body::Object(all)))
            }
            Err(PipeError::BadLength) => Err(self.bad_length()),
            Err(error) => Err(pipe_error(py, error)),
        };
        keep_buffer(buffer);
        outcome
    }

    /// Nobody knows where the next message begins: it cannot be received from any more.
    #[cold]
    fn bad_length(&self) -> PyErr {
        if self.writable.load(Ordering::Relaxed) {
            self.readable.store(false, Ordering::Relaxed);
        } else if let Err(error) = self.close() {
            return error;
        }
        PyOSError::new_err("bad message length")
    }
}

/// The body of a message.
enum Body<'a, 'py> {
    Bytes(&'a [u8]),
    Span(weft_shm::Span),
    Object(Bound<'py, PyAny>),
}

/// A part of a buffer, from the arguments of a method.
fn part_of(view: &View, offset: isize, size: Option<isize>) -> PyResult<&[u8]> {
    if !view.is_contiguous() {
        return Err(PyTypeError::new_err("memoryview: casts are restricted to C-contiguous views"));
    }
    let bytes = view.bytes();
    let offset = usize::try_from(offset).map_err(|_| PyValueError::new_err("offset is negative"))?;
    if bytes.len() < offset {
        return Err(PyValueError::new_err("buffer length < offset"));
    }
    let Some(size) = size else { return Ok(&bytes[offset..]) };
    let size = usize::try_from(size).map_err(|_| PyValueError::new_err("size is negative"))?;
    match offset.checked_add(size) {
        Some(end) if end <= bytes.len() => Ok(&bytes[offset..end]),
        _ => Err(PyValueError::new_err("buffer length < offset + size")),
    }
}

#[pymethods]
impl ConnectionBase {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self { end: Mutex::new(None), readable: AtomicBool::new(false), writable: AtomicBool::new(false) }
    }

    /// Become the end of a connection whose descriptor is `handle`, and take it over.
    fn _open(&self, handle: i32, readable: bool, writable: bool) {
        self.set(End::of_descriptor(handle), readable, writable);
    }

    /// Become the end of a pair that `_shared_part` of another process's describes, with the descriptor `handle`.
    fn _attach(
        &self,
        py: Python<'_>,
        handle: i32,
        readable: bool,
        writable: bool,
        place: Place,
    ) -> PyResult<()> {
        let (arena, unit, generation, side) = place;
        // SAFETY: the caller hands the descriptor over.
        let fd = unsafe { OwnedFd::from_raw_fd(handle) };
        let arena = find_arena(py, arena)?;
        let end = End::attach(fd, &arena, Handle { unit, generation }, side).map_err(shm_error)?;
        self.set(end, readable, writable);
        Ok(())
    }

    /// What another process needs beside the descriptor: the place of the shared part; and what keeps it alive on the way. None if it is nothing but a descriptor.
    fn _shared_part(&self) -> PyResult<Option<(Place, SharedPart)>> {
        let end = self.end()?;
        Ok(end.shared().map(|(carrier, side)| {
            let Handle { unit, generation } = carrier.handle();
            let place = (carrier.arena().id(), unit, generation, side);
            (place, SharedPart { _carrier: Arc::clone(carrier) })
        }))
    }

    /// The descriptor, for what only waits for it or passes it on.
    fn _descriptor(&self) -> PyResult<i32> {
        Ok(self.end()?.number())
    }

    /// File descriptor of the connection. It may be waited for, read from and written to.
    fn fileno(&self) -> PyResult<i32> {
        let end = self.end()?;
        end.show();
        Ok(end.number())
    }

    #[getter(_handle)]
    fn get_handle(&self) -> Option<i32> {
        let end = self.end.lock().clone()?;
        end.show();
        Some(end.number())
    }

    /// Another descriptor, or None; the one before is left open.
    #[setter(_handle)]
    fn set_handle(&self, handle: Option<i32>) {
        let before = match handle {
            None => self.end.lock().take(),
            Some(handle) => self.end.lock().replace(Arc::new(End::of_descriptor(handle))),
        };
        if let Some(before) = before {
            before.release();
        }
    }

    #[getter(_readable)]
    fn get_may_read(&self) -> bool {
        self.readable.load(Ordering::Relaxed)
    }

    #[setter(_readable)]
    fn set_may_read(&self, value: bool) {
        self.readable.store(value, Ordering::Relaxed);
    }

    #[getter(_writable)]
    fn get_may_write(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    #[setter(_writable)]
    fn set_may_write(&self, value: bool) {
        self.writable.store(value, Ordering::Relaxed);
    }

    /// True if the connection is closed
    #[getter]
    fn closed(&self) -> bool {
        self.end.lock().is_none()
    }

    /// True if the connection is readable
    #[getter]
    fn readable(&self) -> bool {
        self.readable.load(Ordering::Relaxed)
    }

    /// True if the connection is writable
    #[getter]
    fn writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Close the connection in this process. A thread that is using it raises OSError soon.
    fn close(&self) -> PyResult<()> {
        let end = self.end.lock().take();
        end.map_or(Ok(()), |end| end.close().map_err(system_error))
    }

    /// Send a (picklable) object.
    fn send(&self, py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let end = self.to_write()?;
        let pickle = pickles::dump(obj, take_buffer())
            .map_err(|error| pickling::refused(obj, error, "cannot send {}, through a connection", "obj"))?;
        let outcome = Self::transmit(py, &end, &[&pickle.head, pickle.payload, pickle.tail]);
        keep_buffer(pickle.head);
        outcome.map_err(|error| pipe_error(py, error))
    }

    /// Send the bytes of a bytes-like object, or of a part of it.
    #[pyo3(signature = (buf, offset = 0, size = None))]
    fn send_bytes(
        &self,
        py: Python<'_>,
        buf: &Bound<'_, PyAny>,
        offset: isize,
        size: Option<isize>,
    ) -> PyResult<()> {
        let end = self.to_write()?;
        let outcome = if let Ok(bytes) = buf.cast_exact::<PyBytes>()
            && offset == 0
            && size.is_none()
        {
            Self::transmit(py, &end, &[bytes.as_bytes()])
        } else {
            // What has no buffer, the interpreter says in its own words.
            let view = View::of(buf).or_else(|error| PyMemoryView::from(buf).and(Err(error)))?;
            Self::transmit(py, &end, &[part_of(&view, offset, size)?])
        };
        outcome.map_err(|error| pipe_error(py, error))
    }

    /// Receive a (picklable) object, waiting for it.
    ///
    /// Raises EOFError if the other end is closed and there is nothing more to receive.
    fn recv<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.receive_with(py, None, |body| match body {
            Body::Bytes(bytes) => pickles::load_short(py, bytes),
            Body::Span(span) => received::load_span(py, span),
            Body::Object(bytes) => pickles::load(&bytes),
        })
    }

    /// Receive bytes data as a bytes object, waiting for it.
    ///
    /// Raises EOFError as `recv`, and OSError if the message has more than `maxlength` bytes.
    #[pyo3(signature = (maxlength = None))]
    fn recv_bytes<'py>(&self, py: Python<'py>, maxlength: Option<i64>) -> PyResult<Bound<'py, PyAny>> {
        drop(self.to_read()?);
        let most = match maxlength.map(u64::try_from) {
            None => None,
            Some(Ok(most)) => Some(most),
            Some(Err(_)) => return Err(PyValueError::new_err("negative maxlength")),
        };
        self.receive_with(py, most, |body| match body {
            Body::Bytes(bytes) => Ok(PyBytes::new(py, bytes).into_any()),
            Body::Span(span) => received::copy_span(py, &span),
            Body::Object(bytes) => Ok(bytes),
        })
    }

    /// Receive bytes data into a writeable bytes-like object, from the byte `offset` on, and return their number.
    ///
    /// Raises BufferTooShort, with the message as its argument, if there is no room for it.
    #[pyo3(signature = (buf, offset = 0))]
    fn recv_bytes_into(&self, py: Python<'_>, buf: &Bound<'_, PyAny>, offset: isize) -> PyResult<usize> {
        drop(self.to_read()?);
        let mut room = Room::of(buf)?;
        let offset = usize::try_from(offset).map_err(|_| PyValueError::new_err("negative offset"))?;
        let place = room.bytes();
        let Some(place) = place.get_mut(offset..) else {
            return Err(PyValueError::new_err("offset too large"));
        };
        self.receive_with(py, None, |body| {
            let length = match &body {
                Body::Bytes(bytes) => bytes.len(),
                Body::Span(span) => span.len(),
                Body::Object(bytes) => bytes.cast::<PyBytes>()?.as_bytes().len(),
            };
            let Some(place) = place.get_mut(..length) else {
                let all = match body {
                    Body::Bytes(bytes) => PyBytes::new(py, bytes).into_any(),
                    Body::Span(span) => received::copy_span(py, &span)?,
                    Body::Object(bytes) => bytes,
                };
                let class = py.import("multiprocessing")?.getattr("BufferTooShort")?;
                return Err(PyErr::from_value(class.call1((all,))?));
            };
            match body {
                Body::Bytes(bytes) => place.copy_from_slice(bytes),
                Body::Span(span) => received::copy_span_to(py, &span, place),
                Body::Object(bytes) => place.copy_from_slice(bytes.cast::<PyBytes>()?.as_bytes()),
            }
            Ok(length)
        })
    }

    /// Whether there is anything to receive. Waits for it up to `timeout` seconds; None: for ever.
    #[pyo3(signature = (timeout = Some(0.0)))]
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let end = self.to_read()?;
        let deadline = deadline(timeout.is_none_or(|seconds| seconds > 0.0), timeout);
        end.poll(&mut GilParker::new(py), deadline).map_err(|error| pipe_error(py, error))
    }
}

/// The writable memory of an object with the buffer protocol.
struct Room(ffi::Py_buffer);

impl Room {
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut view = std::mem::MaybeUninit::<ffi::Py_buffer>::uninit();
        // SAFETY: the GIL is held, and the view is filled in if the call succeeds.
        unsafe {
            if ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), ffi::PyBUF_CONTIG) != 0 {
                let error = PyErr::fetch(object.py());
                let refused = PyTypeError::new_err(format!(
                    "recv_bytes_into() argument must be read-write bytes-like object, not {}",
                    object.get_type().name()?
                ));
                refused.set_cause(object.py(), Some(error));
                return Err(refused);
            }
            Ok(Self(view.assume_init()))
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        if self.0.len == 0 {
            return &mut [];
        }
        // SAFETY: the exporter keeps so many writable bytes there until the view is released.
        unsafe { std::slice::from_raw_parts_mut(self.0.buf.cast(), self.0.len as usize) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: filled in by `of`, released once, with the GIL.
        unsafe { ffi::PyBuffer_Release(&raw mut self.0) };
    }
}

/// Two connected instances of `cls`, which derives from ConnectionBase. The first can only receive and the second
/// only send, unless `duplex`.
///
/// Raises OSError if there is no descriptor left, and MemoryError or OSError if there is no shared memory.
#[pyfunction]
pub(super) fn connected_pair<'py>(
    cls: &Bound<'py, PyType>,
    duplex: bool,
) -> PyResult<(Bound<'py, ConnectionBase>, Bound<'py, ConnectionBase>)> {
    let py = cls.py();
    let arena = own_arena(py)?;
    let (one, other) = weft_pipe::pair(&arena).map_err(|error| pipe_error(py, error))?;
    let new = || -> PyResult<Bound<'py, ConnectionBase>> {
        Ok(cls.call_method1(pyo3::intern!(py, "__new__"), (cls,))?.cast_into::<ConnectionBase>()?)
    };
    let (first, second) = (new()?, new()?);
    first.get().set(one, true, duplex);
    second.get().set(other, duplex, true);
    Ok((first, second))
}
