//! The quick part of a proxy: from a method to the lane, and back.
//!
//! A proxy class has a method for each of the shared object's. For the names that are known here these are descriptors of the
//! interpreter's own kind, which call the lane without running any Python code; for all others, functions that
//! call `_callmethod`. A class that overrides `_callmethod` is called through that.

use std::ffi::{CStr, c_int};
use std::sync::Weak;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use super::lane::{ManagerLane, Shared, Using};
use super::table;
use super::wire::Tag;
use crate::gil::GilCell;
use crate::hub::greenlet_number;

/// What all proxies derive from.
#[pyclass(frozen, subclass, name = "ProxyBase", module = "weft._native")]
pub(crate) struct ProxyBase {
    state: GilCell<State>,
}

/// Guarded by the GIL.
#[derive(Default)]
struct State {
    ident: String,
    /// The same as a word, if it is that of an object in a server of this kind.
    identity: Option<u64>,
    /// The thread that called last, and the lane that it called through.
    last: Option<(usize, Weak<Shared>)>,
}

/// Who calls: a greenlet of a hub has a lane of its own, because locks of a server are its caller's.
fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    match greenlet_number() {
        0 => PLACE.with(|place| std::ptr::from_ref(place).addr()),
        number => number,
    }
}

/// The thread's lane, if it called through this proxy last.
#[inline]
fn quick_lane<'py>(py: Python<'py>, this: &ProxyBase) -> Option<Using<'py>> {
    // SAFETY: the GIL is held, and nothing here runs Python code.
    let state = unsafe { &*this.state.get() };
    let (thread, lane) = state.last.as_ref()?;
    if *thread != this_thread() {
        return None;
    }
    Using::begin(py, lane)
}

/// Calls a method of the shared object by way of the thread's lane, or whatever `_tls` has instead.
pub(super) fn call<'py>(
    slf: &Bound<'py, ProxyBase>,
    number: Option<usize>,
    method: &Bound<'py, PyString>,
    args: &Arguments<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    if let Some(lane) = quick_lane(py, slf.get()) {
        // SAFETY: the GIL is held; set once, when the proxy is made, so it stays there.
        let (ident, identity) = unsafe {
            let state = slf.get().state.get();
            (&(*state).ident, (*state).identity)
        };
        let short = match (identity, number, args.positional()) {
            (Some(identity), Some(number), Some(items)) => lane.call_short(py, (identity, number), items),
            _ => None,
        };
        let outcome = match short {
            Some(outcome) => outcome,
            None => lane.call(py, (ident, method.to_str()?), args),
        };
        match outcome {
            Ok((Tag::Return, value)) => return Ok(value),
            Ok((tag, value)) => {
                return slf.call_method1(pyo3::intern!(py, "_otherwise"), (tag.name(), value));
            }
            Err(Some(error)) => return Err(error),
            Err(None) => {}
        }
    }
    let (args, kwds) = args.objects(py)?;
    slf.call_method1(pyo3::intern!(py, "_call_slowly"), (method, args, kwds))
}

/// The arguments of a call as they came.
pub(super) enum Arguments<'a, 'py> {
    /// By position only, as the interpreter passes them.
    Array(&'a [*mut ffi::PyObject]),
    Objects(Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>),
}

impl<'py> Arguments<'_, 'py> {
    /// If there are no others.
    fn positional(&self) -> Option<&[*mut ffi::PyObject]> {
        match self {
            Self::Array(items) => Some(items),
            // SAFETY: the GIL is held; a tuple's items are behind each other, and never change.
            Self::Objects(args, None) => Some(unsafe {
                let start = (*args.as_ptr().cast::<ffi::PyTupleObject>()).ob_item.as_ptr();
                std::slice::from_raw_parts(start, args.len())
            }),
            Self::Objects(_, Some(_)) => None,
        }
    }

    /// As a tuple and a dictionary.
    pub(super) fn objects(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        match self {
            // SAFETY: the interpreter keeps the arguments of a call alive during it.
            Self::Array(items) => unsafe {
                let items = items.iter().map(|item| Bound::from_borrowed_ptr(py, *item));
                Ok((PyTuple::new(py, items.collect::<Vec<_>>())?, PyDict::new(py)))
            },
            Self::Objects(args, kwds) => Ok((args.clone(), kwds.clone().unwrap_or_else(|| PyDict::new(py)))),
        }
    }
}

#[pymethods]
impl ProxyBase {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self { state: GilCell::new(State::default()) }
    }

    /// Be the proxy of the object with this identity.
    fn _bind(&self, ident: String) -> PyResult<()> {
        // SAFETY: the GIL is held.
        let state = unsafe { &mut *self.state.get() };
        if !state.ident.is_empty() {
            return Err(PyRuntimeError::new_err("the proxy was initialised already"));
        }
        state.identity = table::word_of(&ident);
        state.ident = ident;
        Ok(())
    }

    /// Let the calling thread's next calls go through `lane`.
    fn _remember(&self, lane: &Bound<'_, ManagerLane>) {
        let remembered =
            lane.get().shared().map(|shared| (this_thread(), std::sync::Arc::downgrade(&shared)));
        // SAFETY: the GIL is held. The one before is dropped when nothing is borrowed any more.
        let before = std::mem::replace(unsafe { &mut (*self.state.get()).last }, remembered);
        drop(before);
    }

    /// Call a method of the shared object, and return a copy of its result, or a proxy of that.
    #[pyo3(signature = (methodname, args = None, kwds = None))]
    fn _callmethod<'py>(
        slf: &Bound<'py, Self>,
        methodname: &Bound<'py, PyString>,
        args: Option<&Bound<'py, PyAny>>,
        kwds: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let args = match args {
            None => PyTuple::empty(py),
            Some(args) => match args.cast::<PyTuple>() {
                Ok(args) => args.clone(),
                Err(_) => PyTuple::new(py, args.try_iter()?.collect::<PyResult<Vec<_>>>()?)?,
            },
        };
        let kwds = match kwds {
            None => None,
            Some(kwds) => Some(match kwds.cast::<PyDict>() {
                Ok(kwds) => kwds.clone(),
                Err(_) => py.get_type::<PyDict>().call1((kwds,))?.cast_into()?,
            }),
        };
        let kwds = kwds.filter(|kwds| !kwds.is_empty());
        call(slf, number_of(methodname)?, methodname, &Arguments::Objects(args, kwds))
    }
}

/// The class's `_callmethod`, if it is not the one above.
#[inline]
pub(super) fn overridden<'py>(slf: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    static OURS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = slf.py();
    let name = pyo3::intern!(py, "_callmethod");
    let ours =
        OURS.get_or_try_init(py, || Ok::<_, PyErr>(py.get_type::<ProxyBase>().getattr(name)?.unbind()));
    // A method of a class is found as itself.
    match ours {
        Ok(ours) if class_attribute(slf, name) == Some(ours.as_ptr()) => None,
        _ => slf.getattr(name).ok(),
    }
}

unsafe extern "C" {
    /// An attribute of a type as it lies in the dictionary of the type or a base, from the interpreter's cache. It is borrowed. Not
    /// among the documented functions, but exported by every version since 2.2.
    fn _PyType_Lookup(class: *mut ffi::PyTypeObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

/// The attribute of the object's class as it lies there, to be compared with others only.
#[inline]
pub(super) fn class_attribute(
    slf: &Bound<'_, PyAny>,
    name: &Bound<'_, PyString>,
) -> Option<*mut ffi::PyObject> {
    // SAFETY: the GIL is held, and both are alive.
    let found = unsafe { _PyType_Lookup(slf.get_type_ptr(), name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// The methods that are known here.
const NAMES: [(&CStr, &CStr); COUNT] = {
    macro_rules! names {
        ($($name:literal)*) => {[$({
            const NAME: &str = concat!($name, "\0");
            const DOC: &str = concat!($name, "($self, /, *args, **kwds)\n--\n\n\0");
            match (CStr::from_bytes_with_nul(NAME.as_bytes()), CStr::from_bytes_with_nul(DOC.as_bytes())) {
                (Ok(name), Ok(doc)) => (name, doc),
                _ => panic!("a name with a zero"),
            }
        }),*]};
    }
    names!(
        "__getitem__" "__setitem__" "__delitem__" "__contains__" "__len__" "get" "set" "append" "pop" "put"
        "keys" "values" "items" "update" "setdefault" "popitem" "clear" "copy" "extend" "insert" "remove" "index"
        "count" "sort" "reverse" "get_nowait" "put_nowait" "qsize" "empty" "full" "task_done" "join"
        "acquire" "release" "is_set" "wait" "notify" "discard" "union" "add"
        "__getattribute__" "__setattr__"
        "__getattr__"
    )
};
/// How many there are.
pub(super) const COUNT: usize = 43;
/// This one is no method of the shared object: it asks for an attribute, unless that is the proxy's own affair.
const GETATTR: usize = COUNT - 1;
/// What it asks with.
pub(super) const GETATTRIBUTE: usize = number("__getattribute__");

/// The number of the method with this name, which has one.
pub(super) const fn number(name: &str) -> usize {
    let mut number = 0;
    while number < COUNT {
        let known = NAMES[number].0.to_bytes();
        let mut length = 0;
        while length < known.len() && length < name.len() && known[length] == name.as_bytes()[length] {
            length += 1;
        }
        if length == known.len() && length == name.len() {
            return number;
        }
        number += 1;
    }
    panic!("no method has this name")
}

/// The name of the method with this number.
pub(super) fn name_of(number: usize) -> &'static str {
    // They are ASCII.
    NAMES[number].0.to_str().unwrap_or_default()
}

/// As [`name_of`], for a number from elsewhere.
pub(super) fn checked_name_of(number: usize) -> Option<&'static str> {
    (number < COUNT).then(|| name_of(number))
}

unsafe extern "C" fn method<const N: usize>(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let work = || {
        // SAFETY: the interpreter calls it, with the GIL, as a method of a class that derives from `ProxyBase`.
        let (py, slf) = unsafe {
            let py = Python::assume_attached();
            (py, Bound::from_borrowed_ptr(py, slf))
        };
        let name = interned(py)?[N].bind(py);
        // SAFETY: so many arguments, and behind them the values of the names, by the calling convention.
        let (positional, kwds) = unsafe {
            let all = if args.is_null() { &[][..] } else { std::slice::from_raw_parts(args, count as usize) };
            let kwds = if names.is_null() {
                None
            } else {
                let names = Bound::from_borrowed_ptr(py, names).cast_into_unchecked::<PyTuple>();
                let kwds = PyDict::new(py);
                for (index, name) in names.iter().enumerate() {
                    let value = Bound::from_borrowed_ptr(py, *args.add(count as usize + index));
                    kwds.set_item(name, value)?;
                }
                Some(kwds)
            };
            (all, kwds)
        };
        let (number, name) = if N == GETATTR {
            let Ok([key]) = <[_; 1]>::try_from(positional) else {
                return Err(PyTypeError::new_err("__getattr__() takes one argument"));
            };
            // SAFETY: an argument of the call.
            let key = unsafe { Bound::from_borrowed_ptr(py, key) }.cast_into::<PyString>()?;
            if key.to_str()?.starts_with('_') {
                // SAFETY: both are alive, and the GIL is held. It raises what the interpreter says of a missing attribute.
                return unsafe {
                    let found = ffi::PyObject_GenericGetAttr(slf.as_ptr(), key.as_ptr());
                    Bound::from_owned_ptr_or_err(py, found)
                };
            }
            (GETATTRIBUTE, interned(py)?[GETATTRIBUTE].bind(py))
        } else {
            (N, name)
        };
        if let Some(callmethod) = overridden(&slf) {
            let (args, none) = Arguments::Array(positional).objects(py)?;
            return callmethod.call1((name, args, kwds.unwrap_or(none)));
        }
        let slf = slf.cast::<ProxyBase>()?;
        match kwds {
            None => call(slf, Some(number), name, &Arguments::Array(positional)),
            Some(kwds) => {
                let (args, _) = Arguments::Array(positional).objects(py)?;
                call(slf, Some(number), name, &Arguments::Objects(args, Some(kwds)))
            }
        }
    };
    guarded(work)
}

/// What `work` gives, as a function that C calls returns it. The GIL is held.
#[inline]
pub(super) fn guarded<'py>(work: impl FnOnce() -> PyResult<Bound<'py, PyAny>>) -> *mut ffi::PyObject {
    // A panic may not leave a function that C calls.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(Ok(value)) => value.into_ptr(),
        Ok(Err(error)) => {
            // SAFETY: the GIL is held.
            unsafe { error.restore(Python::assume_attached()) };
            std::ptr::null_mut()
        }
        Err(_) => {
            // SAFETY: the GIL is held.
            let py = unsafe { Python::assume_attached() };
            PyRuntimeError::new_err("a call to a manager failed in weft itself").restore(py);
            std::ptr::null_mut()
        }
    }
}

/// The names of the methods, by number.
#[inline]
pub(super) fn interned(py: Python<'_>) -> PyResult<&[Py<PyString>]> {
    static INTERNED: PyOnceLock<Vec<Py<PyString>>> = PyOnceLock::new();
    let names = INTERNED.get_or_try_init(py, || {
        (0..COUNT).map(|number| Ok(PyString::intern(py, name_of(number)).unbind())).collect::<PyResult<_>>()
    });
    names.map(Vec::as_slice)
}

/// The number of the method with this name, if it is one of those that have one, and the interpreter's own copy of it, as names
/// in programs are.
fn number_of(name: &Bound<'_, PyString>) -> PyResult<Option<usize>> {
    Ok(interned(name.py())?.iter().position(|known| known.as_ptr() == name.as_ptr()))
}

type Fast = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

const METHODS: [Fast; COUNT] = {
    macro_rules! methods {
        ($($number:literal)*) => {[$(method::<$number>),*]};
    }
    methods!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39
        40 41 42
    )
};

/// The method `name` for `cls`, a class of proxies; None if it is none of those that are quick.
#[pyfunction]
pub(super) fn proxy_method<'py>(cls: &Bound<'py, PyType>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = cls.py();
    if !cls.is_subclass_of::<ProxyBase>()? {
        return Err(PyTypeError::new_err("the class is none of proxies"));
    }
    let Some(number) = NAMES.iter().position(|(known, _)| known.to_bytes() == name.as_bytes()) else {
        return Ok(None);
    };
    static DEFINITIONS: PyOnceLock<Box<[Definition]>> = PyOnceLock::new();
    let definitions = DEFINITIONS.get_or_init(py, || {
        NAMES.iter().zip(METHODS).map(|((name, doc), method)| Definition::new(name, doc, method)).collect()
    });
    // SAFETY: the definition is never freed; the class is a type.
    unsafe {
        let place = (&raw const definitions[number].0).cast_mut();
        let descriptor = ffi::PyDescr_NewMethod(cls.as_type_ptr(), place);
        Bound::from_owned_ptr_or_err(py, descriptor).map(Some)
    }
}

struct Definition(ffi::PyMethodDef);

// SAFETY: pointers to functions and texts that stay, and that nobody writes.
unsafe impl Send for Definition {}
// SAFETY: as above.
unsafe impl Sync for Definition {}

impl Definition {
    const FLAGS: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;

    fn new(name: &'static CStr, doc: &'static CStr, method: Fast) -> Self {
        Self(ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: method },
            ml_flags: Self::FLAGS,
            ml_doc: doc.as_ptr(),
        })
    }
}
