//! A lock between the threads of one process that a fork may find taken.
//!
//! The child of a fork gets a copy of its parent's memory, in which other threads may have stood in the middle of
//! anything. A lock that keeps its waiters in a table of the process is of no use there: the table's own locks can
//! be taken for ever, and the waiters in it are nobody. This lock is one word, and waiters are known to the
//! kernel only, which forgets them at a fork. So the child can open it by a store.

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};

use weft_sys::futex;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
/// Taken, and somebody may sleep.
const AWAITED: u32 = 2;

/// A value and its lock.
pub(crate) struct Mutex<T> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock lets one thread at a time reach the value.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { word: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits until the lock is free and takes it. Whoever forgets the guard keeps it taken.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        if self.word.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.word.swap(AWAITED, Ordering::Acquire) != FREE {
                let _ = futex::wait(&self.word, AWAITED, None);
            }
        }
        Guard { mutex: self }
    }

    /// The guard that was forgotten, in this process or in the one it was forked from.
    ///
    /// # Safety
    ///
    /// The lock was taken by this thread, or by the one it continues after a fork, and the guard forgotten.
    pub(crate) unsafe fn resume(&self) -> Guard<'_, T> {
        Guard { mutex: self }
    }
}

/// The lock is taken, until this is dropped.
pub(crate) struct Guard<'a, T> {
    mutex: &'a Mutex<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is taken for as long as `self`.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is taken for as long as `self`, which is borrowed for nobody else.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        if self.mutex.word.swap(FREE, Ordering::Release) == AWAITED {
            futex::wake(&self.mutex.word, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Mutex;

    #[test]
    fn threads_exclude_each_other() {
        const EACH: u64 = if cfg!(miri) { 100 } else { 20_000 };
        let counter = Mutex::new(0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..EACH).for_each(|_| *counter.lock() += 1));
            }
        });
        assert_eq!(*counter.lock(), 4 * EACH);
    }
}
