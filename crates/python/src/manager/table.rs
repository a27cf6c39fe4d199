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

/// Methods that are called by the serving thread itself, by name: they do not block.
pub(super) type Direct = HashMap<Box<str>, Py<PyAny>>;

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

    /// The method to be called directly; `None` if somebody else has to look at it.
    #[inline]
    pub(super) fn direct(&self, ident: &str, method: &str) -> Option<&Py<PyAny>> {
        let (index, generation) = parse(ident)?;
        let place = self.places.get(index as usize)?;
        let entry = place.entry.as_ref().filter(|_| place.generation == generation)?;
        entry.direct.get(method)
    }
}

fn methods(direct: &Bound<'_, PyDict>) -> PyResult<Direct> {
    direct.iter().map(|(name, method)| Ok((name.extract::<String>()?.into(), method.unbind()))).collect()
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
