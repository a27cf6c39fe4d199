//! What to do when a process died with a side's lock.
//!
//! The side itself is in order: either the last commit happened or it did not. What may be left over are blocks that
//! the dead one had marked as the queue's, and that no committed record leads to (its put was not committed), or no
//! longer (its get was). Their numbers tell.

use std::sync::atomic::Ordering;

use super::Queue;
use crate::crash::crash_point;
use crate::error::ShmError;
use crate::layout::Kind;
use crate::robust::Robust;

impl<L: Robust> Queue<L> {
    /// What the one that got a side's lock after a death does with `repair`, and then.
    pub(super) fn after_death(&self, lock: &L, repair: impl FnOnce() -> Result<(), ShmError>) {
        // What cannot be freed now, for want of address space, is when the queue ends. Giving up with an error
        // would leave a lock that nobody can ever take again.
        if repair().is_err() {
            self.header().littered.store(1, Ordering::Relaxed);
        }
        crash_point("repair: done");
        lock.repaired();
        // The dead one may have owed somebody a wake-up, or have used one up. Pollers were told before, and their lock comes before
        // that of a side.
        self.wake_waiters();
    }

    /// Frees what a producer left that did not commit: the put side's lock is held.
    pub(super) fn repair_put(&self) -> Result<(), ShmError> {
        let place = self.header().put.0.place();
        self.arena().free_garbage(self.handle().unit, |kind, number| match kind {
            Kind::Chunk => number > place.ordinal,
            Kind::Queued => number >= place.count,
            _ => false,
        })
    }

    /// Frees what a consumer left that had committed: the get side's lock is held.
    pub(super) fn repair_get(&self) -> Result<(), ShmError> {
        let place = self.header().get.0.place();
        self.arena().free_garbage(self.handle().unit, |kind, number| match kind {
            Kind::Chunk => number < place.ordinal,
            Kind::Queued => number < place.count,
            _ => false,
        })
    }
}
