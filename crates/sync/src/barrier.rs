//! So many that wait for each other.
//!
//! Each that arrives takes a place in a table, with its identity and what it does there:
//!
//! ```text
//! EMPTY ── arrives ──► WAITING ── the last one arrives ──► PASSED ──┐
//!   ▲                     └── broken, reset ─────────────► BROKEN ──┤
//!   │      the last one, with something to do first ──► ACTING ──┤
//!   └──────────────────────── reads it, and leaves ─────────────────┘
//! ```
//!
//! How many wait is how many places say so: nothing is counted that could drift. Changes of others' places, and
//! arrivals, are made under a robust lock; each is one store, and whoever gets the lock after a death finds
//! the table as far as it was written. One's own place, once it is PASSED or BROKEN, is left without the lock.
//!
//! While one is ACTING nobody else arrives; it holds no lock meanwhile. Those that wait look every [`LOOK`] whether all
//! that wait, or act, live; if not, the barrier is broken.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weft_shm::robust::{Held, Robust, RobustMutex};
use weft_shm::{Arena, Handle, ShmError};
use weft_wait::{Deadline, Parker, Signal, try_until};

use crate::memory::{Layout, Memory};
use crate::owner::{self, LOOK, identity_of};

/// Places beyond one for each party: for those that have passed and not left yet when others arrive again.
const SPARE_PLACES: usize = 64;
/// The most parties that a barrier can have: its table is one piece of memory.
const MOST_PARTIES: u32 = 100_000;

/// How long a thread waits for the lock before it looks up: its holder may be stopped.
const LOCK_SLICE: Duration = Duration::from_millis(50);

const EMPTY: u32 = 0;
const WAITING: u32 = 1;
const ACTING: u32 = 2;
const PASSED: u32 = 3;
const BROKEN: u32 = 4;

#[repr(C)]
struct Place {
    who: AtomicU64,
    doing: AtomicU32,
    _unused: u32,
}

#[repr(C)]
struct State {
    lock: RobustMutex,
    parties: AtomicU32,
    /// Not 0: nobody passes until it is reset.
    broken: AtomicU32,
    changed: Signal,
    _unused: u32,
}

// SAFETY: atomics and a lock.
unsafe impl Layout for State {
    const TAG: u64 = u64::from_le_bytes(*b"weftbar1");
}

const _: () = assert!(size_of::<State>().is_multiple_of(8));

/// Why somebody did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BarrierError<I> {
    /// The barrier is broken, or was reset: somebody's time was over, gave up, or died.
    Broken,
    /// The wait was interrupted. The others wait on.
    Interrupted(I),
    /// Shared memory failed.
    Memory(ShmError),
}

impl<I> From<ShmError> for BarrierError<I> {
    fn from(error: ShmError) -> Self {
        Self::Memory(error)
    }
}

/// What became of an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Arrival {
    /// All have arrived, and go on. The number says how many had arrived before.
    Passed(u32),
    /// The caller is the last one, and has to say by [`Barrier::finish`] or [`Barrier::fail`] when the others may go on.
    Last {
        /// How many had arrived before.
        index: u32,
        /// The place of the caller.
        place: u32,
    },
}

/// What the first steps of an arrival lead to.
enum Step {
    /// The caller waits at this place, as so many did before.
    Waits { index: u32, place: u32 },
    /// There is nothing to wait for.
    Arrived(Arrival),
    /// Somebody acts, or has not left yet: try again when something has changed.
    Later,
}

/// One process's handle of a barrier.
#[derive(Debug)]
pub struct Barrier {
    state: Memory<State>,
    parties: u32,
}

struct Locked<'a>(&'a RobustMutex);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: held since this was made, by this thread.
        unsafe { self.0.unlock() };
    }
}

fn places_of(parties: u32) -> usize {
    parties as usize + SPARE_PLACES
}

fn extra_bytes(parties: u32) -> Result<usize, ShmError> {
    if parties > MOST_PARTIES {
        return Err(ShmError::TooLarge { bytes: u64::from(parties) * size_of::<Place>() as u64 });
    }
    Ok(places_of(parties) * size_of::<Place>())
}

impl Barrier {
    /// A new barrier for so many parties.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had, or the parties are too many.
    pub fn create(arena: &Arc<Arena>, parties: u32) -> Result<Self, ShmError> {
        let state = Memory::create(arena, extra_bytes(parties)?, |place: NonNull<State>| {
            // SAFETY: zeroed, large enough, and nobody else's yet.
            unsafe {
                RobustMutex::init(&raw mut (*place.as_ptr()).lock);
                place.as_ref().parties.store(parties, Ordering::Relaxed);
            }
        })?;
        Ok(Self { state, parties })
    }

    /// The barrier that another process made, for so many parties.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if it has ended, [`ShmError::Damaged`] if it is for another number of parties,
    /// [`ShmError`] if there is no room for another holder of a handle.
    pub fn attach(arena: &Arc<Arena>, handle: Handle, parties: u32) -> Result<Self, ShmError> {
        let state = Memory::<State>::attach(arena, handle, extra_bytes(parties)?)?;
        if state.parties.load(Ordering::Relaxed) != parties {
            return Err(ShmError::Damaged { what: "a barrier is for another number of parties" });
        }
        Ok(Self { state, parties })
    }

    /// What another process with the same arena needs to attach, beside the number of parties.
    pub fn handle(&self) -> Handle {
        self.state.shared().handle()
    }

    /// The arena it lies in.
    pub fn arena(&self) -> &Arc<Arena> {
        self.state.shared().arena()
    }

    /// How many have to arrive.
    pub const fn parties(&self) -> u32 {
        self.parties
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.doing(WAITING).count() as u32
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.state.broken.load(Ordering::Acquire) != 0
    }

    /// Arrives, and waits until all have. With `acts`, the last one is told so and the others wait on until it says
    /// that it is done.
    ///
    /// # Errors
    ///
    /// [`BarrierError`]. When the deadline passes the barrier is broken.
    pub fn wait<P: Parker>(
        &self,
        acts: bool,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<Arrival, BarrierError<P::Interrupt>> {
        self.state.shared().check()?;
        let step = match self.arrive(acts, parker)? {
            Step::Later => self.arrive_later(acts, parker, deadline)?,
            step => step,
        };
        match step {
            Step::Arrived(arrival) => Ok(arrival),
            Step::Waits { index, place } => {
                self.wait_at(place, parker, deadline).map(|()| Arrival::Passed(index))
            }
            Step::Later => Err(BarrierError::Broken),
        }
    }

    /// Tries again until something other than `Later` comes of it.
    #[cold]
    fn arrive_later<P: Parker>(
        &self,
        acts: bool,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<Step, BarrierError<P::Interrupt>> {
        let mut looked = Instant::now();
        let outcome = try_until(
            &self.state.changed,
            parker,
            deadline,
            || self.doing(ACTING).next().is_none(),
            |parker| {
                if looked.elapsed() >= LOOK {
                    looked = Instant::now();
                    if let Err(error) = self.look(parker) {
                        return Some(Err(error));
                    }
                }
                match self.arrive(acts, parker) {
                    Ok(Step::Later) => None,
                    other => Some(other),
                }
            },
        );
        match outcome {
            Ok(step) => step,
            Err(weft_wait::WaitError::Interrupted(interrupt)) => Err(BarrierError::Interrupted(interrupt)),
            Err(weft_wait::WaitError::TimedOut) => {
                let locked = self.lock(parker)?;
                self.break_it(&locked);
                Err(BarrierError::Broken)
            }
        }
    }

    fn arrive<P: Parker>(&self, acts: bool, parker: &mut P) -> Result<Step, BarrierError<P::Interrupt>> {
        let locked = self.lock(parker)?;
        if self.is_broken() {
            return Err(BarrierError::Broken);
        }
        if self.doing(ACTING).next().is_some() {
            return Ok(Step::Later);
        }
        let index = self.waiting();
        if index + 1 < self.parties {
            let place = self.take_place(&locked, WAITING);
            return Ok(place.map_or(Step::Later, |place| Step::Waits { index, place }));
        }
        if acts {
            let place = self.take_place(&locked, ACTING);
            return Ok(place.map_or(Step::Later, |place| Step::Arrived(Arrival::Last { index, place })));
        }
        self.let_go(locked);
        Ok(Step::Arrived(Arrival::Passed(index)))
    }

    fn wait_at<P: Parker>(
        &self,
        number: u32,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<(), BarrierError<P::Interrupt>> {
        let place = &self.places()[number as usize];
        let mut looked = Instant::now();
        let arrived = || place.doing.load(Ordering::Acquire) != WAITING;
        let outcome = try_until(&self.state.changed, parker, deadline, arrived, |parker| {
            if arrived() {
                return Some(Ok(()));
            }
            if looked.elapsed() < LOOK {
                return None;
            }
            looked = Instant::now();
            self.look(parker).err().map(Err)
        });
        let error = match outcome {
            Ok(Ok(())) => return self.read(place),
            Ok(Err(error)) => Some(error),
            Err(weft_wait::WaitError::Interrupted(interrupt)) => Some(BarrierError::Interrupted(interrupt)),
            Err(weft_wait::WaitError::TimedOut) => None,
        };
        match (error, self.lock(parker)) {
            // Told in the last moment.
            (None, _) if arrived() => self.read(place),
            (None, Ok(locked)) => {
                place.doing.store(EMPTY, Ordering::Release);
                self.break_it(&locked);
                Err(BarrierError::Broken)
            }
            // With the lock or without: whoever tells this place meanwhile finds it empty, or it is left as it was told.
            (Some(error), _) | (None, Err(error)) => {
                place.doing.store(EMPTY, Ordering::Release);
                Err(error)
            }
        }
    }

    /// Reads what became of one's own place, and leaves it.
    fn read<I>(&self, place: &Place) -> Result<(), BarrierError<I>> {
        let passed = place.doing.swap(EMPTY, Ordering::AcqRel) == PASSED;
        if passed { Ok(()) } else { Err(BarrierError::Broken) }
    }

    /// Says that the last one has done what was to be done: all go on, unless the barrier was broken meanwhile.
    ///
    /// # Errors
    ///
    /// [`BarrierError`].
    pub fn finish<P: Parker>(&self, number: u32, parker: &mut P) -> Result<(), BarrierError<P::Interrupt>> {
        let Some(place) = self.places().get(number as usize) else { return Err(BarrierError::Broken) };
        let locked = match self.lock(parker) {
            Ok(locked) => locked,
            Err(error) => {
                self.fail(number, parker);
                return Err(error);
            }
        };
        if place.doing.swap(EMPTY, Ordering::AcqRel) != ACTING {
            return Err(BarrierError::Broken);
        }
        self.let_go(locked);
        Ok(())
    }

    /// Says that the last one could not do what was to be done: the barrier is broken.
    pub fn fail<P: Parker>(&self, number: u32, parker: &mut P) {
        // Whether or not the lock is to be had now: one of those that wait finds the rest.
        self.state.broken.store(1, Ordering::SeqCst);
        if let Ok(locked) = self.lock(parker) {
            self.break_it(&locked);
        }
        if let Some(place) = self.places().get(number as usize) {
            place.doing.store(EMPTY, Ordering::Release);
        }
        self.state.changed.raise_all();
    }

    /// Breaks it: all that wait, or come to wait, are told so, until it is reset.
    ///
    /// # Errors
    ///
    /// [`BarrierError::Interrupted`] or [`BarrierError::Memory`].
    pub fn abort<P: Parker>(&self, parker: &mut P) -> Result<(), BarrierError<P::Interrupt>> {
        let locked = self.lock(parker)?;
        self.break_it(&locked);
        Ok(())
    }

    /// Makes it as new. Those that wait are told that it is broken.
    ///
    /// # Errors
    ///
    /// [`BarrierError::Interrupted`] or [`BarrierError::Memory`].
    pub fn reset<P: Parker>(&self, parker: &mut P) -> Result<(), BarrierError<P::Interrupt>> {
        let locked = self.lock(parker)?;
        self.tell(BROKEN);
        self.state.broken.store(0, Ordering::SeqCst);
        drop(locked);
        self.state.changed.raise_all();
        Ok(())
    }

    fn lock<P: Parker>(&self, parker: &mut P) -> Result<Locked<'_>, BarrierError<P::Interrupt>> {
        self.state.shared().check()?;
        let lock = &self.state.lock;
        let mut held = lock.try_lock();
        while held.is_none() {
            let outcome = parker.block(&mut || {
                held = lock.lock_within(LOCK_SLICE);
                held.is_some()
            });
            if held.is_none() {
                outcome.map_err(BarrierError::Interrupted)?;
            }
        }
        if held == Some(Held::AfterDeath) {
            // Places are written one by one, and some may not have been told: they are told that it is broken.
            self.state.broken.store(1, Ordering::SeqCst);
            lock.repaired();
        }
        let locked = Locked(lock);
        if held == Some(Held::AfterDeath) {
            self.break_it(&locked);
        }
        Ok(locked)
    }

    fn places(&self) -> &[Place] {
        // SAFETY: the memory behind the state has room for so many, as `create` and `attach` saw to; all atomic.
        unsafe {
            std::slice::from_raw_parts(self.state.extra().cast::<Place>().as_ptr(), places_of(self.parties))
        }
    }

    fn doing(&self, what: u32) -> impl Iterator<Item = &Place> {
        self.places().iter().filter(move |place| place.doing.load(Ordering::Acquire) == what)
    }

    fn take_place(&self, _locked: &Locked<'_>, doing: u32) -> Option<u32> {
        let is_empty = |place: &Place| place.doing.load(Ordering::Acquire) == EMPTY;
        let index = self.places().iter().position(is_empty).or_else(|| {
            // Those that died after they had passed never left.
            self.places().iter().position(|place| {
                let doing = place.doing.load(Ordering::Acquire);
                (doing == PASSED || doing == BROKEN)
                    && !identity_of(place.who.load(Ordering::Acquire)).is_alive()
            })
        })?;
        let place = &self.places()[index];
        place.who.store(owner::me(), Ordering::Release);
        place.doing.store(doing, Ordering::Release);
        Some(index as u32)
    }

    /// Tells all that wait, and the one that acts, what became of it.
    fn tell(&self, what: u32) {
        for place in self.places() {
            let doing = place.doing.load(Ordering::Acquire);
            if doing == WAITING || doing == ACTING {
                // One that was interrupted may leave meanwhile, without the lock.
                let _ = place.doing.compare_exchange(doing, what, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }

    fn let_go(&self, locked: Locked<'_>) {
        self.tell(PASSED);
        drop(locked);
        self.state.changed.raise_all();
    }

    fn break_it(&self, _locked: &Locked<'_>) {
        self.state.broken.store(1, Ordering::SeqCst);
        self.tell(BROKEN);
        self.state.changed.raise_all();
    }

    /// Looks whether all that wait, or act, live, and breaks the barrier if not.
    #[cold]
    fn look<P: Parker>(&self, parker: &mut P) -> Result<(), BarrierError<P::Interrupt>> {
        let (me, mut alive) = (owner::me(), 0);
        for place in self.doing(WAITING).chain(self.doing(ACTING)) {
            let who = place.who.load(Ordering::Acquire);
            if who == me || who == alive {
                continue;
            }
            if identity_of(who).is_alive() {
                alive = who;
                continue;
            }
            let locked = self.lock(parker)?;
            // It may have been told before it died, and somebody else be at its place.
            let doing = place.doing.load(Ordering::Acquire);
            if (doing == WAITING || doing == ACTING) && place.who.load(Ordering::Acquire) == who {
                self.break_it(&locked);
            }
        }
        // Who broke it may have died before all were told.
        if self.is_broken() && self.doing(WAITING).next().is_some() {
            let locked = self.lock(parker)?;
            if self.is_broken() {
                self.break_it(&locked);
            }
        }
        Ok(())
    }
}
