//! Waiting for a descriptor that the kernel, and programs, know as well.

use std::convert::Infallible;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use weft_sys::readiness;
pub use weft_sys::readiness::Interest;

use crate::thread::{Slices, ThreadParker, spin_for};
use crate::{Deadline, Parker};

/// Whoever can be made to wait for a descriptor, too: a thread in the kernel, a coroutine in its hub.
pub trait DescriptorParker: Parker {
    /// Waits until `descriptor` is ready, or until `deadline`. May return early for any reason, and does so now and
    /// then, so that the caller looks at what the kernel does not know.
    ///
    /// # Errors
    ///
    /// What interrupted the wait.
    fn park_at(
        &mut self,
        descriptor: BorrowedFd<'_>,
        interest: Interest,
        deadline: Deadline,
    ) -> Result<(), Self::Interrupt>;

    /// As [`linger`](Parker::linger), for a caller that knows for how long it pays. The default does not try.
    fn linger_for(&mut self, patience: Duration, ready: &mut dyn FnMut() -> bool) -> bool {
        let _ = (patience, ready);
        false
    }
}

/// Sleeps one slice at `descriptor`.
pub fn sleep_at(
    descriptor: BorrowedFd<'_>,
    interest: Interest,
    slices: &mut Slices,
    deadline: Deadline,
) -> bool {
    // An error shows again in what the caller tries next.
    readiness::wait(descriptor, interest, Some(slices.next(deadline))).unwrap_or(true)
}

impl DescriptorParker for ThreadParker {
    fn park_at(
        &mut self,
        descriptor: BorrowedFd<'_>,
        interest: Interest,
        deadline: Deadline,
    ) -> Result<(), Infallible> {
        let _ = sleep_at(descriptor, interest, self.slices(), deadline);
        Ok(())
    }

    fn linger_for(&mut self, patience: Duration, ready: &mut dyn FnMut() -> bool) -> bool {
        spin_for(patience, ready)
    }
}
