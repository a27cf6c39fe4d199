//! A queue in memory: its header, its chunks, its records.
//!
//! ```text
//! block of the object (one unit)
//!   0     prologue of every shared object
//!   256   header: two sides with a lock each, signals, counters
//!   1024  the first chunk's records
//! further chunks: blocks of their own
//!   0     number and size
//!   16    records
//! record
//!   0     head: length of the body, kind, number of spans
//!   8     a reference of 16 bytes for each span
//!   ..    the body, padded to 8
//! ```
//!
//! A *side* is everything that one end of the queue knows: where its next record is, and how many there
//! were. It is kept twice. Its owner writes the copy that is not valid and then the sequence word, which makes it
//! the valid one: the commit of all its fields at once. Nothing needs repair but blocks that belong to nobody.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use weft_wait::Signal;

use crate::crash::crash_point;
use crate::object::PROLOGUE;

/// Where the header of a queue lies in its block.
pub(crate) const HEADER: usize = PROLOGUE;
/// Where records begin in the block of the queue itself, which is its first chunk.
pub(crate) const FIRST_RECORDS: u32 = 1024;
/// Where records begin in every other chunk.
pub(crate) const RECORDS: u32 = 16;

pub(crate) const HEAD: usize = 8;
pub(crate) const REFERENCE: usize = 16;

/// Bodies up to this size lie in the record; longer ones belong into a span.
pub const LONGEST_BODY: usize = 16 << 10;
/// So much may follow a body, of what is not the message itself but about it.
pub const TRAILER: usize = 4 << 10;
/// So many spans one message may have.
pub const MOST_SPANS: usize = 255;

/// The kind of a record that leads to the next chunk; no message may have it.
pub(crate) const JUMP: u8 = 0xff;

/// Orders of chunks: what a queue with nobody behind uses, and what a growing one does.
pub(crate) const SMALL_CHUNK: u32 = 2;
pub(crate) const LARGE_CHUNK: u32 = 6;

/// Its own line of the cache, so that the two ends do not disturb each other.
#[repr(C, align(64))]
pub(crate) struct Line<T>(pub(crate) T);

#[repr(C)]
pub(crate) struct Header<L> {
    /// The most messages it may hold; 0 is any number.
    pub(crate) max_size: AtomicU64,
    /// See `Closed`.
    pub(crate) closed: AtomicU32,
    /// How many pollers are registered.
    pub(crate) pollers: AtomicU32,
    pub(crate) put_lock: Line<L>,
    pub(crate) put: Line<Side>,
    pub(crate) get_lock: Line<L>,
    pub(crate) get: Line<Side>,
    /// Raised for a consumer when there is a message.
    pub(crate) items: Line<Signal>,
    /// Raised for a producer when there is room.
    pub(crate) room: Line<Signal>,
    /// How many messages were reported as done, and a signal for when it is all of them.
    pub(crate) done: Line<AtomicU64>,
    pub(crate) idle: Signal,
    /// The block with the pollers, 0 before the first.
    pub(crate) poll_block: AtomicU32,
    pub(crate) poll_lock: L,
    /// Not 0 if something was left lying that a repair could not free.
    pub(crate) littered: AtomicU32,
}

/// One end of a queue.
#[repr(C)]
pub(crate) struct Side {
    /// The copy with the number `sequence % 2` is valid.
    sequence: AtomicU32,
    _unused: u32,
    copies: [Copy; 2],
}

#[repr(C)]
struct Copy {
    chunk: AtomicU32,
    offset: AtomicU32,
    ordinal: AtomicU64,
    count: AtomicU64,
}

/// What a side says: its next record is at `offset` of the chunk `chunk`, which has the number `ordinal`, and
/// `count` messages went before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) chunk: u32,
    pub(crate) offset: u32,
    pub(crate) ordinal: u64,
    pub(crate) count: u64,
}

impl Side {
    /// What it says. Only the holder of this side's lock may ask: there it cannot change meanwhile.
    #[inline]
    pub(crate) fn place(&self) -> Place {
        let copy = &self.copies[self.sequence.load(Ordering::Relaxed) as usize & 1];
        Place {
            chunk: copy.chunk.load(Ordering::Relaxed),
            offset: copy.offset.load(Ordering::Relaxed),
            ordinal: copy.ordinal.load(Ordering::Relaxed),
            count: copy.count.load(Ordering::Relaxed),
        }
    }

    /// Makes `place` what it says. The holder of this side's lock may.
    #[inline]
    pub(crate) fn commit(&self, place: Place) {
        let next = self.sequence.load(Ordering::Relaxed).wrapping_add(1);
        let copy = &self.copies[next as usize & 1];
        copy.chunk.store(place.chunk, Ordering::Relaxed);
        copy.offset.store(place.offset, Ordering::Relaxed);
        copy.ordinal.store(place.ordinal, Ordering::Relaxed);
        crash_point("commit: half");
        // Released: whoever reads this count in `count` sees the commit before, too, and with it that the copy
        // it looks at is no longer the valid one.
        copy.count.store(place.count, Ordering::Release);
        self.sequence.store(next, Ordering::Release);
    }

    /// How many messages passed this side; anybody may ask.
    #[inline]
    pub(crate) fn count(&self) -> u64 {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let count = self.copies[before as usize & 1].count.load(Ordering::Acquire);
            // The copy is written again only by the second commit from here.
            if self.sequence.load(Ordering::Relaxed) == before {
                return count;
            }
        }
    }

    /// The number of the chunk it is in; a hint, for anybody.
    pub(crate) fn ordinal_hint(&self) -> u64 {
        self.copies[self.sequence.load(Ordering::Acquire) as usize & 1].ordinal.load(Ordering::Relaxed)
    }
}

const _: () = assert!(HEADER + size_of::<Header<crate::robust::RobustMutex>>() <= FIRST_RECORDS as usize);

/// The head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHead {
    /// The length of the body; for a jump, the chunk to go to.
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) spans: u8,
}

impl RecordHead {
    pub(crate) const fn encode(self) -> u64 {
        self.length as u64 | (self.kind as u64) << 32 | (self.spans as u64) << 40
    }

    pub(crate) const fn decode(word: u64) -> Self {
        Self { length: word as u32, kind: (word >> 32) as u8, spans: (word >> 40) as u8 }
    }

    /// How many bytes the whole record takes.
    pub(crate) const fn size(self) -> usize {
        HEAD + REFERENCE * self.spans as usize + (self.length as usize).next_multiple_of(8)
    }
}
