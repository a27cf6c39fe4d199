//! Descriptors that are registered once for their life, edge-triggered.
//!
//! The kernel tells of a change once. What it told is kept in the record's flags until whoever uses the descriptor finds out
//! that it is no longer so. A record's generation travels with the registration, so what the kernel still has to
//! say of a descriptor that was closed is not taken for another one's that got its number.

use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::Errno;
use weft_sys::epoll::{Epoll, EventFlags};

use crate::{ReactorError, Ready};

/// Names a registration. Once that is over the key means nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceKey {
    pub(crate) place: u32,
    pub(crate) generation: u32,
}

impl SourceKey {
    /// A small number that no other registration has as long as this one lasts.
    pub const fn index(self) -> usize {
        self.place as usize
    }

    fn token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.place)
    }

    /// What [`SourceKey::token`] made.
    pub(crate) const fn from_token(token: u64) -> Self {
        Self { place: token as u32, generation: (token >> 32) as u32 }
    }
}

#[derive(Debug)]
struct Record {
    generation: u32,
    descriptor: RawFd,
    /// How often it was registered; 0 if the place is free.
    users: u32,
    ready: Ready,
}

/// All registrations of a reactor.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    records: Vec<Record>,
    free: Vec<u32>,
    /// By number of descriptor: the place plus one, 0 if there is none.
    by_descriptor: Vec<u32>,
}

/// Urgent data among them: see [`Ready::URGENT`].
const EDGES: EventFlags = EventFlags::IN
    .union(EventFlags::OUT)
    .union(EventFlags::RDHUP)
    .union(EventFlags::PRI)
    .union(EventFlags::ET);

/// # Safety
///
/// For one call of the kernel: a number that was closed meanwhile is refused by it.
pub(crate) unsafe fn borrow<'a>(descriptor: RawFd) -> Result<BorrowedFd<'a>, Errno> {
    if descriptor < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: not -1; the rest is the caller's promise.
    Ok(unsafe { BorrowedFd::borrow_raw(descriptor) })
}

impl Sources {
    pub(crate) fn register(&mut self, epoll: &Epoll, descriptor: RawFd) -> Result<SourceKey, ReactorError> {
        let failed = |source| ReactorError::Watch { descriptor, source };
        // SAFETY: used for the calls in this function.
        let borrowed = unsafe { borrow(descriptor) }.map_err(failed)?;
        let slot = descriptor as usize;
        if let Some(&place) = self.by_descriptor.get(slot).filter(|&&place| place != 0) {
            let record = &mut self.records[place as usize - 1];
            let key = SourceKey { place: place - 1, generation: record.generation };
            match epoll.modify(borrowed, key.token(), EDGES) {
                Ok(()) => {
                    record.users += 1;
                    return Ok(key);
                }
                // It was closed without a word, and the number is another descriptor's now.
                Err(Errno::NOENT) => self.end(key),
                Err(error) => return Err(failed(error)),
            }
        }
        let place = self.free.last().copied().unwrap_or(self.records.len() as u32);
        let generation = self.records.get(place as usize).map_or(0, |record| record.generation);
        let key = SourceKey { place, generation };
        epoll.add(borrowed, key.token(), EDGES).map_err(failed)?;
        // Nothing is known yet: whoever uses it tries first.
        let record = Record { generation, descriptor, users: 1, ready: Ready::BOTH };
        if self.free.pop().is_some() {
            self.records[place as usize] = record;
        } else {
            self.records.push(record);
        }
        if self.by_descriptor.len() <= slot {
            self.by_descriptor.resize(slot + 1, 0);
        }
        self.by_descriptor[slot] = place + 1;
        Ok(key)
    }

    /// Says whether that was the last one.
    pub(crate) fn deregister(&mut self, epoll: &Epoll, key: SourceKey) -> bool {
        let Some(record) = self.get_mut(key) else { return false };
        record.users -= 1;
        if record.users > 0 {
            return false;
        }
        // SAFETY: for this call. It fails if the descriptor was closed, or the number is another's: then the
        // registration is over already.
        let _ = unsafe { borrow(record.descriptor) }.and_then(|borrowed| epoll.delete(borrowed));
        self.end(key);
        true
    }

    fn end(&mut self, key: SourceKey) {
        let record = &mut self.records[key.place as usize];
        record.users = 0;
        self.by_descriptor[record.descriptor as usize] = 0;
        // The last generation is kept apart: its token stands for something else. Such a place is not used again.
        if record.generation + 1 < u32::MAX {
            record.generation += 1;
            self.free.push(key.place);
        }
    }

    fn get_mut(&mut self, key: SourceKey) -> Option<&mut Record> {
        let record = self.records.get_mut(key.place as usize)?;
        (record.generation == key.generation && record.users > 0).then_some(record)
    }

    pub(crate) fn ready_mut(&mut self, key: SourceKey) -> Option<&mut Ready> {
        self.get_mut(key).map(|record| &mut record.ready)
    }

    pub(crate) fn ready(&self, key: SourceKey) -> Option<Ready> {
        let record = self.records.get(key.place as usize)?;
        (record.generation == key.generation && record.users > 0).then_some(record.ready)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.records.iter().filter(|record| record.users > 0).count()
    }

    /// Registers all of them again, with a set that is empty. What cannot be registered is ready, so that whoever waits
    /// for it tries, and learns why.
    pub(crate) fn register_again(&mut self, epoll: &Epoll) {
        for (place, record) in self.records.iter_mut().enumerate().filter(|(_, record)| record.users > 0) {
            let key = SourceKey { place: place as u32, generation: record.generation };
            // SAFETY: for this call.
            let added = unsafe { borrow(record.descriptor) }
                .and_then(|borrowed| epoll.add(borrowed, key.token(), EDGES));
            record.ready = if added.is_ok() { Ready::BOTH } else { Ready::BOTH | Ready::END };
        }
    }
}
