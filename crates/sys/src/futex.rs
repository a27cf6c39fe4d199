//! Sleeping on a word of memory that may be shared with other processes.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::thread::futex::{self, Flags};

/// Why [`wait`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Woken {
    /// Somebody called [`wake`], or the kernel woke the caller for no reason.
    Called,
    /// The word did not have the expected value, so there was nothing to sleep for.
    Changed,
    /// The time is over.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// Sleeps while `word` is `expected`, for at most `patience`. The word may lie in shared memory.
///
/// # Panics
///
/// If the kernel refuses the address, which is a mistake in this program: the word is borrowed.
pub fn wait(word: &AtomicU32, expected: u32, patience: Option<Duration>) -> Woken {
    let timeout = patience.map(|left| Timespec {
        tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    });
    match futex::wait(word, Flags::empty(), expected, timeout.as_ref()) {
        Ok(()) => Woken::Called,
        Err(Errno::AGAIN) => Woken::Changed,
        Err(Errno::TIMEDOUT) => Woken::TimedOut,
        Err(Errno::INTR) => Woken::Interrupted,
        Err(error) => panic!("the kernel refused to wait on a futex: {error}"),
    }
}

/// Wakes up to `most` sleepers of `word`, in any process; says how many there were.
pub fn wake(word: &AtomicU32, most: u32) -> usize {
    // The kernel reads the count as an int.
    futex::wake(word, Flags::empty(), most.min(i32::MAX as u32)).unwrap_or(0)
}
