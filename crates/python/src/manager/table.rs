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

/// What is known of an object. The methods are those that are called by the serving thread itself: they do not block.
pub(super) struct Entry {
    direct: HashMap<Box<str>, Py<PyAny>>,
    /// A bit for each of those that have a number.
    has: u64,
    /// These, in the order of their numbers.
    numbered: Vec<Py<PyAny>>,
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
        let direct: HashMap<Box<str>, Py<PyAny>> = direct
            .iter()
            .map(|(name, method)| Ok((name.extract::<String>()?.into(), method.unbind())))
            .collect::<PyResult<_>>()?;
        let (mut has, mut numbered) = (0, Vec::new());
        for number in 0..COUNT {
            if let Some(method) = direct.get(proxy::name_of(number)) {
                has |= 1 << number;
                numbered.push(method.clone_ref(object.py()));
            }
        }
        Ok(Self { direct, has, numbered, sort, object: object.clone().unbind() })
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

    /// The method to be called directly; `None` if somebody else has to look at it.
    #[inline]
    pub(super) fn direct(&self, identity: u64, method: &str) -> Option<&Py<PyAny>> {
        self.entry(identity)?.direct.get(method)
    }

    /// As [`direct`](Self::direct), for a method with a number: with it what sort of object that is, and the object.
    #[inline]
    pub(super) fn numbered(&self, identity: u64, number: usize) -> Option<(Sort, &Py<PyAny>, &Py<PyAny>)> {
        let entry = self.entry(identity)?;
        if number >= COUNT || entry.has & 1 << number == 0 {
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
