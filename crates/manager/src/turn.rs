//! Whose turn it is in a lane, and whose the lane is.
//!
//! | state | changed by | to | which means |
//! |---|---|---|---|
//! | [`IDLE`] | the owner | [`CALLED`] | a call lies in the lane, whole |
//! | [`CALLED`] | the server | [`RUNNING`] | it will be carried out |
//! | [`CALLED`] | the owner that is interrupted, or the server for an owner that died | [`IDLE`] | it never happens |
//! | [`RUNNING`] | the server | [`ANSWERED`] | an answer lies in the lane, whole |
//! | [`RUNNING`] | the owner that is interrupted, or the server for an owner that died | [`ABANDONED`] | nobody waits for the answer |
//! | [`ANSWERED`] | the owner, or the server for an owner that died | [`IDLE`] | |
//! | [`ABANDONED`] | the server, when it is done | [`IDLE`], and free | |
//!
//! So a call is carried out wholly or not at all, whenever its caller is killed, and an answer is taken, or comes back to the
//! server, but not both. What lies in the lane is written by the owner in [`IDLE`] and by the server in [`RUNNING`], and
//! read by the other side after the change. `tests/loom.rs` has every order of these changes.

use crate::primitives::{AtomicU32, AtomicU64, Ordering};

/// Nothing is in the lane.
const IDLE: u32 = 0;
/// A call is in the lane, and not begun.
const CALLED: u32 = 1;
/// The server is carrying it out.
const RUNNING: u32 = 2;
/// The answer is in the lane.
const ANSWERED: u32 = 3;
/// The server is carrying out a call whose caller does not wait any more.
const ABANDONED: u32 = 4;

/// The word of a lane that is nobody's.
pub const NOBODY: u64 = 0;

/// The state of a lane. Zeroed memory is an idle one.
#[derive(Debug)]
#[repr(transparent)]
pub struct Turn(AtomicU32);

/// What became of a call that its owner has given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum GivenUp {
    /// It never happens, and lies in the lane still, which is the owner's.
    Unbegun,
    /// The server carries it out, and the lane is the server's.
    Left,
    /// Too late for the server, too: the answer lies in the lane, which is the owner's.
    Answered,
    /// There was no call.
    Nothing,
}

/// What there was in the lane of an owner that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Swept {
    /// Nothing, or a call that was not begun and never happens. The lane is to be freed.
    Unbegun,
    /// An answer that was never taken. The lane is to be freed.
    Unread,
    /// A call that is being carried out; at its end the lane is freed.
    Running,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Handed {
    /// It is the caller's.
    Out,
    /// Nobody waits for it. It lies in the lane, which is to be freed.
    Unwanted,
    /// There is no call that could be answered.
    Nowhere,
}

impl Turn {
    /// An idle one.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU32::new(IDLE))
    }

    #[inline]
    fn change(&self, from: u32, to: u32) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The owner's call lies in the lane, whole.
    #[inline]
    pub fn call(&self) {
        // A full fence as well, on most processors: the caller goes on to look whether it has to do more than that.
        self.0.swap(CALLED, Ordering::SeqCst);
    }

    /// Whether a call lies in the lane.
    #[inline]
    pub fn is_called(&self) -> bool {
        self.0.load(Ordering::Acquire) == CALLED
    }

    /// Whether the answer lies there.
    #[cfg(any(test, loom))]
    #[inline]
    pub fn is_answered(&self) -> bool {
        self.0.load(Ordering::Acquire) == ANSWERED
    }

    /// The owner has read what lies there.
    #[inline]
    pub fn take(&self) {
        self.0.store(IDLE, Ordering::Release);
    }

    /// The owner does not wait any more. After [`GivenUp::Unbegun`] and [`GivenUp::Answered`] it [takes](Self::take) what is
    /// there.
    pub fn give_up(&self) -> GivenUp {
        loop {
            match self.0.load(Ordering::Acquire) {
                CALLED if self.change(CALLED, IDLE) => return GivenUp::Unbegun,
                RUNNING if self.change(RUNNING, ABANDONED) => return GivenUp::Left,
                ANSWERED => return GivenUp::Answered,
                CALLED | RUNNING => {}
                _ => return GivenUp::Nothing,
            }
        }
    }

    /// The server begins the call. False if there is none.
    #[inline]
    pub fn begin(&self) -> bool {
        self.change(CALLED, RUNNING)
    }

    /// The server's answer lies in the lane, whole.
    #[inline]
    pub fn answer(&self) -> Handed {
        if self.change(RUNNING, ANSWERED) {
            Handed::Out
        } else if self.0.load(Ordering::Acquire) == ABANDONED {
            Handed::Unwanted
        } else {
            Handed::Nowhere
        }
    }

    /// The server takes the lane from an owner that died.
    pub fn sweep(&self) -> Swept {
        loop {
            match self.0.load(Ordering::Acquire) {
                RUNNING if self.change(RUNNING, ABANDONED) => return Swept::Running,
                CALLED if self.change(CALLED, IDLE) => return Swept::Unbegun,
                ANSWERED if self.change(ANSWERED, IDLE) => return Swept::Unread,
                ABANDONED => return Swept::Running,
                IDLE => return Swept::Unbegun,
                _ => {}
            }
        }
    }
}

/// Whose a lane is. Zeroed memory is nobody's.
#[derive(Debug)]
#[repr(transparent)]
pub struct Tenure(AtomicU64);

impl Tenure {
    /// Nobody's.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU64::new(NOBODY))
    }

    /// Makes the lane that of the process with the word `me`. False if it is somebody's.
    pub fn claim(&self, me: u64) -> bool {
        self.0.load(Ordering::Relaxed) == NOBODY
            && self.0.compare_exchange(NOBODY, me, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The word of whoever has it.
    pub fn word(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Makes the lane nobody's, and idle, for whoever is the only one that may.
    pub fn end(&self, turn: &Turn) {
        turn.0.store(IDLE, Ordering::Relaxed);
        self.0.store(NOBODY, Ordering::Release);
    }
}
