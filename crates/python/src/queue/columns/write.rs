//! Containers as columns.

use std::slice;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use super::{AGAIN, DICT, FEW, FLOATS, INTEGERS, LIST, MIXED, ROWS, SAME, TEXTS, TUPLE};
use crate::queue::codec::kind;

/// Shorter ones are encoded as they are, by [`tree`](crate::queue::tree), or are not worth it.
const FEWEST: usize = 64;
/// The longest tuple of arguments.
const FEW_ITEMS: usize = 8;
/// The most columns of rows.
const WIDEST: usize = 16;
/// Longer strings are the pickler's business.
const LONGEST: usize = 254;

/// Encodes a container into `body`, which is empty. False if that is the pickler's business; `body` is empty then.
pub(in crate::queue) fn encode(object: &Bound<'_, PyAny>, body: &mut Vec<u8>) -> bool {
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
