//! The loop that every blocking operation goes through.

use std::time::{Duration, Instant};

use crate::{Signal, Ticket};

/// When to give up: never, or at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Never give up.
    pub const NEVER: Self = Self(None);

    /// Give up `patience` from now. Too long to be counted is never.
    pub fn after(patience: Duration) -> Self {
        Self(Instant::now().checked_add(patience))
    }

    /// How long is left: `None` without a limit, zero if it is over.
    pub fn left(self) -> Option<Duration> {
        self.0.map(|instant| instant.saturating_duration_since(Instant::now()))
    }

    /// Whether the time is over.
    pub fn is_over(self) -> bool {
        self.0.is_some_and(|instant| Instant::now() >= instant)
    }
}

/// Whoever can be made to wait: a thread, a coroutine, an event loop's task.
pub trait Parker {
    /// What ends a wait from outside, such as an exception raised by a signal handler.
    type Interrupt;

    /// Waits until `signal` was raised since `ticket`, or until `deadline`. May return early for any reason.
    fn park(&mut self, signal: &Signal, ticket: Ticket, deadline: Deadline) -> Result<(), Self::Interrupt>;

    /// Runs `step`, which blocks the thread for a moment at a time, until it says that it is done.
    ///
    /// For waits that are short unless somebody was stopped in the middle: the lock of one side of a queue.
    /// Interrupts the wait only after a `step` that was not done: a step that was holds what it waited for.
    fn block(&mut self, step: &mut dyn FnMut() -> bool) -> Result<(), Self::Interrupt> {
        while !step() {}
        Ok(())
    }

    /// Called before the first park of a wait: tries `ready` for a moment without sleeping.
    ///
    /// Says whether `ready` was true at last. The default does not try.
    fn linger(&mut self, ready: &mut dyn FnMut() -> bool) -> bool {
        let _ = ready;
        false
    }
}

/// Why [`wait_until`] came back with nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitError<I> {
    /// The deadline passed.
    TimedOut,
    /// The parker was interrupted.
    Interrupted(I),
}

/// Tries `attempt` until it gives something, parking at `signal` in between.
///
/// `ready` is a cheap look at the state, without locks, that says whether `attempt` is worth trying;
/// it may be wrong either way, as long as it does not stay wrong when nothing changes.
///
/// The wait ends at the deadline, at once if that has passed, but never without one attempt.
pub fn wait_until<T, P: Parker>(
    signal: &Signal,
    parker: &mut P,
    deadline: Deadline,
    mut ready: impl FnMut() -> bool,
    mut attempt: impl FnMut(&mut P) -> Option<T>,
) -> Result<T, WaitError<P::Interrupt>> {
    let mut lingered = false;
    loop {
        if let Some(value) = attempt(parker) {
            return Ok(value);
        }
        if deadline.is_over() {
            return Err(WaitError::TimedOut);
        }
        if !lingered {
            lingered = true;
            if parker.linger(&mut ready) {
                continue;
            }
        }
        let ticket = signal.announce();
        if let Some(value) = attempt(parker) {
            return Ok(value);
        }
        if let Err(interrupt) = parker.park(signal, ticket, deadline) {
            // It may have been woken as well: the wake-up goes to the next one.
            signal.raise();
            return Err(WaitError::Interrupted(interrupt));
        }
    }
}
