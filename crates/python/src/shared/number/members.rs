//! What a program does with such a number.
//!
//! These are the descriptors of the class `Synchronized`, made by hand: a method of PyO3 costs as much again as what
//! they do. The interpreter checks, as for every such descriptor, that it is called on a `SynchronizedBase`.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use pyo3::exceptions::{PyAttributeError, PyOverflowError, PyTypeError};
use pyo3::ffi::{self, PyGetSetDef, PyMethodDef, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::synchronized::{Parts, SynchronizedBase};
use super::{Kind, Number, compare_and_swap, fetch_add, plain_bits, read, swap, to_object, write};
use crate::definitions::{attribute, classic, one, plain};
use crate::gil::GilCell;
use crate::sync::semlock::SemLock;

/// The lock of an object, taken until it is given back by [`leave`](Self::leave).
struct Taken<'a, 'py>(Python<'py>, &'a Parts);

impl<'a, 'py> Taken<'a, 'py> {
    #[inline]
    fn enter(py: Python<'py>, parts: &'a Parts) -> PyResult<Self> {
        match &parts.native {
            Some(lock) => lock.get().take(py)?,
            None => call(py, &parts.acquire)?,
        }
        Ok(Self(py, parts))
    }

    /// Gives it back. As at the end of a `finally`, its own error takes the place of the one that there was.
    #[inline]
    fn leave<T>(self, outcome: PyResult<T>) -> PyResult<T> {
        let released = match &self.1.native {
            Some(lock) => lock.get().give_back(),
            None => call(self.0, &self.1.release),
        };
        match released {
            Ok(()) => outcome,
            Err(error) => {
                if let Err(earlier) = outcome {
                    error.set_context(self.0, Some(earlier));
                }
                Err(error)
            }
        }
    }
}

#[inline]
fn call(py: Python<'_>, method: &Py<PyAny>) -> PyResult<()> {
    // SAFETY: the GIL is held, and the method is alive; what it returns is a new reference or null with an error set.
    unsafe {
        let result = ffi::PyObject_CallNoArgs(method.as_ptr());
        if result.is_null() {
            return Err(PyErr::fetch(py));
        }
        ffi::Py_DECREF(result);
    }
    Ok(())
}

/// Runs `work` on the parts of `this`; its error is set, and stands as `failed`.
///
/// # Safety
///
/// The GIL is held, and `this` is a living instance of `SynchronizedBase`.
#[inline]
unsafe fn with_parts<T>(
    this: *mut PyObject,
    failed: T,
    work: impl FnOnce(Python<'_>, &Parts) -> PyResult<T>,
) -> T {
    // SAFETY: by the contract.
    let (py, object) = unsafe {
        let py = Python::assume_attached();
        (py, Borrowed::from_ptr(py, this).cast_unchecked::<SynchronizedBase>())
    };
    match object.get().parts().and_then(|parts| work(py, parts)) {
        Ok(value) => value,
        Err(error) => {
            error.restore(py);
            failed
        }
    }
}

/// A new reference that the interpreter returned, or the error that it set instead.
fn checked(py: Python<'_>, result: *mut PyObject) -> PyResult<*mut PyObject> {
    if result.is_null() { Err(PyErr::fetch(py)) } else { Ok(result) }
}

/// The lock of an object, taken without a wait, or held by this thread before. Whoever has it calls nothing that could run Python code.
struct Quick<'a> {
    lock: &'a SemLock,
    was_held: bool,
}

impl<'a> Quick<'a> {
    /// `None` says nothing: it is to be done in the slower way.
    #[inline(always)]
    fn enter(this: *mut PyObject) -> Option<(Self, Number)> {
        // SAFETY: called by a descriptor, with the GIL and a living instance, which holds its parts as long as it lives.
        let object = unsafe {
            let py = Python::assume_attached();
            &*ptr::from_ref(Borrowed::from_ptr(py, this).cast_unchecked::<SynchronizedBase>().get())
        };
        let parts = object.known_parts()?;
        let (number, lock) = (parts.number?, parts.native.as_ref()?.get());
        let was_held = lock.is_held_again();
        (was_held || lock.take_quickly()).then_some((Self { lock, was_held }, number))
    }

    /// False with an error set, which takes the place of the one that there was.
    #[inline(always)]
    fn leave(self) -> bool {
        self.was_held || self.lock.give_back_quickly() || self.refused()
    }

    #[cold]
    fn refused(&self) -> bool {
        Python::attach(|py| {
            let error = self.lock.refusal();
            if let Some(earlier) = PyErr::take(py) {
                error.set_context(py, Some(earlier));
            }
            error.restore(py);
        });
        false
    }
}

// What is moved about in the ordinary case is no `PyResult`: a compiler made hundreds of instructions of that.
unsafe extern "C" fn get_value(this: *mut PyObject, _: *mut c_void) -> *mut PyObject {
    // SAFETY: the descriptor has checked the type, and the GIL is held; what `to_object` makes is a new reference, or null.
    unsafe {
        let Some((quick, number)) = Quick::enter(this) else { return get_value_slowly(this) };
        let value = to_object(number.kind, read(number));
        if quick.leave() {
            return value;
        }
        ffi::Py_XDECREF(value);
        ptr::null_mut()
    }
}

/// # Safety
///
/// As [`with_parts`].
#[cold]
unsafe fn get_value_slowly(this: *mut PyObject) -> *mut PyObject {
    // SAFETY: by the contract.
    unsafe {
        with_parts(this, ptr::null_mut(), |py, parts| {
            let taken = Taken::enter(py, parts)?;
            let outcome = match parts.number {
                Some(number) => Bound::from_owned_ptr_or_err(py, to_object(number.kind, read(number))),
                None => parts.obj.bind(py).getattr(pyo3::intern!(py, "value")),
            };
            taken.leave(outcome).map(Bound::into_ptr)
        })
    }
}

unsafe extern "C" fn set_value(this: *mut PyObject, value: *mut PyObject, _: *mut c_void) -> c_int {
    // SAFETY: the descriptor has checked the type, and the GIL is held; the value is alive, or null for `del`.
    unsafe {
        if !value.is_null()
            && let Some((quick, number)) = Quick::enter(this)
        {
            let bits = plain_bits(number.kind, value);
            if let Some(bits) = bits {
                write(number, bits);
            }
            if !quick.leave() {
                return -1;
            }
            if bits.is_some() {
                return 0;
            }
        }
        set_value_slowly(this, value)
    }
}

/// # Safety
///
/// As [`with_parts`]; the value is alive, or null for `del`.
#[cold]
unsafe fn set_value_slowly(this: *mut PyObject, value: *mut PyObject) -> c_int {
    // SAFETY: by the contract.
    unsafe {
        with_parts(this, -1, |py, parts| {
            if value.is_null() {
                return Err(PyAttributeError::new_err("the value of a shared object cannot be deleted"));
            }
            let taken = Taken::enter(py, parts)?;
            let outcome = match parts.number.map(|number| (number, plain_bits(number.kind, value))) {
                Some((number, Some(bits))) => {
                    write(number, bits);
                    Ok(0)
                }
                _ => {
                    let value = Borrowed::from_ptr(py, value);
                    parts.obj.bind(py).setattr(pyo3::intern!(py, "value"), value).map(|()| 0)
                }
            };
            taken.leave(outcome)
        })
    }
}

unsafe extern "C" fn get_lock(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: the descriptor has checked the type.
    unsafe { with_parts(this, ptr::null_mut(), |py, parts| Ok(parts.lock.clone_ref(py).into_ptr())) }
}

/// The number on which atomic operations are possible, with its size and whether it has a sign.
fn integer(py: Python<'_>, parts: &Parts) -> PyResult<(Number, u8, bool)> {
    match parts.number {
        Some(number @ Number { kind: Kind::Integer { bytes, signed }, .. }) => Ok((number, bytes, signed)),
        _ => {
            let class = parts.obj.bind(py).get_type();
            Err(PyTypeError::new_err(format!(
                "atomic operations need an integer of 1, 2, 4 or 8 bytes in its natural place, not a {}; \
                 change this one under its lock",
                class.name()?
            )))
        }
    }
}

/// The lowest 64 bits of an integer, or of what stands for one.
fn lowest_bits(py: Python<'_>, value: Borrowed<'_, '_, PyAny>) -> PyResult<u64> {
    // SAFETY: the GIL is held, and the value is alive; errors are looked for where the result may be one.
    unsafe {
        let bits = if ffi::PyLong_Check(value.as_ptr()) != 0 {
            ffi::PyLong_AsUnsignedLongLongMask(value.as_ptr())
        } else {
            let index = Bound::from_owned_ptr_or_err(py, ffi::PyNumber_Index(value.as_ptr()))?;
            ffi::PyLong_AsUnsignedLongLongMask(index.as_ptr())
        };
        match (bits == u64::MAX).then(|| PyErr::take(py)).flatten() {
            Some(error) => Err(error),
            None => Ok(bits),
        }
    }
}

/// The bits of an integer that must fit the number.
fn fitting_bits(py: Python<'_>, value: Borrowed<'_, '_, PyAny>, bytes: u8, signed: bool) -> PyResult<u64> {
    let spare = 64 - 8 * u32::from(bytes);
    let bits = if signed {
        value
            .extract::<i64>()
            .ok()
            .filter(|value| value << spare >> spare == *value)
            .map(|value| value as u64)
    } else {
        value.extract::<u64>().ok().filter(|value| value << spare >> spare == *value)
    };
    if let Some(bits) = bits {
        return Ok(bits);
    }
    lowest_bits(py, value)?; // no integer: its error says so
    let kind = if signed { "a signed" } else { "an unsigned" };
    Err(PyOverflowError::new_err(format!("{} does not fit {kind} integer of {bytes} bytes", &*value)))
}

unsafe extern "C" fn add(this: *mut PyObject, n: *mut PyObject) -> *mut PyObject {
    // SAFETY: the descriptor has checked the type; the argument is alive.
    unsafe {
        with_parts(this, ptr::null_mut(), |py, parts| {
            let (number, ..) = integer(py, parts)?;
            let n = lowest_bits(py, Borrowed::from_ptr(py, n))?;
            let old = fetch_add(number, n);
            checked(py, to_object(number.kind, old))
        })
    }
}

unsafe extern "C" fn load(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: the descriptor has checked the type.
    unsafe {
        with_parts(this, ptr::null_mut(), |py, parts| {
            let (number, ..) = integer(py, parts)?;
            checked(py, to_object(number.kind, read(number)))
        })
    }
}

unsafe extern "C" fn store(this: *mut PyObject, value: *mut PyObject) -> *mut PyObject {
    // SAFETY: as for `exchange`, whose result is not wanted.
    unsafe {
        let old = exchange(this, value);
        if old.is_null() {
            return old;
        }
        ffi::Py_DECREF(old);
        ffi::Py_NewRef(ffi::Py_None())
    }
}

unsafe extern "C" fn exchange(this: *mut PyObject, value: *mut PyObject) -> *mut PyObject {
    // SAFETY: the descriptor has checked the type; the argument is alive.
    unsafe {
        with_parts(this, ptr::null_mut(), |py, parts| {
            let (number, bytes, signed) = integer(py, parts)?;
            let bits = fitting_bits(py, Borrowed::from_ptr(py, value), bytes, signed)?;
            let old = swap(number, bits);
            checked(py, to_object(number.kind, old))
        })
    }
}

unsafe extern "C" fn compare_exchange(this: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    // SAFETY: the descriptor has checked the type; the arguments are a living tuple.
    unsafe {
        with_parts(this, ptr::null_mut(), |py, parts| {
            let arguments = Borrowed::from_ptr(py, arguments).cast_unchecked::<PyTuple>();
            let (expected, desired): (Bound<'_, PyAny>, Bound<'_, PyAny>) =
                arguments.extract().map_err(|_| {
                    PyTypeError::new_err(
                        "compare_exchange() takes two arguments: the expected value and the desired one",
                    )
                })?;
            let (number, bytes, signed) = integer(py, parts)?;
            let expected = fitting_bits(py, expected.as_borrowed(), bytes, signed)?;
            let desired = fitting_bits(py, desired.as_borrowed(), bytes, signed)?;
            let old = compare_and_swap(number, expected, desired);
            checked(py, to_object(number.kind, old))
        })
    }
}

const ADD: &CStr = c"add($self, n, /)\n--\n\n\
Add `n` in one step that no other process can come between, and return the value before.\n\n\
The sum wraps around at the limits of the type, as ctypes integers do. Raises TypeError\n\
if the value is no integer of 1, 2, 4 or 8 bytes, or `n` is no integer.";
const LOAD: &CStr = c"load($self, /)\n--\n\n\
The value, without taking the lock. Raises TypeError if it is no integer of 1, 2, 4 or 8 bytes.";
const STORE: &CStr = c"store($self, value, /)\n--\n\n\
Set the value in one step, without taking the lock. Raises OverflowError if `value` does\n\
not fit the type, TypeError if one of the two is no integer.";
const EXCHANGE: &CStr = c"exchange($self, value, /)\n--\n\n\
Set the value in one step, and return the one before. Raises as `store`.";
const COMPARE_EXCHANGE: &CStr = c"compare_exchange($self, expected, desired, /)\n--\n\n\
Set the value to `desired` if it is `expected`, in one step, and return the value before:\n\
it was set if that equals `expected`. Raises as `store`.";
const GET_LOCK: &CStr = c"get_lock($self, /)\n--\n\nThe lock that guards the object.";
const VALUE: &CStr = c"The value, read and written under the lock.";

// Descriptors keep pointers to these.
static METHODS: GilCell<[PyMethodDef; 6]> = GilCell::new([
    plain(c"get_lock", get_lock, GET_LOCK),
    one(c"add", add, ADD),
    plain(c"load", load, LOAD),
    one(c"store", store, STORE),
    one(c"exchange", exchange, EXCHANGE),
    classic(c"compare_exchange", compare_exchange, ffi::METH_VARARGS, COMPARE_EXCHANGE),
]);
static VALUE_PROPERTY: GilCell<PyGetSetDef> =
    GilCell::new(attribute(c"value", get_value, Some(set_value), VALUE));

/// Adds `synchronized_members`: the descriptors, by name, which a face puts into the classes where they belong.
pub(in super::super) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let class = py.get_type::<SynchronizedBase>();
    let members = PyDict::new(py);
    // SAFETY: the definitions are static and never change; the descriptors are new references.
    unsafe {
        let methods = METHODS.get();
        for index in 0..(*methods).len() {
            let definition = &raw mut (*methods)[index];
            let descriptor = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
            let name = CStr::from_ptr((*definition).ml_name).to_string_lossy();
            members.set_item(name, Bound::from_owned_ptr_or_err(py, descriptor)?)?;
        }
        let descriptor = ffi::PyDescr_NewGetSet(class.as_type_ptr(), VALUE_PROPERTY.get());
        members.set_item("value", Bound::from_owned_ptr_or_err(py, descriptor)?)?;
    }
    module.add("synchronized_members", members)
}
