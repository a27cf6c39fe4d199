//! The buddy allocator over the blocks of an arena.
//!
//! All of it runs under the arena's lock. Each step leaves a partition of `first..high_water` into blocks that
//! can be walked from descriptor to descriptor, whatever instant the process dies at: a split writes the
//! right half's descriptor before it halves the left one's order, a merge doubles the left one's order, new
//! space gets its descriptors before the high water rises. [`Arena::rebuild`] walks it. It is due when `torn` is set in
//! the header: by whoever gets the lock after a death, or cannot finish a step for want of address space.
//!
//! Freed blocks are used again last in, first out, while their pages are warm. How much of a block has memory
//! is carried along: `populated` units from its start for certain, `resident` units about.

use std::sync::atomic::Ordering;

use crate::arena::{Arena, Locked};
use crate::crash::crash_point;
use crate::error::ShmError;
use crate::identity::Identity;
use crate::layout::{Descriptor, Kind, ORDERS, UNIT, UNIT_SHIFT, order_of, state};
use crate::robust::Robust;
use crate::windows::system;

/// Space is added in blocks of at least 2^6 units.
const GROWTH_ORDER: u32 = 6;
/// Blocks smaller than 2^4 units are not worth a call of the kernel to give their memory back.
const TRIM_ORDER: u32 = 4;
/// How many blocks of one free list are looked at for idle memory.
const TRIM_LOOKS: usize = 16;

/// Idle memory that is kept at least, and at most, in units.
const KEPT_AT_LEAST: u32 = if cfg!(test) { 32 } else { (64 << 20) >> UNIT_SHIFT };
const KEPT_AT_MOST: u32 = if cfg!(test) { 64 } else { (512 << 20) >> UNIT_SHIFT };
/// So many blocks of the largest size in use are worth keeping.
const KEPT_LARGEST: u32 = 4;
const EPOCH_MILLISECONDS: u64 = 1000;

/// A sweep is due when so many units more are taken than after the last one, or twice as many.
const CROWDED: u32 = if cfg!(test) { 64 } else { (16 << 20) >> UNIT_SHIFT };

impl<L: Robust> Locked<'_, L> {
    /// Takes a block of 2^order units out of the free ones. It stays marked as free until the caller marks it.
    pub(crate) fn take(&self, order: u32) -> Result<u32, ShmError> {
        self.mend()?;
        self.tearing(self.try_take(order))
    }

    /// Puts the free lists in order if they are not.
    pub(crate) fn mend(&self) -> Result<(), ShmError> {
        let torn = &self.arena.header().torn;
        if torn.load(Ordering::Relaxed) != 0 {
            self.arena.rebuild()?;
            torn.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// An error for want of address space may leave a step half done.
    fn tearing<T>(&self, outcome: Result<T, ShmError>) -> Result<T, ShmError> {
        if let Err(ShmError::System { .. }) = outcome {
            self.arena.header().torn.store(1, Ordering::Relaxed);
        }
        outcome
    }

    fn try_take(&self, order: u32) -> Result<u32, ShmError> {
        let arena = self.arena;
        let mut found = self.first_free(order);
        if found.is_none() {
            self.grow(order.max(GROWTH_ORDER))?;
            found = self.first_free(order);
        }
        let Some((unit, mut have)) = found else {
            return Err(ShmError::Damaged { what: "new space is in no free list" });
        };
        self.unlink(unit, have)?;
        crash_point("take: unlinked");
        let left = arena.descriptor(unit)?;
        while have > order {
            have -= 1;
            self.split(unit, left, have)?;
        }
        let resident = left.resident.load(Ordering::Relaxed);
        let header = arena.header();
        lower(&header.free_resident, resident);
        let taken = header.taken.load(Ordering::Relaxed).saturating_add(1 << order);
        header.taken.store(taken, Ordering::Relaxed);
        header.largest.fetch_max(1 << order, Ordering::Relaxed);
        Ok(unit)
    }

    /// The smallest free block of at least 2^order units, and its order.
    fn first_free(&self, order: u32) -> Option<(u32, u32)> {
        let heads = self.arena.header().heads.iter().enumerate().skip(order as usize);
        heads.map(|(order, head)| (head.load(Ordering::Relaxed), order as u32)).find(|(unit, _)| *unit != 0)
    }

    /// Makes two of a block: `left`, at `unit`, keeps 2^order units, the rest becomes free.
    fn split(&self, unit: u32, left: &Descriptor, order: u32) -> Result<(), ShmError> {
        let half = 1 << order;
        let right = self.arena.descriptor(unit + half)?;
        let populated = left.populated.load(Ordering::Relaxed);
        let resident = left.resident.load(Ordering::Relaxed).max(populated);
        let stays = resident.min(half);
        right.populated.store(populated.saturating_sub(half), Ordering::Relaxed);
        right.resident.store(resident - stays, Ordering::Relaxed);
        right.state.store(state(Kind::Free, order), Ordering::Release);
        crash_point("split: right written");
        left.populated.store(populated.min(half), Ordering::Relaxed);
        left.resident.store(stays, Ordering::Relaxed);
        crash_point("split: left noted");
        left.state.store(state(Kind::Free, order), Ordering::Release);
        crash_point("split: halved");
        self.link(unit + half, order)
    }

    /// Adds never-used space: a free block of 2^order units at least, and what lies before it for its alignment.
    fn grow(&self, order: u32) -> Result<(), ShmError> {
        let arena = self.arena;
        let header = arena.header();
        let old = header.high_water.load(Ordering::Relaxed);
        let too_large = || ShmError::TooLarge { bytes: (UNIT as u64) << order };
        let start = old.checked_next_multiple_of(1 << order).ok_or_else(too_large)?;
        let end = start.checked_add(1 << order).filter(|end| *end <= arena.units()).ok_or_else(too_large)?;
        let entry = size_of::<Descriptor>() as u64;
        let (from, length) = (UNIT as u64 + u64::from(old) * entry, u64::from(end - old) * entry);
        let populated = arena.windows().file().populate(from, length);
        populated.map_err(|source| system("take", length, source))?;
        let (mut unit, mut fillers) = (old, Vec::new());
        while unit < start {
            let size = unit.trailing_zeros().min((start - unit).ilog2());
            fresh(arena.descriptor(unit)?, size);
            fillers.push((unit, size));
            unit += 1 << size;
        }
        fresh(arena.descriptor(start)?, order);
        crash_point("grow: written");
        header.high_water.store(end, Ordering::Release);
        crash_point("grow: risen");
        // From the last to the first: what one of them can merge with is in its list then.
        self.link(start, order)?;
        fillers.into_iter().rev().try_for_each(|(unit, order)| self.settle(unit, order))
    }

    /// Frees a block and merges it with its free neighbours. Says whether too much idle memory is kept.
    #[must_use = "idle memory has to be trimmed"]
    pub(crate) fn give_back(&self, unit: u32) -> Result<bool, ShmError> {
        self.mend()?;
        self.tearing(self.try_give_back(unit))
    }

    fn try_give_back(&self, unit: u32) -> Result<bool, ShmError> {
        let arena = self.arena;
        let header = arena.header();
        let descriptor = arena.descriptor(unit)?;
        let was = descriptor.state.load(Ordering::Relaxed);
        let order = order_of(was);
        let is_block = (order as usize) < ORDERS && unit.is_multiple_of(1 << order) && unit >= arena.first();
        if matches!(Kind::of(was), None | Some(Kind::Free)) || !is_block {
            return Err(ShmError::Damaged { what: "a block was freed that is not in use" });
        }
        descriptor.state.store(state(Kind::Free, order), Ordering::Release);
        crash_point("free: marked");
        lower(&header.taken, 1 << order);
        header.free_resident.fetch_add(descriptor.resident.load(Ordering::Relaxed), Ordering::Relaxed);
        self.settle(unit, order)?;
        Ok(header.free_resident.load(Ordering::Relaxed) > self.worth_keeping())
    }

    /// Merges a block that is marked as free with its free neighbours, and puts it into its list.
    fn settle(&self, mut unit: u32, mut order: u32) -> Result<(), ShmError> {
        let arena = self.arena;
        let header = arena.header();
        let mut descriptor = arena.descriptor(unit)?;
        while order + 1 < ORDERS as u32 {
            let buddy = unit ^ (1 << order);
            let end = buddy.checked_add(1 << order);
            if buddy < arena.first() || end.is_none_or(|end| end > header.high_water.load(Ordering::Relaxed))
            {
                break;
            }
            let other = arena.descriptor(buddy)?;
            if other.state.load(Ordering::Relaxed) != state(Kind::Free, order) {
                break;
            }
            self.unlink(buddy, order)?;
            crash_point("free: buddy unlinked");
            let (left, right) = if buddy < unit { (other, descriptor) } else { (descriptor, other) };
            let (before, behind) =
                (left.populated.load(Ordering::Relaxed), right.populated.load(Ordering::Relaxed));
            if before == 1 << order {
                left.populated.store(before.saturating_add(behind), Ordering::Relaxed);
            }
            let resident = left.resident.load(Ordering::Relaxed);
            let resident = resident.saturating_add(right.resident.load(Ordering::Relaxed));
            left.resident.store(resident.min(2 << order), Ordering::Relaxed);
            crash_point("free: merge noted");
            order += 1;
            left.state.store(state(Kind::Free, order), Ordering::Release);
            unit = unit.min(buddy);
            descriptor = left;
            crash_point("free: merged");
        }
        self.link(unit, order)
    }

    /// A free block with idle memory, now in the hands of this process; `None` if few enough are idle.
    pub(crate) fn take_idle(&self) -> Result<Option<u32>, ShmError> {
        self.mend()?;
        self.tearing(self.try_take_idle())
    }

    fn try_take_idle(&self) -> Result<Option<u32>, ShmError> {
        let arena = self.arena;
        let header = arena.header();
        if header.free_resident.load(Ordering::Relaxed) <= self.worth_keeping() / 2 {
            return Ok(None);
        }
        for order in (TRIM_ORDER..ORDERS as u32).rev() {
            let mut unit = header.heads[order as usize].load(Ordering::Relaxed);
            for _ in 0..TRIM_LOOKS {
                if unit == 0 {
                    break;
                }
                let descriptor = arena.descriptor(unit)?;
                let resident = descriptor.resident.load(Ordering::Relaxed);
                if resident > 0 {
                    self.unlink(unit, order)?;
                    lower(&header.free_resident, resident);
                    let taken = header.taken.load(Ordering::Relaxed);
                    header.taken.store(taken.saturating_add(1 << order), Ordering::Relaxed);
                    let Identity { pid, start } = arena.identity();
                    descriptor.holder_pid.store(pid, Ordering::Relaxed);
                    descriptor.holder_start.store(start, Ordering::Relaxed);
                    descriptor.state.store(state(Kind::Held, order), Ordering::Release);
                    return Ok(Some(unit));
                }
                unit = descriptor.next.load(Ordering::Relaxed);
            }
        }
        Ok(None)
    }

    /// How much idle memory to keep: enough for a few of the largest blocks of the last second or two.
    fn worth_keeping(&self) -> u32 {
        let header = self.arena.header();
        let now = milliseconds();
        if now.wrapping_sub(header.epoch.load(Ordering::Relaxed)) >= EPOCH_MILLISECONDS {
            header.epoch.store(now, Ordering::Relaxed);
            let last = header.largest.swap(0, Ordering::Relaxed);
            header.largest_before.store(last, Ordering::Relaxed);
        }
        let largest =
            header.largest.load(Ordering::Relaxed).max(header.largest_before.load(Ordering::Relaxed));
        largest.saturating_mul(KEPT_LARGEST).clamp(KEPT_AT_LEAST, KEPT_AT_MOST)
    }

    /// Whether so much is in use that a look for what the dead left is due.
    pub(crate) fn is_crowded(&self) -> bool {
        let header = self.arena.header();
        let taken = header.taken.load(Ordering::Relaxed);
        let before = header.swept_at.load(Ordering::Relaxed);
        let due = taken > before.saturating_add(CROWDED.max(before));
        if due || taken < before / 2 {
            header.swept_at.store(taken, Ordering::Relaxed);
        }
        due
    }

    /// Calls `visit` with every block in use and its descriptor.
    pub(crate) fn walk(&self, mut visit: impl FnMut(u32, Kind, &Descriptor)) -> Result<(), ShmError> {
        let end = self.arena.header().high_water.load(Ordering::Acquire).min(self.arena.units());
        let mut unit = self.arena.first();
        while unit < end {
            let descriptor = self.arena.descriptor(unit)?;
            let now = descriptor.state.load(Ordering::Acquire);
            let (order, kind) = (order_of(now), Kind::of(now));
            let Some(kind) = kind.filter(|_| (order as usize) < ORDERS) else {
                return Err(ShmError::Damaged { what: "a block's descriptor" });
            };
            if kind != Kind::Free {
                visit(unit, kind, descriptor);
            }
            unit += 1 << order;
        }
        Ok(())
    }

    fn link(&self, unit: u32, order: u32) -> Result<(), ShmError> {
        let head = &self.arena.header().heads[order as usize];
        let first = head.load(Ordering::Relaxed);
        let descriptor = self.arena.descriptor(unit)?;
        descriptor.previous.store(0, Ordering::Relaxed);
        descriptor.next.store(first, Ordering::Relaxed);
        crash_point("link: pointed");
        if first != 0 {
            self.arena.descriptor(first)?.previous.store(unit, Ordering::Relaxed);
        }
        head.store(unit, Ordering::Relaxed);
        Ok(())
    }

    fn unlink(&self, unit: u32, order: u32) -> Result<(), ShmError> {
        let descriptor = self.arena.descriptor(unit)?;
        if descriptor.state.load(Ordering::Relaxed) != state(Kind::Free, order) {
            return Err(ShmError::Damaged { what: "a free list leads to a block in use" });
        }
        let previous = descriptor.previous.load(Ordering::Relaxed);
        let next = descriptor.next.load(Ordering::Relaxed);
        let before = if previous == 0 {
            &self.arena.header().heads[order as usize]
        } else {
            &self.arena.descriptor(previous)?.next
        };
        let behind = if next == 0 { None } else { Some(&self.arena.descriptor(next)?.previous) };
        if before.load(Ordering::Relaxed) != unit
            || behind.is_some_and(|behind| behind.load(Ordering::Relaxed) != unit)
        {
            return Err(ShmError::Damaged { what: "a free list leads elsewhere" });
        }
        before.store(next, Ordering::Relaxed);
        crash_point("unlink: half");
        if let Some(behind) = behind {
            behind.store(previous, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl<L: Robust> Arena<L> {
    /// Makes the free lists and counters anew from the descriptors. The arena's lock is held.
    fn rebuild(&self) -> Result<(), ShmError> {
        let header = self.header();
        let locked = std::mem::ManuallyDrop::new(Locked { arena: self });
        for head in &header.heads {
            head.store(0, Ordering::Relaxed);
        }
        crash_point("rebuild: cleared");
        let (mut taken, mut idle) = (0, 0);
        let end = header.high_water.load(Ordering::Relaxed).min(self.units());
        let mut unit = self.first();
        while unit < end {
            let descriptor = self.descriptor(unit)?;
            let now = descriptor.state.load(Ordering::Relaxed);
            let order = order_of(now);
            // Damage ends the walk: what lies behind is lost, but nothing is handed out twice.
            if order as usize >= ORDERS || !unit.is_multiple_of(1 << order) {
                break;
            }
            let size = 1 << order;
            let populated = descriptor.populated.fetch_min(size, Ordering::Relaxed).min(size);
            let resident = descriptor.resident.load(Ordering::Relaxed).clamp(populated, size);
            descriptor.resident.store(resident, Ordering::Relaxed);
            if Kind::of(now) == Some(Kind::Free) {
                idle += resident;
                locked.link(unit, order)?;
            } else {
                taken += size;
            }
            unit += size;
        }
        crash_point("rebuild: linked");
        header.taken.store(taken, Ordering::Relaxed);
        header.free_resident.store(idle, Ordering::Relaxed);
        Ok(())
    }
}

fn fresh(descriptor: &Descriptor, order: u32) {
    descriptor.populated.store(0, Ordering::Relaxed);
    descriptor.resident.store(0, Ordering::Relaxed);
    descriptor.state.store(state(Kind::Free, order), Ordering::Release);
}

fn lower(counter: &std::sync::atomic::AtomicU32, by: u32) {
    let now = counter.load(Ordering::Relaxed);
    counter.store(now.saturating_sub(by), Ordering::Relaxed);
}

fn milliseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
