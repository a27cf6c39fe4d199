//! Reading and changing a number in shared memory: with its lock, or in one step of the processor.

mod members;

use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

pub(super) use members::init;

/// What a number in memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer { bytes: u8, signed: bool },
    Float,
    Double,
}

/// A number in memory that is seldom where nothing else is: other processes change it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number {
    address: usize,
    kind: Kind,
}

/// What is needed of ctypes.
struct Ctypes {
    /// The classes of numbers, and what each is.
    classes: Vec<(Py<PyType>, Kind)>,
    addressof: Py<PyAny>,
}

fn ctypes(py: Python<'_>) -> PyResult<&Ctypes> {
    static CTYPES: PyOnceLock<Ctypes> = PyOnceLock::new();
    CTYPES.get_or_try_init(py, || {
        let ctypes = py.import("ctypes")?;
        let names = [
            ("c_byte", true),
            ("c_ubyte", false),
            ("c_short", true),
            ("c_ushort", false),
            ("c_int", true),
            ("c_uint", false),
            ("c_long", true),
            ("c_ulong", false),
            ("c_longlong", true),
            ("c_ulonglong", false),
        ];
        let mut classes = Vec::new();
        for (name, signed) in names {
            let class = ctypes.getattr(name)?.cast_into::<PyType>()?;
            let bytes = ctypes.getattr("sizeof")?.call1((&class,))?.extract()?;
            classes.push((class.unbind(), Kind::Integer { bytes, signed }));
        }
        for (name, kind) in [("c_float", Kind::Float), ("c_double", Kind::Double)] {
            classes.push((ctypes.getattr(name)?.cast_into::<PyType>()?.unbind(), kind));
        }
        Ok::<_, PyErr>(Ctypes { classes, addressof: ctypes.getattr("addressof")?.unbind() })
    })
}

impl Number {
    /// The number that a ctypes object is. `None` if it is something else, or of a class derived from theirs, which
    /// may see its memory otherwise.
    pub(super) fn of(obj: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let py = obj.py();
        let class = obj.get_type();
        let ctypes = ctypes(py)?;
        let Some((_, kind)) = ctypes.classes.iter().find(|(known, _)| class.is(known)) else {
            return Ok(None);
        };
        let address = ctypes.addressof.bind(py).call1((obj,))?.extract()?;
        let number = Self { address, kind: *kind };
        // An object made on somebody's buffer may begin anywhere.
        Ok(usize::is_multiple_of(address, number.size()).then_some(number))
    }

    const fn size(self) -> usize {
        match self.kind {
            Kind::Integer { bytes, .. } => bytes as usize,
            Kind::Float => 4,
            Kind::Double => 8,
        }
    }

    fn place<T>(self) -> *mut T {
        ptr::with_exposed_provenance_mut(self.address)
    }
}

/// Does something with the atomic of the number's size: `$bits` are those of the operands, and of what comes out.
macro_rules! atomically {
    ($number:expr, |$atomic:ident, $from:ident| $work:expr) => {{
        let number: Number = $number;
        // SAFETY: `number` was made of a ctypes object that the caller holds: its memory has that size, is aligned to
        // it, and is there as long as the object. All that weft does with it is atomic; others' accesses are a single
        // instruction at the worst moment, as ctypes always had them.
        unsafe {
            match number.size() {
                1 => {
                    let ($atomic, $from) = (AtomicU8::from_ptr(number.place()), |bits: u64| bits as u8);
                    u64::from($work)
                }
                2 => {
                    let ($atomic, $from) = (AtomicU16::from_ptr(number.place()), |bits: u64| bits as u16);
                    u64::from($work)
                }
                4 => {
                    let ($atomic, $from) = (AtomicU32::from_ptr(number.place()), |bits: u64| bits as u32);
                    u64::from($work)
                }
                _ => {
                    let ($atomic, $from) = (AtomicU64::from_ptr(number.place()), |bits: u64| bits);
                    $work
                }
            }
        }
    }};
}

fn read(number: Number) -> u64 {
    atomically!(number, |atomic, _from| atomic.load(Ordering::SeqCst))
}

fn write(number: Number, bits: u64) {
    atomically!(number, |atomic, from| {
        atomic.store(from(bits), Ordering::Release);
        from(bits)
    });
}

fn fetch_add(number: Number, bits: u64) -> u64 {
    atomically!(number, |atomic, from| atomic.fetch_add(from(bits), Ordering::SeqCst))
}

fn swap(number: Number, bits: u64) -> u64 {
    atomically!(number, |atomic, from| atomic.swap(from(bits), Ordering::SeqCst))
}

fn compare_and_swap(number: Number, expected: u64, desired: u64) -> u64 {
    atomically!(number, |atomic, from| {
        let (expected, desired) = (from(expected), from(desired));
        atomic
            .compare_exchange(expected, desired, Ordering::SeqCst, Ordering::SeqCst)
            .unwrap_or_else(|found| found)
    })
}

/// The Python object for the bits of a number; a new reference, or null with an exception set.
///
/// # Safety
///
/// The GIL is held.
unsafe fn to_object(kind: Kind, bits: u64) -> *mut PyObject {
    // SAFETY: by the contract.
    unsafe {
        match kind {
            Kind::Integer { bytes: 1, signed: true } => ffi::PyLong_FromLong(i64::from(bits as i8)),
            Kind::Integer { bytes: 2, signed: true } => ffi::PyLong_FromLong(i64::from(bits as i16)),
            Kind::Integer { bytes: 4, signed: true } => ffi::PyLong_FromLong(i64::from(bits as i32)),
            Kind::Integer { signed: true, .. } => ffi::PyLong_FromLong(bits as i64),
            Kind::Integer { signed: false, .. } => ffi::PyLong_FromUnsignedLong(bits),
            Kind::Float => ffi::PyFloat_FromDouble(f64::from(f32::from_bits(bits as u32))),
            Kind::Double => ffi::PyFloat_FromDouble(f64::from_bits(bits)),
        }
    }
}

/// The bits that ctypes would store for `value`, if that is plain: an exact integer (of which it takes the lowest bits)
/// or float. Everything else is its business.
///
/// # Safety
///
/// The GIL is held, and the pointer is to a living object.
unsafe fn plain_bits(kind: Kind, value: *mut PyObject) -> Option<u64> {
    // SAFETY: by the contract.
    unsafe {
        match kind {
            Kind::Integer { .. } if ffi::PyLong_CheckExact(value) != 0 => {
                Some(ffi::PyLong_AsUnsignedLongLongMask(value))
            }
            Kind::Float if ffi::PyFloat_CheckExact(value) != 0 => {
                Some(u64::from((ffi::PyFloat_AsDouble(value) as f32).to_bits()))
            }
            Kind::Double if ffi::PyFloat_CheckExact(value) != 0 => {
                Some(ffi::PyFloat_AsDouble(value).to_bits())
            }
            _ => None,
        }
    }
}
