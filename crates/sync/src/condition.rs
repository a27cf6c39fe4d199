//! Waiting for a notification, under a lock that is the caller's.
//!
//! A waiter, which holds the caller's lock, enters: it takes a place in a table, with its identity and a number that rises
//! with each entry. It gives the lock back and sleeps until there may be a notification for it, takes the lock again,
//! and then, with the lock, takes a notification or finds that another one did, and sleeps again. At the end it leaves.
//!
//! The notifications are one word:
//!
//! ```text
//! 63                  32 31              0
//! ├──────── limit ──────┼───── count ─────┤
//! ```
//!
//! `count` of those that entered with a number below `limit` are to go on. Who enters later cannot take what an earlier
//! one was promised.
//!
//! Everything is one store or one exchange, so a death leaves nothing half done:
//!
//! * One that is killed in its sleep leaves its place in the table behind; it is struck off by those that look
//!   ([`Condition::waiting`], one whose slice of sleep is over). Until then it counts as waiting, so that at worst one
//!   notification too many is there, and wakes somebody without need. None is lost with it: nothing is sent to anyone
//!   in particular.
//! * One that is killed after it took a notification held the lock, which will tell the next one that wants it.
//! * One that is killed when it was woken and had taken nothing is missed by the others at the end of their slice of sleep.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use weft_shm::{Arena, Handle, ShmError};
use weft_wait::{Deadline, Parker, Signal, wait_until};

use crate::error::WaitError;
use crate::memory::{Layout, Memory};
use crate::owner::{self, LOOK, identity_of};

/// So many waiters are known by their identity. More can wait, but are not missed when they die.
const PLACES: usize = 224;
const NO_PLACE: u32 = u32::MAX;

#[repr(C)]
struct Place {
    /// Who waits; 0 is nobody.
    who: AtomicU64,
    /// The number with which it entered.
    number: AtomicU32,
    _unused: u32,
}

#[repr(C)]
struct State {
    notifications: AtomicU64,
    /// The number of the next one to enter.
    next: AtomicU32,
    notified: Signal,
    /// Places from here on were never taken.
    high_water: AtomicU32,
    /// How many wait without a place.
    beyond: AtomicU32,
    places: [Place; PLACES],
}

// SAFETY: atomics only.
unsafe impl Layout for State {
    const TAG: u64 = u64::from_le_bytes(*b"weftcnd1");
}

const fn notifications(limit: u32, count: u32) -> u64 {
    (limit as u64) << 32 | count as u64
}

const fn limit_of(word: u64) -> u32 {
    (word >> 32) as u32
}

const fn count_of(word: u64) -> u32 {
    word as u32
}

/// Whether the one with this number entered before `limit`. Numbers start again from zero after the largest.
const fn is_before(number: u32, limit: u32) -> bool {
    (number.wrapping_sub(limit) as i32) < 0
}

/// That somebody waits: from [`Condition::enter`] to [`Condition::leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Entry {
    place: u32,
    number: u32,
}

impl Entry {
    /// As a number, for a caller that cannot keep an `Entry`.
    pub const fn to_bits(self) -> u64 {
        (self.place as u64) << 32 | self.number as u64
    }

    /// What [`to_bits`](Self::to_bits) was called for.
    pub const fn from_bits(bits: u64) -> Self {
        Self { place: (bits >> 32) as u32, number: bits as u32 }
    }
}

/// One process's handle of a condition.
#[derive(Debug)]
pub struct Condition {
    state: Memory<State>,
}

impl Condition {
    /// A new condition; nobody waits.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had.
    pub fn create(arena: &Arc<Arena>) -> Result<Self, ShmError> {
        Ok(Self { state: Memory::create(arena, 0, |_: NonNull<State>| {})? })
    }

    /// The condition that another process made.
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

    /// Says that the caller, which holds the lock, is about to give it back and to wait.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if this process may not use it.
    pub fn enter(&self) -> Result<Entry, ShmError> {
        self.state.shared().check()?;
        let number = self.state.next.fetch_add(1, Ordering::Relaxed);
        let me = owner::me();
        for (index, place) in self.state.places.iter().enumerate() {
            if place.who.load(Ordering::Relaxed) != 0 {
                continue;
            }
            // Whoever counts those before a limit in between counts this one by an old number: it has the lock, and
            // gives no notification meanwhile.
            if place.who.compare_exchange(0, me, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                place.number.store(number, Ordering::Release);
                self.state.high_water.fetch_max(index as u32 + 1, Ordering::AcqRel);
                return Ok(Entry { place: index as u32, number });
            }
        }
        self.state.beyond.fetch_add(1, Ordering::AcqRel);
        Ok(Entry { place: NO_PLACE, number })
    }

    /// Waits, without the lock, until there may be a notification for the caller.
    ///
    /// # Errors
    ///
    /// [`WaitError`]; the caller still has to [`leave`](Self::leave), and before that, if its time is over, to try
    /// [`take`](Self::take) a last time.
    pub fn sleep<P: Parker>(
        &self,
        entry: Entry,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<(), WaitError<P::Interrupt>> {
        self.state.shared().check()?;
        let mut looked = Instant::now();
        let ready = || {
            let word = self.state.notifications.load(Ordering::Acquire);
            count_of(word) > 0 && is_before(entry.number, limit_of(word))
        };
        wait_until(&self.state.notified, parker, deadline, ready, |_| {
            if !ready() && looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.strike_off();
            }
            ready().then_some(())
        })?;
        Ok(())
    }

    /// Takes a notification, with the lock. False if there is none for the caller.
    pub fn take(&self, entry: Entry) -> bool {
        let mut word = self.state.notifications.load(Ordering::Acquire);
        while count_of(word) > 0 && is_before(entry.number, limit_of(word)) {
            match self.state.notifications.compare_exchange_weak(
                word,
                word - 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Says that the caller waits no more.
    pub fn leave(&self, entry: Entry) {
        match self.state.places.get(entry.place as usize) {
            Some(place) => place.who.store(0, Ordering::Release),
            None => {
                self.state.beyond.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.forget_stale();
    }

    /// Lets up to `most` of those go on that wait, the first to come first, and says how many that are. The caller holds the
    /// lock.
    pub fn notify(&self, most: u32) -> u32 {
        let next = self.state.next.load(Ordering::Acquire);
        let mut word = self.state.notifications.load(Ordering::Acquire);
        let told = loop {
            // What was given before and not taken is for those that waited then, if they still do.
            let before = if count_of(word) == 0 { 0 } else { count_of(word).min(self.count(limit_of(word))) };
            let all = if most == 0 { 0 } else { self.count(next) };
            let count = all.min(before.saturating_add(most));
            if count <= before {
                return 0;
            }
            let notified = notifications(next, count);
            match self.state.notifications.compare_exchange_weak(
                word,
                notified,
                Ordering::SeqCst,
                Ordering::Acquire,
            ) {
                Ok(_) if count == all => {
                    self.state.notified.raise_all();
                    return count - before;
                }
                Ok(_) => break count - before,
                Err(now) => word = now,
            }
        };
        for _ in 0..told {
            self.state.notified.raise();
        }
        told
    }

    /// How many wait, of those that live. Asks the system about each of them, which takes a while.
    pub fn waiting(&self) -> u32 {
        self.strike_off();
        self.all()
    }

    /// How many notifications were given and not taken yet.
    pub fn pending(&self) -> u32 {
        self.strike_off();
        count_of(self.state.notifications.load(Ordering::Acquire))
    }

    fn taken(&self) -> impl Iterator<Item = (u64, &Place)> {
        let high_water = self.state.high_water.load(Ordering::Acquire) as usize;
        let places = &self.state.places[..high_water.min(PLACES)];
        places.iter().map(|place| (place.who.load(Ordering::Acquire), place)).filter(|(who, _)| *who != 0)
    }

    fn all(&self) -> u32 {
        self.state.beyond.load(Ordering::Acquire).saturating_add(self.taken().count() as u32)
    }

    /// How many wait that entered before `limit`. Nothing is known of those without a place: they count.
    fn count(&self, limit: u32) -> u32 {
        let known = self.taken().filter(|(_, place)| is_before(place.number.load(Ordering::Acquire), limit));
        self.state.beyond.load(Ordering::Acquire).saturating_add(known.count() as u32)
    }

    /// Strikes off those that died.
    #[cold]
    fn strike_off(&self) {
        let (me, mut alive) = (owner::me(), 0);
        let mut found = false;
        for (who, place) in self.taken() {
            // Threads of one process often follow each other.
            if who == me || who == alive {
                continue;
            }
            if identity_of(who).is_alive() {
                alive = who;
            } else {
                found |= place.who.compare_exchange(who, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            }
        }
        if found {
            self.forget_stale();
        }
    }

    /// Takes back notifications for which nobody is left.
    fn forget_stale(&self) {
        let mut word = self.state.notifications.load(Ordering::Acquire);
        while count_of(word) > 0 {
            let most = self.count(limit_of(word));
            if count_of(word) <= most {
                return;
            }
            match self.state.notifications.compare_exchange_weak(
                word,
                notifications(limit_of(word), most),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }
}
