//! Where the entries of a shard lie: an index, and a heap of records behind it.
//!
//! ```text
//! 0     number of places in the index, a power of two (8 bytes)
//! 8     nothing (8 bytes)
//! 16    the index: words of 8 bytes
//! ...   records, each at a multiple of 16 bytes
//!
//! word of the index    upper half of the key's hash (32 bits), offset of the record in units of 16 (32 bits)
//!                      0: nothing was ever here,  1: something was
//! record               stamp (8), hash (8), length of the key (4), of the value (4), kinds of both (1 + 1), nothing (6),
//!                      key, value
//! ```
//!
//! All of it is read and written under the shard's lock. Lengths and offsets are checked before they are followed: a process
//! that wrote into memory that is not its own makes errors here, and no wild access.

use std::ptr::NonNull;

use weft_shm::ShmError;

pub(crate) const EMPTY: u64 = 0;
pub(crate) const GONE: u64 = 1;

const HEAD: usize = 16;
const RECORD: usize = 32;
pub(crate) const GRAIN: usize = 16;

/// A segment that is mapped.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    start: NonNull<u8>,
    size: usize,
    places: usize,
}

/// A record, as it is found.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) stamp: u64,
    pub(crate) hash: u64,
    pub(crate) key_kind: u8,
    pub(crate) value_kind: u8,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl Record<'_> {
    pub(crate) const fn size(&self) -> usize {
        size_of_record(self.key.len(), self.value.len())
    }
}

/// How many bytes a record takes.
pub(crate) const fn size_of_record(key: usize, value: usize) -> usize {
    (RECORD + key + value).next_multiple_of(GRAIN)
}

/// How many bytes a segment needs for so many places and so many bytes of records.
pub(crate) const fn size_of_segment(places: usize, records: usize) -> usize {
    HEAD + places * 8 + GRAIN + records
}

const DAMAGED: ShmError = ShmError::Damaged { what: "a map's segment contradicts itself" };

impl Segment {
    /// Makes an empty one of memory that is the caller's alone, and has room for its index.
    ///
    /// # Safety
    ///
    /// So many bytes are there, aligned to 16, and stay for as long as the segment is used.
    pub(crate) unsafe fn create(start: NonNull<u8>, size: usize, places: usize) -> Self {
        debug_assert!(size >= size_of_segment(places, 0) && places.is_power_of_two());
        // SAFETY: by the contract.
        unsafe {
            start.cast::<u64>().write(places as u64);
            start.add(HEAD).write_bytes(0, places * 8);
        }
        Self { start, size, places }
    }

    /// The one that somebody made.
    ///
    /// # Safety
    ///
    /// As for `create`; the caller holds the shard's lock whenever it uses the segment.
    pub(crate) unsafe fn open(start: NonNull<u8>, size: usize) -> Result<Self, ShmError> {
        // SAFETY: a segment has at least a unit.
        let places = unsafe { start.cast::<u64>().read() };
        let places = usize::try_from(places).map_err(|_| DAMAGED)?;
        if !places.is_power_of_two() || places > size / 8 || size_of_segment(places, 0) > size {
            return Err(DAMAGED);
        }
        Ok(Self { start, size, places })
    }

    pub(crate) const fn places(&self) -> usize {
        self.places
    }

    /// Where records begin.
    pub(crate) const fn first(&self) -> usize {
        (HEAD + self.places * 8).next_multiple_of(GRAIN)
    }

    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    #[inline]
    pub(crate) fn place(&self, index: usize) -> u64 {
        // SAFETY: within the index.
        unsafe { self.start.add(HEAD + (index & (self.places - 1)) * 8).cast::<u64>().read() }
    }

    /// The store that commits a change.
    #[inline]
    pub(crate) fn set_place(&self, index: usize, word: u64) {
        // Whoever is killed behind a store has written everything before it: the compiler may not exchange them, and the
        // lock orders them for all others.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        // SAFETY: within the index, aligned.
        unsafe { self.start.add(HEAD + (index & (self.places - 1)) * 8).cast::<u64>().write_volatile(word) };
    }

    /// The word for a record.
    pub(crate) const fn word(hash: u64, offset: usize) -> u64 {
        (hash >> 32) << 32 | (offset / GRAIN) as u64
    }

    /// The offset in a word.
    pub(crate) const fn offset(word: u64) -> usize {
        (word as u32) as usize * GRAIN
    }

    /// The record at an offset.
    #[inline]
    pub(crate) fn record(&self, offset: usize) -> Result<Record<'_>, ShmError> {
        if offset < self.first() || offset + RECORD > self.size {
            return Err(DAMAGED);
        }
        // SAFETY: the head lies within the segment, aligned to 16; what its lengths say is checked before it is used. The
        // shard's lock is held, so nobody writes.
        unsafe {
            let head = self.start.add(offset);
            let word = |at: usize| head.add(at).cast::<u64>().read();
            let half = |at: usize| head.add(at).cast::<u32>().read() as usize;
            let (key, value) = (half(16), half(20));
            if RECORD + key + value > self.size - offset {
                return Err(DAMAGED);
            }
            let bytes = head.add(RECORD).as_ptr().cast_const();
            Ok(Record {
                stamp: word(0),
                hash: word(8),
                key_kind: head.add(24).read(),
                value_kind: head.add(25).read(),
                key: std::slice::from_raw_parts(bytes, key),
                value: std::slice::from_raw_parts(bytes.add(key), value),
            })
        }
    }

    /// Writes a record to where nothing is that the index leads to.
    #[inline]
    pub(crate) fn write(&self, offset: usize, record: &Record<'_>) {
        assert!(
            offset >= self.first() && offset.is_multiple_of(GRAIN) && record.size() <= self.size - offset
        );
        // SAFETY: the place is within the segment, the caller's alone under the lock, and nothing of the record lies there.
        unsafe {
            let head = self.start.add(offset);
            head.cast::<u64>().write(record.stamp);
            head.add(8).cast::<u64>().write(record.hash);
            head.add(16).cast::<u32>().write(record.key.len() as u32);
            head.add(20).cast::<u32>().write(record.value.len() as u32);
            head.add(24).write(record.key_kind);
            head.add(25).write(record.value_kind);
            let bytes = head.add(RECORD).as_ptr();
            bytes.copy_from_nonoverlapping(record.key.as_ptr(), record.key.len());
            bytes.add(record.key.len()).copy_from_nonoverlapping(record.value.as_ptr(), record.value.len());
        }
    }
}
