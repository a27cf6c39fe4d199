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

    /// Who sleeps, in the order in which they went to sleep. A model has one signal, so one bed is enough.
    struct Bed {
        next: usize,
        asleep: Vec<usize>,
    }

    pub(crate) fn wait(word: &AtomicU32, expected: u32) {
        let mut bed = BED.lock().unwrap();
        if word.load(Ordering::SeqCst) != expected {
            return;
        }
        let me = bed.next;
        bed.next += 1;
        bed.asleep.push(me);
        while bed.asleep.contains(&me) {
            bed = ALARM.wait(bed).unwrap();
        }
    }

    pub(crate) fn wake(_word: &AtomicU32, most: u32) -> usize {
        let mut bed = BED.lock().unwrap();
        let woken = bed.asleep.len().min(most as usize);
        bed.asleep.drain(..woken);
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
