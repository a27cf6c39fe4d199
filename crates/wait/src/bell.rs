//! A signal for a crowd of which one member keeps a lookout.
//!
//! Workers of a pool wait for tasks at one place. When one of them spins, waking a second one for the same task costs the
//! caller a call of the kernel, and everybody the processor that the second one takes. So whoever spins says so: it
//! takes the *lookout*, and as long as that is taken, a ring wakes nobody. There is one lookout, so at most
//! one of the crowd spins.
//!
//! * A waiter tries to take the lookout. With it, it spins, and gives it back *before* it looks at the state again;
//!   without it, or if nothing came, it announces itself at the signal, looks once more, and sleeps.
//! * A ringer changes the state, and rings: nothing if the lookout is taken, else it raises the signal.
//! * A lookout leaves behind what came while others slept, and nobody was woken for it. So whoever waited, and leaves with
//!   something, rings if there is more.
//!
//! The lookout is a lease in time, because its holder may be killed or stopped: when it is over, it is free.
//!
//! Order: as at a [`Signal`], with the lookout for the flag. The ringer changes the state before a sequentially consistent
//! fence and looks at the lookout after it; the lookout is given back before such a fence, and the state looked at
//! after it. So either the ringer sees that nobody is on the lookout, or the one that was sees the change.

use crate::primitives::{AtomicU64, Ordering, fence, now};
use crate::{Deadline, Parker, Signal, WaitError};

/// How long a lookout holds that is not given back, in nanoseconds: a few times as long as anybody spins.
const LEASE: u64 = 200_000;

/// Where a crowd waits. Zeroed memory is a fresh bell.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Bell {
    signal: Signal,
    /// When the lookout is over, in nanoseconds of the monotonic clock; 0 if nobody is on it.
    lookout: AtomicU64,
}

impl Default for Bell {
    fn default() -> Self {
        Self::new()
    }
}

/// The lookout, taken.
#[must_use]
pub struct Lookout<'a> {
    bell: &'a Bell,
    until: u64,
}

impl Drop for Lookout<'_> {
    fn drop(&mut self) {
        // If the lease was over, somebody else may be on it.
        let _ = self.bell.lookout.compare_exchange(self.until, 0, Ordering::SeqCst, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

impl Bell {
    /// A bell at which nobody waits.
    pub fn new() -> Self {
        Self { signal: Signal::new(), lookout: AtomicU64::new(0) }
    }

    /// Wakes one of the crowd after a change that lets one of them go on, unless one is on the lookout.
    #[inline]
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        let until = self.lookout.load(Ordering::Relaxed);
        if until == 0 || until <= now() {
            self.signal.raise_fenced();
        }
    }

    /// Wakes all of the crowd.
    pub fn ring_all(&self) {
        self.signal.raise_all();
    }

    /// Takes the lookout, unless somebody is on it.
    pub fn lookout(&self) -> Option<Lookout<'_>> {
        let taken = self.lookout.load(Ordering::Relaxed);
        let now = now();
        if taken > now {
            return None;
        }
        let until = now + LEASE;
        self.lookout
            .compare_exchange(taken, until, Ordering::SeqCst, Ordering::Relaxed)
            .ok()
            .map(|_| Lookout { bell: self, until })
    }

    /// Where to announce oneself before one sleeps.
    pub const fn signal(&self) -> &Signal {
        &self.signal
    }

    /// Tries `attempt` until it gives something, as [`wait_until`](crate::wait_until) does, with at most one of the crowd
    /// spinning. `has_more` says whether the state would let somebody else go on, who is woken then.
    ///
    /// # Errors
    ///
    /// [`WaitError`], when the deadline has passed or the parker was interrupted.
    pub fn wait_until<T, P: Parker>(
        &self,
        parker: &mut P,
        deadline: Deadline,
        mut ready: impl FnMut() -> bool,
        mut has_more: impl FnMut() -> bool,
        mut attempt: impl FnMut(&mut P) -> Option<T>,
    ) -> Result<T, WaitError<P::Interrupt>> {
        let mut lingered = false;
        loop {
            if let Some(value) = attempt(parker) {
                // The first attempt took what nobody was woken for, at most.
                if lingered && has_more() {
                    self.ring();
                }
                return Ok(value);
            }
            if deadline.is_over() {
                return Err(WaitError::TimedOut);
            }
            if !lingered {
                lingered = true;
                if let Some(lookout) = self.lookout() {
                    let found = parker.linger(&mut ready);
                    drop(lookout);
                    if found {
                        continue;
                    }
                }
            }
            let ticket = self.signal.announce();
            if let Some(value) = attempt(parker) {
                if has_more() {
                    self.ring();
                }
                return Ok(value);
            }
            if let Err(interrupt) = parker.park(&self.signal, ticket, deadline) {
                // It may have been woken as well: the wake-up goes to the next one.
                self.signal.raise();
                return Err(WaitError::Interrupted(interrupt));
            }
        }
    }
}
