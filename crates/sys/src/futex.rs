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
    let waiters = [Waiter::new(first.0, first.1), Waiter::new(second.0, second.1)];
    // SAFETY: both words are borrowed meanwhile.
    match unsafe { wait_any(&waiters, patience) } {
        Ok(_) => Woken::Called,
        Err(Errno::AGAIN) => Woken::Changed,
        Err(Errno::TIMEDOUT) => Woken::TimedOut,
        Err(Errno::INTR) => Woken::Interrupted,
        _ => wait(first.0, first.1, patience),
    }
}

/// So many words the kernel can wait for at once.
pub const MOST_WORDS: usize = 128;

/// Sleeps while each of up to [`MOST_WORDS`] words has its expected value, for at most `patience`. Says which one was woken.
///
/// # Errors
///
/// [`Errno::AGAIN`] if a word had another value, [`Errno::TIMEDOUT`], [`Errno::INTR`], [`Errno::FAULT`] if there
/// is no memory (any more) where a word is said to lie, [`Errno::NOSYS`] before Linux 5.16 and where a filter of system
/// calls does not let us.
///
/// # Safety
///
/// The kernel reads the words and writes nothing, so a word that is gone can do no harm; but a wake-up of whatever lies there now
/// may be taken away from whom it was meant for.
pub unsafe fn wait_any(words: &[Waiter], patience: Option<Duration>) -> Result<usize, Errno> {
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
    // SAFETY: filled-in waiters, and a valid time or none; the words are the caller's business.
    let outcome = unsafe {
        libc::syscall(libc::SYS_futex_waitv, words.as_ptr(), words.len(), 0, end, libc::CLOCK_MONOTONIC)
    };
    usize::try_from(outcome).map_err(|_| {
        match Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL) {
            // What filters say of calls that they do not know. The kernel itself never says it here.
            Errno::PERM => Errno::NOSYS,
            error => error,
        }
    })
}

/// As [`wake`], for one sleeper at a word that may be gone by now; the kernel does not touch what lies there.
pub fn wake_one_at(address: u64) {
    let one: libc::c_int = 1;
    // SAFETY: FUTEX_WAKE looks the address up and changes no memory; an address without memory is refused.
    unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAKE, one, 0_usize, 0_usize, 0) };
}

/// One word to wait for, as the kernel's `futex_waitv` takes it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Waiter {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

impl Waiter {
    /// Waits at `word` while it is `expected`.
    pub fn new(word: *const AtomicU32, expected: u32) -> Self {
        Self { value: expected.into(), address: word.expose_provenance() as u64, flags: SIZE_32, reserved: 0 }
    }

    /// Where the word lies.
    pub const fn address(&self) -> u64 {
        self.address
    }
}

/// The word has 32 bits, and may be shared between processes.
const SIZE_32: u32 = 2;
