//! Whether anybody serves, and how those who wait learn that nobody does any more.
//!
//! Serving begins once, and ends in one of two ways:
//!
//! * *closed*, in good order: the state says so, and then everybody is woken, at whatever they wait;
//! * by the *death* of the thread that serves, which the kernel marks in the desk's [`Life`]; it wakes one of those who sleep, who wakes
//!   the others.
//!
//! A caller looks at both after it has announced itself and before it sleeps, and sleeps beside its life. So it sees either end, or is
//! woken by it; `tests/loom/ends.rs` has every order. An answer that lies there counts, whatever happened since.

use weft_wait::{Deadline, Life, Parker, Signal, WaitError, wait_until};

use crate::primitives::{AtomicU32, Ordering};

/// Nobody has served yet.
const NEW: u32 = 0;
const SERVING: u32 = 1;
const CLOSED: u32 = 2;

/// Whether anybody serves. Zeroed memory is a service that has not begun.
#[derive(Debug)]
#[repr(transparent)]
pub struct Service(AtomicU32);

/// Why there will be no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Gone {
    /// Whoever served closed the desk, and ends soon afterwards.
    Closed,
    /// Whoever served ended without closing it.
    Died,
}

impl Service {
    /// One that has not begun.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU32::new(NEW))
    }

    /// Whether nobody has served yet.
    pub fn is_new(&self) -> bool {
        self.0.load(Ordering::Acquire) == NEW
    }

    /// Whoever holds the life serves from now on.
    pub fn begin(&self) {
        self.0.store(SERVING, Ordering::Release);
    }

    /// Whether it has begun, and was not closed.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Acquire) == SERVING
    }

    /// Whether it was closed.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire) == CLOSED
    }

    /// Ends it, and lets those know who wait for answers, and whoever waits for calls.
    pub fn close<'a>(&self, replies: impl IntoIterator<Item = &'a Signal>, bell: &Signal) {
        self.0.store(CLOSED, Ordering::SeqCst);
        replies.into_iter().for_each(Signal::raise_all);
        bell.raise_all();
    }

    /// Fails if nobody will answer any more.
    #[inline]
    pub fn check(&self, life: &Life) -> Result<(), Gone> {
        if self.is_closed() {
            return Err(Gone::Closed);
        }
        if life.is_over() {
            // The kernel woke one of those who sleep; all have to know.
            life.wake_watchers();
            return Err(Gone::Died);
        }
        Ok(())
    }

    /// Waits until the call with this number is answered, which `answered` says, or nobody will answer any more. The parker has to
    /// sleep beside `life`.
    #[inline]
    pub fn await_answer<P: Parker>(
        &self,
        life: &Life,
        (reply, answered, number): (&Signal, &AtomicU32, u32),
        parker: &mut P,
    ) -> Result<Result<(), Gone>, P::Interrupt> {
        let is_answered = || answered.load(Ordering::Acquire) == number;
        let waited = wait_until(reply, parker, Deadline::NEVER, is_answered, |_| {
            if is_answered() { Some(Ok(())) } else { self.check(life).err().map(Err) }
        });
        match waited {
            Ok(outcome) => Ok(outcome),
            Err(WaitError::Interrupted(interrupt)) => Err(interrupt),
            Err(WaitError::TimedOut) => unreachable!("there is no deadline"),
        }
    }
}
