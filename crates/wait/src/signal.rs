//! A word in shared memory that wakes whoever waits for a state to change.
//!
//! The word is a sequence number and one flag:
//!
//! ```text
//! 31                                 1   0
//! ├────────── sequence ──────────────┤ WAITING
//! ```
//!
//! * A waiter *announces* itself: it sets `WAITING`, remembers the word (its [`Ticket`]), looks at the state
//!   once more, and sleeps for as long as the word is its ticket.
//! * A waker changes the state and then looks at the word. Without `WAITING` there is nothing to do. With it,
//!   it adds one to the sequence, so that nobody falls asleep on the old word, and wakes one sleeper.
//!
//! There is no count of waiters, because it would be wrong for ever after a waiter was killed. The flag may be
//! stale, which costs one waker two calls of the kernel: if nobody was there to be woken, it clears the flag
//! and adds one to the sequence *in one step*, and wakes all: a waiter that announced itself meanwhile (which
//! left no trace, the flag being set) either slept before the step, and is woken, or finds the word changed.
//! Whoever is woken without need tries, announces itself again, and sleeps again.
//!
//! A waker that is killed between the change and the wake leaves sleepers behind. That is why nobody sleeps
//! longer than a slice at a time (see [`crate::thread`]).
//!
//! Order: the waiter announces itself before a sequentially consistent fence and looks at the state after it, the
//! waker changes the state before such a fence and looks at the word after it, so at least one of
//! "the waiter sees the new state" and "the waker sees the flag" holds. Loom checks it, in `tests/loom.rs`.

use crate::primitives::{AtomicU32, Ordering, fence, futex};

const WAITING: u32 = 1;
const STEP: u32 = 2;

/// Where waiters announce themselves and wakers look. Zeroed memory is a fresh signal.
#[derive(Debug)]
#[repr(transparent)]
pub struct Signal {
    word: AtomicU32,
}

/// What a waiter saw when it announced itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Ticket(u32);

impl Ticket {
    /// The value of the word for which to sleep.
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl Default for Signal {
    fn default() -> Self {
        Self::new()
    }
}

impl Signal {
    /// A signal that nobody waits for.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// A signal that nobody waits for.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// Says that the caller is about to sleep. It must look at the state again before it does.
    pub fn announce(&self) -> Ticket {
        let ticket = Ticket(self.word.fetch_or(WAITING, Ordering::SeqCst) | WAITING);
        // The look at the state that follows need not be sequentially consistent itself.
        fence(Ordering::SeqCst);
        ticket
    }

    /// Whether nothing was raised since `ticket`.
    pub fn is_current(&self, ticket: Ticket) -> bool {
        self.word.load(Ordering::Acquire) == ticket.0
    }

    /// The word itself, for the futex.
    #[cfg(not(loom))]
    pub const fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// Sleeps until the word is no longer the ticket's: the model's stand-in for a thread's park.
    #[cfg(loom)]
    pub fn sleep(&self, ticket: Ticket) {
        futex::wait(&[(&self.word, ticket.0)]);
    }

    /// As [`sleep`](Self::sleep), coming back also when the word `beside` is woken, or is not what it is expected to be.
    #[cfg(loom)]
    pub fn sleep_beside(&self, ticket: Ticket, beside: (&AtomicU32, u32)) {
        futex::wait(&[(&self.word, ticket.0), beside]);
    }

    /// Wakes one waiter, after a change of state that lets one of them go on.
    #[inline]
    pub fn raise(&self) {
        fence(Ordering::SeqCst);
        self.raise_fenced();
    }

    /// As [`raise`](Self::raise), for a caller that passed a full fence since it changed the state: on some
    /// processors giving a lock back is one, and a second one costs as much as everything else here.
    #[inline]
    pub fn raise_fenced(&self) {
        if self.is_waited_for() {
            self.wake_one();
        }
    }

    /// Wakes all waiters.
    #[inline]
    pub fn raise_all(&self) {
        fence(Ordering::SeqCst);
        if self.word.load(Ordering::Relaxed) & WAITING != 0 {
            self.clear_and_wake_all();
        }
    }

    /// Whether anybody has announced itself, for all that is known. To a caller that passed a full fence.
    #[inline]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.word.load(Ordering::Relaxed) & WAITING != 0
    }

    #[cold]
    fn wake_one(&self) {
        if !self.wake_first() {
            self.clear_and_wake_all();
        }
    }

    /// Wakes the one that has slept longest. False if nobody sleeps: then the flag is stale, or somebody is about to.
    pub(crate) fn wake_first(&self) -> bool {
        self.word.fetch_add(STEP, Ordering::SeqCst);
        futex::wake(&self.word, 1) != 0
    }

    #[cold]
    pub(crate) fn clear_and_wake_all(&self) {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let cleared = word.wrapping_add(STEP) & !WAITING;
            match self.word.compare_exchange_weak(word, cleared, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        futex::wake(&self.word, u32::MAX);
    }
}
