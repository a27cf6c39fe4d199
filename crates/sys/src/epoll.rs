//! A set of descriptors that the kernel watches.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::epoll;
pub use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

/// One thing that the kernel reports.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// The number that the descriptor was added with.
    pub token: u64,
    /// What it is ready for.
    pub flags: EventFlags,
}

/// The most reports that one [`Epoll::wait`] brings; what is left comes with the next.
pub const MOST_REPORTS: usize = 256;

/// An epoll instance. Closed on `exec`.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// Room for what [`Epoll::wait`] brings.
#[derive(Debug, Default)]
pub struct Reports(Vec<libc::epoll_event>);

impl Reports {
    /// What the last wait brought.
    pub fn iter(&self) -> impl Iterator<Item = Report> + '_ {
        // What the structure has is packed: copied, not borrowed.
        self.0.iter().map(|&libc::epoll_event { events, u64: token }| Report {
            token,
            flags: EventFlags::from_bits_retain(events),
        })
    }

    /// Forgets it.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Whether the kernel was found to know no timeout in nanoseconds (before Linux 5.11), or not to let us use it: filters of system
/// calls that are older than a call refuse it, as those of container runtimes did.
static MILLISECONDS_ONLY: AtomicBool = AtomicBool::new(false);

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    ///
    /// What the kernel says, [`Errno::MFILE`] if the process has no descriptor left.
    pub fn new() -> Result<Self, Errno> {
        epoll::create(epoll::CreateFlags::CLOEXEC).map(Self)
    }

    /// Adds a descriptor.
    ///
    /// # Errors
    ///
    /// [`Errno::EXIST`] if it is there already, [`Errno::PERM`] if its kind is always ready and cannot be watched.
    pub fn add(&self, descriptor: BorrowedFd<'_>, token: u64, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.0, descriptor, epoll::EventData::new_u64(token), flags)
    }

    /// Changes what a descriptor is watched for; reports again what it is ready for.
    ///
    /// # Errors
    ///
    /// [`Errno::NOENT`] if it is not there (any more).
    pub fn modify(&self, descriptor: BorrowedFd<'_>, token: u64, flags: EventFlags) -> Result<(), Errno> {
        epoll::modify(&self.0, descriptor, epoll::EventData::new_u64(token), flags)
    }

    /// Takes a descriptor out.
    ///
    /// # Errors
    ///
    /// [`Errno::NOENT`] if it is not there (any more).
    pub fn delete(&self, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
        epoll::delete(&self.0, descriptor)
    }

    /// Waits until something is ready, or for at most `patience`.
    ///
    /// # Errors
    ///
    /// [`Errno::INTR`] if a signal handler ran; there are no reports then.
    pub fn wait(&self, patience: Option<Duration>, reports: &mut Reports) -> Result<(), Errno> {
        let buffer = &mut reports.0;
        buffer.clear();
        buffer.reserve(MOST_REPORTS);
        let set = self.0.as_raw_fd();
        let room = buffer.as_mut_ptr();
        // Not to sleep needs no timeout that the kernel would have to fetch.
        let outcome = if patience == Some(Duration::ZERO) || MILLISECONDS_ONLY.load(Ordering::Relaxed) {
            None
        } else {
            let timeout = patience.map(|left| libc::timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: the buffer has room for so many events, and the timeout is valid or null.
            let got = unsafe {
                libc::syscall(libc::SYS_epoll_pwait2, set, room, MOST_REPORTS, timeout, 0_usize, 0_usize)
            };
            Some(got)
        };
        let got = match outcome {
            // The call itself never says that it is not permitted.
            Some(-1) if matches!(last_error(), Errno::NOSYS | Errno::PERM) => {
                MILLISECONDS_ONLY.store(true, Ordering::Relaxed);
                return self.wait(patience, reports);
            }
            Some(got) => got,
            None => {
                // Rounded up: waking too early would spin until the time is there.
                let timeout = patience.map_or(-1, |left| {
                    i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
                });
                // SAFETY: as above.
                i64::from(unsafe { libc::epoll_wait(set, room, MOST_REPORTS as i32, timeout) })
            }
        };
        let Ok(count) = usize::try_from(got) else { return Err(last_error()) };
        // SAFETY: the kernel has written so many events.
        unsafe { buffer.set_len(count) };
        Ok(())
    }

    /// Puts an empty set of its own in the place of this one, under the same number: in the child of a fork, where the
    /// set is the parent's as well.
    ///
    /// # Errors
    ///
    /// What the kernel says; nothing has changed then.
    pub fn renew(&self) -> Result<(), Errno> {
        let fresh = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // SAFETY: the descriptor is ours, and stays open under its number throughout: only what it stands for changes.
        let done = unsafe { libc::dup3(fresh.as_raw_fd(), self.0.as_raw_fd(), libc::O_CLOEXEC) };
        if done < 0 { Err(last_error()) } else { Ok(()) }
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
