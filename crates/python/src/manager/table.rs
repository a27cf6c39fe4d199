//! The objects of a server, by identity.
//!
//! An identity is a place in the table and the *generation* of that place, which rises whenever an object leaves it: an
//! identity that outlives its object means nothing, never another object.

use std::collections::HashMap;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::plain::Sort;
use super::proxy::{self, COUNT};
use super::short::Names;

/// A place in the table.
#[derive(Default)]
struct Place {
    generation: u32,
    entry: Option<Entry>,
}

/// A method that is called by the serving thread itself: it does not block, and runs nobody's code.
pub(super) struct Method {
    pub(super) call: Py<PyAny>,
    /// Puts what it took from the object back, if nobody gets it.
    pub(super) back: Option<Py<PyAny>>,
}

impl Method {
    pub(super) fn clone_ref(&self, py: Python<'_>) -> Self {
        Self { call: self.call.clone_ref(py), back: self.back.as_ref().map(|back| back.clone_ref(py)) }
    }
}

/// These methods, by name.
pub(super) type Direct = HashMap<Box<str>, Method>;

/// What is known of an object. The methods are those that are called by the serving thread itself: they do not block.
pub(super) struct Entry {
    direct: Direct,
    /// A bit for each of those that have a number.
    has: u64,
    /// And for each of these that may be called directly still.
    may: u64,
    /// These, in the order of their numbers.
    numbered: Vec<Method>,
    sort: Sort,
    object: Py<PyAny>,
}

const _: () = assert!(COUNT <= u64::BITS as usize);

/// The table. The GIL guards it.
#[derive(Default)]
pub(super) struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    /// Strings in short calls.
    pub(super) names: Names,
}

/// Generations begin here, so that the identity `0`, which stands for the server itself, is nobody's.
const FIRST_GENERATION: u32 = 1;

impl Entry {
    /// What is known of `object`, of whose methods `direct` has those to be called directly.
    pub(super) fn new(direct: &Bound<'_, PyDict>, object: &Bound<'_, PyAny>, sort: &str) -> PyResult<Self> {
        let sort = Sort::of_name(sort)
            .ok_or_else(|| PyValueError::new_err(format!("{sort:?} is no sort of object")))?;
        let method = |method: Bound<'_, PyAny>| match method.extract::<(Py<PyAny>, Py<PyAny>)>() {
            Ok((call, back)) => Method { call, back: Some(back) },
            Err(_) => Method { call: method.unbind(), back: None },
        };
        let direct: Direct = direct
            .iter()
            .map(|(name, value)| Ok((name.extract::<String>()?.into(), method(value))))
            .collect::<PyResult<_>>()?;
        let (mut has, mut numbered) = (0, Vec::new());
        for number in 0..COUNT {
            if let Some(method) = direct.get(proxy::name_of(number)) {
                has |= 1 << number;
                numbered.push(method.clone_ref(object.py()));
            }
        }
        Ok(Self { direct, has, may: has, numbered, sort, object: object.clone().unbind() })
    }
}

impl Table {
    /// A new place for an object. Returns its identity.
    pub(super) fn enter(&mut self, entry: Entry) -> String {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.places.push(Place { generation: FIRST_GENERATION, entry: None });
                (self.places.len() - 1) as u32
            }
        };
        let place = &mut self.places[index as usize];
        place.entry = Some(entry);
        text_of(word(index, place.generation))
    }

    /// Takes the object out. `None` if there is none of that identity. What is returned is to be dropped by the caller, when
    /// nothing of the table is borrowed any more: that may run Python code.
    pub(super) fn leave(&mut self, ident: &str) -> Option<Entry> {
        let (index, generation) = parts(word_of(ident)?);
        let place = self.places.get_mut(index as usize)?;
        if place.generation != generation {
            return None;
        }
        let entry = place.entry.take()?;
        // A place whose generations are used up is not used again.
        if let Some(next) = place.generation.checked_add(1) {
            place.generation = next;
            self.free.push(index);
        }
        Some(entry)
    }

    #[inline]
    fn entry(&self, identity: u64) -> Option<&Entry> {
        let (index, generation) = parts(identity);
        let place = self.places.get(index as usize)?;
        place.entry.as_ref().filter(|_| place.generation == generation)
    }

    /// Takes methods of the object out of those that are called directly: the named ones, or all. To be dropped as with
    /// [`leave`](Self::leave).
    pub(super) fn restrict(&mut self, ident: &str, methods: Option<&[String]>) -> Direct {
        let entry = word_of(ident).map(parts).and_then(|(index, generation)| {
            let place = self.places.get_mut(index as usize)?;
            place.entry.as_mut().filter(|_| place.generation == generation)
        });
        let Some(entry) = entry else { return Direct::new() };
        match methods {
            None => {
                entry.may = 0;
                std::mem::take(&mut entry.direct)
            }
            Some(methods) => {
                for number in
                    (0..COUNT).filter(|number| methods.iter().any(|name| name == proxy::name_of(*number)))
                {
                    entry.may &= !(1 << number);
                }
                methods.iter().filter_map(|method| entry.direct.remove_entry(method.as_str())).collect()
            }
        }
    }

    /// The method to be called directly; `None` if somebody else has to look at it.
    #[inline]
    pub(super) fn direct(&self, identity: u64, method: &str) -> Option<&Method> {
        self.entry(identity)?.direct.get(method)
    }

    /// As [`direct`](Self::direct), for a method with a number: with it what sort of object that is, and the object.
    #[inline]
    pub(super) fn numbered(&self, identity: u64, number: usize) -> Option<(Sort, &Py<PyAny>, &Method)> {
        let entry = self.entry(identity)?;
        if number >= COUNT || entry.may & 1 << number == 0 {
            return None;
        }
        let rank = (entry.has & ((1 << number) - 1)).count_ones() as usize;
        Some((entry.sort, &entry.object, &entry.numbered[rank]))
    }

    /// The object, if it is of that sort and has this method to be called directly.
    pub(super) fn object(&self, identity: u64, sort: Sort, method: &str) -> Option<&Py<PyAny>> {
        let entry = self.entry(identity)?;
        (entry.sort == sort && entry.direct.contains_key(method)).then_some(&entry.object)
    }
}

const fn word(index: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | index as u64
}

#[inline]
const fn parts(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// The text of the identity that this word stands for.
pub(super) fn text_of(word: u64) -> String {
    let (index, generation) = parts(word);
    format!("{generation:x}{index:08x}")
}

/// The place and the generation that an identity stands for, as one word. `None` if it is no identity of an object.
#[inline]
pub(super) fn word_of(ident: &str) -> Option<u64> {
    if ident.len() <= 8 {
        return None;
    }
    u64::from_str_radix(ident, 16).ok().filter(|word| text_of(*word) == ident)
}
