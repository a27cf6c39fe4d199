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

/// As [`sleep`], coming back also when the word `beside` is woken, or is not what it is expected to be.
pub fn sleep_beside(
    signal: &Signal,
    ticket: Ticket,
    beside: (&AtomicU32, u32),
    slices: &mut Slices,
    deadline: Deadline,
) -> Woken {
    futex::wait_either((signal.word(), ticket.value()), beside, Some(slices.next(deadline)))
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

/// How long spins for one kind of thing are worth while, as learnt from those before.
///
/// On a machine with more work than processors most spins find nothing, and take the processor away from the very one
/// that is waited for. So a spin lasts for a few times as long as those that found something took, and less
/// after each that did not; now and then one lasts as long as any may, or a longer wait that pays would never be found.
#[derive(Debug)]
pub struct Patience {
    nanoseconds: AtomicU32,
    spins: AtomicU32,
}

impl Default for Patience {
    fn default() -> Self {
        Self::new()
    }
}

impl Patience {
    const LONGEST: u32 = SPIN.as_nanos() as u32;
    const SHORTEST: u32 = 3000;
    /// Every so many spins one is as long as may be.
    const PROBE: u32 = 16;

    /// One that has learnt nothing yet.
    pub const fn new() -> Self {
        Self { nanoseconds: AtomicU32::new(Self::LONGEST), spins: AtomicU32::new(1) }
    }

    /// As [`spin`], for as long as is worth while.
    pub fn spin(&self, ready: &mut dyn FnMut() -> bool) -> bool {
        if !may_spin() {
            return false;
        }
        let spins = self.spins.fetch_add(1, Ordering::Relaxed);
        let learnt = self.nanoseconds.load(Ordering::Relaxed);
        let most = if spins.is_multiple_of(Self::PROBE) { Self::LONGEST } else { learnt };
        let start = Instant::now();
        let mut pause = 1;
        loop {
            for _ in 0..LOOKS {
                if ready() {
                    let took = u32::try_from(start.elapsed().as_nanos()).unwrap_or(Self::LONGEST);
                    let next = (learnt / 4 * 3).saturating_add(took.saturating_mul(2));
                    self.nanoseconds.store(next.clamp(Self::SHORTEST, Self::LONGEST), Ordering::Relaxed);
                    return true;
                }
                for _ in 0..pause {
                    hint::spin_loop();
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            if start.elapsed().as_nanos() >= u128::from(most) {
                self.nanoseconds.store((learnt / 2).max(Self::SHORTEST), Ordering::Relaxed);
                return false;
            }
        }
    }
}

/// Whether it pays to spin for what another process does within a microsecond, if it runs at all.
///
/// It does where the other one has a processor of its own, and is lost time where both share one. So after a few spins
/// that found nothing there is none, but for a probe ever more seldom.
///
/// Where there is one processor only, it is passed to the other one instead, which is runnable as a rule, because it does the
/// same: that is a fraction of what it costs to sleep and be woken. If somebody else took it, for long, or nobody, that was in vain.
#[derive(Debug, Default)]
pub struct Prospect {
    futile: AtomicU32,
    /// How many waits there are to be without a spin.
    skip: AtomicU32,
    /// How often somebody else took the processor that was passed on, and kept it; less one for each time that went well.
    kept: AtomicU32,
}

impl Prospect {
    /// So many spins in vain are borne.
    const BORNE: u32 = 2;
    /// The most waits between two probes, as a power of two.
    const SELDOM: u32 = 9;
    /// Looks in a glance.
    const GLANCE: u32 = 24;
    /// How often the processor is passed on in one wait.
    const PASSES: u32 = 3;
    /// The waits to be slept through after somebody kept the processor for a slice of milliseconds, as a power of two: from so many
    const KEPT: u32 = 12;
    /// to so many.
    const KEPT_OFTEN: u32 = 16;

    /// One that expects the best.
    pub const fn new() -> Self {
        Self { futile: AtomicU32::new(0), skip: AtomicU32::new(0), kept: AtomicU32::new(0) }
    }

    /// Looks for so short a time that a caller may keep what it would give up for a spin.
    pub fn glance(&self, ready: &mut dyn FnMut() -> bool) -> bool {
        if self.skip.load(Ordering::Relaxed) > 0 || !may_spin() {
            return false;
        }
        // At first without a pause, which is longer than what is waited for takes at its best.
        let found = (0..Self::GLANCE).any(|_| ready())
            || (0..Self::GLANCE).any(|_| {
                hint::spin_loop();
                ready()
            });
        if found {
            self.futile.store(0, Ordering::Relaxed);
        }
        found
    }

    /// As [`spin`], if it is likely to pay.
    pub fn spin(&self, ready: &mut dyn FnMut() -> bool) -> bool {
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
            return false;
        }
        let found = if may_spin() { spin_for(SPIN, ready) } else { self.pass_on(ready) };
        if found {
            self.futile.store(0, Ordering::Relaxed);
            return true;
        }
        let futile = self.futile.load(Ordering::Relaxed) + 1;
        self.futile.store(futile.min(Self::SELDOM), Ordering::Relaxed);
        if futile > Self::BORNE && self.skip.load(Ordering::Relaxed) == 0 {
            self.skip.store(1 << futile.min(Self::SELDOM), Ordering::Relaxed);
        }
        false
    }
}

impl Prospect {
    /// Lets others run, a few times. Says whether `ready` became true.
    fn pass_on(&self, ready: &mut dyn FnMut() -> bool) -> bool {
        let mut before = Instant::now();
        let kept = self.kept.load(Ordering::Relaxed);
        for _ in 0..Self::PASSES {
            std::thread::yield_now();
            let now = Instant::now();
            if now - before > SPIN {
                // One more such wait costs as much as a thousand that are slept through.
                self.kept.store(kept + 1, Ordering::Relaxed);
                self.skip.store(1 << (Self::KEPT + kept).min(Self::KEPT_OFTEN), Ordering::Relaxed);
                return ready();
            }
            if ready() {
                self.kept.store(kept.saturating_sub(1), Ordering::Relaxed);
                return true;
            }
            before = now;
        }
        false
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_learnt() {
        if !may_spin() {
            return;
        }
        let patience = Patience::new();
        let learnt = || patience.nanoseconds.load(Ordering::Relaxed);
        while learnt() > Patience::SHORTEST {
            let before = learnt();
            assert!(!patience.spin(&mut || false));
            assert!(learnt() < before);
        }
        assert!(!patience.spin(&mut || false));
        assert_eq!(learnt(), Patience::SHORTEST, "and no shorter");
        let start = Instant::now();
        // Found late, by one of the spins that are as long as any may be.
        while !patience.spin(&mut || start.elapsed() > Duration::from_micros(20)) {}
        assert!(learnt() >= Patience::SHORTEST && learnt() <= Patience::LONGEST);
        assert!(patience.spin(&mut || true));
    }
}
