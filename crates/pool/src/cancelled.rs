//! Numbers of tasks that are in a queue and shall not be done any more.
//!
//! A table that the owner writes and workers look into, only if there is anything in it. An entry leaves when the
//! task does: skipped by a worker, or done because the worker was quicker.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const ENTRIES: usize = 1024;
/// So far from its place an entry may be.
const REACH: usize = 64;

#[repr(C)]
pub(crate) struct Cancelled {
    count: AtomicU32,
    _unused: u32,
    /// Numbers plus one.
    entries: [AtomicU64; ENTRIES],
}

impl Cancelled {
    fn places(&self, id: u64) -> impl Iterator<Item = &AtomicU64> {
        // Tasks are numbered in turn: neighbours stay neighbours.
        (0..REACH).map(move |step| &self.entries[(id as usize).wrapping_add(step) % ENTRIES])
    }

    /// Whether `id` is in it.
    #[inline]
    pub(crate) fn has(&self, id: u64) -> bool {
        self.count.load(Ordering::SeqCst) != 0
            && self.places(id).any(|place| place.load(Ordering::SeqCst) == id + 1)
    }

    /// Enters `id`. False if there is no room. Only the owner does.
    pub(crate) fn add(&self, id: u64) -> bool {
        let free = self.places(id).find(|place| place.load(Ordering::Relaxed) == 0);
        if let Some(place) = free {
            self.count.fetch_add(1, Ordering::SeqCst);
            place.store(id + 1, Ordering::SeqCst);
        }
        free.is_some()
    }

    /// Strikes `id` off. Only the owner does.
    pub(crate) fn remove(&self, id: u64) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        if let Some(place) = self.places(id).find(|place| place.load(Ordering::Relaxed) == id + 1) {
            place.store(0, Ordering::SeqCst);
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
