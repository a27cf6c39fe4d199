//! Small tuples, lists and dictionaries of plain values, natively.
//!
//! ```text
//! body     nodes of the items, behind the container's own count
//! node     tag, then
//!   None, True, False      nothing
//!   int, float             8 bytes
//!   str, bytes             length in 4 bytes, and the bytes
//!   tuple, list, dict      count of the items in 4 bytes, and their nodes; a dictionary's in pairs
//! ```
//!
//! What pickling would keep is kept: a list or dictionary that occurs twice would arrive as two, so then the pickler has
//! to do it; and so it does for what is deep, long, or anything but the exact types. Encoding runs no Python code, so
//! nothing changes meanwhile.

use std::slice;

use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use weft_shm::queue::LONGEST_BODY;

use super::codec::{damaged, kind, plain};

/// Containers in containers, at most.
pub(super) const DEEPEST: usize = 6;
/// Values in a message, at most: above it the pickler, which remembers strings that come again, is as quick.
pub(super) const MOST_NODES: usize = 128;
/// Lists and dictionaries in a message, at most.
const MOST_CONTAINERS: usize = 16;

/// The kind of message for a container of this type; `None` if it is none.
pub(super) fn kind_of(type_of: *mut PyTypeObject) -> Option<u8> {
    if type_of == &raw mut ffi::PyDict_Type {
        Some(kind::DICT)
    } else if type_of == &raw mut ffi::PyTuple_Type {
        Some(kind::TUPLE)
    } else if type_of == &raw mut ffi::PyList_Type {
        Some(kind::LIST)
    } else {
        None
    }
}

struct Encoder<'a> {
    body: &'a mut Vec<u8>,
    nodes: usize,
    containers: [*mut PyObject; MOST_CONTAINERS],
    seen: usize,
}

/// Encodes a container. False if that is the pickler's business; what was written has to be thrown away then.
pub(super) fn encode(object: &Bound<'_, PyAny>, body: &mut Vec<u8>) -> bool {
    let mut encoder =
        Encoder { body, nodes: 0, containers: [std::ptr::null_mut(); MOST_CONTAINERS], seen: 0 };
    // SAFETY: the GIL is held, the object is alive, and nothing in here runs Python code, which could change it.
    unsafe { encoder.container(object.as_ptr(), 0) }
}

/// Encodes a tuple of `items`, which are alive, with the GIL held. False as in [`encode`].
pub(super) fn encode_items(items: &[*mut PyObject], body: &mut Vec<u8>) -> bool {
    let mut encoder =
        Encoder { body, nodes: 0, containers: [std::ptr::null_mut(); MOST_CONTAINERS], seen: 0 };
    encoder.count(items.len() as ffi::Py_ssize_t);
    // SAFETY: by the contract; nothing in here runs Python code.
    items.iter().all(|item| unsafe { encoder.node(*item, 0) })
}

/// Encodes a key without its tag, which it returns: see [`encode_key`](super::codec::encode_key).
///
/// # Safety
///
/// The GIL is held, and the pointer is to a living object.
pub(super) unsafe fn key(object: *mut PyObject, body: &mut Vec<u8>, depth: usize) -> Option<u8> {
    // SAFETY: by the contract; the type is compared before each call that needs one.
    unsafe {
        let type_of = ffi::Py_TYPE(object);
        if type_of == &raw mut ffi::PyUnicode_Type {
            let mut length = 0;
            let start = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut length);
            if start.is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            body.extend_from_slice(slice::from_raw_parts(start.cast(), length as usize));
            return Some(kind::STR);
        }
        if type_of == &raw mut ffi::PyLong_Type {
            let mut overflow = 0;
            let value = ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow);
            body.extend_from_slice(&value.to_le_bytes());
            return (overflow == 0).then_some(kind::INT);
        }
        if type_of == &raw mut ffi::PyBytes_Type {
            let start = ffi::PyBytes_AsString(object).cast_const().cast();
            body.extend_from_slice(slice::from_raw_parts(start, ffi::PyBytes_Size(object) as usize));
            return Some(kind::BYTES);
        }
        if type_of == &raw mut ffi::PyFloat_Type {
            let value = ffi::PyFloat_AsDouble(object);
            // The bounds are exact as floats; the upper one is no integer of 64 bits itself.
            if value.fract() == 0.0 && (-(2f64.powi(63))..2f64.powi(63)).contains(&value) {
                body.extend_from_slice(&(value as i64).to_le_bytes());
                return Some(kind::INT);
            }
            body.extend_from_slice(&value.to_le_bytes());
            return Some(kind::FLOAT);
        }
        if object == ffi::Py_None() {
            return Some(kind::NONE);
        }
        if object == ffi::Py_True() || object == ffi::Py_False() {
            body.extend_from_slice(&i64::from(object == ffi::Py_True()).to_le_bytes());
            return Some(kind::INT);
        }
        if type_of != &raw mut ffi::PyTuple_Type || depth >= DEEPEST {
            return None;
        }
        let length = ffi::PyTuple_Size(object);
        if length as usize > MOST_NODES {
            return None;
        }
        body.extend_from_slice(&(length as u32).to_le_bytes());
        for position in 0..length {
            let tag = body.len();
            body.push(0);
            let sized = body.len();
            let item = ffi::PyTuple_GetItem(object, position);
            let kind = key(item, body, depth + 1)?;
            body[tag] = kind;
            if matches!(kind, kind::STR | kind::BYTES) {
                let bytes = (body.len() - sized) as u32;
                body.splice(sized..sized, bytes.to_le_bytes());
            }
        }
        Some(kind::TUPLE)
    }
}

impl Encoder<'_> {
    /// # Safety
    ///
    /// The GIL is held, and the pointer is to a living container of one of the three exact types.
    unsafe fn container(&mut self, object: *mut PyObject, depth: usize) -> bool {
        // SAFETY: by the contract; items are borrowed, and stay while the container, which nobody changes.
        unsafe {
            let type_of = ffi::Py_TYPE(object);
            let is_tuple = type_of == &raw mut ffi::PyTuple_Type;
            if depth >= DEEPEST || !(is_tuple || self.is_new(object)) {
                return false;
            }
            if type_of == &raw mut ffi::PyDict_Type {
                let (mut position, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
                self.count(ffi::PyDict_Size(object));
                while ffi::PyDict_Next(object, &raw mut position, &raw mut key, &raw mut value) != 0 {
                    if !(self.node(key, depth) && self.node(value, depth)) {
                        return false;
                    }
                }
                return true;
            }
            let length = if is_tuple { ffi::PyTuple_Size(object) } else { ffi::PyList_Size(object) };
            if length as usize > MOST_NODES {
                return false;
            }
            self.count(length);
            (0..length).all(|position| {
                let item = if is_tuple {
                    ffi::PyTuple_GetItem(object, position)
                } else {
                    ffi::PyList_GetItem(object, position)
                };
                self.node(item, depth)
            })
        }
    }

    /// Notes a list or dictionary. False if it was met before, or there are too many.
    fn is_new(&mut self, object: *mut PyObject) -> bool {
        if self.seen == MOST_CONTAINERS || self.containers[..self.seen].contains(&object) {
            return false;
        }
        self.containers[self.seen] = object;
        self.seen += 1;
        true
    }

    fn count(&mut self, count: ffi::Py_ssize_t) {
        self.body.extend_from_slice(&(count as u32).to_le_bytes());
    }

    /// # Safety
    ///
    /// The GIL is held, and the pointer is to a living object.
    #[inline]
    unsafe fn node(&mut self, object: *mut PyObject, depth: usize) -> bool {
        self.nodes += 1;
        if self.nodes > MOST_NODES || self.body.len() > LONGEST_BODY {
            return false;
        }
        // SAFETY: by the contract; the type is compared before each call that needs one.
        unsafe {
            let type_of = ffi::Py_TYPE(object);
            if type_of == &raw mut ffi::PyUnicode_Type {
                let mut length = 0;
                let start = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut length);
                if start.is_null() {
                    ffi::PyErr_Clear(); // lone surrogates
                    return false;
                }
                self.bytes(kind::STR, slice::from_raw_parts(start.cast(), length as usize));
            } else if type_of == &raw mut ffi::PyLong_Type {
                let mut overflow = 0;
                let value = ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow);
                if overflow != 0 {
                    return false;
                }
                self.word(kind::INT, value.to_le_bytes());
            } else if type_of == &raw mut ffi::PyFloat_Type {
                self.word(kind::FLOAT, ffi::PyFloat_AsDouble(object).to_le_bytes());
            } else if type_of == &raw mut ffi::PyBytes_Type {
                let start = ffi::PyBytes_AsString(object).cast_const().cast();
                self.bytes(kind::BYTES, slice::from_raw_parts(start, ffi::PyBytes_Size(object) as usize));
            } else if object == ffi::Py_None() {
                self.body.push(kind::NONE);
            } else if object == ffi::Py_True() {
                self.body.push(kind::TRUE);
            } else if object == ffi::Py_False() {
                self.body.push(kind::FALSE);
            } else if let Some(kind) = kind_of(type_of) {
                self.body.push(kind);
                return self.container(object, depth + 1);
            } else {
                return false;
            }
        }
        self.body.len() <= LONGEST_BODY
    }

    fn word(&mut self, kind: u8, word: [u8; 8]) {
        self.body.push(kind);
        self.body.extend_from_slice(&word);
    }

    fn bytes(&mut self, kind: u8, bytes: &[u8]) {
        self.body.push(kind);
        self.body.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.body.extend_from_slice(bytes);
    }
}

/// The container that the body of a message of this kind stands for.
pub(super) fn decode<'py>(py: Python<'py>, kind: u8, body: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let mut decoder = Decoder { py, rest: body };
    let value = decoder.container(kind, 0)?;
    if decoder.rest.is_empty() { Ok(value) } else { Err(damaged("something follows its last value")) }
}

struct Decoder<'a, 'py> {
    py: Python<'py>,
    rest: &'a [u8],
}

impl<'a, 'py> Decoder<'a, 'py> {
    fn take(&mut self, length: usize) -> PyResult<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| damaged("it is cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self) -> PyResult<usize> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    }

    fn container(&mut self, kind: u8, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let count = self.number()?;
        if depth >= DEEPEST || count > MOST_NODES {
            return Err(damaged("it is deeper or longer than can be"));
        }
        match kind {
            kind::DICT => {
                let dict = PyDict::new(self.py);
                for _ in 0..count {
                    let key = self.node(depth)?;
                    dict.set_item(key, self.node(depth)?)?;
                }
                Ok(dict.into_any())
            }
            kind::LIST => {
                let list = PyList::empty(self.py);
                for _ in 0..count {
                    list.append(self.node(depth)?)?;
                }
                Ok(list.into_any())
            }
            _ => {
                let items: Vec<_> = (0..count).map(|_| self.node(depth)).collect::<PyResult<_>>()?;
                Ok(PyTuple::new(self.py, items)?.into_any())
            }
        }
    }

    fn node(&mut self, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let tag = self.take(1)?[0];
        let length = match tag {
            kind::NONE | kind::TRUE | kind::FALSE => 0,
            kind::INT | kind::FLOAT => 8,
            kind::STR | kind::BYTES => self.number()?,
            kind::TUPLE | kind::LIST | kind::DICT => return self.container(tag, depth + 1),
            _ => return Err(damaged("a value's tag is not known")),
        };
        plain(self.py, tag, self.take(length)?)
    }
}
