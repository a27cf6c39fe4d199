//! What lies where in an arena, and what each word means.
//!
//! ```text
//! unit 0            header: lock, heads of the free lists, counters
//! units 1..first    one descriptor of 64 bytes for each unit of the file
//! units first..     blocks: 2^order units, aligned to their size in the file
//! ```
//!
//! A unit has 4 KiB. Only what was used takes memory; the file is sparse.
//!
//! The *descriptor* of a block's first unit is the truth about it: order and kind are one word, so every
//! change (taken, freed, split, merged, handed over) is committed by one store. Free lists, counters
//! and everything else in the header are rebuilt from the descriptors when a holder of the lock died.
//!
//! | field | written by |
//! |---|---|
//! | `state` of a free block | the holder of the arena's lock |
//! | `state` and tags of a held block | the process that holds it |
//! | `state` and tags of a queue's chunks and spans | the holder of that queue's lock of that side |
//! | `resident`, `populated`, links | the holder of the arena's lock, or of the block |

use std::sync::atomic::{AtomicU32, AtomicU64};

/// The size of a unit in bytes.
pub const UNIT: usize = 4096;
pub(crate) const UNIT_SHIFT: u32 = UNIT.trailing_zeros();

/// Sizes of blocks: 2^0 to 2^(ORDERS-1) units.
pub(crate) const ORDERS: usize = 25;

pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"weftarn1");

/// Changes whenever the meaning of anything in the file does.
pub(crate) const VERSION: u32 = 2;

/// The header of an arena; `L` is the kind of its lock.
#[repr(C)]
pub(crate) struct Header<L> {
    pub(crate) magic: AtomicU64,
    pub(crate) version: AtomicU32,
    /// How many units the file has.
    pub(crate) units: AtomicU32,
    /// The first unit of blocks.
    pub(crate) first: AtomicU32,
    /// Units from here on were never used.
    pub(crate) high_water: AtomicU32,
    pub(crate) lock: L,
    /// Not 0 while the free lists and counters may contradict the descriptors.
    pub(crate) torn: AtomicU32,
    /// Resident units in free blocks, about.
    pub(crate) free_resident: AtomicU32,
    /// Units in taken blocks.
    pub(crate) taken: AtomicU32,
    /// The largest block taken in this epoch, and in the one before, in units.
    pub(crate) largest: AtomicU32,
    pub(crate) largest_before: AtomicU32,
    /// When this epoch began, in milliseconds of the monotonic clock.
    pub(crate) epoch: AtomicU64,
    /// `taken` after the last sweep.
    pub(crate) swept_at: AtomicU32,
    /// The last generation given to an object.
    pub(crate) generation: AtomicU64,
    /// Not 0 once a reference to an object was put into a queue.
    pub(crate) has_sent: AtomicU32,
    /// First blocks of the free lists, by order; 0 is none.
    pub(crate) heads: [AtomicU32; ORDERS],
}

/// What a block is; the byte above the order in [`Descriptor::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Nobody's; `links` are its neighbours in a free list.
    Free = 0,
    /// In the hands of the process `holder`, which frees it or hands it over.
    Held = 1,
    /// A shared object such as a queue. It lives as long as somebody holds it.
    Object = 2,
    /// Part of the object `object`: a piece of a queue with the number `ordinal`.
    Chunk = 3,
    /// A large buffer in the message with the number `ordinal` of the queue `object`.
    Queued = 4,
    /// The rest of the object's list of holders.
    Holders = 5,
}

impl Kind {
    pub(crate) const fn of(state: u32) -> Option<Self> {
        Some(match state >> 8 {
            0 => Self::Free,
            1 => Self::Held,
            2 => Self::Object,
            3 => Self::Chunk,
            4 => Self::Queued,
            5 => Self::Holders,
            _ => return None,
        })
    }
}

pub(crate) const fn state(kind: Kind, order: u32) -> u32 {
    (kind as u32) << 8 | order
}

pub(crate) const fn order_of(state: u32) -> u32 {
    state & 0xff
}

/// What is known of a block.
#[repr(C, align(64))]
pub(crate) struct Descriptor {
    /// Kind and order.
    pub(crate) state: AtomicU32,
    /// So many units at its start have memory for certain.
    pub(crate) populated: AtomicU32,
    /// So many of its units have memory, about.
    pub(crate) resident: AtomicU32,
    /// Held: by whom.
    pub(crate) holder_pid: AtomicU32,
    pub(crate) holder_start: AtomicU32,
    /// Chunk, Queued, Holders: of which object.
    pub(crate) object: AtomicU32,
    /// Free: the block before in the list, 0 if it is the first.
    pub(crate) previous: AtomicU32,
    /// Free: the block behind in the list, 0 if it is the last.
    pub(crate) next: AtomicU32,
    /// Chunk, Queued: its number. Object: its generation.
    pub(crate) ordinal: AtomicU64,
}

const _: () = assert!(size_of::<Descriptor>() == 64);
const _: () = assert!(size_of::<Header<crate::robust::RobustMutex>>() <= UNIT);

/// The order of the smallest block that has `bytes`; `None` if there is none so large.
pub(crate) fn order_for(bytes: usize) -> Option<u32> {
    let units = bytes.div_ceil(UNIT).max(1).checked_next_power_of_two()?;
    let order = units.trailing_zeros();
    ((order as usize) < ORDERS).then_some(order)
}
