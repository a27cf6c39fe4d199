//! How a thread waits: it spins for a moment, then sleeps on the signal's word.
//!
//! Waking an idle processor takes some 50 µs, so a spin of about that length pays when the other side is
//! running. It never pays with one processor, nor when the last spins found nothing: the parker remembers,
//! and spins shorter.
//!
//! A sleep is cut into slices, as a backstop: a waker that was killed between its change and its call of the
//! kernel wakes nobody. The slices grow, so that a process that waits for hours costs next to nothing.

use std::convert::Infallible;
use std::hint;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use weft_sys::futex::{self, Woken};

use crate::{Deadline, Parker, Signal, Ticket};

const FIRST_SLICE: Duration = Duration::from_millis(50);
const LAST_SLICE: Duration = Duration::from_secs(1);

const SPIN: Duration = Duration::from_micros(50);
/// How often in a row a spin may find nothing before spins are cut to an eighth.
const FUTILE: u32 = 4;
/// Looks at the state between two looks at the clock.
const LOOKS: u32 = 8;
/// The most pauses of the processor, of some 40 ns each, between two looks at the state.
const LONGEST_PAUSE: u32 = 16;

static FUTILE_SPINS: AtomicU32 = AtomicU32::new(0);

/// The slices of one wait.
#[derive(Debug, Clone, Copy)]
pub struct Slices {
    next: Duration,
}

impl Default for Slices {
    fn default() -> Self {
        Self { next: FIRST_SLICE }
    }
}

impl Slices {
    /// How long to sleep now: the slice, or what is left until `deadline`.
    pub fn next(&mut self, deadline: Deadline) -> Duration {
        let slice = self.next;
        self.next = (slice * 2).min(LAST_SLICE);
        deadline.left().map_or(slice, |left| left.min(slice))
    }
}

/// Sleeps one slice at `signal`. Says what ended it.
pub fn sleep(signal: &Signal, ticket: Ticket, slices: &mut Slices, deadline: Deadline) -> Woken {
    futex::wait(signal.word(), ticket.value(), Some(slices.next(deadline)))
}

/// Looks at `ready` for a moment, where there are processors to spare. Says whether it became true.
///
/// Only for what another processor is about to do: who is woken may be woken on this one.
pub fn spin(ready: &mut dyn FnMut() -> bool) -> bool {
    if !may_spin() {
        return false;
    }
    let futile = FUTILE_SPINS.load(Ordering::Relaxed);
    let found = spin_for(if futile < FUTILE { SPIN } else { SPIN / 8 }, ready);
    FUTILE_SPINS.store(if found { 0 } else { (futile + 1).min(FUTILE) }, Ordering::Relaxed);
    found
}

/// Looks at `ready` for as long as `patience`, where there are processors to spare. Says whether it became true.
///
/// For a caller that knows better than [`spin`] whether it pays.
pub fn spin_for(patience: Duration, ready: &mut dyn FnMut() -> bool) -> bool {
    if !may_spin() {
        return false;
    }
    let start = Instant::now();
    let mut pause = 1;
    loop {
        for _ in 0..LOOKS {
            if ready() {
                return true;
            }
            // Each look takes the line away from the other side, which is at work on it: look ever less often.
            for _ in 0..pause {
                hint::spin_loop();
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if start.elapsed() >= patience {
            return false;
        }
    }
}

fn may_spin() -> bool {
    static PROCESSORS: AtomicU32 = AtomicU32::new(0);
    let mut known = PROCESSORS.load(Ordering::Relaxed);
    if known == 0 {
        known =
            std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        PROCESSORS.store(known, Ordering::Relaxed);
    }
    known > 1
}

/// A thread that knows nothing of interpreters: signals do not interrupt it.
#[derive(Debug, Default)]
pub struct ThreadParker {
    slices: Slices,
}

impl ThreadParker {
    pub(crate) const fn slices(&mut self) -> &mut Slices {
        &mut self.slices
    }
}

impl Parker for ThreadParker {
    type Interrupt = Infallible;

    fn park(&mut self, signal: &Signal, ticket: Ticket, deadline: Deadline) -> Result<(), Infallible> {
        let _ = sleep(signal, ticket, &mut self.slices, deadline);
        Ok(())
    }

    fn linger(&mut self, ready: &mut dyn FnMut() -> bool) -> bool {
        self.slices = Slices::default(); // this wait is a new one
        spin(ready)
    }
}
