//! The objects of a server, by identity.
//!
//! An identity is a place in the table and the *generation* of that place, which rises whenever an object leaves it: an
//! identity that outlives its object means nothing, never another object.

use std::collections::HashMap;

use pyo3::prelude::*;
use pyo3::types::PyDict;

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

/// What is known of an object.
struct Entry {
    direct: Direct,
}

/// The table. The GIL guards it.
#[derive(Default)]
pub(super) struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
}

/// Generations begin here, so that the identity `0`, which stands for the server itself, is nobody's.
const FIRST_GENERATION: u32 = 1;

impl Table {
    /// A new place for an object, of whose methods `direct` names those to be called directly. Returns its identity.
    pub(super) fn enter(&mut self, direct: &Bound<'_, PyDict>) -> PyResult<String> {
        let entry = Entry { direct: methods(direct)? };
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.places.push(Place { generation: FIRST_GENERATION, entry: None });
                (self.places.len() - 1) as u32
            }
        };
        let place = &mut self.places[index as usize];
        place.entry = Some(entry);
        Ok(format!("{:x}{index:08x}", place.generation))
    }

    /// Takes the object out. False if there is none of that identity. What is returned is to be dropped by the caller, when
    /// nothing of the table is borrowed any more: that may run Python code.
    pub(super) fn leave(&mut self, ident: &str) -> Option<Direct> {
        let (index, generation) = parse(ident)?;
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
        Some(entry.direct)
    }

    /// Takes methods of the object out of those that are called directly: the named ones, or all. To be dropped as with
    /// [`leave`](Self::leave).
    pub(super) fn restrict(&mut self, ident: &str, methods: Option<&[String]>) -> Direct {
        let entry = parse(ident).and_then(|(index, generation)| {
            let place = self.places.get_mut(index as usize)?;
            place.entry.as_mut().filter(|_| place.generation == generation)
        });
        let Some(entry) = entry else { return Direct::new() };
        match methods {
            None => std::mem::take(&mut entry.direct),
            Some(methods) => {
                methods.iter().filter_map(|method| entry.direct.remove_entry(method.as_str())).collect()
            }
        }
    }

    /// The method to be called directly; `None` if somebody else has to look at it.
    #[inline]
    pub(super) fn direct(&self, ident: &str, method: &str) -> Option<&Method> {
        let (index, generation) = parse(ident)?;
        let place = self.places.get(index as usize)?;
        let entry = place.entry.as_ref().filter(|_| place.generation == generation)?;
        entry.direct.get(method)
    }
}

fn methods(direct: &Bound<'_, PyDict>) -> PyResult<Direct> {
    let method = |method: Bound<'_, PyAny>| match method.extract::<(Py<PyAny>, Py<PyAny>)>() {
        Ok((call, back)) => Method { call, back: Some(back) },
        Err(_) => Method { call: method.unbind(), back: None },
    };
    direct.iter().map(|(name, value)| Ok((name.extract::<String>()?.into(), method(value)))).collect()
}

/// The place and the generation that an identity stands for.
#[inline]
fn parse(ident: &str) -> Option<(u32, u32)> {
    if ident.len() <= 8 {
        return None;
    }
    let word = u64::from_str_radix(ident, 16).ok()?;
    Some((word as u32, (word >> 32) as u32))
}
