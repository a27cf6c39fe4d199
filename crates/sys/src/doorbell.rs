//! A descriptor that becomes readable when somebody rings, and stays so until that was noticed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// A counter in the kernel. Closed on `exec`; neither side ever blocks.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// One that nobody has rung.
    ///
    /// # Errors
    ///
    /// What the kernel says, [`Errno::MFILE`] if the process has no descriptor left.
    pub fn new() -> Result<Self, Errno> {
        make().map(Self)
    }

    /// Makes it readable. May be called in a signal handler.
    pub fn ring(&self) {
        ring_raw(self.0.as_raw_fd());
    }

    /// Makes it unreadable.
    pub fn hush(&self) {
        let mut count = [0; 8];
        // It fails if nobody has rung: then there is nothing to do.
        let _ = rustix::io::read(&self.0, &mut count);
    }

    /// Puts a doorbell of its own in the place of this one, under the same number: in the child of a fork, where the
    /// counter is the parent's as well.
    ///
    /// # Errors
    ///
    /// What the kernel says; nothing has changed then.
    pub fn renew(&self) -> Result<(), Errno> {
        let fresh = make()?;
        // SAFETY: the descriptor is ours, and stays open under its number throughout: only what it stands for changes.
        let done = unsafe { libc::dup3(fresh.as_raw_fd(), self.0.as_raw_fd(), libc::O_CLOEXEC) };
        if done < 0 { Err(last_error()) } else { Ok(()) }
    }
}

fn make() -> Result<OwnedFd, Errno> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Rings the doorbell that has this number. For signal handlers; `errno` stays as it is.
pub fn ring_raw(descriptor: RawFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: eight readable bytes. If the number is no doorbell's any more the write fails or is noticed by whoever has
    // it now, which callers see to. `errno` is this thread's own.
    unsafe {
        let errno = libc::__errno_location();
        let before = errno.read();
        // It fails when the counter is full: then it is readable.
        let _ = libc::write(descriptor, one.as_ptr().cast(), one.len());
        errno.write(before);
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
