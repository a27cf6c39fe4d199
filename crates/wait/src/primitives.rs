//! What the model checker replaces.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// The kernel's futex, or a model of it under loom.
#[cfg(not(loom))]
pub(crate) mod futex {
    pub(crate) use weft_sys::futex::wake;
}

#[cfg(loom)]
pub(crate) mod futex {
    //! A futex as the kernel defines it: comparing the word and going to sleep are one step.

    use super::{AtomicU32, Ordering};
    use loom::sync::{Condvar, Mutex};

    loom::lazy_static! {
        static ref BED: Mutex<Bed> = Mutex::new(Bed { next: 0, asleep: Vec::new() });
        static ref ALARM: Condvar = Condvar::new();
    }

    /// Who sleeps, and at which words, in the order in which they went to sleep.
    struct Bed {
        next: usize,
        asleep: Vec<(usize, Vec<usize>)>,
    }

    fn place(word: &AtomicU32) -> usize {
        std::ptr::from_ref(word).addr()
    }

    /// Sleeps until one of the words is woken, if all are what they are expected to be.
    pub(crate) fn wait(words: &[(&AtomicU32, u32)]) {
        let mut bed = BED.lock().unwrap();
        if words.iter().any(|(word, expected)| word.load(Ordering::SeqCst) != *expected) {
            return;
        }
        let me = bed.next;
        bed.next += 1;
        bed.asleep.push((me, words.iter().map(|(word, _)| place(word)).collect()));
        while bed.asleep.iter().any(|(sleeper, _)| *sleeper == me) {
            bed = ALARM.wait(bed).unwrap();
        }
    }

    pub(crate) fn wake(word: &AtomicU32, most: u32) -> usize {
        let mut bed = BED.lock().unwrap();
        let mut woken = 0;
        bed.asleep.retain(|sleeper| {
            let is_woken = sleeper.1.contains(&place(word)) && woken < most as usize;
            woken += usize::from(is_woken);
            !is_woken
        });
        if woken > 0 {
            ALARM.notify_all();
        }
        woken
    }
}

/// The monotonic clock in nanoseconds, of all processes. Never 0.
#[cfg(not(loom))]
pub(crate) fn now() -> u64 {
    weft_sys::clock::monotonic()
}

/// In a model, time stands still: a lease is never over.
#[cfg(loom)]
pub(crate) fn now() -> u64 {
    1
}
