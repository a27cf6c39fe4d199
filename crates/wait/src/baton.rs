//! A signal for what only one can have, of whose waiters at most one is awake.
//!
//! Who gives a lock back and takes it again at once, as a loop does, would find its waiters asleep each time and wake
//! another one each time, long before the first has got up: a call of the kernel for every turn, and several
//! awake for what one will get. So whoever wakes one notes that one is awake, and the next ones leave it at that. The
//! one that is awake takes the note back when it has what it waited for, goes back to sleep, or goes away.
//!
//! | `awake` | changed by | to |
//! |---|---|---|
//! | 0 | a waker, before it wakes one | 1 |
//! | 1 | the same, if nobody slept | 0 |
//! | 1 | one that came back from its sleep, whoever ended that | 0 |
//!
//! Taking it back too early costs a needless wake-up; that is why nobody asks whose note it is. Taking it back is followed by
//! one more look at the state, behind a fence: a waker that left it at the note had changed the state before. Setting it is the
//! waker's promise to wake one; between the two it may be killed, as the one that it woke may, and nobody is
//! woken then until a sleeper's slice is over.
//!
//! Loom checks it with a lock, in `tests/loom.rs`.

use crate::Signal;
use crate::primitives::{AtomicU32, Ordering, fence};
use crate::until::WaitPoint;

/// Where those wait of whom only one can go on. Zeroed memory is a fresh one.
#[derive(Debug)]
#[repr(C)]
pub struct Baton {
    signal: Signal,
    /// Changed by exchanges only, so that all changes have one order.
    awake: AtomicU32,
}

impl Default for Baton {
    fn default() -> Self {
        Self::new()
    }
}

impl Baton {
    /// One that nobody waits for.
    pub fn new() -> Self {
        Self { signal: Signal::new(), awake: AtomicU32::new(0) }
    }

    /// Wakes one waiter, after a change of state that lets one of them go on, unless one is awake already.
    #[inline]
    pub fn raise(&self) {
        fence(Ordering::SeqCst);
        self.raise_fenced();
    }

    /// As [`raise`](Self::raise), for a caller that passed a full fence since it changed the state.
    #[inline]
    pub fn raise_fenced(&self) {
        if self.signal.is_waited_for() {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if self.awake.swap(1, Ordering::SeqCst) != 0 {
            return;
        }
        if !self.signal.wake_first() {
            // First this: who left it at the note until now did so before the step that nobody sleeps through.
            let _ = self.awake.swap(0, Ordering::SeqCst);
            self.signal.clear_and_wake_all();
        }
    }
}

impl WaitPoint for Baton {
    fn signal(&self) -> &Signal {
        &self.signal
    }

    fn settle(&self) {
        let _ = self.awake.swap(0, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    fn pass_on(&self) {
        self.raise();
    }
}
