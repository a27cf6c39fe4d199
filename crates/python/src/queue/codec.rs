//! How Python objects become messages.
//!
//! None, booleans, integers of 64 bits, floats, strings, bytes, bytearrays, memoryviews, and small tuples, lists and
//! dictionaries of the first six (see [`tree`]), and long ones of short values (see [`columns`]) are encoded here; everything else is pickled. Only exact types
//! are: an instance of a subclass is pickled. A message's kind says what its body is; large bodies travel in the first
//! span instead, without being copied twice.
//!
//! The bytes are untrusted as far as memory goes: every length is checked. What a pickle does is its sender's doing.

use std::sync::Arc;

use pyo3::exceptions::{PyMemoryError, PyOSError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyFloat, PyInt, PyList, PyString, PyTuple};
use weft_shm::queue::LONGEST_BODY;
use weft_shm::robust::RobustMutex;
use weft_shm::{Arena, Span};

use super::arenas::shm_error;
use super::buffer::SharedBuffer;
use super::columns;
use super::parker::without_gil;
use super::pickling;
use super::tree;
use super::view::View;

pub(crate) type Spans = Vec<Span<RobustMutex>>;

/// Kinds of messages, and tags of the nodes of a tree.
pub(crate) mod kind {
    pub(in crate::queue) const PICKLE: u8 = 0;
    pub(in crate::queue) const NONE: u8 = 1;
    pub(in crate::queue) const TRUE: u8 = 2;
    pub(in crate::queue) const FALSE: u8 = 3;
    pub(crate) const INT: u8 = 4;
    pub(in crate::queue) const FLOAT: u8 = 5;
    pub(crate) const STR: u8 = 6;
    pub(in crate::queue) const BYTES: u8 = 7;
    pub(crate) const TUPLE: u8 = 8;
    pub(in crate::queue) const BYTEARRAY: u8 = 9;
    pub(in crate::queue) const MEMORYVIEW: u8 = 10;
    pub(in crate::queue) const LIST: u8 = 11;
    pub(in crate::queue) const DICT: u8 = 12;
    pub(crate) const COLUMNS: u8 = 13;
    /// Set in the kind if the body is the first span.
    pub(in crate::queue) const IN_SPAN: u8 = 0x40;
}

/// Why an object was not encoded.
pub(crate) enum Failure {
    /// There is no shared memory for it.
    Memory(PyErr),
    /// The pickler, or the object's reduction, raised this.
    Pickle(PyErr),
}

impl From<PyErr> for Failure {
    /// What is not said to be the pickler's is a lack of memory.
    fn from(error: PyErr) -> Self {
        Self::Memory(error)
    }
}

/// Copies of at least this size are made without the GIL.
const LONG_COPY: usize = 256 << 10;

/// Encodes `object` into `body` and `spans`, and says what kind of message that is. `arena` is the queue's, which need
/// not be the one where this process makes its own.
pub(crate) fn encode(
    object: &Bound<'_, PyAny>,
    arena: &Arc<Arena>,
    body: &mut Vec<u8>,
    spans: &mut Spans,
) -> Result<u8, Failure> {
    if let Some(kind) = scalar(object, arena, body, spans)? {
        return Ok(kind);
    }
    let type_of = object.get_type_ptr();
    if let Some(kind) = tree::kind_of(type_of) {
        if tree::encode(object, body) {
            return Ok(kind);
        }
        body.clear();
        if columns::encode(object, body) {
            return if body.len() <= LONGEST_BODY {
                Ok(kind::COLUMNS)
            } else {
                in_span(object.py(), arena, kind::COLUMNS, body, spans).map_err(Failure::Memory)
            };
        }
    } else if type_of == &raw mut ffi::PyByteArray_Type {
        // SAFETY: a bytearray; the copy into body or span is over before anybody can resize it, unless the GIL
        // is given up, for which `bytes_of` holds an export of the buffer.
        let view = View::of(object)?;
        return Ok(payload(object.py(), arena, kind::BYTEARRAY, view.bytes(), body, spans)?);
    } else if type_of == &raw mut ffi::PyMemoryView_Type
        && let Some(kind) = memoryview(object, arena, body, spans)?
    {
        return Ok(kind);
    }
    pickling::dump(object, arena, body, spans)?;
    if body.len() > LONGEST_BODY {
        return Ok(in_span(object.py(), arena, kind::PICKLE, body, spans)?);
    }
    Ok(kind::PICKLE)
}

/// Puts a body that is too long for a record into a span, in front of the others.
fn in_span(
    py: Python<'_>,
    arena: &Arc<Arena>,
    kind: u8,
    body: &mut Vec<u8>,
    spans: &mut Spans,
) -> PyResult<u8> {
    let span = filled(py, arena, body, Arrives::Copied)?;
    spans.insert(0, span);
    body.clear();
    Ok(kind | kind::IN_SPAN)
}

/// Encodes `object` into `body` alone, however large it is, and says what kind of message that is. `arena` is any.
pub(crate) fn encode_whole(
    object: &Bound<'_, PyAny>,
    arena: &Arc<Arena>,
    body: &mut Vec<u8>,
) -> PyResult<u8> {
    let type_of = object.get_type_ptr();
    if type_of == &raw mut ffi::PyUnicode_Type {
        if let Ok(text) = object.cast_exact::<PyString>()?.to_str() {
            body.extend_from_slice(text.as_bytes());
            return Ok(kind::STR);
        }
    } else if let Ok(bytes) = object.cast_exact::<PyBytes>() {
        body.extend_from_slice(bytes.as_bytes());
        return Ok(kind::BYTES);
    } else if let Ok(bytes) = object.cast_exact::<PyByteArray>() {
        let view = View::of(bytes)?;
        body.extend_from_slice(view.bytes());
        return Ok(kind::BYTEARRAY);
    } else if let Some(kind) = scalar(object, arena, body, &mut Spans::new())? {
        return Ok(kind);
    } else if let Some(kind) = tree::kind_of(type_of) {
        if tree::encode(object, body) {
            return Ok(kind);
        }
        body.clear();
        if columns::encode(object, body) {
            return Ok(kind::COLUMNS);
        }
    }
    pickling::dump_whole(object, body).map_err(|failure| match failure {
        Failure::Memory(error) | Failure::Pickle(error) => error,
    })?;
    Ok(kind::PICKLE)
}

/// How many items a tuple in a key may have, and how many levels of tuples there may be.
pub(crate) const MOST_IN_KEY: (usize, usize) = (tree::MOST_NODES, tree::DEEPEST);

/// Encodes a key, so that keys that are equal in Python have equal bytes: None, integers of 64 bits, floats, strings,
/// bytes, and tuples of these. `None` for anything else.
pub(crate) fn encode_key(object: &Bound<'_, PyAny>, body: &mut Vec<u8>) -> Option<u8> {
    // SAFETY: the GIL is held, and the object is alive.
    unsafe { tree::key(object.as_ptr(), body, 0) }
}

/// Encodes `items` as a tuple of them; its kind is [`kind::TUPLE`]. False if that is the pickler's business; what was
/// written has to be thrown away then.
pub(crate) fn encode_arguments(_py: Python<'_>, items: &[*mut ffi::PyObject], body: &mut Vec<u8>) -> bool {
    tree::encode_items(items, body)
}

/// What is encoded in eight bytes at most: the kind of message, the bytes, and how many of them count.
#[inline]
pub(crate) fn small(object: &Bound<'_, PyAny>) -> Option<(u8, [u8; 8], usize)> {
    let pointer = object.as_ptr();
    let type_of = object.get_type_ptr();
    // SAFETY: the type was compared before each call that needs one; the GIL is held.
    unsafe {
        if type_of == &raw mut ffi::PyLong_Type {
            let mut overflow = 0;
            let value = ffi::PyLong_AsLongLongAndOverflow(pointer, &raw mut overflow);
            (overflow == 0).then(|| (kind::INT, value.to_le_bytes(), 8))
        } else if type_of == &raw mut ffi::PyFloat_Type {
            Some((kind::FLOAT, ffi::PyFloat_AsDouble(pointer).to_le_bytes(), 8))
        } else if pointer == ffi::Py_None() {
            Some((kind::NONE, [0; 8], 0))
        } else if pointer == ffi::Py_True() {
            Some((kind::TRUE, [0; 8], 0))
        } else if pointer == ffi::Py_False() {
            Some((kind::FALSE, [0; 8], 0))
        } else {
            None
        }
    }
}

/// Encodes what needs no look inside; `None` if it is something else.
fn scalar(
    object: &Bound<'_, PyAny>,
    arena: &Arc<Arena>,
    body: &mut Vec<u8>,
    spans: &mut Spans,
) -> PyResult<Option<u8>> {
    if let Some((kind, bytes, length)) = small(object) {
        body.extend_from_slice(&bytes[..length]);
        return Ok(Some(kind));
    }
    let py = object.py();
    let pointer = object.as_ptr();
    let type_of = object.get_type_ptr();
    // SAFETY: the type was compared before each call that needs one; the GIL is held.
    unsafe {
        if type_of == &raw mut ffi::PyUnicode_Type {
            let mut length = 0;
            let start = ffi::PyUnicode_AsUTF8AndSize(pointer, &raw mut length);
            if start.is_null() {
                // Lone surrogates; the pickler knows what to do.
                ffi::PyErr_Clear();
                return Ok(None);
            }
            let bytes = std::slice::from_raw_parts(start.cast(), length as usize);
            payload(py, arena, kind::STR, bytes, body, spans).map(Some)
        } else if type_of == &raw mut ffi::PyBytes_Type {
            let start = ffi::PyBytes_AsString(pointer).cast_const().cast();
            let bytes = std::slice::from_raw_parts(start, ffi::PyBytes_Size(pointer) as usize);
            payload(py, arena, kind::BYTES, bytes, body, spans).map(Some)
        } else {
            Ok(None)
        }
    }
}

/// Puts bytes into the body, or into a span if they are many.
fn payload(
    py: Python<'_>,
    arena: &Arc<Arena>,
    kind: u8,
    bytes: &[u8],
    body: &mut Vec<u8>,
    spans: &mut Spans,
) -> PyResult<u8> {
    if bytes.len() <= LONGEST_BODY {
        body.extend_from_slice(bytes);
        return Ok(kind);
    }
    spans.push(filled(py, arena, bytes, Arrives::Copied)?);
    Ok(kind | kind::IN_SPAN)
}

/// What becomes of a span's bytes at the receiver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrives {
    /// They are the object's own memory.
    InPlace,
    /// They are copied once more, and best found in a cache then.
    Copied,
}

/// A new span of `arena` with a copy of `bytes`, which stay as they are meanwhile.
pub(super) fn filled(
    py: Python<'_>,
    arena: &Arc<Arena>,
    bytes: &[u8],
    arrives: Arrives,
) -> PyResult<Span<RobustMutex>> {
    let copy = || {
        let span = Span::new(arena, bytes.len())?;
        // SAFETY: the span is this function's alone, has this length, and begins at a page.
        unsafe {
            if bytes.len() >= LONG_COPY && arrives == Arrives::InPlace {
                weft_shm::copy_for_another(bytes, span.as_ptr());
            } else {
                span.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
        }
        Ok(span)
    };
    if bytes.len() >= LONG_COPY { without_gil(py, copy) } else { copy() }.map_err(shm_error)
}

/// What the receiver can give a view of its buffer as format, and an empty one.
const FORMATS: &str = "?cbBhHiIlLqQnNfdP";
const EMPTY_FORMATS: &str = "bBhHiIlLqQfd";

/// Encodes a memoryview of plain items in one piece, with its format and shape. `None` if it is something else, or one that
/// the receiver could not make again.
fn memoryview(
    object: &Bound<'_, PyAny>,
    arena: &Arc<Arena>,
    body: &mut Vec<u8>,
    spans: &mut Spans,
) -> PyResult<Option<u8>> {
    let view = View::of(object)?;
    let format: String = object.getattr("format")?.extract()?;
    let shape: Vec<u64> = object.getattr("shape")?.extract()?;
    let formats = match shape[..] {
        [0] => EMPTY_FORMATS,
        _ if shape.contains(&0) => return Ok(None),
        _ => FORMATS,
    };
    if !view.is_contiguous() || format.len() != 1 || !formats.contains(&format) {
        return Ok(None);
    }
    body.push(format.as_bytes()[0]);
    body.push(shape.len() as u8);
    for extent in shape {
        body.extend_from_slice(&extent.to_le_bytes());
    }
    spans.push(filled(object.py(), arena, view.bytes(), Arrives::InPlace)?);
    Ok(Some(kind::MEMORYVIEW))
}

pub(crate) fn damaged(what: &str) -> PyErr {
    PyOSError::new_err(format!("a message in shared memory is damaged: {what}"))
}

/// A message that was got, and is not an object yet.
pub(crate) struct Message {
    kind: u8,
    body: Vec<u8>,
    spans: Spans,
    pickled: Option<Pickled>,
}

impl Message {
    /// A message that nobody has looked into yet.
    pub(crate) const fn new(kind: u8, body: Vec<u8>, spans: Spans) -> Self {
        Self { kind, body, spans, pickled: None }
    }
}

/// Whether a message is small and plain, so that decoding it runs no Python code.
#[inline]
pub(crate) fn is_plain(kind: u8, spans: &Spans) -> bool {
    kind != kind::PICKLE && spans.is_empty()
}

/// The body of a message of long containers; `None` if it is of another kind.
pub(crate) fn columns_of<'a>(kind: u8, body: &'a [u8], spans: &'a Spans) -> Option<&'a [u8]> {
    match (kind & !kind::IN_SPAN == kind::COLUMNS, kind & kind::IN_SPAN != 0, spans.first()) {
        (true, false, _) => Some(body),
        // SAFETY: a span is its holder's alone and has this length; it stays in `spans` meanwhile.
        (true, true, Some(first)) => Some(unsafe { std::slice::from_raw_parts(first.as_ptr(), first.len()) }),
        _ => None,
    }
}

/// Whether decoding a message of this kind may run anybody's code.
#[inline]
pub(crate) fn is_pickle(kind: u8) -> bool {
    kind & !kind::IN_SPAN == kind::PICKLE
}

/// The pickle of a message, and its buffers, as Python objects.
struct Pickled {
    data: Py<PyAny>,
    buffers: Option<Py<PyList>>,
}

/// The object that the message stands for. If there is no memory for it, the message comes back for another attempt.
pub(crate) fn decode<'py>(
    py: Python<'py>,
    kind: u8,
    body: &[u8],
    spans: &mut Spans,
) -> Result<Bound<'py, PyAny>, (PyErr, Option<Box<Message>>)> {
    let mut pickled = None;
    open(py, kind, body, spans, &mut pickled).map_err(|error| {
        let again = error.is_instance_of::<PyMemoryError>(py);
        let spans = std::mem::take(spans);
        let message = again.then(|| Box::new(Message { kind, body: body.to_vec(), spans, pickled }));
        (error, message)
    })
}

/// As [`decode`], for a message that came back.
pub(crate) fn decode_again<'py>(
    py: Python<'py>,
    message: Message,
) -> Result<Bound<'py, PyAny>, (PyErr, Option<Box<Message>>)> {
    let Message { kind, body, mut spans, mut pickled } = message;
    open(py, kind, &body, &mut spans, &mut pickled).map_err(|error| {
        let again = error.is_instance_of::<PyMemoryError>(py);
        (error, again.then(|| Box::new(Message { kind, body, spans, pickled })))
    })
}

fn open<'py>(
    py: Python<'py>,
    kind: u8,
    body: &[u8],
    spans: &mut Spans,
    pickled: &mut Option<Pickled>,
) -> PyResult<Bound<'py, PyAny>> {
    let in_span = kind & kind::IN_SPAN != 0;
    let kind = kind & !kind::IN_SPAN;
    if kind == kind::PICKLE {
        if pickled.is_none() {
            let data = match in_span {
                true if spans.is_empty() => return Err(damaged("it has no buffer")),
                true => SharedBuffer::wrap(py, spans.remove(0))?,
                false => PyBytes::new(py, body).into_any(),
            };
            let buffers = buffers(py, std::mem::take(spans))?;
            *pickled = Some(Pickled { data: data.unbind(), buffers: buffers.map(Bound::unbind) });
        }
        let Some(Pickled { data, buffers }) = pickled else { return Err(damaged("it has no pickle")) };
        return pickling::load(data.bind(py), buffers.as_ref().map(|buffers| buffers.bind(py)));
    }
    let bytes = match (in_span, spans.first()) {
        (false, _) => body,
        // SAFETY: a span is its holder's alone and has this length; it stays in `spans` meanwhile.
        (true, Some(first)) => unsafe { std::slice::from_raw_parts(first.as_ptr(), first.len()) },
        (true, None) => return Err(damaged("it has no buffer")),
    };
    match kind {
        kind::TUPLE | kind::LIST | kind::DICT => tree::decode(py, kind, bytes),
        kind::COLUMNS => columns::decode(py, bytes),
        kind::BYTEARRAY => bytearray(py, bytes),
        kind::BYTES if in_span => long_copy(py, bytes),
        kind::MEMORYVIEW => view_of(py, body, spans),
        kind => plain(py, kind, bytes),
    }
}

/// A bytearray, or MemoryError.
pub(super) fn bytearray<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let filled = PyByteArray::new_with(py, bytes.len(), |place| {
        place.copy_from_slice(bytes);
        Ok(())
    });
    filled.map(Bound::into_any)
}

/// Bytes, copied without the GIL if they are many.
fn long_copy<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    PyBytes::new_with(py, bytes.len(), |place| {
        if bytes.len() >= LONG_COPY {
            without_gil(py, || place.copy_from_slice(bytes));
        } else {
            place.copy_from_slice(bytes);
        }
        Ok(())
    })
    .map(Bound::into_any)
}

/// What small messages of the most common kinds stand for; `None` for others.
#[inline]
pub(crate) fn decode_plain<'py>(
    py: Python<'py>,
    kind: u8,
    body: &[u8],
) -> Option<PyResult<Bound<'py, PyAny>>> {
    matches!(kind, kind::NONE | kind::TRUE | kind::FALSE | kind::INT | kind::FLOAT | kind::STR | kind::BYTES)
        .then(|| plain(py, kind, body))
}

pub(super) fn plain<'py>(py: Python<'py>, kind: u8, body: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let word = || body.try_into().map_err(|_| damaged("a number has another length"));
    Ok(match kind {
        kind::NONE => py.None().into_bound(py),
        kind::TRUE | kind::FALSE => pyo3::types::PyBool::new(py, kind == kind::TRUE).to_owned().into_any(),
        kind::INT => PyInt::new(py, i64::from_le_bytes(word()?)).into_any(),
        kind::FLOAT => PyFloat::new(py, f64::from_le_bytes(word()?)).into_any(),
        kind::STR => {
            let text = std::str::from_utf8(body).map_err(|_| damaged("a string is not UTF-8"))?;
            if text.len() <= LONGEST_BODY {
                PyString::new(py, text).into_any()
            } else {
                PyString::from_bytes(py, body)?.into_any() // raises if there is no memory for it
            }
        }
        kind::BYTES => PyBytes::new(py, body).into_any(),
        _ => return Err(damaged("its kind is not known")),
    })
}

fn view_of<'py>(py: Python<'py>, body: &[u8], spans: &mut Spans) -> PyResult<Bound<'py, PyAny>> {
    let ([format, extents], rest) = body.split_first_chunk().ok_or_else(|| damaged("a view is cut short"))?;
    let shape: Vec<u64> =
        rest.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
    if spans.len() != 1 || shape.len() != usize::from(*extents) {
        return Err(damaged("a view does not fit its buffer"));
    }
    let (of, format) = (py.get_type::<pyo3::types::PyMemoryView>(), char::from(*format).to_string());
    if shape == [0] {
        // A view without items cannot be cast.
        spans.clear();
        return of.call1((py.import("array")?.getattr("array")?.call1((format,))?,));
    }
    let view = of.call1((SharedBuffer::wrap(py, spans.remove(0))?,))?;
    view.call_method1("cast", (format, PyTuple::new(py, shape)?))
}

fn buffers(py: Python<'_>, spans: Spans) -> PyResult<Option<Bound<'_, PyList>>> {
    if spans.is_empty() {
        return Ok(None);
    }
    let list = PyList::empty(py);
    for span in spans {
        list.append(SharedBuffer::wrap(py, span)?)?;
    }
    Ok(Some(list))
}
