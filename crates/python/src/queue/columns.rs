//! Long lists, tuples and dictionaries of plain values, column by column.
//!
//! ```text
//! body      shape (1 byte), then
//!   LIST, TUPLE    count (8), column
//!   DICT           count (8), column of keys, column of values
//!   ROWS           count (8), width (1), so many columns: a list of tuples of that length
//!   FEW            count (1), items: 0 and a node, or 1 and a body: a short tuple, as of arguments
//! column    form (1), then
//!   SAME           a node: every item is this object
//!   INTEGERS       width (1): 1, 2, 4 or 8; values
//!   FLOATS         values of 8 bytes
//!   TEXTS          whether some come again (1), length of all (8), length of each (1), texts
//!   MIXED          whether some come again (1), length of all (8), nodes
//! node      tag, then
//!   None, True, False     nothing
//!   int, float            8 bytes
//!   str, bytes            length (1), and the bytes
//!   AGAIN                 number of the str or bytes in the column that it is (4)
//! ```
//!
//! Tasks, results and what is put into shared containers are such, and the pickler takes several times as long for them. What
//! it would keep is kept as a rule: strings that come again soon arrive as one object; and none is so long that
//! it matters otherwise. Encoding runs no Python code, so nothing changes meanwhile.

use std::slice;

use pyo3::exceptions::PyMemoryError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::codec::{damaged, kind, plain};

/// Shorter ones are encoded as they are, by [`tree`](super::tree), or are not worth it.
const FEWEST: usize = 64;
/// The longest tuple of arguments.
const FEW_ITEMS: usize = 8;
/// The most columns of rows.
const WIDEST: usize = 16;
/// Longer strings are the pickler's business.
const LONGEST: usize = 254;

const LIST: u8 = 1;
const TUPLE: u8 = 2;
const DICT: u8 = 3;
const ROWS: u8 = 4;
const FEW: u8 = 5;

const SAME: u8 = 1;
const INTEGERS: u8 = 2;
const FLOATS: u8 = 3;
const TEXTS: u8 = 4;
const MIXED: u8 = 5;

/// The tag of a node that came before; as a length, the same.
const AGAIN: u8 = 255;

/// Encodes a container into `body`, which is empty. False if that is the pickler's business; `body` is empty then.
pub(super) fn encode(object: &Bound<'_, PyAny>, body: &mut Vec<u8>) -> bool {
    // SAFETY: the GIL is held, the object is alive, and nothing in here runs Python code, which could change it.
    let is_encoded = unsafe {
        match tuple_items(object.as_ptr()) {
            Some(items) if items.len() <= FEW_ITEMS => few(items, body),
            _ => container(object.as_ptr(), FEWEST, body),
        }
    };
    if !is_encoded {
        body.clear();
    }
    is_encoded
}

/// The items of an exact tuple.
///
/// # Safety
///
/// The GIL is held, and the pointer is to an object that stays alive.
unsafe fn tuple_items<'a>(object: *mut PyObject) -> Option<&'a [*mut PyObject]> {
    // SAFETY: by the contract; a tuple's items are behind each other, and never change.
    unsafe {
        (ffi::Py_TYPE(object) == &raw mut ffi::PyTuple_Type).then(|| {
            let start = (*object.cast::<ffi::PyTupleObject>()).ob_item.as_ptr();
            slice::from_raw_parts(start, ffi::PyTuple_GET_SIZE(object) as usize)
        })
    }
}

/// The items of an exact list, for as long as no Python code runs.
///
/// # Safety
///
/// As of [`tuple_items`]; and nobody changes the list while the items are used.
unsafe fn list_items<'a>(object: *mut PyObject) -> Option<&'a [*mut PyObject]> {
    // SAFETY: by the contract; a list without items has none anywhere.
    unsafe {
        (ffi::Py_TYPE(object) == &raw mut ffi::PyList_Type).then(|| {
            match ffi::PyList_GET_SIZE(object) as usize {
                0 => &[][..],
                length => slice::from_raw_parts((*object.cast::<ffi::PyListObject>()).ob_item, length),
            }
        })
    }
}

/// A short tuple with one container in it.
///
/// # Safety
///
/// The GIL is held, and the items are alive.
unsafe fn few(items: &[*mut PyObject], body: &mut Vec<u8>) -> bool {
    body.push(FEW);
    body.push(items.len() as u8);
    let mut long: Option<*mut PyObject> = None;
    let are_encoded = items.iter().all(|item| {
        let before = body.len();
        body.push(0);
        // SAFETY: by the contract.
        unsafe {
            if node(*item, body) {
                return true;
            }
            body.truncate(before);
            body.push(1);
            // What occurs twice would arrive as two.
            long.replace(*item).is_none() && container(*item, 0, body)
        }
    });
    are_encoded && long.is_some()
}

/// # Safety
///
/// The GIL is held, and the pointer is to a living object.
unsafe fn container(object: *mut PyObject, fewest: usize, body: &mut Vec<u8>) -> bool {
    // SAFETY: by the contract; no Python code runs, so nobody changes it.
    unsafe {
        if let Some(items) = tuple_items(object) {
            return items.len() >= fewest && {
                head(TUPLE, items.len(), body);
                column(items, body)
            };
        }
        if let Some(items) = list_items(object) {
            if items.len() < fewest {
                return false;
            }
            if let Some(first) = items.first().and_then(|first| tuple_items(*first)) {
                return rows(items, first.len(), body);
            }
            head(LIST, items.len(), body);
            return column(items, body);
        }
        if ffi::Py_TYPE(object) != &raw mut ffi::PyDict_Type {
            return false;
        }
        let length = ffi::PyDict_Size(object) as usize;
        if length < fewest {
            return false;
        }
        let (mut keys, mut values) = (Vec::with_capacity(length), Vec::with_capacity(length));
        let (mut position, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        while ffi::PyDict_Next(object, &raw mut position, &raw mut key, &raw mut value) != 0 {
            keys.push(key);
            values.push(value);
        }
        head(DICT, keys.len(), body);
        column(&keys, body) && column(&values, body)
    }
}

fn head(shape: u8, count: usize, body: &mut Vec<u8>) {
    body.push(shape);
    body.extend_from_slice(&(count as u64).to_le_bytes());
}

/// A list of tuples that are all as long.
///
/// # Safety
///
/// The GIL is held, and the items are alive.
unsafe fn rows(items: &[*mut PyObject], width: usize, body: &mut Vec<u8>) -> bool {
    if width == 0 || width > WIDEST {
        return false;
    }
    let mut columns = vec![Vec::with_capacity(items.len()); width];
    let mut before = std::ptr::null_mut();
    for item in items {
        // One that occurs again is the pickler's to remember.
        if std::mem::replace(&mut before, *item) == *item {
            return false;
        }
        // SAFETY: by the contract.
        match unsafe { tuple_items(*item) } {
            Some(row) if row.len() == width => {
                columns.iter_mut().zip(row).for_each(|(column, cell)| column.push(*cell));
            }
            _ => return false,
        }
    }
    head(ROWS, items.len(), body);
    body.push(width as u8);
    // SAFETY: by the contract; a tuple keeps its items alive.
    columns.iter().all(|cells| unsafe { column(cells, body) })
}

/// # Safety
///
/// The GIL is held, and the items are alive.
unsafe fn column(items: &[*mut PyObject], body: &mut Vec<u8>) -> bool {
    let start = body.len();
    // SAFETY: by the contract.
    unsafe {
        if let Some((first, rest)) = items.split_first() {
            if !rest.is_empty() && rest.iter().all(|item| item == first) {
                body.push(SAME);
                return node(*first, body);
            }
            let type_of = ffi::Py_TYPE(*first);
            let is_encoded = if type_of == &raw mut ffi::PyLong_Type {
                integers(items, body)
            } else if type_of == &raw mut ffi::PyFloat_Type {
                floats(items, body)
            } else {
                type_of == &raw mut ffi::PyUnicode_Type && texts(items, body)
            };
            if is_encoded {
                return true;
            }
            body.truncate(start);
        }
        mixed(items, body)
    }
}

/// # Safety
///
/// As of [`column()`].
unsafe fn integers(items: &[*mut PyObject], body: &mut Vec<u8>) -> bool {
    body.reserve(2 + 8 * items.len());
    body.extend_from_slice(&[INTEGERS, 8]);
    let start = body.len();
    let (mut least, mut most) = (0, 0);
    for item in items {
        let mut overflow = 0;
        // SAFETY: by the contract; an integer, as is checked first.
        let value = unsafe {
            if ffi::Py_TYPE(*item) != &raw mut ffi::PyLong_Type {
                return false;
            }
            ffi::PyLong_AsLongLongAndOverflow(*item, &raw mut overflow)
        };
        if overflow != 0 {
            return false;
        }
        (least, most) = (value.min(least), value.max(most));
        body.extend_from_slice(&value.to_le_bytes());
    }
    let fits = |bits: u32| least >= -(1 << (bits - 1)) && most < 1 << (bits - 1);
    if fits(8) {
        narrow::<1>(start, items.len(), body);
    } else if fits(16) {
        narrow::<2>(start, items.len(), body);
    } else if fits(32) {
        narrow::<4>(start, items.len(), body);
    }
    true
}

/// Keeps so many bytes of each of the words at `start`: little end first, they are the value.
fn narrow<const WIDTH: usize>(start: usize, count: usize, body: &mut Vec<u8>) {
    for index in 0..count {
        let from = start + 8 * index;
        body.copy_within(from..from + WIDTH, start + WIDTH * index);
    }
    body.truncate(start + WIDTH * count);
    body[start - 1] = WIDTH as u8;
}

/// # Safety
///
/// As of [`column()`].
unsafe fn floats(items: &[*mut PyObject], body: &mut Vec<u8>) -> bool {
    body.reserve(1 + 8 * items.len());
    body.push(FLOATS);
    for item in items {
        // SAFETY: by the contract; a float, as is checked first.
        let value = unsafe {
            if ffi::Py_TYPE(*item) != &raw mut ffi::PyFloat_Type {
                return false;
            }
            ffi::PyFloat_AsDouble(*item)
        };
        body.extend_from_slice(&value.to_le_bytes());
    }
    true
}

/// Which of the strings of a column were there before, as far as it remembers.
struct Recent {
    places: Box<[(*mut PyObject, u32); Self::PLACES]>,
    next: u32,
    any: bool,
}

impl Recent {
    const PLACES: usize = 512;

    fn new() -> Self {
        Self { places: Box::new([(std::ptr::null_mut(), 0); Self::PLACES]), next: 0, any: false }
    }

    /// The number of the string, if it has one; otherwise it is given one.
    fn find(&mut self, object: *mut PyObject) -> Option<u32> {
        let place = &mut self.places[(object.addr() >> 5) % Self::PLACES];
        if place.0 == object {
            self.any = true;
            return Some(place.1);
        }
        *place = (object, self.next);
        self.next = self.next.saturating_add(1);
        None
    }
}

/// The UTF-8 of a string; `None` if it has none.
///
/// # Safety
///
/// The GIL is held, and the pointer is to a living string, which has to stay alive as long as the result is used.
unsafe fn utf8<'a>(object: *mut PyObject) -> Option<&'a [u8]> {
    // SAFETY: by the contract.
    unsafe {
        let mut length = 0;
        let start = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut length);
        if start.is_null() {
            ffi::PyErr_Clear(); // lone surrogates
            return None;
        }
        Some(slice::from_raw_parts(start.cast(), length as usize))
    }
}

/// # Safety
///
/// As of [`column()`].
unsafe fn texts(items: &[*mut PyObject], body: &mut Vec<u8>) -> bool {
    let mut recent = Recent::new();
    let start = body.len();
    body.push(TEXTS);
    body.extend_from_slice(&[0; 9]);
    let lengths = body.len();
    body.resize(lengths + items.len(), 0);
    let behind = body.len();
    body.reserve(8 * items.len());
    for (index, item) in items.iter().enumerate() {
        // SAFETY: by the contract; a string, as is checked first.
        unsafe {
            if ffi::Py_TYPE(*item) != &raw mut ffi::PyUnicode_Type {
                return false;
            }
            if let Some(number) = recent.find(*item) {
                body[lengths + index] = AGAIN;
                body.extend_from_slice(&number.to_le_bytes());
                continue;
            }
            match utf8(*item) {
                Some(text) if text.len() <= LONGEST => {
                    body[lengths + index] = text.len() as u8;
                    body.extend_from_slice(text);
                }
                _ => return false,
            }
        }
    }
    finish(start, behind, &recent, body);
    true
}

/// Fills in what was not known before: whether some strings come again, and how long all is.
fn finish(start: usize, behind: usize, recent: &Recent, body: &mut [u8]) {
    body[start + 1] = u8::from(recent.any);
    let length = (body.len() - behind) as u64;
    body[start + 2..start + 10].copy_from_slice(&length.to_le_bytes());
}

/// # Safety
///
/// As of [`column()`].
unsafe fn mixed(items: &[*mut PyObject], body: &mut Vec<u8>) -> bool {
    let mut recent = Recent::new();
    let start = body.len();
    body.push(MIXED);
    body.extend_from_slice(&[0; 9]);
    let behind = body.len();
    for item in items {
        // SAFETY: by the contract.
        unsafe {
            let type_of = ffi::Py_TYPE(*item);
            if (type_of == &raw mut ffi::PyUnicode_Type || type_of == &raw mut ffi::PyBytes_Type)
                && let Some(number) = recent.find(*item)
            {
                body.push(AGAIN);
                body.extend_from_slice(&number.to_le_bytes());
            } else if !node(*item, body) {
                return false;
            }
        }
    }
    finish(start, behind, &recent, body);
    true
}

/// # Safety
///
/// The GIL is held, and the pointer is to a living object.
unsafe fn node(object: *mut PyObject, body: &mut Vec<u8>) -> bool {
    let mut string = |kind, bytes: &[u8]| {
        let fits = bytes.len() <= LONGEST;
        if fits {
            body.extend_from_slice(&[kind, bytes.len() as u8]);
            body.extend_from_slice(bytes);
        }
        fits
    };
    // SAFETY: by the contract; the type is compared before each call that needs one.
    unsafe {
        let type_of = ffi::Py_TYPE(object);
        if type_of == &raw mut ffi::PyUnicode_Type {
            return utf8(object).is_some_and(|text| string(kind::STR, text));
        }
        if type_of == &raw mut ffi::PyBytes_Type {
            let start = ffi::PyBytes_AsString(object).cast_const().cast();
            return string(kind::BYTES, slice::from_raw_parts(start, ffi::PyBytes_Size(object) as usize));
        }
        if type_of == &raw mut ffi::PyLong_Type {
            let mut overflow = 0;
            let value = ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow);
            body.push(kind::INT);
            body.extend_from_slice(&value.to_le_bytes());
            return overflow == 0;
        }
        if type_of == &raw mut ffi::PyFloat_Type {
            body.push(kind::FLOAT);
            body.extend_from_slice(&ffi::PyFloat_AsDouble(object).to_le_bytes());
        } else if object == ffi::Py_None() {
            body.push(kind::NONE);
        } else if object == ffi::Py_True() {
            body.push(kind::TRUE);
        } else if object == ffi::Py_False() {
            body.push(kind::FALSE);
        } else {
            return false;
        }
    }
    true
}

/// The container that was encoded.
pub(super) fn decode<'py>(py: Python<'py>, body: &[u8]) -> PyResult<Bound<'py, PyAny>> {
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
