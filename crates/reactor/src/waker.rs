//! Waking a reactor that sleeps, from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::io::Errno;
use weft_sys::doorbell::Doorbell;

/// Wakes the reactor that it was got from. It may outlive it; then it wakes nobody.
///
/// Waking one that was woken already, and has not noticed yet, costs no call of the kernel.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bell: Doorbell,
    rung: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self(Arc::new(Inner { bell: Doorbell::new()?, rung: AtomicBool::new(false) })))
    }

    /// Ends the reactor's present sleep, or its next.
    ///
    /// Order: what the caller wrote before is seen by whoever looks after the reactor has come back from that sleep.
    pub fn wake(&self) {
        // The note is an exchange on both sides: either this one finds it unset and rings, or the reactor takes it back
        // later and sees what was written before.
        if !self.0.rung.swap(true, Ordering::SeqCst) {
            self.0.bell.ring();
        }
    }

    /// Notices: from here on a wake-up rings again.
    pub(crate) fn notice(&self) {
        self.0.bell.hush();
        self.0.rung.swap(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn bell(&self) -> &Doorbell {
        &self.0.bell
    }

    /// In the child of a fork: the doorbell is the parent's as well.
    pub(crate) fn renew(&self) -> Result<(), Errno> {
        self.0.bell.renew()?;
        self.0.rung.store(false, Ordering::SeqCst);
        Ok(())
    }
}
