//! A lane, as it lies in shared memory.
//!
//! A lane is one caller's place at the desk: at most one call is in it at a time. Whoever claims it writes its identity
//! into `owner`, by one compare-and-exchange; from then on only that process calls through it, one thread at a time.
//!
//! Whose turn it is, [`turn`](crate::turn) says.
//!
//! Beside each call the owner sets the lane's bit among the desk's `ready` words, unless this is the lane that
//! the server looks at anyway ([`Desk::watch`](crate::Desk::watch)), and raises the bell. An
//! owner that is killed in between leaves a call of which nobody is told: it is swept away with the owner. A bit that is
//! set for a lane in another state means nothing.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, AtomicU64};

use weft_shm::identity::Identity;
use weft_wait::Signal;

use crate::turn::{Tenure, Turn};

/// The size of a lane.
pub(crate) const SIZE: usize = 2048;
/// How much of a message lies in the lane itself.
pub(crate) const ROOM: usize = SIZE - 192;

/// The words of a short message, which lie in one line of the processor's cache with the lane's state.
pub const SHORT: usize = 6;
/// A message of a few words.
pub type Short = [u64; SHORT];

/// One caller's place, in shared memory. Zeroed memory is a free one.
#[repr(C, align(64))]
pub(crate) struct Slot {
    pub(crate) state: Turn,
    /// The number of the call.
    pub(crate) call: AtomicU32,
    /// What the message is, for its reader: see [`message`](crate::message).
    pub(crate) what: AtomicU32,
    /// How many buffers go with it.
    pub(crate) buffers: AtomicU32,
    /// A short message.
    pub(crate) short: [AtomicU64; SHORT],
    pub(crate) answer: Answered,
    /// How long a message that is not short is.
    pub(crate) length: AtomicU64,
    /// Rises with each of them: buffers that go with it are known by it.
    pub(crate) turn: AtomicU64,
    /// Who may call.
    pub(crate) owner: Tenure,
    /// Raised when an answer is there.
    pub(crate) reply: Signal,
    _apart: [u32; 9],
    bytes: UnsafeCell<[u8; ROOM]>,
}

/// What the caller looks at while it waits: the server writes it once for each call, at the end. So it can do to the rest of the lane
/// what it has to without waiting for the line that the caller is looking at, which takes longer than all else.
#[repr(C, align(64))]
pub(crate) struct Answered {
    /// The number of the last call that was answered, written after the turn was given back and everything else.
    pub(crate) call: AtomicU32,
    /// What the answer is, if it is short.
    pub(crate) what: AtomicU32,
    /// Whether it is: otherwise it lies where the call lay.
    pub(crate) is_short: AtomicU32,
    _apart: u32,
    pub(crate) short: [AtomicU64; SHORT],
}

const _: () = assert!(size_of::<Slot>() == SIZE);

// SAFETY: the bytes are written by the one whose turn it is, by the table above; all else is atomic.
unsafe impl Sync for Slot {}

impl Slot {
    /// Where the bytes are. Only the side whose turn it is touches them.
    pub(crate) const fn bytes(&self) -> *mut u8 {
        self.bytes.get().cast()
    }

    /// Makes the lane nobody's. It is idle, and the caller is the only one who may do this.
    pub(crate) fn free(&self) {
        self.owner.end(&self.state);
    }
}

/// A process as one word, which is not [`NOBODY`](crate::turn::NOBODY).
pub(crate) const fn word_of(identity: Identity) -> u64 {
    (identity.start as u64) << 32 | identity.pid as u64
}

/// The process that the word stands for.
pub(crate) const fn identity_of(word: u64) -> Identity {
    Identity { pid: word as u32, start: (word >> 32) as u32 }
}
