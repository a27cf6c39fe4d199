//! A lock with one holder, who is known from the word that he took.
//!
//! The lock is one word: free, or the holder's identity (see [`owner`]). Taking it is one compare-and-exchange,
//! giving it back one exchange, and a look at the signal beside it whether anybody sleeps. So there is no instant at
//! which it is held and nobody knows by whom.
//!
//! Anybody may give it back, as the standard library's locks allow; whether the caller may is the caller's business.
//!
//! **Death.** One that waits looks every [`LOOK`] whether the holder lives. If it died, the word goes by one
//! compare-and-exchange from the dead to nobody, or straight to the one that looks: so exactly one of those that
//! wait learns of it. One that never waits, but tries again and again, looks as well, as often.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use weft_shm::identity::Identity;
use weft_shm::{Arena, Handle, ShmError};
use weft_wait::{Baton, Deadline, Parker, try_until};

use crate::error::{AcquireError, OverRelease};
use crate::memory::{Layout, Memory};
use crate::owner::{self, FREE, LOOK, Owner};

/// Whose death leaves a lock without an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenure {
    /// Any end of the process that holds it.
    Always,
    /// The end of a process that did not say before that it ends ([`owner::end_normally`]): what is taken when it says so
    /// stays taken until somebody releases it.
    UntilNormalEnd,
}

#[repr(C)]
struct State {
    word: AtomicU64,
    released: Baton,
    /// 0: [`Tenure::Always`].
    tenure: AtomicU32,
}

// SAFETY: atomics only.
unsafe impl Layout for State {
    const TAG: u64 = u64::from_le_bytes(*b"weftmtx1");
}

/// How a lock was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// As it was left.
    Clean,
    /// From this process, which died with it.
    Inherited(Identity),
}

/// One process's handle of a lock.
#[derive(Debug)]
pub struct Mutex {
    state: Memory<State>,
    tenure: Tenure,
    /// When somebody of this process looked last whether the holder lives, in milliseconds since the handle was made.
    looked: AtomicU64,
    made: Instant,
}

impl Mutex {
    /// A new lock; it is free.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had.
    pub fn create(arena: &Arc<Arena>, tenure: Tenure) -> Result<Self, ShmError> {
        let state = Memory::<State>::create(arena, 0, |place| {
            // SAFETY: zeroed, valid, and nobody else's yet.
            unsafe { place.as_ref() }.tenure.store(u32::from(tenure != Tenure::Always), Ordering::Relaxed);
        })?;
        Ok(Self::with(state))
    }

    /// The lock that another process made.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if it has ended, [`ShmError`] if there is no room for another holder of a handle.
    pub fn attach(arena: &Arc<Arena>, handle: Handle) -> Result<Self, ShmError> {
        Memory::attach(arena, handle, 0).map(Self::with)
    }

    fn with(state: Memory<State>) -> Self {
        let tenure = match state.tenure.load(Ordering::Relaxed) {
            0 => Tenure::Always,
            _ => Tenure::UntilNormalEnd,
        };
        if tenure == Tenure::UntilNormalEnd {
            owner::remember(&state.word);
        }
        Self { state, tenure, looked: AtomicU64::new(0), made: Instant::now() }
    }

    /// What another process with the same arena needs to attach.
    pub fn handle(&self) -> Handle {
        self.state.shared().handle()
    }

    /// The arena it lies in.
    pub fn arena(&self) -> &Arc<Arena> {
        self.state.shared().arena()
    }

    /// Who holds it.
    pub fn owner(&self) -> Owner {
        Owner::of(self.state.word.load(Ordering::Acquire))
    }

    /// Whether anybody holds it.
    #[inline]
    pub fn is_taken(&self) -> bool {
        self.state.word.load(Ordering::Relaxed) != FREE
    }

    /// Takes it if it is free. False as well if this process may not use it: the slower ways say why.
    #[inline]
    pub fn try_take(&self) -> bool {
        let mine = match self.tenure {
            Tenure::Always => owner::me(),
            Tenure::UntilNormalEnd => owner::tenant(),
        };
        self.state.shared().check().is_ok()
            && self.state.word.compare_exchange(FREE, mine, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// As [`try_take`](Self::try_take), and looks now and then whether the holder lives: with `inherit`, a
    /// dead one's lock is taken over.
    ///
    /// # Errors
    ///
    /// [`AcquireError::TimedOut`] if it is taken, [`AcquireError::OwnerDied`], [`AcquireError::Memory`].
    pub fn try_acquire<I>(&self, inherit: bool) -> Result<Grant, AcquireError<I>> {
        if self.try_take() {
            return Ok(Grant::Clean);
        }
        self.state.shared().check()?;
        self.look(inherit).unwrap_or(Err(AcquireError::TimedOut))
    }

    /// Takes it, waiting until it is free. With `inherit`, a dead one's lock is taken over.
    ///
    /// # Errors
    ///
    /// [`AcquireError`]; the lock is not taken then.
    #[inline]
    pub fn acquire<P: Parker>(
        &self,
        inherit: bool,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<Grant, AcquireError<P::Interrupt>> {
        if self.try_take() {
            return Ok(Grant::Clean);
        }
        self.wait(inherit, parker, deadline)
    }

    #[cold]
    fn wait<P: Parker>(
        &self,
        inherit: bool,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<Grant, AcquireError<P::Interrupt>> {
        self.state.shared().check()?;
        // A holder that died long ago is not waited for as long as one that may have died just now.
        let outcome = try_until(
            &self.state.released,
            parker,
            deadline,
            || !self.is_taken(),
            |_| if self.try_take() { Some(Ok(Grant::Clean)) } else { self.look(inherit) },
        );
        match outcome {
            Ok(granted) => granted,
            // Whoever tries again and again with little patience would never look.
            Err(weft_wait::WaitError::TimedOut) => self.look(inherit).unwrap_or(Err(AcquireError::TimedOut)),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks whether the holder lives, unless that was done just now. `None` if there is nothing to report.
    #[cold]
    fn look<I>(&self, inherit: bool) -> Option<Result<Grant, AcquireError<I>>> {
        let word = self.state.word.load(Ordering::Acquire);
        let Owner::Process(identity) = Owner::of(word) else { return None };
        let now = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        let before = self.looked.load(Ordering::Relaxed);
        if now.saturating_sub(before) < LOOK.as_millis() as u64 {
            return None;
        }
        self.looked.store(now, Ordering::Relaxed);
        if word == owner::me() || identity.is_alive() {
            return None;
        }
        if inherit {
            let mine = match self.tenure {
                Tenure::Always => owner::me(),
                Tenure::UntilNormalEnd => owner::tenant(),
            };
            let taken = self.state.word.compare_exchange(word, mine, Ordering::AcqRel, Ordering::Relaxed);
            return taken.is_ok().then_some(Ok(Grant::Inherited(identity)));
        }
        let freed = self.state.word.compare_exchange(word, FREE, Ordering::AcqRel, Ordering::Relaxed);
        freed.is_ok().then(|| {
            self.state.released.raise();
            Err(AcquireError::OwnerDied(identity))
        })
    }

    /// Gives it back, whoever took it.
    ///
    /// # Errors
    ///
    /// [`OverRelease`] if it is free.
    #[inline]
    pub fn release(&self) -> Result<(), OverRelease> {
        if self.state.shared().check().is_err() || self.state.word.swap(FREE, Ordering::SeqCst) == FREE {
            return Err(OverRelease);
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

impl Drop for Mutex {
    fn drop(&mut self) {
        if self.tenure == Tenure::UntilNormalEnd {
            owner::forget(&self.state.word);
        }
    }
}
