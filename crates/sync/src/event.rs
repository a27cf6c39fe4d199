//! A flag to wait for.
//!
//! ```text
//! 31                          1   0
//! ├── how often it was set ────┤ SET
//! ```
//!
//! Those who wait see that it was set even if it was cleared again before they came to look: the count tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use weft_shm::{Arena, Handle, ShmError};
use weft_wait::{Deadline, Parker, Signal, wait_until};

use crate::error::WaitError;
use crate::memory::{Layout, Memory};

const SET: u32 = 1;
const STEP: u32 = 2;

#[repr(C)]
struct State {
    word: AtomicU32,
    changed: Signal,
}

// SAFETY: atomics only.
unsafe impl Layout for State {
    const TAG: u64 = u64::from_le_bytes(*b"weftevt1");
}

/// One process's handle of an event.
#[derive(Debug)]
pub struct Event {
    state: Memory<State>,
}

impl Event {
    /// A new event; it is not set.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had.
    pub fn create(arena: &Arc<Arena>) -> Result<Self, ShmError> {
        Ok(Self { state: Memory::create(arena, 0, |_| {})? })
    }

    /// The event that another process made.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if it has ended, [`ShmError`] if there is no room for another holder of a handle.
    pub fn attach(arena: &Arc<Arena>, handle: Handle) -> Result<Self, ShmError> {
        Ok(Self { state: Memory::attach(arena, handle, 0)? })
    }

    /// What another process with the same arena needs to attach.
    pub fn handle(&self) -> Handle {
        self.state.shared().handle()
    }

    /// The arena it lies in.
    pub fn arena(&self) -> &Arc<Arena> {
        self.state.shared().arena()
    }

    /// Whether it is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.state.word.load(Ordering::Acquire) & SET != 0
    }

    /// Sets it, and wakes all that wait.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if this process may not use it.
    pub fn set(&self) -> Result<(), ShmError> {
        self.state.shared().check()?;
        let mut word = self.state.word.load(Ordering::Relaxed);
        while word & SET == 0 {
            let set = word.wrapping_add(STEP) | SET;
            match self.state.word.compare_exchange_weak(word, set, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        // Also if it was set already: whoever set it may have died before it woke anybody.
        self.state.changed.raise_all();
        Ok(())
    }

    /// Makes it not set.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if this process may not use it.
    pub fn clear(&self) -> Result<(), ShmError> {
        self.state.shared().check()?;
        self.state.word.fetch_and(!SET, Ordering::SeqCst);
        Ok(())
    }

    /// Waits until it is set, or was meanwhile.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub fn wait<P: Parker>(&self, parker: &mut P, deadline: Deadline) -> Result<(), WaitError<P::Interrupt>> {
        self.state.shared().check()?;
        let before = self.state.word.load(Ordering::Acquire);
        if before & SET != 0 {
            return Ok(());
        }
        let ready = || self.state.word.load(Ordering::Acquire) != before;
        wait_until(&self.state.changed, parker, deadline, ready, |_| ready().then_some(()))?;
        Ok(())
    }
}
