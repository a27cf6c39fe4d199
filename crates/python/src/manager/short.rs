//! Calls and answers that fit into one line of the processor's cache.
//!
//! ```text
//! call      words: identity of the object (8 bytes), nodes of the arguments
//!           what: number of the method (8 bits), number of arguments (8 bits)
//! answer    words: node of what the method returned
//! node      tag (1 byte), then
//!   None, True, False    nothing
//!   BYTE, INT, FLOAT     1 byte, 8, 8
//!   STR                  length (1), and the bytes
//! ```

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString};
use weft_manager::{SHORT, Short};

use crate::queue::codec::damaged;

/// The most arguments of a short call.
pub(super) const MOST: usize = 3;

const SIZE: usize = 8 * SHORT;

const NONE: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const INT: u8 = 4;
const FLOAT: u8 = 5;
const STR: u8 = 6;

/// The words of a call. `None` if they are too few for it, or an argument is nothing plain.
#[inline]
pub(super) fn encode_call(_py: Python<'_>, identity: u64, args: &[*mut PyObject]) -> Option<Short> {
    if args.len() > MOST {
        return None;
    }
    let mut writer = Writer { bytes: [0; SIZE], end: 8 };
    writer.bytes[..8].copy_from_slice(&identity.to_le_bytes());
    // SAFETY: the GIL is held, and the interpreter keeps the arguments of a call alive.
    args.iter().all(|arg| unsafe { writer.node(*arg) }).then(|| writer.words())
}

/// The words of an answer. `None` if they are too few for it, or it is nothing plain.
#[inline]
pub(super) fn encode_answer(value: &Bound<'_, PyAny>) -> Option<Short> {
    let mut writer = Writer { bytes: [0; SIZE], end: 0 };
    // SAFETY: the GIL is held, and the object is alive.
    unsafe { writer.node(value.as_ptr()) }.then(|| writer.words())
}

struct Writer {
    bytes: [u8; SIZE],
    end: usize,
}

impl Writer {
    fn words(&self) -> Short {
        let (words, _) = self.bytes.as_chunks::<8>();
        std::array::from_fn(|index| u64::from_le_bytes(words[index]))
    }

    #[inline]
    fn put(&mut self, tag: u8, bytes: &[u8]) -> bool {
        let (start, end) = (self.end + 1, self.end + 1 + bytes.len());
        let fits = end <= SIZE;
        if fits {
            self.bytes[self.end] = tag;
            self.bytes[start..end].copy_from_slice(bytes);
            self.end = end;
        }
        fits
    }

    /// # Safety
    ///
    /// The GIL is held, and the pointer is to a living object.
    #[inline]
    unsafe fn node(&mut self, object: *mut PyObject) -> bool {
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
                let text = std::slice::from_raw_parts(start.cast::<u8>(), length as usize);
                text.len() < SIZE && self.put(STR, &[text.len() as u8]) && {
                    let (start, end) = (self.end, self.end + text.len());
                    let fits = end <= SIZE;
                    if fits {
                        self.bytes[start..end].copy_from_slice(text);
                        self.end = end;
                    }
                    fits
                }
            } else if type_of == &raw mut ffi::PyLong_Type {
                let mut overflow = 0;
                let value = ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow);
                overflow == 0
                    && match i8::try_from(value) {
                        Ok(byte) => self.put(BYTE, &byte.to_le_bytes()),
                        Err(_) => self.put(INT, &value.to_le_bytes()),
                    }
            } else if type_of == &raw mut ffi::PyFloat_Type {
                self.put(FLOAT, &ffi::PyFloat_AsDouble(object).to_le_bytes())
            } else if object == ffi::Py_None() {
                self.put(NONE, &[])
            } else if object == ffi::Py_True() {
                self.put(TRUE, &[])
            } else if object == ffi::Py_False() {
                self.put(FALSE, &[])
            } else {
                false
            }
        }
    }
}

/// Reads nodes off the words of a message.
pub(super) struct Reader {
    bytes: [u8; SIZE],
    at: usize,
}

impl Reader {
    /// Of a call: behind the identity, which it returns.
    #[inline]
    pub(super) fn of_call(words: &Short) -> (u64, Self) {
        (words[0], Self { at: 8, ..Self::of_answer(words) })
    }

    #[inline]
    pub(super) fn of_answer(words: &Short) -> Self {
        let mut bytes = [0; SIZE];
        let (places, _) = bytes.as_chunks_mut::<8>();
        places.iter_mut().zip(words).for_each(|(place, word)| *place = word.to_le_bytes());
        Self { bytes, at: 0 }
    }

    #[inline]
    fn take(&mut self, length: usize) -> PyResult<&[u8]> {
        let end = self.at + length;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| damaged("a short one is cut short"))?;
        self.at = end;
        Ok(taken)
    }

    fn word(&mut self) -> PyResult<[u8; 8]> {
        Ok(self.take(8)?.try_into().unwrap_or_default())
    }

    /// The next object. Strings are found among `names`, if there are any.
    #[inline]
    pub(super) fn node<'py>(
        &mut self,
        py: Python<'py>,
        names: Option<&mut Names>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self.take(1)?[0] {
            NONE => py.None().into_bound(py),
            TRUE => PyBool::new(py, true).to_owned().into_any(),
            FALSE => PyBool::new(py, false).to_owned().into_any(),
            BYTE => PyInt::new(py, i64::from(self.take(1)?[0].cast_signed())).into_any(),
            INT => PyInt::new(py, i64::from_le_bytes(self.word()?)).into_any(),
            FLOAT => PyFloat::new(py, f64::from_le_bytes(self.word()?)).into_any(),
            STR => {
                let length = self.take(1)?[0];
                let bytes = self.take(length.into())?;
                match names {
                    Some(names) => names.find(py, bytes)?.into_any(),
                    None => text(py, bytes)?.into_any(),
                }
            }
            _ => return Err(damaged("a short one has a tag that is not known")),
        })
    }
}

fn text<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("a string is not UTF-8"))?;
    Ok(PyString::new(py, text))
}

/// Strings that came before: the same one again has its hash, and is found at once by those who compare by identity.
pub(super) struct Names(Vec<Option<Py<PyString>>>);

impl Default for Names {
    fn default() -> Self {
        Self((0..Self::PLACES).map(|_| None).collect())
    }
}

impl Names {
    const PLACES: usize = 256;

    #[inline]
    fn find<'py>(&mut self, py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
        let mut hash = bytes.len() as u64;
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        let place = &mut self.0[(hash >> 32) as usize % Self::PLACES];
        if let Some(known) = place
            && known.bind(py).to_str().is_ok_and(|known| known.as_bytes() == bytes)
        {
            return Ok(known.bind(py).clone());
        }
        let made = text(py, bytes)?;
        *place = Some(made.clone().unbind());
        Ok(made)
    }
}
