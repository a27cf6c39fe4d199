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

/// As [`wait`] for the first of two words with their expected values, coming back when either is woken or changes.
///
/// Where the kernel cannot do that (before Linux 5.16), it is a wait for the first alone.
pub fn wait_either(first: (&AtomicU32, u32), second: (&AtomicU32, u32), patience: Option<Duration>) -> Woken {
    let waiter = |(word, expected): (&AtomicU32, u32)| Waiter {
        value: expected.into(),
        address: std::ptr::from_ref(word).expose_provenance() as u64,
        flags: SIZE_32,
        reserved: 0,
    };
    let waiters = [waiter(first), waiter(second)];
    let end = patience.map(|patience| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let nanoseconds = now.tv_nsec + i64::from(patience.subsec_nanos());
        let seconds = i64::try_from(patience.as_secs()).unwrap_or(i64::MAX);
        libc::timespec {
            tv_sec: now.tv_sec.saturating_add(seconds).saturating_add(nanoseconds / 1_000_000_000),
            tv_nsec: nanoseconds % 1_000_000_000,
        }
    });
    let end = end.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: two filled-in waiters for words that are borrowed meanwhile, and a valid time or none.
    let outcome =
        unsafe { libc::syscall(libc::SYS_futex_waitv, waiters.as_ptr(), 2, 0, end, libc::CLOCK_MONOTONIC) };
    if outcome >= 0 {
        return Woken::Called;
    }
    match Errno::from_io_error(&std::io::Error::last_os_error()) {
        Some(Errno::AGAIN) => Woken::Changed,
        Some(Errno::TIMEDOUT) => Woken::TimedOut,
        Some(Errno::INTR) => Woken::Interrupted,
        _ => wait(first.0, first.1, patience),
    }
}

/// What the kernel calls `futex_waitv`.
#[repr(C)]
struct Waiter {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// The word has 32 bits, and may be shared between processes.
const SIZE_32: u32 = 2;
