//! [`RobustMutex`] under Miri, which has no process-shared mutex: the word that the kernel knows such a lock by, taken and given
//! back with the same atomic operations, and a holder that never dies.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{Held, Robust, RobustMutex};

/// The thread's id in the real one's word.
const SOMEBODY: u32 = 1;

fn word(mutex: &RobustMutex) -> &AtomicU32 {
    // SAFETY: the memory begins with a word that is aligned, and here nothing else touches it.
    unsafe { &*mutex.0.get().cast::<AtomicU32>() }
}

// SAFETY: the word is taken from zero by one compare-and-exchange.
unsafe impl Robust for RobustMutex {
    unsafe fn init(place: *mut Self) {
        // SAFETY: unused memory, by the contract.
        unsafe { place.cast::<AtomicU32>().write(AtomicU32::new(0)) };
    }

    fn try_lock(&self) -> Option<Held> {
        let outcome = word(self).compare_exchange(0, SOMEBODY, Ordering::Acquire, Ordering::Relaxed);
        outcome.is_ok().then_some(Held::Clean)
    }

    fn lock_within(&self, patience: Duration) -> Option<Held> {
        let start = Instant::now();
        while start.elapsed() < patience {
            if let Some(held) = self.try_lock() {
                return Some(held);
            }
            std::thread::yield_now();
        }
        None
    }

    fn repaired(&self) {}

    unsafe fn unlock(&self) {
        // Whoever sleeps on the word has left a bit in it.
        if word(self).swap(0, Ordering::Release) != SOMEBODY {
            weft_sys::futex::wake(word(self), 1);
        }
    }
}
