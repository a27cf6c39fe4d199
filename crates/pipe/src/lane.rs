//! One direction of a connection: who is in the middle of what.
//!
//! # Whole messages
//!
//! Two robust locks, one for those who write and one for those who read. The lane of a [`pair`](crate::pair) lies in
//! shared memory, so they hold between processes; that of a lone descriptor holds between the threads of one process.
//!
//! A frame of up to [`INLINE_MOST`] bytes is sent by one call and taken out by one call (it is looked at first), and
//! the kernel does either wholly or not at all. So whoever is killed, such a frame is there or not. Longer
//! messages of a pair are frames, too: tokens for memory that both ends share ([`spans`](crate::spans)). Where the reading
//! end's descriptor was shown to the program, which may let anybody read from it, and for lone descriptors, long
//! messages go through the descriptor in pieces. Then
//!
//! * a writer says in `stage` that a long frame was [`BEGUN`]. If it dies or gives up, it is [`BROKEN`]: other writers wait,
//!   as they would if it went on, until a reader comes to the place where the frame ends too early;
//! * a reader that finds nothing more of a frame and nobody writing knows that all there was of it has been received;
//!   what comes next begins a frame. It raises an error, and sets `stage` back;
//! * a reader says in `taking` that it is in the middle of a long frame. If it dies or gives up, the next one
//!   cannot know how much of it is left: it takes everything out until it has the writers' lock and nothing is left.
//!
//! # Handing over
//!
//! A reader that finds nothing offers the slot for a moment before it sleeps, with the number of frames that were
//! sent through the descriptor when it looked. A writer that finds the offer, and that number unchanged, knows that
//! nothing is on its way, and puts its frame into the slot: two processes that talk to each other need no system
//! call. The descriptor is not readable then, and need not be: the frame has been taken. A reader that was killed with
//! a full slot leaves it to the next one, who looks there first: nothing in the descriptor can be older.
//!
//! | slot | changed by | to |
//! |---|---|---|
//! | [`IDLE`] | the reader | [`OFFERED`] |
//! | [`OFFERED`] | the writer | [`FILLING`] |
//! | [`OFFERED`] | the reader, which goes to sleep | [`IDLE`] |
//! | [`FILLING`] | the writer | [`FULL`] |
//! | [`FILLING`] | whoever gets the lock of the writer that died | [`IDLE`] |
//! | [`FULL`] | the reader | [`IDLE`] |
//!
//! # Counting
//!
//! Finding out how long a frame is before it is taken costs a call. So the writer notes the lengths of its frames, and
//! the reader, who knows how many it took, takes the next by its length, and knows without a call when there is
//! none. The numbers can be wrong: somebody was killed between a call and the counting of it, or a frame went in
//! pieces. Then the lane is `unsure`, the reader looks first, and the first one that finds nothing there while nobody
//! writes sets the numbers right. Where a descriptor was shown to the program they mean nothing.
//!
//! Where the program was shown the *writing* end's descriptor, somebody may write to it and not count, so nothing is
//! handed over any more.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use weft_shm::robust::{Robust, RobustMutex};
use weft_wait::Signal;

/// Frames up to this length are sent in one piece: the kernel keeps so many bytes together.
pub const INLINE_MOST: usize = 16 << 10;

/// Values of `stage` and `taking`: nobody is in the middle of a frame,
pub(crate) const WHOLE: u32 = 0;
/// somebody is in the middle of one,
pub(crate) const BEGUN: u32 = 1;
/// whoever was in the middle of one died,
pub(crate) const BROKEN: u32 = 2;
/// or was interrupted.
pub(crate) const GIVEN_UP: u32 = 3;

pub(crate) const IDLE: u32 = 0;
pub(crate) const OFFERED: u32 = 1;
pub(crate) const FILLING: u32 = 2;
pub(crate) const FULL: u32 = 3;

/// Set in `shown` if the program was given the descriptor of that end.
pub(crate) const WRITER_SHOWN: u32 = 1;
pub(crate) const READER_SHOWN: u32 = 2;

/// Set in `slot_length` if the slot holds a token.
pub(crate) const IS_TOKEN: u32 = 1 << 31;

/// What both ends know of a direction. Zeroed memory with initialised locks is a fresh one.
#[repr(C, align(64))]
pub(crate) struct Lane {
    pub(crate) writing: RobustMutex,
    /// The thread and the process that are, or were, in the middle of a long frame.
    pub(crate) writer_thread: AtomicU32,
    pub(crate) writer: AtomicU32,
    pub(crate) stage: AtomicU32,
    _unused: u32,
    /// Guarded by `writing`: the number of the last span, and how many bytes of spans there were in all.
    pub(crate) ordinal: AtomicU64,
    pub(crate) posted: AtomicU64,
    _apart: [u64; 7],
    pub(crate) reading: RobustMutex,
    pub(crate) reader_thread: AtomicU32,
    pub(crate) reader: AtomicU32,
    pub(crate) taking: AtomicU32,
    pub(crate) shown: AtomicU32,
    /// How many bytes of spans were received. Guarded by `reading`.
    pub(crate) fetched: AtomicU64,
    /// Raised when the lane is in order again, and when a span was received.
    pub(crate) room: Signal,
    /// How many frames were taken out of the descriptor. Guarded by `reading`.
    pub(crate) received: AtomicU32,
    /// Not 0 while `sent`, `received` or `lengths` may be wrong.
    pub(crate) unsure: AtomicU32,
    _apart_too: [u32; 13],
    pub(crate) slot: AtomicU32,
    pub(crate) slot_length: AtomicU32,
    /// `sent` when the slot was offered.
    pub(crate) offered_at: AtomicU32,
    /// How many frames were sent through the descriptor.
    pub(crate) sent: AtomicU32,
    /// How long the frame number `sent` is, head included, for the last so many.
    lengths: [AtomicU16; LENGTHS],
    bytes: UnsafeCell<[u8; SLOT]>,
}

const LENGTHS: usize = 512;

/// How long a body may be that goes into the slot.
pub(crate) const SLOT: usize = LANE - 64 * 4 - 16 - 2 * LENGTHS;
const LANE: usize = 61 * 64;

/// What a reader knows of the next frame in the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It has to look.
    Unknown,
    /// There is none, unless somebody is about to count it, or the other end is closed.
    None,
    /// It is there, and so long.
    Length(usize),
}

/// Both directions.
#[repr(C)]
pub(crate) struct Lanes(pub(crate) [Lane; 2]);

const _: () = assert!(size_of::<Lane>() == LANE);
const _: () = assert!(size_of::<Lanes>() <= 2 * weft_shm::UNIT - weft_shm::Carrier::OVERHEAD);
const _: () = assert!(INLINE_MOST <= u16::MAX as usize);

// SAFETY: the slot's bytes are written by the one who set it to FILLING, under the writers' lock, and read by the one
// who offered it, under the readers' lock, once it is FULL. All else is atomic or a lock.
unsafe impl Sync for Lane {}

impl Lane {
    /// # Safety
    ///
    /// The memory is zeroed, nobody uses it yet, and it does not move afterwards.
    pub(crate) unsafe fn init(place: *mut Self) {
        // SAFETY: by the contract.
        unsafe {
            RobustMutex::init(&raw mut (*place).writing);
            RobustMutex::init(&raw mut (*place).reading);
        }
    }

    /// Puts the body that `parts` make up, which fits, into the slot. The caller holds the writers' lock.
    ///
    /// False if it is not offered, or something is on its way.
    pub(crate) fn fill(&self, parts: &[&[u8]], flag: u32) -> bool {
        if self.slot.load(Ordering::Acquire) != OFFERED
            || self.offered_at.load(Ordering::Relaxed) != self.sent.load(Ordering::Relaxed)
            || self.shown.load(Ordering::Relaxed) & WRITER_SHOWN != 0
            || self.slot.compare_exchange(OFFERED, FILLING, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return false;
        }
        let mut length = 0;
        for part in parts {
            // SAFETY: the slot is the caller's until it is full, and the parts fit.
            unsafe {
                let place = self.bytes.get().cast::<u8>().add(length);
                place.copy_from_nonoverlapping(part.as_ptr(), part.len());
            }
            length += part.len();
        }
        self.slot_length.store(length as u32 | flag, Ordering::Relaxed);
        self.slot.store(FULL, Ordering::Release);
        true
    }

    /// Takes the body out of the full slot and appends it to `body`. Says whether it is a token. The caller holds the
    /// readers' lock.
    pub(crate) fn empty(&self, body: &mut Vec<u8>) -> bool {
        let word = self.slot_length.load(Ordering::Relaxed);
        let length = ((word & !IS_TOKEN) as usize).min(SLOT);
        // SAFETY: the slot is full, so its bytes are the reader's until it is idle again.
        body.extend_from_slice(unsafe { std::slice::from_raw_parts(self.bytes.get().cast::<u8>(), length) });
        self.slot.store(IDLE, Ordering::Release);
        word & IS_TOKEN != 0
    }

    /// Notes how long the frame is that is about to be sent. The caller holds the writers' lock.
    pub(crate) fn note_length(&self, total: usize) {
        let sent = self.sent.load(Ordering::Relaxed);
        if sent.wrapping_sub(self.received.load(Ordering::Relaxed)) >= LENGTHS as u32 {
            self.unsure.store(1, Ordering::Release);
        }
        // Frames that are not longer than this have a note.
        self.lengths[sent as usize % LENGTHS].store(total as u16, Ordering::Relaxed);
    }

    /// A frame, or a piece of one, was sent through the descriptor. The caller holds the writers' lock.
    pub(crate) fn count(&self) {
        let sent = self.sent.load(Ordering::Relaxed);
        self.sent.store(sent.wrapping_add(1), Ordering::SeqCst);
    }

    /// What is known of the next frame in the descriptor. The caller holds the readers' lock.
    pub(crate) fn next(&self) -> Next {
        if self.unsure.load(Ordering::Acquire) != 0 || self.shown.load(Ordering::Relaxed) != 0 {
            return Next::Unknown;
        }
        let received = self.received.load(Ordering::Relaxed);
        // Received may be ahead, of a writer that has not counted yet.
        if self.sent.load(Ordering::Acquire).wrapping_sub(received).cast_signed() <= 0 {
            return Next::None;
        }
        let length = self.lengths[received as usize % LENGTHS].load(Ordering::Relaxed);
        // It may have become so meanwhile: then the note may be that of another frame.
        if self.unsure.load(Ordering::Acquire) != 0 { Next::Unknown } else { Next::Length(length.into()) }
    }

    /// A frame was taken out of the descriptor. The caller holds the readers' lock.
    pub(crate) fn count_received(&self) {
        let received = self.received.load(Ordering::Relaxed);
        self.received.store(received.wrapping_add(1), Ordering::Relaxed);
    }

    /// Nothing is in the descriptor. The caller holds both locks.
    pub(crate) fn set_right(&self) {
        self.received.store(self.sent.load(Ordering::Relaxed), Ordering::Relaxed);
        self.unsure.store(0, Ordering::Release);
    }

    /// What the holder of the writers' lock does first if the one before died with it.
    pub(crate) fn repair_writing(&self) {
        let _ = self.slot.compare_exchange(FILLING, IDLE, Ordering::AcqRel, Ordering::Relaxed);
        // It may have sent a frame and not counted it.
        self.unsure.store(1, Ordering::Release);
        self.sent.fetch_add(1, Ordering::Release);
        if self.stage.load(Ordering::Relaxed) == BEGUN {
            self.stage.store(BROKEN, Ordering::Release);
        }
        self.writing.repaired();
    }

    /// What the holder of the readers' lock does first if the one before died with it. A full slot stays.
    pub(crate) fn repair_reading(&self) {
        let _ = self.slot.compare_exchange(OFFERED, IDLE, Ordering::AcqRel, Ordering::Relaxed);
        // It may have taken a frame and not counted it.
        self.unsure.store(1, Ordering::Release);
        self.reading.repaired();
    }
}
