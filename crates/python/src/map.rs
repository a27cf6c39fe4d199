//! Dictionaries in shared memory: Python objects as entries of `weft_map`'s map.
//!
//! Keys are encoded so that what is equal in Python is equal in bytes; values are as in messages, but in one piece. No
//! Python code runs while a part of the map is locked: what has to call something reads, calls, and writes if
//! nothing was changed meanwhile.

use std::cell::RefCell;
use std::sync::OnceLock;

use pyo3::exceptions::{PyKeyError, PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use weft_map::{Glance, Host, Map, SHARDS, Value};
use weft_shm::{Handle, ShmError};
use weft_wait::Parker;

use crate::queue::arenas::{find_arena, own_arena, shm_error};
use crate::queue::codec::{self, Spans, kind};
use crate::queue::parker::GilParker;
use crate::queue::pickling;

/// The calling thread, which waits for a lock without the GIL.
struct Waiter<'py>(Python<'py>);

/// What ended an operation.
struct Ended(PyErr);

impl From<ShmError> for Ended {
    fn from(error: ShmError) -> Self {
        Self(shm_error(error))
    }
}

impl From<Ended> for PyErr {
    fn from(ended: Ended) -> Self {
        ended.0
    }
}

impl Host for Waiter<'_> {
    type Interrupt = Ended;

    fn block(&mut self, step: &mut dyn FnMut() -> bool) -> Result<(), Ended> {
        GilParker::new(self.0).block(step).map_err(Ended)
    }
}

#[derive(Default)]
struct Scratch {
    key: Vec<u8>,
    bytes: Vec<u8>,
    value: Value,
}

thread_local! {
    /// Taken out while in use, because Python code may run in between.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Buffers that grew beyond this are not kept.
const KEPT: usize = 1 << 20;

fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> PyResult<T>) -> PyResult<T> {
    let mut scratch = SCRATCH.with(|kept| std::mem::take(&mut *kept.borrow_mut()));
    scratch.key.clear();
    scratch.bytes.clear();
    let outcome = work(&mut scratch);
    if scratch.key.capacity().max(scratch.bytes.capacity()).max(scratch.value.bytes.capacity()) <= KEPT {
        SCRATCH.with(|kept| *kept.borrow_mut() = scratch);
    }
    outcome
}

fn encode_key(key: &Bound<'_, PyAny>, bytes: &mut Vec<u8>) -> PyResult<u8> {
    codec::encode_key(key, bytes).ok_or_else(|| no_key(key))
}

fn encode_value(value: &Bound<'_, PyAny>, map: &Map, bytes: &mut Vec<u8>) -> PyResult<u8> {
    codec::encode_whole(value, map.arena(), bytes)
        .map_err(|error| pickling::refused(value, error, "cannot put {}, into a SharedDict", "value"))
}

/// The exception for what cannot be a key.
#[cold]
fn no_key(key: &Bound<'_, PyAny>) -> PyErr {
    let mut path = String::new();
    let what = obstacle(key, &mut path).unwrap_or_else(|| {
        let (items, levels) = codec::MOST_IN_KEY;
        format!("a tuple of more than {items} items, or of more than {levels} levels")
    });
    let which = if path.is_empty() { String::new() } else { format!("a tuple whose item {path} is ") };
    PyTypeError::new_err(format!(
        "a key of a SharedDict is None, a bool, an int of 64 bits, a float, a str, bytes, or a tuple of these, \
         not {which}{what}"
    ))
}

/// What of an object keeps it from being a key, and the way to it in a tuple.
fn obstacle(key: &Bound<'_, PyAny>, path: &mut String) -> Option<String> {
    if codec::encode_key(key, &mut Vec::new()).is_some() {
        return None;
    }
    if let Ok(tuple) = key.cast_exact::<PyTuple>() {
        return tuple.iter().enumerate().find_map(|(place, item)| {
            let length = path.len();
            path.push_str(&format!("[{place}]"));
            obstacle(&item, path).or_else(|| {
                path.truncate(length);
                None
            })
        });
    }
    if key.is_exact_instance_of::<PyInt>() {
        return Some("an int outside of 64 bits".to_owned());
    }
    if key.is_exact_instance_of::<PyString>() {
        return Some("a str with half of a surrogate pair, which has no UTF-8".to_owned());
    }
    let name = key.get_type().fully_qualified_name();
    let name = name.map_or_else(|_| "an object without a class".to_owned(), |name| name.to_string());
    let base = [
        ("int", key.is_instance_of::<PyInt>()),
        ("float", key.is_instance_of::<PyFloat>()),
        ("str", key.is_instance_of::<PyString>()),
        ("bytes", key.is_instance_of::<PyBytes>()),
        ("tuple", key.is_instance_of::<PyTuple>()),
    ];
    let base = base.into_iter().find_map(|(base, is_one)| is_one.then_some(base));
    Some(base.map_or_else(
        || name.clone(),
        |base| format!("{name}, a subclass of {base}: make it one by {base}(...)"),
    ))
}

/// The bytes of a string or of an integer of 64 bits, which mean the same as a key and as a value. `None` for all others.
#[inline]
fn quick_key<'a>(key: &'a Bound<'_, PyAny>, word: &'a mut [u8; 8]) -> Option<(u8, &'a [u8])> {
    let type_of = key.get_type_ptr();
    // SAFETY: the type was compared before each call that needs one; the GIL is held. A string keeps its UTF-8.
    unsafe {
        if type_of == &raw mut ffi::PyUnicode_Type {
            let mut length = 0;
            let start = ffi::PyUnicode_AsUTF8AndSize(key.as_ptr(), &raw mut length);
            if start.is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            return Some((kind::STR, std::slice::from_raw_parts(start.cast(), length as usize)));
        }
        if type_of == &raw mut ffi::PyLong_Type {
            let mut overflow = 0;
            *word = ffi::PyLong_AsLongLongAndOverflow(key.as_ptr(), &raw mut overflow).to_le_bytes();
            return (overflow == 0).then_some((kind::INT, word));
        }
    }
    None
}

/// The bytes of a value, out of the map.
enum Copied {
    Short(u8, [u8; SHORT], usize),
    Long(u8, Vec<u8>),
}

/// Values of at most so many bytes are copied to where they need no memory of their own.
const SHORT: usize = 48;

impl Copied {
    #[inline]
    fn of(kind: u8, bytes: &[u8]) -> Self {
        if bytes.len() > SHORT {
            return Self::Long(kind, bytes.to_vec());
        }
        let mut short = [0; SHORT];
        short[..bytes.len()].copy_from_slice(bytes);
        Self::Short(kind, short, bytes.len())
    }

    #[inline]
    fn decode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Short(kind, bytes, length) => codec::decode_plain(py, *kind, &bytes[..*length])
                .unwrap_or_else(|| decode(py, *kind, &bytes[..*length])),
            Self::Long(kind, bytes) => decode(py, *kind, bytes),
        }
    }
}

fn decode<'py>(py: Python<'py>, kind: u8, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    codec::decode(py, kind, bytes, &mut Spans::new()).map_err(|(error, _)| error)
}

/// A dictionary that lies in shared memory, without the manners of a Python class.
#[pyclass(frozen, subclass, weakref, name = "SharedDictBase", module = "weft._native")]
pub(crate) struct SharedDictBase(OnceLock<Map>);

impl SharedDictBase {
    fn map(&self) -> PyResult<&Map> {
        self.0
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("the dictionary was not initialised: call __init__"))
    }

    fn put(&self, map: Map) -> PyResult<()> {
        self.0.set(map).map_err(|_| PyRuntimeError::new_err("the dictionary was initialised already"))
    }

    fn find<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = key.py();
        let map = self.map()?;
        let mut word = [0; 8];
        if let Some(quick) = quick_key(key, &mut word) {
            // SAFETY: the GIL is held, as by all threads of this process that use a map: they give it up to wait for a lock only.
            match unsafe { map.glance(quick) } {
                Some(Glance::Nothing) => return Ok(None),
                Some(glance @ Glance::Value(kind, ..)) => {
                    let (_, bytes) = glance.bytes();
                    return codec::decode_plain(py, kind, bytes)
                        .unwrap_or_else(|| decode(py, kind, bytes))
                        .map(Some);
                }
                None => {}
            }
            let found = map.look(quick, |kind, bytes, _| Copied::of(kind, bytes), &mut Waiter(py))?;
            return found.map(|value| value.decode(py)).transpose();
        }
        with_scratch(|scratch| {
            let kind = encode_key(key, &mut scratch.key)?;
            if !map.get((kind, &scratch.key), &mut scratch.value, &mut Waiter(py))? {
                return Ok(None);
            }
            decode(py, scratch.value.kind, &scratch.value.bytes).map(Some)
        })
    }

    fn store(&self, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let map = self.map()?;
        let (mut word, mut other) = ([0; 8], [0; 8]);
        if let Some(quick) = quick_key(key, &mut word)
            && let Some(quick_value) = quick_key(value, &mut other)
        {
            return Ok(map.set(quick, quick_value, &mut Waiter(key.py()))?);
        }
        with_scratch(|scratch| {
            let key_kind = encode_key(key, &mut scratch.key)?;
            let kind = encode_value(value, map, &mut scratch.bytes)?;
            map.set((key_kind, &scratch.key), (kind, &scratch.bytes), &mut Waiter(key.py()))?;
            Ok(())
        })
    }

    fn take<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = key.py();
        let map = self.map()?;
        with_scratch(|scratch| {
            let kind = encode_key(key, &mut scratch.key)?;
            if !map.remove((kind, &scratch.key), &mut scratch.value, &mut Waiter(py))? {
                return Ok(None);
            }
            decode(py, scratch.value.kind, &scratch.value.bytes).map(Some)
        })
    }

    /// Sets the key to `value` if what it has is still what `stamp` says, `None` being nothing. Says whether it was.
    fn exchange(
        &self,
        key: &Bound<'_, PyAny>,
        stamp: Option<u64>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let map = self.map()?;
        with_scratch(|scratch| {
            let key_kind = encode_key(key, &mut scratch.key)?;
            let kind = encode_value(value, map, &mut scratch.bytes)?;
            let mut is_same = false;
            let change = |before: Option<(u8, &[u8], u64)>| {
                is_same = before.map(|(_, _, stamp)| stamp) == stamp;
                is_same.then(|| (kind, std::mem::take(&mut scratch.bytes)))
            };
            map.change((key_kind, &scratch.key), change, &mut Waiter(key.py()))?;
            Ok(is_same)
        })
    }

    /// The value of the key, and its stamp.
    fn find_stamped<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Option<(Bound<'py, PyAny>, u64)>> {
        let (py, map) = (key.py(), self.map()?);
        with_scratch(|scratch| {
            let kind = encode_key(key, &mut scratch.key)?;
            if !map.get((kind, &scratch.key), &mut scratch.value, &mut Waiter(py))? {
                return Ok(None);
            }
            let value = decode(py, scratch.value.kind, &scratch.value.bytes)?;
            Ok(Some((value, scratch.value.stamp)))
        })
    }
}

#[pymethods]
impl SharedDictBase {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self(OnceLock::new())
    }

    /// Make a new one, which is empty.
    fn _create(&self, py: Python<'_>) -> PyResult<()> {
        self.put(Map::create(&own_arena(py)?).map_err(shm_error)?)
    }

    /// Become a handle of the one that `_handle` of another process's describes.
    fn _attach(&self, py: Python<'_>, arena: u64, unit: u32, generation: u64) -> PyResult<()> {
        let arena = find_arena(py, arena)?;
        self.put(Map::attach(&arena, Handle { unit, generation }).map_err(shm_error)?)
    }

    /// Where it is: its arena's id, its place in it, and its generation.
    fn _handle(&self) -> PyResult<(u64, u32, u64)> {
        let map = self.map()?;
        let Handle { unit, generation } = map.handle();
        Ok((map.arena().id(), unit, generation))
    }

    fn __len__(&self) -> PyResult<usize> {
        Ok(self.map()?.len() as usize)
    }

    fn __getitem__<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.find(key)?.ok_or_else(|| PyKeyError::new_err((key.clone().unbind(),)))
    }

    fn __setitem__(&self, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.store(key, value)
    }

    fn __delitem__(&self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        let map = self.map()?;
        with_scratch(|scratch| {
            let kind = encode_key(key, &mut scratch.key)?;
            if map.remove((kind, &scratch.key), &mut scratch.value, &mut Waiter(key.py()))? {
                return Ok(());
            }
            Err(PyKeyError::new_err((key.clone().unbind(),)))
        })
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let map = self.map()?;
        with_scratch(|scratch| {
            // As a `dict` with what has no hash: who asks has made a mistake, and False would hide it.
            let kind = encode_key(key, &mut scratch.key)?;
            Ok(map.get((kind, &scratch.key), &mut scratch.value, &mut Waiter(key.py()))?)
        })
    }

    /// The value of the key, or `default`.
    #[pyo3(signature = (key, default = None))]
    fn get<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.find(key)?.or(default))
    }

    /// Remove the key and return its value; without it `default`, or KeyError if none is given.
    #[pyo3(signature = (key, *default))]
    fn pop<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match (self.take(key)?, default.len()) {
            (Some(value), _) => Ok(value),
            (None, 0) => Err(PyKeyError::new_err((key.clone().unbind(),))),
            (None, _) => default.get_item(0),
        }
    }

    /// The value of the key; if there is none, `default`, which it is then.
    #[pyo3(signature = (key, default = None))]
    fn setdefault<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let default = default.unwrap_or_else(|| py.None().into_bound(py));
        loop {
            if let Some(value) = self.find(key)? {
                return Ok(value);
            }
            if self.exchange(key, None, &default)? {
                return Ok(default);
            }
        }
    }

    /// Replace the value at `key` by `function(value, *args)`, and return it; nobody's change is lost.
    ///
    /// `function` runs in the calling process, and once more for each time that somebody else changed the value meanwhile. A
    /// key that is not there is a KeyError, unless `default` says what to begin with.
    #[pyo3(signature = (key, function, *args, **default))]
    fn update_with<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        default: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let begin = match default {
            None => None,
            Some(given) => {
                let value = given.get_item("default")?;
                if value.is_none() || given.len() > 1 {
                    return Err(PyTypeError::new_err(
                        "update_with() takes no keyword argument but `default`",
                    ));
                }
                value
            }
        };
        loop {
            let (before, stamp) = match (self.find_stamped(key)?, &begin) {
                (Some((value, stamp)), _) => (value, Some(stamp)),
                (None, Some(begin)) => (begin.clone(), None),
                (None, None) => return Err(PyKeyError::new_err((key.clone().unbind(),))),
            };
            let arguments: Vec<_> = std::iter::once(before).chain(args.iter()).collect();
            let after = function.call1(PyTuple::new(py, arguments)?)?;
            if self.exchange(key, stamp, &after)? {
                return Ok(after);
            }
            py.check_signals()?;
        }
    }

    /// Add `amount` to the value at `key`, or to `default` if there is none, and return the sum; nobody's change is lost.
    #[pyo3(signature = (key, amount = None, default = None))]
    fn add<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        amount: Option<Bound<'py, PyAny>>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let amount = match amount {
            Some(amount) => amount,
            None => 1i64.into_pyobject(py)?.into_any(),
        };
        let default = match default {
            Some(default) => default,
            None => 0i64.into_pyobject(py)?.into_any(),
        };
        if let Some(sum) = self.add_integers(key, &amount, &default)? {
            return Ok(sum.into_pyobject(py)?.into_any());
        }
        loop {
            let found = self.find_stamped(key)?;
            let stamp = found.as_ref().map(|(_, stamp)| *stamp);
            let sum = found.map_or_else(|| default.clone(), |(value, _)| value).add(&amount)?;
            if self.exchange(key, stamp, &sum)? {
                return Ok(sum);
            }
            py.check_signals()?;
        }
    }

    /// The keys, values or pairs (`what` is 0, 1 or 2) of one of the `_PARTS` parts, as they are at one moment.
    fn _part<'py>(&self, py: Python<'py>, number: usize, what: u8) -> PyResult<Bound<'py, PyList>> {
        if number >= SHARDS {
            return Err(PyTypeError::new_err("there are not so many parts"));
        }
        let list = PyList::empty(py);
        for entry in self.map()?.part(number, usize::MAX, &mut Waiter(py))? {
            let key = || decode(py, entry.kind, &entry.key);
            let value = || decode(py, entry.value.kind, &entry.value.bytes);
            match what {
                0 => list.append(key()?)?,
                1 => list.append(value()?)?,
                _ => list.append((key()?, value()?))?,
            }
        }
        Ok(list)
    }

    /// A key of the part; None if it has none.
    fn _any_key<'py>(&self, py: Python<'py>, number: usize) -> PyResult<Option<(Bound<'py, PyAny>,)>> {
        let found = self.map()?.part(number % SHARDS, 1, &mut Waiter(py))?;
        found.first().map(|entry| Ok((decode(py, entry.kind, &entry.key)?,))).transpose()
    }

    /// Set all keys of a dictionary.
    fn _update(&self, other: &Bound<'_, PyDict>) -> PyResult<()> {
        other.iter().try_for_each(|(key, value)| self.store(&key, &value))
    }

    #[classattr]
    #[pyo3(name = "_PARTS")]
    const fn parts() -> usize {
        SHARDS
    }

    /// Remove all entries.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        Ok(self.map()?.clear(&mut Waiter(py))?)
    }
}

impl SharedDictBase {
    /// `add` for integers, in one step. `None` if something is none, or the sum is too large.
    fn add_integers(
        &self,
        key: &Bound<'_, PyAny>,
        amount: &Bound<'_, PyAny>,
        default: &Bound<'_, PyAny>,
    ) -> PyResult<Option<i64>> {
        let exact = |number: &Bound<'_, PyAny>| {
            number.cast_exact::<pyo3::types::PyInt>().ok().and_then(|number| number.extract::<i64>().ok())
        };
        let (Some(amount), Some(default)) = (exact(amount), exact(default)) else { return Ok(None) };
        let map = self.map()?;
        with_scratch(|scratch| {
            let key_kind = encode_key(key, &mut scratch.key)?;
            let mut sum = None;
            let change = |before: Option<(u8, &[u8], u64)>| {
                let before = match before {
                    None => default,
                    Some((kind::INT, bytes, _)) => i64::from_le_bytes(bytes.try_into().ok()?),
                    Some(_) => return None,
                };
                sum = before.checked_add(amount);
                Some((kind::INT, sum?.to_le_bytes().to_vec()))
            };
            map.change((key_kind, &scratch.key), change, &mut Waiter(key.py()))?;
            Ok(sum)
        })
    }
}
