//! The life of a thread, for those who wait for what it will do.
//!
//! Whoever has promised to do something holds a robust lock for as long as that is so. The kernel knows such a lock by one
//! word, which is this one:
//!
//! | the word | which means |
//! |---|---|
//! | 0 | nobody holds the lock |
//! | a thread's number | it lives, and nobody sleeps beside the word |
//! | … and [`WATCHED`] | when it ends, or gives the lock back, one that sleeps has to be woken |
//! | [`ORPHANED`], with or without [`WATCHED`] | it ended with the lock |
//!
//! The kernel wakes *one* sleeper, so whoever learns of an end wakes the others. A sleeper sleeps beside its own signal *and* this
//! word, and looks at both after it has set `WATCHED`: either it sees the end, or the kernel sees the bit.

use crate::primitives::{AtomicU32, Ordering, futex};

/// The kernel's bits in the word of a robust lock: the holder ended with it,
const ORPHANED: u32 = 0x4000_0000;
/// and somebody sleeps on it.
const WATCHED: u32 = 0x8000_0000;

/// The word of a robust lock, as those see it who never take the lock.
#[derive(Debug)]
#[repr(transparent)]
pub struct Life {
    word: AtomicU32,
}

impl Life {
    /// The life that a word tells of which the kernel knows as that of a robust lock.
    #[cfg(not(loom))]
    pub const fn of(word: &AtomicU32) -> &Self {
        // SAFETY: it consists of nothing but the word.
        unsafe { &*std::ptr::from_ref(word).cast::<Self>() }
    }

    /// Whether the thread that held the lock ended with it, and nobody has taken it since.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.word.load(Ordering::Acquire) & ORPHANED != 0
    }

    /// A word to sleep on, and the value that it has for as long as the holder lives and keeps the lock. `None` if
    /// nobody holds it.
    ///
    /// When the holder ends the kernel wakes one sleeper, who tells the others by [`wake_watchers`](Self::wake_watchers).
    pub fn watch(&self) -> Option<(&AtomicU32, u32)> {
        // Who sees that the lock was given back sees what was said before.
        let mut now = self.word.load(Ordering::Acquire);
        loop {
            if now == 0 || now & ORPHANED != 0 {
                return None;
            }
            if now & WATCHED != 0 {
                return Some((&self.word, now));
            }
            match self.word.compare_exchange_weak(now, now | WATCHED, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some((&self.word, now | WATCHED)),
                Err(other) => now = other,
            }
        }
    }

    /// Wakes all that sleep on the word.
    #[cold]
    pub fn wake_watchers(&self) {
        futex::wake(&self.word, u32::MAX);
    }
}

/// The kernel's part.
#[cfg(loom)]
impl Life {
    /// That of a thread which holds the lock.
    pub fn new() -> Self {
        Self { word: AtomicU32::new(1) }
    }

    /// The thread ends with the lock.
    pub fn end(&self) {
        self.change(|now| now & WATCHED | ORPHANED);
    }

    /// The thread gives the lock back.
    pub fn leave(&self) {
        self.change(|_| 0);
    }

    fn change(&self, to: impl Fn(u32) -> u32) {
        let mut now = self.word.load(Ordering::Relaxed);
        while let Err(other) = self.word.compare_exchange(now, to(now), Ordering::SeqCst, Ordering::Relaxed) {
            now = other;
        }
        if now & WATCHED != 0 {
            futex::wake(&self.word, 1);
        }
    }
}
