//! The loop that every blocking operation goes through.

use std::convert::Infallible;
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

    /// Waits until `signal` was raised since `ticket`, or until `deadline`. May return early for any reason, and has to when it was
    /// woken: somebody may have raised the signal before this ticket was taken and woken this sleeper after it, and count on it.
    fn park(&mut self, signal: &Signal, ticket: Ticket, deadline: Deadline) -> Result<(), Self::Interrupt>;

    /// Runs `step`, which blocks the thread for a moment at a time, until it says that it is done.
    ///
    /// For waits that are short unless somebody was stopped in the middle: the lock of one side of a queue.
    /// Interrupts the wait only after a `step` that was not done: a step that was holds what it waited for.
    fn block(&mut self, step: &mut dyn FnMut() -> bool) -> Result<(), Self::Interrupt> {
        while !step() {}
        Ok(())
    }

    /// Lets others of the calling thread run for a moment: one of them may hold what this one tried to lock. False if there are no
    /// others, because a thread waits: whoever holds the lock is another thread, or this one further up its stack.
    ///
    /// # Errors
    ///
    /// What interrupted the wait.
    fn give_way(&mut self) -> Result<bool, Self::Interrupt> {
        Ok(false)
    }

    /// Called before the first park of a wait: tries `ready` for a moment without sleeping.
    ///
    /// Says whether `ready` was true at last. The default does not try.
    fn linger(&mut self, ready: &mut dyn FnMut() -> bool) -> bool {
        let _ = ready;
        false
    }
}

/// What one waits at: a [`Signal`], or something with rules of its own for who is woken.
pub trait WaitPoint {
    /// Where waiters announce themselves.
    fn signal(&self) -> &Signal;

    /// Called by one that has slept, before it looks for the last time and goes back to sleep or away, and when it has got
    /// what it waited for.
    fn settle(&self) {}

    /// Called by one that has slept and goes away without having used the wake-up that it may have had.
    fn pass_on(&self);
}

impl WaitPoint for Signal {
    fn signal(&self) -> &Signal {
        self
    }

    fn pass_on(&self) {
        self.raise();
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

/// Tries `attempt` until it gives something, parking at `point` in between.
///
/// `ready` is a cheap look at the state, without locks, that says whether `attempt` is worth trying;
/// it may be wrong either way, as long as it does not stay wrong when nothing changes.
///
/// The wait ends at the deadline, at once if that has passed, but never without one attempt.
pub fn wait_until<T, P: Parker>(
    point: &impl WaitPoint,
    parker: &mut P,
    deadline: Deadline,
    ready: impl FnMut() -> bool,
    mut attempt: impl FnMut(&mut P) -> Option<T>,
) -> Result<T, WaitError<P::Interrupt>> {
    let outcome =
        try_until(point, parker, deadline, ready, |parker| attempt(parker).map(Ok::<_, Infallible>));
    outcome.map(|Ok(value)| value)
}

/// As [`wait_until`], for an attempt that can fail, which ends the wait as well.
///
/// One that was woken for what is there, and fails to take it, wakes the next one.
pub fn try_until<T, E, P: Parker>(
    point: &impl WaitPoint,
    parker: &mut P,
    deadline: Deadline,
    mut ready: impl FnMut() -> bool,
    mut attempt: impl FnMut(&mut P) -> Option<Result<T, E>>,
) -> Result<Result<T, E>, WaitError<P::Interrupt>> {
    // Whether this thread has slept since it last settled.
    let (mut lingered, mut woken) = (false, false);
    let over = loop {
        if let Some(outcome) = attempt(parker) {
            break Ok(outcome);
        }
        let settled = std::mem::take(&mut woken);
        if settled {
            point.settle();
        }
        if deadline.is_over() {
            let last = if settled { attempt(parker) } else { None };
            break last.ok_or(WaitError::TimedOut);
        }
        if !lingered {
            lingered = true;
            if parker.linger(&mut ready) {
                continue;
            }
        }
        let ticket = point.signal().announce();
        if let Some(outcome) = attempt(parker) {
            break Ok(outcome);
        }
        woken = true;
        if let Err(interrupt) = parker.park(point.signal(), ticket, deadline) {
            break Err(WaitError::Interrupted(interrupt));
        }
    };
    if woken {
        point.settle();
        // It may have been woken as well: the wake-up goes to the next one.
        if !matches!(over, Ok(Ok(_))) {
            point.pass_on();
        }
    }
    over
}
