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

    /// Who sleeps, and at which word, in the order in which they went to sleep.
    struct Bed {
        next: usize,
        asleep: Vec<(usize, usize)>,
    }

    fn place(word: &AtomicU32) -> usize {
        std::ptr::from_ref(word).addr()
    }

    pub(crate) fn wait(word: &AtomicU32, expected: u32) {
        let mut bed = BED.lock().unwrap();
        if word.load(Ordering::SeqCst) != expected {
            return;
        }
        let me = (bed.next, place(word));
        bed.next += 1;
        bed.asleep.push(me);
        while bed.asleep.contains(&me) {
            bed = ALARM.wait(bed).unwrap();
        }
    }

    pub(crate) fn wake(word: &AtomicU32, most: u32) -> usize {
        let mut bed = BED.lock().unwrap();
        let mut woken = 0;
        bed.asleep.retain(|sleeper| {
            let is_woken = sleeper.1 == place(word) && woken < most as usize;
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
