//! A count that never falls below zero. It has no holders, so nothing is taken back from the dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use weft_shm::{Arena, Handle, ShmError};
use weft_wait::{Deadline, Parker, Signal, wait_until};

use crate::error::{AcquireError, OverRelease};
use crate::memory::{Layout, Memory};

/// The largest value a semaphore can have.
pub const LARGEST_VALUE: u32 = i32::MAX as u32;

#[repr(C)]
struct State {
    value: AtomicU32,
    /// Raised for one that waits when there is something to take.
    released: Signal,
    most: AtomicU32,
}

// SAFETY: atomics only.
unsafe impl Layout for State {
    const TAG: u64 = u64::from_le_bytes(*b"weftsem1");
}

/// One process's handle of a semaphore.
#[derive(Debug)]
pub struct Semaphore {
    state: Memory<State>,
}

impl Semaphore {
    /// A new semaphore with a value, which is never to be more than `most`.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had.
    pub fn create(arena: &Arc<Arena>, value: u32, most: u32) -> Result<Self, ShmError> {
        let state = Memory::<State>::create(arena, 0, |place| {
            // SAFETY: zeroed, valid, and nobody else's yet.
            let state = unsafe { place.as_ref() };
            state.value.store(value, Ordering::Relaxed);
            state.most.store(most.min(LARGEST_VALUE), Ordering::Relaxed);
        })?;
        Ok(Self { state })
    }

    /// The semaphore that another process made.
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

    /// The value: exact, but perhaps not for long.
    #[inline]
    pub fn value(&self) -> u32 {
        self.state.value.load(Ordering::Acquire)
    }

    /// The most that the value may be.
    pub fn most(&self) -> u32 {
        self.state.most.load(Ordering::Relaxed)
    }

    /// Takes one if there is one. False as well if this process may not use it: [`acquire`](Self::acquire) says why.
    #[inline]
    pub fn try_take(&self) -> bool {
        if self.state.shared().check().is_err() {
            return false;
        }
        let mut value = self.state.value.load(Ordering::Relaxed);
        while value > 0 {
            match self.state.value.compare_exchange_weak(
                value,
                value - 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => value = now,
            }
        }
        false
    }

    /// Takes one, waiting until there is one.
    ///
    /// # Errors
    ///
    /// [`AcquireError`], but not that an owner died: there is none.
    pub fn acquire<P: Parker>(
        &self,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<(), AcquireError<P::Interrupt>> {
        if self.try_take() {
            return Ok(());
        }
        self.state.shared().check()?;
        let ready = || self.value() > 0;
        wait_until(&self.state.released, parker, deadline, ready, |_| self.try_take().then_some(()))?;
        Ok(())
    }

    /// Adds one.
    ///
    /// # Errors
    ///
    /// [`OverRelease`] if it would be more than the most.
    #[inline]
    pub fn release(&self) -> Result<(), OverRelease> {
        if self.state.shared().check().is_err() {
            return Err(OverRelease);
        }
        let most = self.most();
        let mut value = self.state.value.load(Ordering::Relaxed);
        loop {
            if value >= most {
                return Err(OverRelease);
            }
            match self.state.value.compare_exchange_weak(
                value,
                value + 1,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => value = now,
            }
        }
        // The exchange is a full fence on this processor.
        if cfg!(target_arch = "x86_64") {
            self.state.released.raise_fenced();
        } else {
            self.state.released.raise();
        }
        Ok(())
    }
}
