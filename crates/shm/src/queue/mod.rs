//! A queue between processes that grows without bound and survives the death of anyone.
//!
//! Two robust locks, one for each end, over linked chunks of records. Both ends follow one pattern: take the
//! lock of the side, write or read at the side's place, commit by one store ([`layout`]), give the lock back, wake.
//! So at each instant a message is either wholly in the queue or not at all, and counters cannot drift:
//!
//! * a producer killed before the commit put nothing; what it had allocated is told by numbers (of a message, of a
//!   chunk) that were not committed, and freed by the next one that gets its lock ([`repair`]);
//! * a consumer killed before the commit got nothing; killed after it, its one message is lost;
//! * the size is the difference of two committed counts, the limit on it is checked against them.
//!
//! `put` never waits for a consumer unless the queue has a limit. Large buffers travel as spans, by reference:
//! the record names them, and they belong to the queue from the commit of `put` to the commit of `get`.
//!
//! Locks are taken in the order pollers, side, arena; never both sides.

mod get;
pub(crate) mod layout;
mod poll;
mod put;
mod repair;

use std::cell::UnsafeCell;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_wait::{Deadline, Parker, Signal, WaitError, wait_until};

use crate::arena::Arena;
use crate::error::ShmError;
use crate::object::{Handle, Object};
use crate::robust::{Held, Robust, RobustMutex};
use layout::{FIRST_RECORDS, HEAD, HEADER, Header, Place};

pub use get::{Ledger, Received};
pub use layout::{LONGEST_BODY, MOST_SPANS, TRAILER};
pub use poll::Poller;

/// Why nothing was put or got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueError<I> {
    /// It stayed full, or empty, until the deadline.
    TimedOut,
    /// It was shut down.
    ShutDown,
    /// The wait was interrupted.
    Interrupted(I),
    /// Shared memory failed.
    Memory(ShmError),
}

impl<I> From<ShmError> for QueueError<I> {
    fn from(error: ShmError) -> Self {
        Self::Memory(error)
    }
}

impl<I> From<WaitError<I>> for QueueError<I> {
    fn from(error: WaitError<I>) -> Self {
        match error {
            WaitError::TimedOut => Self::TimedOut,
            WaitError::Interrupted(interrupt) => Self::Interrupted(interrupt),
        }
    }
}

/// Values of `Header::closed`.
const OPEN: u32 = 0;
/// No message may be put any more.
const SHUT_DOWN: u32 = 1;

/// How long a thread waits for a side's lock before it looks up: its holder may be stopped.
const LOCK_SLICE: Duration = Duration::from_millis(50);
/// How often a lock is tried before the kernel is asked.
const LOCK_TRIES: u32 = 100;

/// One process's handle of a queue. Dropping the last handle of all processes frees the queue.
pub struct Queue<L: Robust = RobustMutex> {
    object: Arc<Object<L>>,
    /// Where this process last put, and last got: guarded by the lock of the side.
    put_view: UnsafeCell<ChunkView>,
    get_view: UnsafeCell<ChunkView>,
    /// So many messages were put when this process looked last; there cannot be fewer.
    known_puts: AtomicU64,
}

// SAFETY: the views are only touched under the side's lock; the rest is shared between processes anyway.
unsafe impl<L: Robust> Send for Queue<L> {}
// SAFETY: as above.
unsafe impl<L: Robust> Sync for Queue<L> {}

impl<L: Robust> fmt::Debug for Queue<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("object", &self.object).finish_non_exhaustive()
    }
}

/// Where a chunk is mapped in this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkView {
    /// The chunk's number in the queue; no two chunks of a queue have the same.
    ordinal: u64,
    start: NonNull<u8>,
    /// Its size in bytes.
    limit: u32,
    /// [`Object::forks`] when this was noted.
    forks: u32,
}

/// A side's lock, held.
pub(crate) struct Side<'a, L: Robust> {
    lock: &'a L,
}

impl<L: Robust> Drop for Side<'_, L> {
    fn drop(&mut self) {
        // SAFETY: held since this was made, by this thread. A panic under it leaves the side uncommitted, which
        // the next holder does not see; garbage of it is found when the object is destroyed.
        unsafe { self.lock.unlock() };
    }
}

impl<L: Robust + 'static> Queue<L> {
    /// A new queue for up to `max_size` messages, 0 for any number.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had.
    pub fn create(arena: &Arc<Arena<L>>, max_size: u64) -> Result<Self, ShmError> {
        let object = Object::create(arena, crate::UNIT, |start, unit| {
            // SAFETY: the block is zeroed, ours alone, and large enough, as `layout` asserts.
            unsafe {
                let header = start.add(HEADER).cast::<Header<L>>();
                L::init(&raw mut (*header.as_ptr()).put_lock.0);
                L::init(&raw mut (*header.as_ptr()).get_lock.0);
                L::init(&raw mut (*header.as_ptr()).poll_lock);
                let header = header.as_ref();
                header.max_size.store(max_size, Ordering::Relaxed);
                let place = Place { chunk: unit, offset: FIRST_RECORDS, ordinal: 0, count: 0 };
                header.put.0.commit(place);
                header.get.0.commit(place);
            }
        })?;
        Ok(Self::with(object))
    }

    /// The queue that another process made.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if it has ended, [`ShmError`] if there is no room for another holder.
    pub fn attach(arena: &Arc<Arena<L>>, handle: Handle) -> Result<Self, ShmError> {
        Object::attach(arena, handle).map(Self::with)
    }

    fn with(object: Arc<Object<L>>) -> Self {
        let view = ChunkView { ordinal: 0, start: object.start(), limit: crate::UNIT as u32, forks: 0 };
        Self {
            object,
            put_view: UnsafeCell::new(view),
            get_view: UnsafeCell::new(view),
            known_puts: AtomicU64::new(0),
        }
    }
}

impl<L: Robust> Queue<L> {
    fn header(&self) -> &Header<L> {
        // SAFETY: made by `create`; mapped as long as the arena; all of it atomic or locks.
        unsafe { self.object.start().add(HEADER).cast::<Header<L>>().as_ref() }
    }

    /// See [`Object::disown`].
    #[cfg(test)]
    pub(crate) fn disown(&self) {
        self.object.disown();
    }

    /// What another process with the same arena needs to attach.
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    /// The arena it lies in.
    pub fn arena(&self) -> &Arc<Arena<L>> {
        self.object.arena()
    }

    /// How many messages it may hold, 0 for any number.
    pub fn max_size(&self) -> u64 {
        self.header().max_size.load(Ordering::Relaxed)
    }

    /// How many messages there are: exact, but perhaps not for long.
    pub fn len(&self) -> u64 {
        let header = self.header();
        let mut got = header.get.0.count();
        loop {
            let put = header.put.0.count();
            // If none was got meanwhile, so many there were when the puts were counted. The difference of two counts
            // from two instants could be more than there ever were at once, and more than the limit.
            let now = header.get.0.count();
            if now == got {
                return put.saturating_sub(got);
            }
            got = now;
        }
    }

    /// Whether there is no message: exact, but perhaps not for long.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let header = self.header();
        // Got first. If as many were put later, none was there between; if more were, there was one when the first of
        // those was put, or before.
        let got = header.get.0.count();
        header.put.0.count() <= got
    }

    /// Whether there is no room.
    #[inline]
    pub fn is_full(&self) -> bool {
        let most = self.max_size();
        most != 0 && self.len() >= most
    }

    /// How many messages were put and not reported as done.
    pub fn unfinished(&self) -> u64 {
        let done = self.header().done.0.load(Ordering::Acquire);
        self.header().put.0.count().saturating_sub(done)
    }

    /// Reports a message as done. False if as many were reported as were put.
    pub fn task_done(&self) -> bool {
        if self.object.check().is_err() {
            return false;
        }
        let header = self.header();
        // Acquired: whoever counted before knew of so many puts, and so does this process then. It could take its own
        // message for one that was never put otherwise.
        let mut done = header.done.0.load(Ordering::Acquire);
        loop {
            let put = header.put.0.count();
            if done >= put {
                return false;
            }
            match header.done.0.compare_exchange_weak(done, done + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => done = now,
            }
        }
        if self.unfinished() == 0 {
            header.idle.raise_all();
        }
        true
    }

    /// Waits until all messages that were put are reported as done.
    ///
    /// # Errors
    ///
    /// [`QueueError::TimedOut`] or [`QueueError::Interrupted`].
    pub fn join<P: Parker>(
        &self,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<(), QueueError<P::Interrupt>> {
        self.object.check()?;
        let finished = || self.unfinished() == 0;
        wait_until(&self.header().idle, parker, deadline, finished, |_| finished().then_some(()))?;
        Ok(())
    }

    /// Lets nobody put any more; those who wait to are told. What is in the queue can still be got, unless
    /// `immediate`, which throws it away and counts it as done.
    ///
    /// # Errors
    ///
    /// [`QueueError::Interrupted`], or [`QueueError::Memory`] if a message is damaged.
    pub fn shut_down<P: Parker>(
        &self,
        immediate: bool,
        parker: &mut P,
    ) -> Result<(), QueueError<P::Interrupt>> {
        let header = self.header();
        let mut close = || {
            // Under the lock: what a producer puts that looked before is there when anybody sees the shutdown.
            let _side = self.lock_put(parker)?;
            header.closed.store(SHUT_DOWN, Ordering::SeqCst);
            Ok::<_, QueueError<P::Interrupt>>(())
        };
        // As for a message, pollers are told first.
        if self.has_pollers() {
            self.telling_pollers(close)?
        } else {
            close()?
        }
        if immediate {
            let mut body = Vec::new();
            while self.try_get(&mut body, parker)?.is_some() {
                self.task_done();
            }
        }
        header.room.0.raise_all();
        header.items.0.raise_all();
        self.tell_pollers();
        if self.unfinished() == 0 {
            header.idle.raise_all();
        }
        Ok(())
    }

    /// Whether it was shut down.
    pub fn is_shut_down(&self) -> bool {
        self.header().closed.load(Ordering::SeqCst) != OPEN
    }

    /// Says that this process will put nothing any more.
    pub fn become_reader(&self) {
        self.object.become_reader();
    }

    /// Whether a living process may still put something. Asks the system about each of them, which takes a while.
    pub fn has_writer(&self) -> bool {
        self.object.has_writer()
    }

    /// Waits until there is a message, or the queue is shut down, and takes nothing.
    ///
    /// # Errors
    ///
    /// [`QueueError::TimedOut`] or [`QueueError::Interrupted`].
    pub fn wait_for_message<P: Parker>(
        &self,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<(), QueueError<P::Interrupt>> {
        self.object.check()?;
        let items = &self.header().items.0;
        let ready = || !self.is_empty() || self.is_shut_down();
        wait_until(items, parker, deadline, ready, |_| ready().then_some(()))?;
        // The wake-up may have been meant for one who will take it.
        items.raise();
        Ok(())
    }

    /// Wakes everybody who waits for anything: somebody died.
    pub fn wake_all(&self) {
        self.wake_waiters();
        self.tell_pollers();
    }

    fn wake_waiters(&self) {
        let header = self.header();
        header.items.0.raise_all();
        header.room.0.raise_all();
        header.idle.raise_all();
    }

    fn lock_side<'a, P: Parker>(lock: &'a L, parker: &mut P) -> Result<(Side<'a, L>, Held), P::Interrupt> {
        let mut held = lock.try_lock();
        let mut tries = 0;
        while held.is_none() && tries < LOCK_TRIES {
            std::hint::spin_loop();
            tries += 1;
            held = lock.try_lock();
        }
        while held.is_none() {
            let outcome = parker.block(&mut || {
                held = lock.lock_within(LOCK_SLICE);
                held.is_some()
            });
            debug_assert!(outcome.is_ok() || held.is_none(), "interrupted with the lock");
            outcome?;
        }
        // The loops end with a value only.
        held.map_or_else(|| unreachable!("the lock is held"), |held| Ok((Side { lock }, held)))
    }

    fn lock_put<P: Parker>(&self, parker: &mut P) -> Result<Side<'_, L>, QueueError<P::Interrupt>> {
        self.object.check()?;
        let lock = &self.header().put_lock.0;
        let (side, held) = Self::lock_side(lock, parker).map_err(QueueError::Interrupted)?;
        if held == Held::AfterDeath {
            self.after_death(lock, || self.repair_put());
        }
        Ok(side)
    }

    /// Waits for those who are putting a message at this moment.
    fn pass_put_lock(&self) -> Result<(), ShmError> {
        let lock = &self.header().put_lock.0;
        loop {
            match lock.try_lock().or_else(|| lock.lock_within(LOCK_SLICE)) {
                None => {}
                Some(held) => {
                    let _side = Side { lock };
                    if held == Held::AfterDeath {
                        self.after_death(lock, || self.repair_put());
                    }
                    return Ok(());
                }
            }
        }
    }

    fn lock_get<P: Parker>(
        &self,
        ledger: &mut impl Ledger,
        parker: &mut P,
    ) -> Result<Side<'_, L>, QueueError<P::Interrupt>> {
        self.object.check()?;
        let lock = &self.header().get_lock.0;
        let (side, held) = Self::lock_side(lock, parker).map_err(QueueError::Interrupted)?;
        if held == Held::AfterDeath {
            // Before anything marks the lock as in order: killed here, the next one does it again.
            ledger.forget(self.header().get.0.count());
            self.after_death(lock, || self.repair_get());
        }
        Ok(side)
    }

    /// Where the chunk of a place is mapped, from what this process knows or anew.
    #[inline]
    fn view(&self, known: &UnsafeCell<ChunkView>, place: Place) -> Result<ChunkView, ShmError> {
        // SAFETY: guarded by the side's lock, which the caller holds.
        let mut view = unsafe { *known.get() };
        if view.ordinal != place.ordinal || view.forks != self.object.forks() {
            view = self.look_at_chunk(place.chunk, place.ordinal)?;
        }
        if place.offset as usize + HEAD > view.limit as usize || !place.offset.is_multiple_of(8) {
            return Err(ShmError::Damaged { what: "a queue's place lies outside of its chunk" });
        }
        Ok(view)
    }

    /// Raises `signal` for a change that was committed before a side's lock was given back just now.
    #[inline]
    fn raise_unlocked(&self, signal: &Signal) {
        if L::UNLOCK_IS_FENCE { signal.raise_fenced() } else { signal.raise() }
    }

    /// Where the chunk `unit` with the number `ordinal` is mapped.
    #[cold]
    fn look_at_chunk(&self, unit: u32, ordinal: u64) -> Result<ChunkView, ShmError> {
        let (start, size) = self.arena().piece(unit)?;
        let limit = u32::try_from(size).map_err(|_| ShmError::Damaged { what: "a chunk is too large" })?;
        Ok(ChunkView { ordinal, start, limit, forks: self.object.forks() })
    }
}

impl<L: Robust> Drop for Queue<L> {
    fn drop(&mut self) {
        let has_parts = || {
            let header = self.header();
            let is_plain = self.is_empty()
                && header.put.0.ordinal_hint() == 0
                && header.poll_block.load(Ordering::Acquire) == 0
                && header.littered.load(Ordering::Relaxed) == 0
                && !self.object.has_more_holders();
            // Nobody has seen yet what one left that died with a lock.
            !(is_plain && was_left_in_order(&header.put_lock.0) && was_left_in_order(&header.get_lock.0))
        };
        // Damage means that some memory stays taken until the program ends.
        let ended = self.object.leave(has_parts);
        if ended == Ok(true) && self.arena().header().has_sent.load(Ordering::Relaxed) != 0 {
            // References to other objects may have ended with it.
            self.arena().sweep();
        }
    }
}

/// Whether the last one that held `lock` gave it back. Nobody else can want it: the queue is about to go.
fn was_left_in_order<L: Robust>(lock: &L) -> bool {
    let held = lock.try_lock();
    if held.is_some() {
        // SAFETY: just taken.
        unsafe { lock.unlock() };
    }
    held == Some(Held::Clean)
}
