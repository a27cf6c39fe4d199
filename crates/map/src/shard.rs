//! One of the parts of a map, each of which has a lock of its own.
//!
//! # Who touches what
//!
//! Everything is written under the shard's robust lock, and read under it, but for [`glance`](Shard::glance), which reads without it, and
//! throws away what it read if `version` is not the same even number before and after: it is odd while something is changed. It
//! reads word by word, atomically, and believes nothing before that. A shard has one segment, or none yet. `root` names it: its unit
//! and its number among the segments of the shard.
//!
//! # What commits
//!
//! A change of an entry is one store of a word of the index. Before it the new record was written to where the
//! index leads nobody; after it the old record is nobody's. `root` is changed by one store as well, to a segment that is
//! complete. Everything else (`used`, `live`, `filled`, the spares) follows from the index, and is found out again from it by the next one
//! who gets the lock if the holder died. So an entry has its old value or its new one, whoever is killed.
//!
//! A segment that was made and did not become the root is the dead maker's, or the map's under a number that is not
//! current: the repair frees those.
//!
//! # Growing
//!
//! Records are put behind each other. The place of one that was replaced is kept, by its size, for the next one of that size.
//! When the segment is full, or three quarters of the index are, what is alive is copied into a new one, of
//! twice the size that it needs.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use weft_shm::robust::{Held, Robust, RobustMutex};
use weft_shm::{Carrier, Look, ShmError, Span};

use crate::segment::{EMPTY, GONE, GRAIN, Glance, Record, Segment, size_of_record, size_of_segment};

const SPARES: usize = 32;
/// A longer key or value does not fit.
pub(crate) const LONGEST: usize = 1 << 31;

/// In shared memory. Zeroed memory with an initialised lock is an empty one.
#[repr(C, align(64))]
pub(crate) struct Shard {
    lock: RobustMutex,
    /// Unit of the segment (32 bits), its number (32 bits); 0: there is none.
    root: AtomicU64,
    /// Rises with every change.
    stamp: AtomicU64,
    /// Records end here.
    used: AtomicU64,
    /// How many entries there are.
    live: AtomicU64,
    /// How many bytes their records take.
    weight: AtomicU64,
    /// How many places of the index are not empty.
    filled: AtomicU64,
    /// Odd while somebody changes something, or died while doing so; even, and another number, afterwards.
    version: AtomicU64,
    /// Places of records that were replaced, by size.
    spares: [AtomicU64; SPARES],
}

impl Shard {
    /// # Safety
    ///
    /// The memory is zeroed, nobody uses it yet, and it does not move afterwards.
    pub(crate) unsafe fn init(place: *mut Self) {
        // SAFETY: by the contract.
        unsafe { RobustMutex::init(&raw mut (*place).lock) };
    }

    pub(crate) fn len(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// A look at the key without the lock. `None` if somebody changes, or changed, something, or it is not to be seen like this.
    ///
    /// # Safety
    ///
    /// No other thread of this process uses `seen` meanwhile.
    #[inline]
    pub(crate) unsafe fn glance(&self, seen: &Seen, hash: u64, kind: u8, key: &[u8]) -> Option<Glance> {
        let version = self.version.load(Ordering::Acquire);
        if version & 1 != 0 {
            return None;
        }
        let root = self.root.load(Ordering::Relaxed);
        // SAFETY: by the contract.
        let glance = match unsafe { &*seen.0.get() } {
            Some((known, _, segment)) if *known == root => segment.glance(hash, kind, key)?,
            _ if root == 0 => Glance::Nothing,
            _ => return None,
        };
        // Whatever was read was there before this.
        fence(Ordering::Acquire);
        (self.version.load(Ordering::Relaxed) == version).then_some(glance)
    }
}

/// Says that the shard is being changed, for as long as it lives.
struct Changing<'a>(&'a AtomicU64);

impl<'a> Changing<'a> {
    /// The caller holds the lock.
    #[inline]
    fn begin(shard: &'a Shard) -> Self {
        let version = &shard.version;
        version.store(version.load(Ordering::Relaxed) | 1, Ordering::Relaxed);
        // Whoever sees something of what follows sees this.
        fence(Ordering::Release);
        Self(version)
    }
}

impl Drop for Changing<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }
}

/// What a process knows of a shard's segment. Guarded by the shard's lock, and changed by whoever uses the map only.
#[derive(Default)]
pub(crate) struct Seen(UnsafeCell<Option<(u64, Look, Segment)>>);

// SAFETY: only the holder of the shard's lock touches it, and of a process that is one thread.
unsafe impl Sync for Seen {}
// SAFETY: as above.
unsafe impl Send for Seen {}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seen")
    }
}

/// A shard whose lock is held.
pub(crate) struct Open<'a> {
    carrier: &'a Carrier,
    shard: &'a Shard,
    seen: &'a Seen,
    number: usize,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // SAFETY: this thread locked it.
        unsafe { self.shard.lock.unlock() };
    }
}

/// Where a key is, or would be.
enum Found<'a> {
    At { index: usize, offset: usize, record: Record<'a> },
    Nowhere { index: usize, was_filled: bool },
}

fn number_of(ordinal: u64) -> usize {
    (ordinal >> 32) as usize
}

fn ordinal(shard: usize, segment: u32) -> u64 {
    (shard as u64) << 32 | u64::from(segment)
}

fn load(word: &AtomicU64) -> usize {
    word.load(Ordering::Relaxed) as usize
}

fn store(word: &AtomicU64, value: usize) {
    word.store(value as u64, Ordering::Relaxed);
}

impl<'a> Open<'a> {
    /// Takes the lock if it is free, or becomes so within `patience`.
    pub(crate) fn within(
        carrier: &'a Carrier,
        shard: &'a Shard,
        seen: &'a Seen,
        number: usize,
        patience: Duration,
    ) -> Option<Result<Self, ShmError>> {
        let held = match shard.lock.try_lock() {
            Some(held) => held,
            None if patience.is_zero() => return None,
            None => shard.lock.lock_within(patience)?,
        };
        let open = Self { carrier, shard, seen, number };
        Some(if held == Held::AfterDeath { open.repair() } else { Ok(open) })
    }

    /// Finds out from the index what follows from it.
    #[cold]
    fn repair(self) -> Result<Self, ShmError> {
        // Whatever comes of it: a lock that is given back without this could never be taken again.
        self.shard.lock.repaired();
        // Odd, if the holder died in the middle of a change, and afterwards another even number.
        let _changing = Changing::begin(self.shard);
        let root = self.shard.root.load(Ordering::Relaxed);
        self.shard.spares.iter().for_each(|spare| store(spare, 0));
        let (mut used, mut live, mut weight, mut filled) = (0, 0, 0, 0);
        // Not by way of what this process knows of the shard: other threads of it may be looking at that without the lock.
        let look = match root {
            0 => None,
            root => Some(self.carrier.look((root >> 32) as u32, ordinal(self.number, root as u32))?),
        };
        if let Some(look) = &look {
            // SAFETY: mapped as long as `look`; the lock is held.
            let segment = unsafe { Segment::open(look.start(), look.size())? };
            used = segment.first();
            for index in 0..segment.places() {
                let word = segment.place(index);
                filled += usize::from(word != EMPTY);
                if word > GONE {
                    let offset = Segment::offset(word);
                    let size = segment.record(offset)?.size();
                    (used, live, weight) = (used.max(offset + size), live + 1, weight + size);
                }
            }
        }
        store(&self.shard.used, used);
        store(&self.shard.live, live);
        store(&self.shard.weight, weight);
        store(&self.shard.filled, filled);
        let current = ordinal(self.number, root as u32);
        let number = self.number;
        self.carrier.discard(|found| number_of(found) == number && (root == 0 || found != current))?;
        Ok(self)
    }

    /// The segment, if there is one.
    #[inline]
    fn segment(&self) -> Result<Option<Segment>, ShmError> {
        let root = self.shard.root.load(Ordering::Relaxed);
        if root == 0 {
            return Ok(None);
        }
        // SAFETY: the lock is held.
        match unsafe { &*self.seen.0.get() } {
            Some((seen, _, segment)) if *seen == root => Ok(Some(*segment)),
            _ => self.look(root).map(Some),
        }
    }

    #[cold]
    fn look(&self, root: u64) -> Result<Segment, ShmError> {
        let look = self.carrier.look((root >> 32) as u32, ordinal(self.number, root as u32))?;
        // SAFETY: mapped as long as `look`, which is kept beside it; the lock is held.
        let segment = unsafe { Segment::open(look.start(), look.size())? };
        // SAFETY: the lock is held, and nothing borrows from what is replaced.
        unsafe { *self.seen.0.get() = Some((root, look, segment)) };
        Ok(segment)
    }

    fn find(segment: &Segment, hash: u64, kind: u8, key: &[u8]) -> Result<Found<'static>, ShmError> {
        let mut free = None;
        for step in 0..segment.places() {
            let index = hash as usize + step;
            let word = segment.place(index);
            if word == EMPTY {
                let (index, was_filled) = free.map_or((index, false), |index| (index, true));
                return Ok(Found::Nowhere { index, was_filled });
            }
            if word == GONE {
                free = free.or(Some(index));
            } else if word >> 32 == hash >> 32 {
                let offset = Segment::offset(word);
                let record = segment.record(offset)?;
                if record.hash == hash && record.key_kind == kind && record.key == key {
                    // SAFETY: the bytes stay mapped and unchanged while the lock is held, for which no reference leaves this file.
                    let record = unsafe { std::mem::transmute::<Record<'_>, Record<'static>>(record) };
                    return Ok(Found::At { index, offset, record });
                }
            }
        }
        match free {
            Some(index) => Ok(Found::Nowhere { index, was_filled: true }),
            None => Err(ShmError::Damaged { what: "the index of a map is full" }),
        }
    }

    /// The record of the key, for as long as the lock is held.
    pub(crate) fn get(&self, hash: u64, kind: u8, key: &[u8]) -> Result<Option<Record<'_>>, ShmError> {
        let Some(segment) = self.segment()? else { return Ok(None) };
        Ok(match Self::find(&segment, hash, kind, key)? {
            Found::At { record, .. } => Some(record),
            Found::Nowhere { .. } => None,
        })
    }

    /// Sets the value of the key.
    pub(crate) fn set(&self, hash: u64, key: (u8, &[u8]), value: (u8, &[u8])) -> Result<(), ShmError> {
        if key.1.len().max(value.1.len()) >= LONGEST {
            return Err(ShmError::TooLarge { bytes: key.1.len().max(value.1.len()) as u64 });
        }
        let size = size_of_record(key.1.len(), value.1.len());
        let mut segment = self.segment()?;
        for _ in 0..2 {
            if let Some(current) = segment
                && self.set_in(&current, hash, key, value, size)?
            {
                return Ok(());
            }
            segment = Some(self.renew(segment, size)?);
        }
        Err(ShmError::Damaged { what: "a new segment of a map has no room" })
    }

    /// False if there is no room.
    fn set_in(
        &self,
        segment: &Segment,
        hash: u64,
        (key_kind, key): (u8, &[u8]),
        (value_kind, value): (u8, &[u8]),
        size: usize,
    ) -> Result<bool, ShmError> {
        let shard = self.shard;
        let found = Self::find(segment, hash, key_kind, key)?;
        if let Found::Nowhere { was_filled: false, .. } = found
            && (load(&shard.filled) + 1) * 4 > segment.places() * 3
        {
            return Ok(false);
        }
        let Some(offset) = self.room(segment, size) else { return Ok(false) };
        let _changing = Changing::begin(shard);
        let stamp = shard.stamp.load(Ordering::Relaxed) + 1;
        shard.stamp.store(stamp, Ordering::Relaxed);
        segment.write(offset, &Record { stamp, hash, key_kind, value_kind, key, value });
        let word = Segment::word(hash, offset);
        match found {
            Found::At { index, offset: before, record } => {
                let old = record.size();
                segment.set_place(index, word);
                store(&shard.weight, load(&shard.weight) + size - old);
                self.spare(before, old);
            }
            Found::Nowhere { index, was_filled } => {
                segment.set_place(index, word);
                store(&shard.live, load(&shard.live) + 1);
                store(&shard.filled, load(&shard.filled) + usize::from(!was_filled));
                store(&shard.weight, load(&shard.weight) + size);
            }
        }
        Ok(true)
    }

    /// A place for a record of this size.
    #[inline]
    fn room(&self, segment: &Segment, size: usize) -> Option<usize> {
        if let Some(spare) = self.shard.spares.get(size / GRAIN) {
            let offset = load(spare);
            if offset != 0 {
                store(spare, 0);
                return (offset >= segment.first() && offset + size <= segment.size()).then_some(offset);
            }
        }
        let used = load(&self.shard.used);
        let end = used.checked_add(size).filter(|end| *end <= segment.size())?;
        store(&self.shard.used, end);
        Some(used)
    }

    fn spare(&self, offset: usize, size: usize) {
        if let Some(spare) = self.shard.spares.get(size / GRAIN) {
            store(spare, offset);
        }
    }

    /// Removes the key, and gives its record to `taken` first. Says whether it was there.
    pub(crate) fn remove(
        &self,
        hash: u64,
        kind: u8,
        key: &[u8],
        taken: impl FnOnce(&Record<'_>),
    ) -> Result<bool, ShmError> {
        let Some(segment) = self.segment()? else { return Ok(false) };
        match Self::find(&segment, hash, kind, key)? {
            Found::Nowhere { .. } => Ok(false),
            Found::At { index, offset, record } => {
                let size = record.size();
                taken(&record);
                let shard = self.shard;
                let _changing = Changing::begin(shard);
                shard.stamp.store(shard.stamp.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                segment.set_place(index, GONE);
                store(&shard.live, load(&shard.live) - 1);
                store(&shard.weight, load(&shard.weight) - size);
                self.spare(offset, size);
                Ok(true)
            }
        }
    }

    /// Visits all records until `visit` says that it is enough.
    pub(crate) fn each(&self, mut visit: impl FnMut(&Record<'_>) -> bool) -> Result<(), ShmError> {
        let Some(segment) = self.segment()? else { return Ok(()) };
        for index in 0..segment.places() {
            let word = segment.place(index);
            if word > GONE && !visit(&segment.record(Segment::offset(word))?) {
                break;
            }
        }
        Ok(())
    }

    /// Removes everything.
    pub(crate) fn clear(&self) -> Result<(), ShmError> {
        let root = self.shard.root.load(Ordering::Relaxed);
        self.shard.stamp.fetch_add(1, Ordering::Relaxed);
        if root != 0 {
            let (span, segment) = self.room_for(16, 0)?;
            self.replace(root, (span, segment.first(), 0))?;
        }
        Ok(())
    }

    /// A new segment with room for one more record of `size` bytes, with what is alive in the old one.
    #[cold]
    fn renew(&self, old: Option<Segment>, size: usize) -> Result<Segment, ShmError> {
        let live = load(&self.shard.live) + 1;
        let places = (live * 2).next_power_of_two().max(16);
        let records = (load(&self.shard.weight) + size) * 2;
        let root = self.shard.root.load(Ordering::Relaxed);
        let (span, segment) = self.room_for(places, records)?;
        let (mut used, mut filled) = (segment.first(), 0);
        if let Some(old) = old {
            for index in 0..old.places() {
                let word = old.place(index);
                if word <= GONE {
                    continue;
                }
                let record = old.record(Segment::offset(word))?;
                let mut place = record.hash as usize;
                while segment.place(place) != EMPTY {
                    place += 1;
                }
                segment.write(used, &record);
                segment.set_place(place, Segment::word(record.hash, used));
                used += record.size();
                filled += 1;
            }
        }
        self.replace(root, (span, used, filled))
    }

    fn room_for(&self, places: usize, records: usize) -> Result<(Span, Segment), ShmError> {
        let span = Span::new(self.carrier.arena(), size_of_segment(places, records))?;
        let size = span.capacity()?.min(u32::MAX as usize * GRAIN);
        let Some(start) = std::ptr::NonNull::new(span.as_ptr()) else {
            return Err(ShmError::Damaged { what: "a span lies nowhere" });
        };
        // SAFETY: the span's block, aligned to pages, is this process's alone; it stays mapped while it is the root,
        // because `look` maps it again before the span is forgotten.
        let segment = unsafe { Segment::create(start, size, places) };
        Ok((span, segment))
    }

    /// Makes a complete segment the root, and frees the one before.
    fn replace(&self, before: u64, (span, used, filled): Made) -> Result<Segment, ShmError> {
        let _changing = Changing::begin(self.shard);
        // Numbers go around after 2^32 segments, long after the one with the same number is gone.
        let number = (before as u32).wrapping_add(1).max(1);
        let ordinal_now = ordinal(self.number, number);
        let unit = self.carrier.hand_over(&span, ordinal_now)?;
        let root = u64::from(unit) << 32 | u64::from(number);
        self.shard.root.store(root, Ordering::Release);
        store(&self.shard.used, used);
        store(&self.shard.live, filled);
        store(&self.shard.filled, filled);
        self.shard.spares.iter().for_each(|spare| store(spare, 0));
        if filled == 0 {
            store(&self.shard.weight, 0);
        }
        let now = self.look(root)?;
        self.carrier.forget(span);
        if before != 0 {
            drop(self.carrier.take_over((before >> 32) as u32, 0, ordinal(self.number, before as u32))?);
        }
        Ok(now)
    }
}

/// A segment that is complete, where its records end, and how many there are.
type Made = (Span, usize, usize);
