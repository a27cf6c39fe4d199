//! Objects to bytes and back: what travels over a connection is a pickle, whoever made it.
//!
//! None, booleans, integers, floats, strings and bytes have a pickle of a few bytes, which is written and read
//! here; any other by the interpreter's `ForkingPickler`. Making one costs more than a small dictionary, so each
//! thread keeps one, as long as its reducers are those that are registered.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hasher};

use parking_lot::Mutex;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyString};

use crate::kept;
use crate::queue::pickling::{self, reduction, written};

const PROTOCOL: [u8; 2] = [0x80, 4];
const FRAME: u8 = 0x95;
const NONE: u8 = b'N';
const TRUE: u8 = 0x88;
const FALSE: u8 = 0x89;
const INT_1: u8 = b'K';
const INT_2: u8 = b'M';
const INT_4: u8 = b'J';
const INT_LONG: u8 = 0x8a;
const FLOAT: u8 = b'G';
const STR_1: u8 = 0x8c;
const STR_4: u8 = b'X';
const STR_8: u8 = 0x8d;
const BYTES_1: u8 = b'C';
const BYTES_4: u8 = b'B';
const BYTES_8: u8 = 0x8e;
const MEMOIZE: u8 = 0x94;
const STOP: u8 = b'.';

/// A buffer that grew beyond this is not kept.
const KEPT: usize = 1 << 20;

/// The pickle of an object: `head`, then the bytes that it has in common with the object, then `tail`.
pub(super) struct Pickle<'a> {
    pub(super) head: Vec<u8>,
    pub(super) payload: &'a [u8],
    pub(super) tail: &'static [u8],
}

/// Payloads from here on are not copied into the head.
const LARGE: usize = 1 << 10;

/// Pickles `object`. `head` is an empty buffer to be used.
pub(super) fn dump<'a>(object: &'a Bound<'_, PyAny>, mut head: Vec<u8>) -> PyResult<Pickle<'a>> {
    if let Some(payload) = scalar(object, &mut head) {
        return Ok(match payload {
            Some(bytes) if bytes.len() < LARGE => {
                head.extend_from_slice(bytes);
                head.push(STOP);
                Pickle { head, payload: &[], tail: &[] }
            }
            Some(bytes) => Pickle { head, payload: bytes, tail: &[STOP] },
            None => {
                head.push(STOP);
                Pickle { head, payload: &[], tail: &[] }
            }
        });
    }
    dump_any(object, &mut head)?;
    Ok(Pickle { head, payload: &[], tail: &[] })
}

/// Writes the opcodes for what needs no look inside, up to the payload if it has one. `None` if it is something else.
fn scalar<'a>(object: &'a Bound<'_, PyAny>, head: &mut Vec<u8>) -> Option<Option<&'a [u8]>> {
    let pointer = object.as_ptr();
    let type_of = object.get_type_ptr();
    // SAFETY: the type was compared before each call that needs one; the GIL is held; a string's UTF-8 and bytes
    // stay where they are as long as the object.
    unsafe {
        if type_of == &raw mut ffi::PyLong_Type {
            let mut overflow = 0;
            let value = ffi::PyLong_AsLongLongAndOverflow(pointer, &raw mut overflow);
            if overflow != 0 {
                return None;
            }
            head.extend_from_slice(&PROTOCOL);
            integer(value, head);
            Some(None)
        } else if type_of == &raw mut ffi::PyUnicode_Type {
            let mut length = 0;
            let start = ffi::PyUnicode_AsUTF8AndSize(pointer, &raw mut length);
            if start.is_null() {
                // Lone surrogates; the pickler knows what to do.
                ffi::PyErr_Clear();
                return None;
            }
            head.extend_from_slice(&PROTOCOL);
            sized([STR_1, STR_4, STR_8], length as usize, head);
            Some(Some(std::slice::from_raw_parts(start.cast(), length as usize)))
        } else if type_of == &raw mut ffi::PyBytes_Type {
            let start = ffi::PyBytes_AsString(pointer).cast_const().cast();
            let bytes = std::slice::from_raw_parts(start, ffi::PyBytes_Size(pointer) as usize);
            head.extend_from_slice(&PROTOCOL);
            sized([BYTES_1, BYTES_4, BYTES_8], bytes.len(), head);
            Some(Some(bytes))
        } else if type_of == &raw mut ffi::PyFloat_Type {
            head.extend_from_slice(&PROTOCOL);
            head.push(FLOAT);
            head.extend_from_slice(&ffi::PyFloat_AsDouble(pointer).to_be_bytes());
            Some(None)
        } else {
            let opcode = match pointer {
                none if none == ffi::Py_None() => NONE,
                truth if truth == ffi::Py_True() => TRUE,
                lie if lie == ffi::Py_False() => FALSE,
                _ => return None,
            };
            head.extend_from_slice(&PROTOCOL);
            head.push(opcode);
            Some(None)
        }
    }
}

fn integer(value: i64, head: &mut Vec<u8>) {
    if let Ok(byte) = u8::try_from(value) {
        head.extend_from_slice(&[INT_1, byte]);
    } else if let Ok(word) = u16::try_from(value) {
        head.push(INT_2);
        head.extend_from_slice(&word.to_le_bytes());
    } else if let Ok(word) = i32::try_from(value) {
        head.push(INT_4);
        head.extend_from_slice(&word.to_le_bytes());
    } else {
        head.extend_from_slice(&[INT_LONG, 8]);
        head.extend_from_slice(&value.to_le_bytes());
    }
}

fn sized(opcodes: [u8; 3], length: usize, head: &mut Vec<u8>) {
    if let Ok(byte) = u8::try_from(length) {
        head.extend_from_slice(&[opcodes[0], byte]);
    } else if let Ok(word) = u32::try_from(length) {
        head.push(opcodes[1]);
        head.extend_from_slice(&word.to_le_bytes());
    } else {
        head.push(opcodes[2]);
        head.extend_from_slice(&(length as u64).to_le_bytes());
    }
}

/// A pickle that one glance was enough for.
pub(super) enum Plain<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
}

/// Reads the pickle of something plain, as `dump` or the interpreter's pickler makes it. `None` for all others.
pub(super) fn plain(pickle: &[u8]) -> Option<Plain<'_>> {
    let [0x80, 3..=5, rest @ ..] = pickle else { return None };
    let rest = match rest {
        [FRAME, rest @ ..] => {
            let (length, rest) = rest.split_first_chunk::<8>()?;
            (u64::from_le_bytes(*length) == rest.len() as u64).then_some(rest)?
        }
        rest => rest,
    };
    let (opcode, rest) = rest.split_first()?;
    Some(match (*opcode, rest) {
        (NONE, [STOP]) => Plain::None,
        (TRUE, [STOP]) => Plain::Bool(true),
        (FALSE, [STOP]) => Plain::Bool(false),
        (INT_1, [byte, STOP]) => Plain::Int((*byte).into()),
        (INT_2, [low, high, STOP]) => Plain::Int(u16::from_le_bytes([*low, *high]).into()),
        (INT_4, [word @ .., STOP]) => Plain::Int(i32::from_le_bytes(word.try_into().ok()?).into()),
        (INT_LONG, [8, word @ .., STOP]) => Plain::Int(i64::from_le_bytes(word.try_into().ok()?)),
        (FLOAT, [word @ .., STOP]) => Plain::Float(f64::from_be_bytes(word.try_into().ok()?)),
        (STR_1 | STR_4 | STR_8, rest) => {
            let bytes = payload(*opcode, [STR_1, STR_4], rest)?;
            Plain::Str(std::str::from_utf8(bytes).ok()?)
        }
        (BYTES_1 | BYTES_4 | BYTES_8, rest) => Plain::Bytes(payload(*opcode, [BYTES_1, BYTES_4], rest)?),
        _ => return None,
    })
}

/// The payload behind its length, if that is the end of the pickle.
fn payload(opcode: u8, [one, four]: [u8; 2], rest: &[u8]) -> Option<&[u8]> {
    let (length, rest) = if opcode == one {
        let (length, rest) = rest.split_first()?;
        (u64::from(*length), rest)
    } else if opcode == four {
        let (length, rest) = rest.split_first_chunk::<4>()?;
        (u64::from(u32::from_le_bytes(*length)), rest)
    } else {
        let (length, rest) = rest.split_first_chunk::<8>()?;
        (u64::from_le_bytes(*length), rest)
    };
    let rest = rest.strip_suffix(&[STOP])?;
    let rest =
        if rest.len() as u64 == length.checked_add(1)? { rest.strip_suffix(&[MEMOIZE])? } else { rest };
    (rest.len() as u64 == length).then_some(rest)
}

impl Plain<'_> {
    /// The object, whose bytes are `copy`'s business.
    pub(super) fn object<'py>(
        &self,
        py: Python<'py>,
        copy: impl FnOnce(Python<'py>, &[u8]) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self {
            Self::None => py.None().into_bound(py),
            Self::Bool(value) => PyBool::new(py, *value).to_owned().into_any(),
            Self::Int(value) => value.into_pyobject(py)?.into_any(),
            Self::Float(value) => PyFloat::new(py, *value).into_any(),
            Self::Str(text) if text.len() < KEPT => PyString::new(py, text).into_any(),
            // Raises if there is no memory for it.
            Self::Str(text) => PyString::from_bytes(py, text.as_bytes())?.into_any(),
            Self::Bytes(bytes) => return copy(py, bytes),
        })
    }
}

/// The object that the few bytes of `pickle` stand for.
pub(super) fn load_short<'py>(py: Python<'py>, pickle: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match plain(pickle) {
        Some(plain) => plain.object(py, |py, bytes| Ok(PyBytes::new(py, bytes).into_any())),
        None => load(PyBytes::new(py, pickle).as_any()),
    }
}

/// The object that `data`, something with the buffer protocol, is the pickle of.
pub(super) fn load<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    pickling::load(data, None)
}

/// Where a pickler writes.
#[pyclass(frozen, name = "_PickleBuffer", module = "weft._native")]
struct Sink(Mutex<Vec<u8>>);

#[pymethods]
impl Sink {
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        written(data, |piece| self.0.lock().extend_from_slice(piece))
    }
}

/// A pickler and where it writes.
struct Kept {
    class: Py<PyAny>,
    /// What its reducers were when it was made.
    reducers: u64,
    sink: Py<Sink>,
    dump: Py<PyAny>,
    clear_memo: Py<PyAny>,
}

thread_local! {
    static KEPT_PICKLER: kept::Kept<Kept> = const { kept::Kept::new() };
}

/// Changes when a reducer is registered: a pickler copies the tables when it is made.
fn reducers(class: &Bound<'_, PyAny>) -> PyResult<u64> {
    let py = class.py();
    let mut hasher = DefaultHasher::new();
    for name in [pyo3::intern!(py, "_copyreg_dispatch_table"), pyo3::intern!(py, "_extra_reducers")] {
        let table = class.getattr(name)?;
        let Ok(table) = table.cast::<PyDict>() else { return Ok(0) };
        for (key, value) in table.iter() {
            hasher.write_usize(key.as_ptr().addr());
            hasher.write_usize(value.as_ptr().addr());
        }
    }
    Ok(hasher.finish())
}

fn dump_any(object: &Bound<'_, PyAny>, head: &mut Vec<u8>) -> PyResult<()> {
    let py = object.py();
    let class = reduction(py)?.getattr(pyo3::intern!(py, "ForkingPickler"))?;
    let reducers = reducers(&class)?;
    // Taken out while in use: a reduction may send something by itself.
    let kept = KEPT_PICKLER.with(kept::Kept::take);
    let kept = match kept.filter(|kept| kept.class.is(&class) && kept.reducers == reducers) {
        Some(kept) => kept,
        None => {
            let sink = Bound::new(py, Sink(Mutex::default()))?;
            let pickler = class.call1((&sink,))?;
            Kept {
                dump: pickler.getattr("dump")?.unbind(),
                clear_memo: pickler.getattr("clear_memo")?.unbind(),
                sink: sink.unbind(),
                class: class.unbind(),
                reducers,
            }
        }
    };
    std::mem::swap(&mut *kept.sink.get().0.lock(), head);
    let outcome = kept.dump.bind(py).call1((object,));
    std::mem::swap(&mut *kept.sink.get().0.lock(), head);
    // A pickler whose dump failed is thrown away.
    outcome?;
    kept.clear_memo.bind(py).call0()?;
    KEPT_PICKLER.with(|place| place.put(kept));
    Ok(())
}

thread_local! {
    /// A buffer for short messages: taken out while in use, because Python code may run in between.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The thread's buffer, empty.
pub(super) fn take_buffer() -> Vec<u8> {
    let mut buffer = BUFFER.with(|kept| std::mem::take(&mut *kept.borrow_mut()));
    buffer.clear();
    buffer
}

/// Gives a buffer back for the next message.
pub(super) fn keep_buffer(buffer: Vec<u8>) {
    if buffer.capacity() <= KEPT {
        BUFFER.with(|kept| *kept.borrow_mut() = buffer);
    }
}
