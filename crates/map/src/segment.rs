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
//! All of it is read and written under the shard's lock, but for glances (see [`shard`](crate::shard)). Lengths and offsets are checked before they are followed: a process
//! that wrote into memory that is not its own makes errors here, and no wild access.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_shm::ShmError;

pub(crate) const EMPTY: u64 = 0;
pub(crate) const GONE: u64 = 1;

const HEAD: usize = 16;
const RECORD: usize = 32;
pub(crate) const GRAIN: usize = 16;

/// A glance sees no more bytes than these, of a key and its value together.
pub const GLANCE: usize = 8 * GLANCE_WORDS;
const GLANCE_WORDS: usize = 12;

/// What a look without the lock saw.
#[derive(Debug, Clone, Copy)]
pub enum Glance {
    /// There is no such key.
    Nothing,
    /// What the value is, the words of the key and, right behind it, the value, and from where to where in their bytes the value goes.
    Value(u8, [u64; GLANCE_WORDS], u32, u32),
}

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

impl Glance {
    /// The key and the value.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> (&[u8], &[u8]) {
        let Self::Value(_, words, middle, end) = self else { return (&[], &[]) };
        let bytes = words.as_ptr().cast::<u8>();
        // SAFETY: they are the bytes of the words, of which there are at least `end`, which is behind the middle.
        unsafe {
            let value = bytes.add(*middle as usize);
            (
                std::slice::from_raw_parts(bytes, *middle as usize),
                std::slice::from_raw_parts(value, (*end - *middle) as usize),
            )
        }
    }
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

    /// The word of the memory at `at`, which lies within it and is a multiple of 8, while others may be writing it.
    #[inline]
    fn racy(&self, at: usize) -> u64 {
        // SAFETY: by the callers, within the segment, which begins at a page.
        unsafe { self.start.add(at).cast::<AtomicU64>().as_ref() }.load(Ordering::Relaxed)
    }

    /// Looks for the key while others may be changing everything. What comes of it means something only if nobody did.
    #[inline]
    pub(crate) fn glance(&self, hash: u64, kind: u8, key: &[u8]) -> Option<Glance> {
        const STEPS: usize = 64;
        for step in 0..STEPS {
            let word = self.racy(HEAD + ((hash as usize).wrapping_add(step) & (self.places - 1)) * 8);
            if word == EMPTY {
                return Some(Glance::Nothing);
            }
            if word == GONE || word >> 32 != hash >> 32 {
                continue;
            }
            let offset = Self::offset(word);
            if offset < self.first() || offset + RECORD > self.size || self.racy(offset + 8) != hash {
                return None;
            }
            let (lengths, kinds) = (self.racy(offset + 16), self.racy(offset + 24));
            let (key_length, value) = (lengths as u32 as usize, (lengths >> 32) as usize);
            let end = key_length + value;
            // Two keys with the same hash are left to those who look more closely.
            if key_length != key.len()
                || kinds as u8 != kind
                || end > GLANCE
                || RECORD + end > self.size - offset
            {
                return None;
            }
            let mut words = [0; GLANCE_WORDS];
            for (index, word) in words[..end.div_ceil(8)].iter_mut().enumerate() {
                // A record is a multiple of 16 bytes long, as is the segment.
                *word = self.racy(offset + RECORD + index * 8);
            }
            let glance = Glance::Value((kinds >> 8) as u8, words, key_length as u32, end as u32);
            return (glance.bytes().0 == key).then_some(glance);
        }
        None
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
