//! A lock that outlives its holder.
//!
//! If the process that holds it dies, the kernel passes the lock to the next one that asks, and tells it so:
//! [`Held::AfterDeath`]. Whoever learns of it repairs what the lock protects before anything else.
//!
//! [`RobustMutex`] is the real one, a pthread mutex in shared memory. [`LocalLock`] is its twin for tests inside one
//! process: its holder "dies" when a panic unwinds through it.

use std::cell::UnsafeCell;
use std::fmt;
#[cfg(not(miri))]
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use weft_wait::Life;

#[cfg(miri)]
#[path = "robust_miri.rs"]
mod stand_in;

/// How a lock was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Held {
    /// As it was left.
    Clean,
    /// The holder before died with it: what it protects has to be repaired, and then [`Robust::repaired`] called.
    AfterDeath,
}

/// A lock as the arena and the queues need it. It lies in memory that other processes map.
///
/// # Safety
///
/// While one caller holds the lock no other does, in any process.
pub unsafe trait Robust: Sized {
    /// Makes a lock of raw memory.
    ///
    /// # Safety
    ///
    /// The memory is zeroed, nobody uses it yet, and it does not move afterwards.
    unsafe fn init(place: *mut Self);

    /// Takes the lock if it is free.
    fn try_lock(&self) -> Option<Held>;

    /// Takes the lock, waiting for at most `patience`.
    fn lock_within(&self, patience: Duration) -> Option<Held>;

    /// Says that what the lock protects is in order again.
    fn repaired(&self);

    /// Gives the lock back.
    ///
    /// # Safety
    ///
    /// The calling thread holds it.
    unsafe fn unlock(&self);

    /// Whether `unlock` is a full fence, which orders what was written before it against what is read after it.
    const UNLOCK_IS_FENCE: bool = false;

    /// Whether a panic that unwinds through a holder stands for its death.
    const PANIC_IS_DEATH: bool = false;
}

/// A process-shared, robust pthread mutex.
#[repr(C, align(8))]
pub struct RobustMutex(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: a pthread mutex may be used from all threads, and from all processes when it is process-shared.
unsafe impl Sync for RobustMutex {}
// SAFETY: as above; it is never moved once in use, by the contract of `init`.
unsafe impl Send for RobustMutex {}

impl fmt::Debug for RobustMutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RobustMutex")
    }
}

impl RobustMutex {
    #[cfg(not(miri))]
    fn outcome(status: libc::c_int) -> Option<Held> {
        match status {
            0 => Some(Held::Clean),
            libc::EOWNERDEAD => Some(Held::AfterDeath),
            libc::EBUSY | libc::ETIMEDOUT => None,
            // Not recoverable cannot be: it needs an unlock without `repaired`. EAGAIN and EINVAL need a
            // recursive or ceiling mutex. The memory was overwritten.
            other => panic!("a lock in shared memory is damaged (pthread error {other})"),
        }
    }

    /// Whether its holder lives, for those who wait for what that will do.
    #[inline]
    pub fn life(&self) -> &Life {
        // SAFETY: the C library's mutex begins with the word that the kernel knows the lock by, aligned, and touches it with atomic
        // operations only.
        Life::of(unsafe { &*self.0.get().cast::<AtomicU32>() })
    }
}

// SAFETY: pthread mutexes exclude each other between all threads of all processes that map them.
#[cfg(not(miri))]
unsafe impl Robust for RobustMutex {
    unsafe fn init(place: *mut Self) {
        // SAFETY: `place` is unused memory by the contract; the attribute object is initialised before use
        // and destroyed once. These calls cannot fail with these values.
        unsafe {
            let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
            libc::pthread_mutexattr_init(attributes.as_mut_ptr());
            libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED);
            libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
            libc::pthread_mutex_init(place.cast(), attributes.as_ptr());
            libc::pthread_mutexattr_destroy(attributes.as_mut_ptr());
        }
    }

    #[inline]
    fn try_lock(&self) -> Option<Held> {
        // SAFETY: an initialised mutex.
        Self::outcome(unsafe { libc::pthread_mutex_trylock(self.0.get()) })
    }

    fn lock_within(&self, patience: Duration) -> Option<Held> {
        let mut now = MaybeUninit::<libc::timespec>::uninit();
        // SAFETY: the clock exists on every system, and writes the time into the given place.
        let now = unsafe {
            libc::clock_gettime(libc::CLOCK_REALTIME, now.as_mut_ptr());
            now.assume_init()
        };
        let nanoseconds = now.tv_nsec + libc::c_long::from(patience.subsec_nanos());
        let end = libc::timespec {
            tv_sec: now.tv_sec + patience.as_secs() as libc::time_t + nanoseconds / 1_000_000_000,
            tv_nsec: nanoseconds % 1_000_000_000,
        };
        // SAFETY: an initialised mutex and a valid time.
        Self::outcome(unsafe { libc::pthread_mutex_timedlock(self.0.get(), &raw const end) })
    }

    fn repaired(&self) {
        // SAFETY: an initialised mutex; an error (it was not inconsistent) changes nothing.
        unsafe { libc::pthread_mutex_consistent(self.0.get()) };
    }

    // The mutex is unlocked by an atomic exchange, and on this processor every one is a full fence.
    const UNLOCK_IS_FENCE: bool = cfg!(target_arch = "x86_64");

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller holds it.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) };
    }
}

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const DEAD: u32 = 2;

#[cfg(test)]
thread_local! {
    /// This thread is the only one with its locks, so it waits for none.
    pub(crate) static ALONE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The twin of [`RobustMutex`] for one process: it spins, and takes a panic for a death.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct LocalLock(AtomicU32);

// SAFETY: the state is taken from FREE or DEAD to TAKEN by one compare-and-exchange.
unsafe impl Robust for LocalLock {
    unsafe fn init(place: *mut Self) {
        // SAFETY: unused memory, by the contract.
        unsafe { place.write(Self(AtomicU32::new(FREE))) };
    }

    fn try_lock(&self) -> Option<Held> {
        if self.0.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Some(Held::Clean);
        }
        match self.0.compare_exchange(DEAD, TAKEN, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Some(Held::AfterDeath),
            Err(FREE | TAKEN) => None,
            Err(other) => panic!("a lock in shared memory is damaged (it says {other})"),
        }
    }

    fn lock_within(&self, patience: Duration) -> Option<Held> {
        let start = Instant::now();
        loop {
            if let Some(held) = self.try_lock() {
                return Some(held);
            }
            #[cfg(test)]
            assert!(!ALONE.get(), "a lock in shared memory is damaged (nobody can hold it)");
            if start.elapsed() >= patience {
                return None;
            }
            std::thread::yield_now();
        }
    }

    fn repaired(&self) {}

    unsafe fn unlock(&self) {
        let next = if std::thread::panicking() { DEAD } else { FREE };
        self.0.store(next, Ordering::Release);
    }

    const PANIC_IS_DEATH: bool = true;
}
