//! Containers from columns.

use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::{AGAIN, DICT, FEW, FLOATS, INTEGERS, LIST, MIXED, ROWS, SAME, TEXTS, TUPLE};
use crate::queue::codec::{damaged, kind, plain};

/// The container that was encoded.
pub(in crate::queue) fn decode<'py>(py: Python<'py>, body: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let mut reader = Reader { py, rest: body };
    let object = reader.body(true)?;
    reader.end().map(|()| object)
}

/// If the body is of a tuple of one dictionary, the arguments of an `update`, sets all of its keys in `dict`. False if it is
/// something else; nothing was done then.
pub(crate) fn merge(py: Python<'_>, body: &[u8], dict: &Bound<'_, PyDict>) -> PyResult<bool> {
    let [FEW, 1, 1, DICT, rest @ ..] = body else { return Ok(false) };
    let mut reader = Reader { py, rest };
    reader.fill(dict)?;
    reader.end().map(|()| true)
}

struct Reader<'a, 'py> {
    py: Python<'py>,
    rest: &'a [u8],
}

/// A column, as far as it was not read yet.
enum Column<'a, 'py> {
    Same(Bound<'py, PyAny>),
    Integers(&'a [u8], usize),
    Floats(&'a [u8]),
    Texts { lengths: &'a [u8], texts: Reader<'a, 'py>, known: Known<'py> },
    Mixed { nodes: Reader<'a, 'py>, known: Known<'py> },
}

/// The strings of a column so far, if some come again.
type Known<'py> = Option<Vec<Bound<'py, PyAny>>>;

fn remember<'py>(known: &mut Known<'py>, object: Bound<'py, PyAny>) -> Bound<'py, PyAny> {
    if let Some(known) = known {
        known.push(object.clone());
    }
    object
}

fn recall<'py>(known: &Known<'py>, number: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let number = number.try_into().map(u32::from_le_bytes).unwrap_or(u32::MAX);
    let object = known.as_ref().and_then(|known| known.get(number as usize));
    object.cloned().ok_or_else(|| damaged("a string comes again that was not there"))
}

impl<'a, 'py> Reader<'a, 'py> {
    #[inline]
    fn take(&mut self, length: usize) -> PyResult<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| damaged("it is cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> PyResult<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn length(&mut self) -> PyResult<usize> {
        let word = self.take(8)?.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX);
        // No container has more items than there is memory.
        usize::try_from(word)
            .ok()
            .filter(|length| *length <= isize::MAX as usize / 8)
            .ok_or_else(|| damaged("a length is no length"))
    }

    fn end(&self) -> PyResult<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(damaged("something follows its last value")) }
    }

    fn body(&mut self, is_outermost: bool) -> PyResult<Bound<'py, PyAny>> {
        match self.byte()? {
            shape @ (LIST | TUPLE) => {
                let count = self.length()?;
                let mut column = self.column(count)?;
                self.sequence(shape == TUPLE, count, |_| column.next_item())
            }
            DICT => {
                let dict = PyDict::new(self.py);
                self.fill(&dict)?;
                Ok(dict.into_any())
            }
            ROWS => {
                let (count, width) = (self.length()?, usize::from(self.byte()?));
                let columns = (0..width).map(|_| self.column(count));
                let mut columns = columns.collect::<PyResult<Vec<_>>>()?;
                self.sequence(false, count, |reader| {
                    let mut cells = columns.iter_mut();
                    reader.sequence(true, width, |_| match cells.next() {
                        Some(column) => column.next_item(),
                        None => Err(damaged("a row is too short")),
                    })
                })
            }
            FEW if is_outermost => {
                let count = usize::from(self.byte()?);
                let items = (0..count).map(|_| match self.byte()? {
                    0 => self.node(&mut None),
                    _ => self.body(false),
                });
                let items = items.collect::<PyResult<Vec<_>>>()?;
                Ok(pyo3::types::PyTuple::new(self.py, items)?.into_any())
            }
            _ => Err(damaged("its shape is not known")),
        }
    }

    /// A new tuple or list of what `item` gives.
    fn sequence(
        &self,
        is_tuple: bool,
        count: usize,
        mut item: impl FnMut(&Self) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let length = count as ffi::Py_ssize_t;
        // SAFETY: the GIL is held. The new object is filled before anybody sees it; if it cannot be, it is let go of with
        // the places empty that it has left, which both kinds can be.
        unsafe {
            let made = if is_tuple { ffi::PyTuple_New(length) } else { ffi::PyList_New(length) };
            let object = Bound::from_owned_ptr_or_err(self.py, made)?;
            for index in 0..length {
                let item = item(self)?.into_ptr();
                if is_tuple {
                    ffi::PyTuple_SET_ITEM(made, index, item);
                } else {
                    ffi::PyList_SET_ITEM(made, index, item);
                }
            }
            Ok(object)
        }
    }

    /// Sets the keys of a dictionary.
    fn fill(&mut self, dict: &Bound<'py, PyDict>) -> PyResult<()> {
        let count = self.length()?;
        let (mut keys, mut values) = (self.column(count)?, self.column(count)?);
        for _ in 0..count {
            let (key, value) = (keys.next_item()?, values.next_item()?);
            // SAFETY: the GIL is held, and all three are alive.
            if unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key.as_ptr(), value.as_ptr()) } != 0 {
                return Err(PyErr::fetch(self.py));
            }
        }
        Ok(())
    }

    fn column(&mut self, count: usize) -> PyResult<Column<'a, 'py>> {
        Ok(match self.byte()? {
            SAME => Column::Same(self.node(&mut None)?),
            INTEGERS => {
                let width = usize::from(self.byte()?);
                if !matches!(width, 1 | 2 | 4 | 8) {
                    return Err(damaged("a row of numbers has another width"));
                }
                Column::Integers(self.take(count * width)?, width)
            }
            FLOATS => Column::Floats(self.take(count * 8)?),
            TEXTS => {
                let (known, lengths, texts) = self.strings(count)?;
                Column::Texts { lengths, texts, known }
            }
            MIXED => {
                let (known, _, nodes) = self.strings(0)?;
                Column::Mixed { nodes, known }
            }
            _ => return Err(damaged("the form of a column is not known")),
        })
    }

    /// The head of a column with strings: those that come again, `lengths` bytes, and what follows.
    fn strings(&mut self, lengths: usize) -> PyResult<(Known<'py>, &'a [u8], Self)> {
        let known = (self.byte()? != 0).then(Vec::new);
        let length = self.length()?;
        let lengths = self.take(lengths)?;
        Ok((known, lengths, Self { py: self.py, rest: self.take(length)? }))
    }

    fn node(&mut self, known: &mut Known<'py>) -> PyResult<Bound<'py, PyAny>> {
        let tag = self.byte()?;
        let length = match tag {
            kind::NONE | kind::TRUE | kind::FALSE => 0,
            kind::INT | kind::FLOAT => 8,
            kind::STR | kind::BYTES => {
                let length = self.byte()?;
                let object = plain(self.py, tag, self.take(length.into())?)?;
                return Ok(remember(known, object));
            }
            AGAIN => return recall(known, self.take(4)?),
            _ => return Err(damaged("a value's tag is not known")),
        };
        plain(self.py, tag, self.take(length)?)
    }

    fn text(&mut self, length: usize) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.take(length)?;
        // SAFETY: the GIL is held, and so many bytes are there. What is no UTF-8 is an error.
        let text = unsafe {
            let start = bytes.as_ptr().cast();
            let made = ffi::PyUnicode_FromStringAndSize(start, length as ffi::Py_ssize_t);
            Bound::from_owned_ptr_or_err(self.py, made)
        };
        text.map_err(|error| {
            if error.is_instance_of::<PyMemoryError>(self.py) {
                error
            } else {
                damaged("a string is not UTF-8")
            }
        })
    }
}

impl<'py> Column<'_, 'py> {
    #[inline]
    fn next_item(&mut self) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Same(object) => Ok(object.clone()),
            Self::Integers(values, width) => integer(values, *width),
            Self::Floats(values) => {
                let (value, rest) =
                    values.split_first_chunk::<8>().ok_or_else(|| damaged("it is cut short"))?;
                *values = rest;
                // SAFETY: the GIL is held, as `'py` shows.
                unsafe {
                    let py = Python::assume_attached();
                    Bound::from_owned_ptr_or_err(py, ffi::PyFloat_FromDouble(f64::from_le_bytes(*value)))
                }
            }
            Self::Texts { lengths, texts, known } => {
                let (length, rest) = lengths.split_first().ok_or_else(|| damaged("it is cut short"))?;
                *lengths = rest;
                if *length == AGAIN {
                    return recall(known, texts.take(4)?);
                }
                texts.text((*length).into()).map(|text| remember(known, text))
            }
            Self::Mixed { nodes, known } => nodes.node(known),
        }
    }
}

#[inline]
fn integer<'py>(values: &mut &[u8], width: usize) -> PyResult<Bound<'py, PyAny>> {
    fn first<const WIDTH: usize>(values: &mut &[u8]) -> PyResult<[u8; WIDTH]> {
        let (value, rest) = values.split_first_chunk::<WIDTH>().ok_or_else(|| damaged("it is cut short"))?;
        *values = rest;
        Ok(*value)
    }
    let value = match width {
        1 => i64::from(i8::from_le_bytes(first(values)?)),
        2 => i64::from(i16::from_le_bytes(first(values)?)),
        4 => i64::from(i32::from_le_bytes(first(values)?)),
        _ => i64::from_le_bytes(first(values)?),
    };
    // SAFETY: the GIL is held, as `'py` shows.
    unsafe {
        let py = Python::assume_attached();
        Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromLongLong(value))
    }
}
