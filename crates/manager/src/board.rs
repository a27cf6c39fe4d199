//! How the server learns of calls, and their callers of answers: so that whoever sleeps is woken.
//!
//! A caller posts its call and lets the server know by three words that all callers share: a bit for each lane among the
//! *ready* words, and the *bell*, at which the server sleeps. All of them would take the same lines of the processor's cache from
//! each other with every call; so the server *watches* one lane, that of who calls alone, and that one's caller leaves the bits
//! alone.
//!
//! | | before a full fence | after it |
//! |---|---|---|
//! | a caller posts | the call lies in its lane | it looks who is watched: another one, and it sets its bit |
//! | the server watches another lane | says so | it looks for a call in the lane before: then it sets the bit itself |
//! | a caller, or the server, has done the above | | it looks whether anybody sleeps at the bell, and wakes it |
//! | the server goes to sleep | it announces itself at the bell | it looks at the bits, and at the lane that is watched |
//! | the server answers | the number of the call that was answered | it looks whether its caller sleeps, and wakes it |
//! | a caller goes to sleep | it announces itself | it looks at the number |
//!
//! Of each two that meet here at least one sees what the other one did, as long as there is a full fence in between: a store and a
//! load of another word pass each other on every processor. Those of the callers and of the answers are in atomic
//! exchanges, which on x86-64 are full fences, so that nobody pays for one where nobody sleeps. `tests/loom/board.rs` has every
//! order of these steps, and a sleeper that nobody wakes is a deadlock of the model.

use weft_wait::Signal;

use crate::primitives::{AtomicU32, AtomicU64, Ordering, fence};
use crate::turn::{Handed, Turn};

/// How many callers there may be at a time.
pub const LANES: usize = if cfg!(loom) { 2 } else { 254 };

const WORDS: usize = LANES.div_ceil(64);

/// Whether an atomic read-modify-write is a full fence. The model and Miri know nothing of processors.
const EXCHANGE_IS_FENCE: bool = cfg!(all(target_arch = "x86_64", not(loom), not(miri)));

/// Where lanes with calls in them are found. Zeroed memory is one without any.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Board {
    /// Raised when something is ready.
    bell: Signal,
    /// The number of the lane that the server looks at anyway, plus one. Read and seldom written, as the bell is.
    watched: AtomicU32,
    _apart: [u32; 14],
    /// A bit for each lane with a call in it.
    ready: [AtomicU64; WORDS],
    _apart_too: [u64; 8 - WORDS],
}

impl Board {
    /// One without any calls.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            bell: Signal::new(),
            watched: AtomicU32::new(0),
            _apart: [0; 14],
            ready: std::array::from_fn(|_| AtomicU64::new(0)),
            _apart_too: [0; 8 - WORDS],
        }
    }

    /// Where the server sleeps.
    #[inline]
    pub const fn bell(&self) -> &Signal {
        &self.bell
    }

    /// The caller's call lies in the lane, whole: says so, and lets the server know.
    #[inline]
    pub fn post(&self, lane: usize, turn: &Turn) {
        turn.call();
        if !EXCHANGE_IS_FENCE {
            fence(Ordering::SeqCst);
        }
        if self.watched.load(Ordering::Relaxed) as usize != lane + 1 {
            self.ready[lane / 64].fetch_or(1 << (lane % 64), Ordering::SeqCst);
        }
        raise(&self.bell);
    }

    /// The lane that is watched, if there is a call in it.
    #[inline]
    pub fn watched<'a>(&self, turn_of: impl Fn(usize) -> &'a Turn) -> Option<usize> {
        let lane = (self.watched.load(Ordering::Relaxed) as usize).checked_sub(1)?;
        (lane < LANES && turn_of(lane).is_called()).then_some(lane)
    }

    /// Looks at this lane from now on, whether its bit is set or not, and at no other one. For the one thread that serves.
    pub fn watch<'a>(&self, lane: usize, turn_of: impl Fn(usize) -> &'a Turn) {
        let before = (self.watched.load(Ordering::Relaxed) as usize).checked_sub(1);
        if before == Some(lane) {
            return;
        }
        self.watched.store(lane as u32 + 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if let Some(before) = before.filter(|before| *before < LANES)
            && turn_of(before).is_called()
        {
            self.ready[before / 64].fetch_or(1 << (before % 64), Ordering::AcqRel);
        }
    }

    /// Whether some lane's bit is set, or a call is in the lane that is watched.
    #[inline]
    pub fn is_ready<'a>(&self, turn_of: impl Fn(usize) -> &'a Turn) -> bool {
        self.ready.iter().any(|word| word.load(Ordering::Acquire) != 0) || self.watched(turn_of).is_some()
    }

    /// A lane with a call in it, from `after` on and around; its bit is taken.
    #[inline]
    pub fn next(&self, after: usize) -> Option<usize> {
        let (first, bit) = (after / 64, after % 64);
        for step in 0..=WORDS {
            let index = (first + step) % WORDS;
            let mut word = self.ready[index].load(Ordering::Acquire);
            if step == 0 {
                word &= u64::MAX << bit;
            }
            if word != 0 {
                let found = word.trailing_zeros() as usize;
                self.ready[index].fetch_and(!(1 << found), Ordering::AcqRel);
                return Some(index * 64 + found).filter(|lane| *lane < LANES);
            }
        }
        None
    }
}

/// The server's answer lies where it belongs, whole: hands it out as that of the call with the number in `call`, and wakes
/// its caller, who looks at `answered` and sleeps at `reply`.
///
/// Between the change of the turn and that of the number the caller may be interrupted, take the answer, and call
/// again, and another thread of the server may answer that. So who comes late leaves a later number alone: its caller waits
/// for that one.
#[inline]
pub fn hand_out(turn: &Turn, call: &AtomicU32, answered: &AtomicU32, reply: &Signal) -> Handed {
    // Both as long as the turn is the server's: what was answered later is seen as a change.
    let (number, mut before) = (call.load(Ordering::Relaxed), answered.load(Ordering::Relaxed));
    let handed = turn.answer();
    if handed == Handed::Out {
        while let Err(now) = answered.compare_exchange(before, number, Ordering::SeqCst, Ordering::Acquire) {
            if call.load(Ordering::Relaxed) != number {
                return handed;
            }
            before = now;
        }
        raise(reply);
    }
    handed
}

/// Raises a signal after a change that was an atomic read-modify-write.
#[inline]
fn raise(signal: &Signal) {
    if EXCHANGE_IS_FENCE {
        signal.raise_fenced();
    } else {
        signal.raise();
    }
}
