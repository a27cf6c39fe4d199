//! Waiting for a descriptor.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// What a descriptor can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// There is something to be read, or the end of it.
    Readable,
    /// There is room to write, or nobody who would read it.
    Writable,
}

/// Sleeps until the descriptor is ready, an error at it counts, or for at most `patience`. Says whether it is.
///
/// # Errors
///
/// [`Errno::INTR`] if a signal handler ran, or what the kernel says.
pub fn wait(
    descriptor: BorrowedFd<'_>,
    interest: Interest,
    patience: Option<Duration>,
) -> Result<bool, Errno> {
    let wanted = match interest {
        Interest::Readable => PollFlags::IN,
        Interest::Writable => PollFlags::OUT,
    };
    let mut looked_at = [PollFd::from_borrowed_fd(descriptor, wanted)];
    let timeout = patience.map(|left| Timespec {
        tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    });
    rustix::event::poll(&mut looked_at, timeout.as_ref()).map(|ready| ready > 0)
}

/// Whether the other side of the descriptor is gone, or it is in error.
pub fn is_hung_up(descriptor: BorrowedFd<'_>) -> bool {
    let mut looked_at = [PollFd::from_borrowed_fd(descriptor, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut looked_at, Some(&now)), Ok(1..))
}
