//! The tasks that are not resolved, by number.

use pyo3::prelude::*;
use weft_pool::Call;

use super::super::futures::FutureBase;
use super::super::result::AsyncResult;
use super::super::stream::Stream;

/// To whom an outcome is due.
pub(in crate::pool) enum Target {
    /// A result, or a part of it.
    Result(Py<AsyncResult>, u32),
    /// The item or chunk of this number.
    Stream(Py<Stream>, u64),
    /// A future.
    Future(Py<FutureBase>),
}

/// A task that is not resolved.
pub(super) struct Pending {
    pub(super) target: Target,
    pub(super) function: Py<PyAny>,
    pub(super) call: Call,
    /// What the call is made with, for messages, if it is plain: anything else is the program's, and not kept alive.
    pub(super) shown: Option<Py<PyAny>>,
    /// What else is asked of it, if anything.
    pub(super) wishes: Option<Box<Again>>,
}

/// What it takes to do a task again, and for how long it may run.
pub(super) struct Again {
    pub(super) call: Call,
    pub(super) arguments: Py<PyAny>,
    pub(super) wishes: Wishes,
    /// Times it was done again because its worker died.
    pub(super) retried: u32,
}

/// What a caller asks of a task beyond its being done.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::pool) struct Wishes {
    /// How often it is done again if its worker dies.
    pub(in crate::pool) retries: u32,
    /// How long it may run, in nanoseconds; 0 for as long as it likes.
    pub(in crate::pool) timeout: u64,
    /// Whether it overtakes those that wait.
    pub(in crate::pool) priority: i64,
}

impl Wishes {
    pub(super) fn is_plain(self) -> bool {
        self == Self::default()
    }
}

#[derive(Default)]
struct Entry {
    generation: u32,
    pending: Option<Pending>,
}

/// The tasks that are not resolved, by number.
#[derive(Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    free: Vec<u32>,
    pub(super) count: usize,
    /// Nobody would do, or fail, what is entered now.
    pub(super) sealed: bool,
}

/// So many generations an entry has before numbers come again.
const GENERATIONS: u32 = 1 << 30;

impl Table {
    /// Enters a task; hands it back if the table is sealed.
    pub(super) fn insert(&mut self, pending: Pending) -> Result<u64, Pending> {
        if self.sealed {
            return Err(pending);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[index as usize];
        entry.pending = Some(pending);
        self.count += 1;
        Ok(u64::from(entry.generation) << 32 | u64::from(index))
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(id as u32 as usize)?;
        (u64::from(entry.generation) == id >> 32).then_some(entry)
    }

    pub(super) fn get(&mut self, id: u64) -> Option<&mut Pending> {
        self.entry(id)?.pending.as_mut()
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Pending> {
        let entry = self.entry(id)?;
        let pending = entry.pending.take()?;
        entry.generation = (entry.generation + 1) % GENERATIONS;
        self.free.push(id as u32);
        self.count -= 1;
        if self.count == 0 && self.entries.len() > 4096 {
            // What a burst of tasks took is given back, but for the generations in use.
            self.entries.shrink_to_fit();
            self.free.shrink_to_fit();
        }
        Some(pending)
    }

    /// The tasks with their numbers.
    pub(super) fn unresolved(&self) -> impl Iterator<Item = (u64, &Pending)> {
        let numbered = self.entries.iter().enumerate();
        numbered.filter_map(|(index, entry)| {
            Some((u64::from(entry.generation) << 32 | index as u64, entry.pending.as_ref()?))
        })
    }
}
