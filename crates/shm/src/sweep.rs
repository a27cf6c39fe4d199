//! Taking back what the dead left: blocks in their hands, and objects that nobody holds any more.
//!
//! A sweep looks twice. First it notes, under the lock, which processes there are; then it asks the system
//! about them, which takes long, without the lock; then it frees what belonged to the dead ones, who stay dead.

use std::collections::{HashMap, HashSet};

use crate::arena::{Arena, Locked};
use crate::crash::crash_point;
use crate::error::ShmError;
use crate::identity::Identity;
use crate::layout::{Descriptor, Kind, UNIT_SHIFT, order_of};
use crate::object::{NO_GENERATION, holders, strike_off};
use crate::robust::Robust;

use std::sync::atomic::Ordering;

/// The memory of a block of a higher order goes back to the system with the object that it was part of: it is not likely
/// that so much is wanted again soon.
const LARGEST_KEPT: u32 = (16_usize << 20 >> UNIT_SHIFT).trailing_zeros();

fn holder(descriptor: &Descriptor) -> Identity {
    Identity {
        pid: descriptor.holder_pid.load(Ordering::Relaxed),
        start: descriptor.holder_start.load(Ordering::Relaxed),
    }
}

impl<L: Robust> Arena<L> {
    /// Frees what processes that have ended left behind. Says how many blocks that were.
    ///
    /// It is done now and then by itself, when more memory is taken; after the death of a process is a good time, too.
    pub fn sweep(&self) -> usize {
        // Damage is met, and reported, where it stands in somebody's way.
        self.try_sweep().unwrap_or(0)
    }

    fn try_sweep(&self) -> Result<usize, ShmError> {
        let mut alive = HashMap::<Identity, bool>::new();
        {
            let locked = self.lock();
            let mut objects = Vec::new();
            locked.walk(|unit, kind, descriptor| match kind {
                Kind::Held => {
                    alive.insert(holder(descriptor), true);
                }
                Kind::Object => objects.push(unit),
                _ => {}
            })?;
            for unit in objects {
                holders(&locked, unit, |identity| {
                    alive.insert(identity, true);
                })?;
            }
        }
        for (identity, is_alive) in &mut alive {
            *is_alive = *identity == self.identity() || identity.is_alive();
        }
        // Who was not seen the first time came later, and lives.
        let is_dead = |identity| alive.get(&identity) == Some(&false);
        let locked = self.lock();
        let (mut objects, mut freed) = (Vec::new(), Vec::new());
        locked.walk(|unit, kind, descriptor| match kind {
            Kind::Held if is_dead(holder(descriptor)) => freed.push(unit),
            Kind::Object => objects.push(unit),
            _ => {}
        })?;
        let mut ended = HashSet::new();
        for unit in &objects {
            if strike_off(&locked, *unit, is_dead, |_| false)? {
                ended.insert(*unit);
            }
        }
        if !ended.is_empty() && self.header().has_sent.load(Ordering::Relaxed) != 0 {
            // With a queue end the references in it.
            let queues = ended.clone();
            for unit in &objects {
                if strike_off(&locked, *unit, is_dead, |unit| queues.contains(&unit))? {
                    ended.insert(*unit);
                }
            }
        }
        freed.extend(parts(&locked, &ended)?);
        crash_point("sweep: all found");
        self.free_all(locked, &freed)
    }

    /// Frees an object that nobody holds, and all that belongs to it. The lock is the one under which that was seen.
    pub(crate) fn destroy(
        &self,
        locked: Locked<'_, L>,
        object: u32,
        has_parts: bool,
    ) -> Result<(), ShmError> {
        let freed = if has_parts { parts(&locked, &HashSet::from([object]))? } else { vec![object] };
        self.free_all(locked, &freed)?;
        Ok(())
    }

    /// Frees an object that nobody holds, and its only part.
    pub(crate) fn destroy_two(&self, locked: Locked<'_, L>, part: u32, object: u32) -> Result<(), ShmError> {
        self.descriptor(object)?.ordinal.store(NO_GENERATION, Ordering::Relaxed);
        self.free_all(locked, &[part, object])?;
        Ok(())
    }

    /// Frees those blocks of an object that `is_garbage`, by kind and number.
    pub(crate) fn free_garbage(
        &self,
        object: u32,
        is_garbage: impl Fn(Kind, u64) -> bool,
    ) -> Result<(), ShmError> {
        let locked = self.lock();
        let mut freed = Vec::new();
        locked.walk(|unit, kind, descriptor| {
            if matches!(kind, Kind::Chunk | Kind::Queued)
                && descriptor.object.load(Ordering::Relaxed) == object
                && is_garbage(kind, descriptor.ordinal.load(Ordering::Relaxed))
            {
                freed.push(unit);
            }
        })?;
        self.free_all(locked, &freed)?;
        Ok(())
    }

    fn free_all(&self, locked: Locked<'_, L>, freed: &[u32]) -> Result<usize, ShmError> {
        let (mut excess, mut large) = (false, Vec::new());
        for unit in freed {
            let descriptor = self.descriptor(*unit)?;
            if order_of(descriptor.state.load(Ordering::Relaxed)) > LARGEST_KEPT {
                // In this process's hands until its memory is the system's again, which takes long.
                self.hold(*unit)?;
                large.push(*unit);
            } else {
                excess = locked.give_back(*unit)?;
            }
            crash_point("sweep: one freed");
        }
        drop(locked);
        for unit in large {
            self.release(unit)?;
            self.free(unit)?;
        }
        if excess {
            self.trim()?;
        }
        Ok(freed.len())
    }
}

/// The objects and all blocks that are part of one of them.
///
/// From now on nobody can attach the objects. They come last, so that what is left when the caller dies in freeing
/// them is still part of an object that nobody holds, and the next sweep's.
fn parts<L: Robust>(locked: &Locked<'_, L>, objects: &HashSet<u32>) -> Result<Vec<u32>, ShmError> {
    let (mut found, mut last) = (Vec::new(), Vec::new());
    if objects.is_empty() {
        return Ok(found);
    }
    locked.walk(|unit, kind, descriptor| match kind {
        Kind::Object if objects.contains(&unit) => {
            descriptor.ordinal.store(NO_GENERATION, Ordering::Relaxed);
            last.push(unit);
        }
        Kind::Chunk | Kind::Queued | Kind::Holders
            if objects.contains(&descriptor.object.load(Ordering::Relaxed)) =>
        {
            found.push(unit);
        }
        _ => {}
    })?;
    found.extend(last);
    Ok(found)
}
