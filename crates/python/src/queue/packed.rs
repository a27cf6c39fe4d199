//! Long tuples and lists of nothing but integers, or of nothing but floats: their values in a row.
//!
//! ```text
//! body    what it is (1 byte), and the values, of 4 or 8 bytes each
//! ```
//!
//! A map over a range, and its results, are such lists, and the pickler takes several times as long for them. It
//! would keep no more than is kept here: it does not remember numbers. Encoding runs no Python code, so nothing changes
//! meanwhile.

use pyo3::ffi;
use pyo3::prelude::*;

use super::codec::damaged;

/// Shorter ones are encoded as they are, by [`tree`](super::tree), or are not worth it.
const FEWEST: usize = 64;

const TUPLE: u8 = 1;
const FLOATS: u8 = 2;
/// Integers of 4 bytes.
const SHORT: u8 = 4;

/// Encodes a list or tuple into `body`, which is empty. False if it is something else; `body` is empty then.
pub(super) fn encode(object: &Bound<'_, PyAny>, body: &mut Vec<u8>) -> bool {
    let type_of = object.get_type_ptr();
    let pointer = object.as_ptr();
    let is_tuple = type_of == &raw mut ffi::PyTuple_Type;
    if !is_tuple && type_of != &raw mut ffi::PyList_Type {
        return false;
    }
    // SAFETY: a tuple or list, as was checked, and the GIL is held, so that nobody changes it: nothing here runs Python
    // code. The items are borrowed; an index is less than the length.
    unsafe {
        let length = if is_tuple { ffi::PyTuple_Size(pointer) } else { ffi::PyList_Size(pointer) };
        if (length as usize) < FEWEST {
            return false;
        }
        let item = |index| {
            if is_tuple { ffi::PyTuple_GetItem(pointer, index) } else { ffi::PyList_GetItem(pointer, index) }
        };
        let kind = ffi::Py_TYPE(item(0));
        body.reserve(1 + 8 * length as usize);
        let packed = if kind == &raw mut ffi::PyLong_Type {
            body.push(if is_tuple { TUPLE } else { 0 });
            integers(length, item, body)
        } else if kind == &raw mut ffi::PyFloat_Type {
            body.push(FLOATS | if is_tuple { TUPLE } else { 0 });
            floats(length, item, body)
        } else {
            false
        };
        if !packed {
            body.clear();
        }
        packed
    }
}

/// # Safety
///
/// The GIL is held, and `item` gives living objects.
unsafe fn integers(
    length: ffi::Py_ssize_t,
    item: impl Fn(ffi::Py_ssize_t) -> *mut ffi::PyObject,
    body: &mut Vec<u8>,
) -> bool {
    let mut is_short = true;
    for index in 0..length {
        let object = item(index);
        let mut overflow = 0;
        // SAFETY: by the contract; an integer, as is checked first.
        let value = unsafe {
            if ffi::Py_TYPE(object) != &raw mut ffi::PyLong_Type {
                return false;
            }
            ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow)
        };
        if overflow != 0 {
            return false;
        }
        is_short &= i32::try_from(value).is_ok();
        body.extend_from_slice(&value.to_le_bytes());
    }
    if is_short {
        body[0] |= SHORT;
        for index in 0..length as usize {
            // Little end first: the lower half is the value.
            let from = 1 + 8 * index;
            body.copy_within(from..from + 4, 1 + 4 * index);
        }
        body.truncate(1 + 4 * length as usize);
    }
    true
}

/// # Safety
///
/// As of [`integers`].
unsafe fn floats(
    length: ffi::Py_ssize_t,
    item: impl Fn(ffi::Py_ssize_t) -> *mut ffi::PyObject,
    body: &mut Vec<u8>,
) -> bool {
    for index in 0..length {
        let object = item(index);
        // SAFETY: by the contract; a float, as is checked first.
        let value = unsafe {
            if ffi::Py_TYPE(object) != &raw mut ffi::PyFloat_Type {
                return false;
            }
            ffi::PyFloat_AsDouble(object)
        };
        body.extend_from_slice(&value.to_le_bytes());
    }
    true
}

/// The list or tuple that was encoded.
pub(super) fn decode<'py>(py: Python<'py>, body: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let (&kind, values) = body.split_first().ok_or_else(|| damaged("a row of numbers is cut short"))?;
    let width = if kind & SHORT != 0 { 4 } else { 8 };
    if !values.len().is_multiple_of(width) || kind > TUPLE | FLOATS | SHORT {
        return Err(damaged("a row of numbers has another length"));
    }
    let length = (values.len() / width) as ffi::Py_ssize_t;
    let is_tuple = kind & TUPLE != 0;
    // SAFETY: the GIL is held. The new object is filled before anybody sees it; if it cannot be, it is let go of with
    // the places empty that it has left, which both kinds can be.
    unsafe {
        let made = if is_tuple { ffi::PyTuple_New(length) } else { ffi::PyList_New(length) };
        let object = Bound::from_owned_ptr_or_err(py, made)?;
        for (index, value) in values.chunks_exact(width).enumerate() {
            let number = match *value {
                [a, b, c, d] => ffi::PyLong_FromLong(i32::from_le_bytes([a, b, c, d]).into()),
                [a, b, c, d, e, f, g, h] if kind & FLOATS != 0 => {
                    ffi::PyFloat_FromDouble(f64::from_le_bytes([a, b, c, d, e, f, g, h]))
                }
                [a, b, c, d, e, f, g, h] => {
                    ffi::PyLong_FromLongLong(i64::from_le_bytes([a, b, c, d, e, f, g, h]))
                }
                _ => std::ptr::null_mut(),
            };
            if number.is_null() {
                return Err(PyErr::fetch(py));
            }
            let index = index as ffi::Py_ssize_t;
            if is_tuple {
                ffi::PyTuple_SET_ITEM(made, index, number);
            } else {
                ffi::PyList_SET_ITEM(made, index, number);
            }
        }
        Ok(object)
    }
}
