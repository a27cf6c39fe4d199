//! The hinge between the wings: one way to wait, whoever waits.
//!
//! An operation that can block is written once: *try*, and if it would block, *announce* a waiter at the
//! [`Signal`] of what it waits for, try again, and *park*. What parking means is the [`Parker`]'s:
//! a thread spins for a moment and then sleeps on the signal's word ([`ThreadParker`]); a coroutine lets
//! others run; a foreign event loop is told later. [`wait_until`] is the loop that does this.
//!
//! Signals live in memory that other processes share, so nothing here may rely on a waiter or a waker
//! staying alive: see [`signal`].

mod baton;
mod bell;
mod life;
pub mod signal;
#[cfg(not(loom))]
pub mod thread;

mod primitives;
#[cfg(not(loom))]
mod readiness;
mod until;

pub use baton::Baton;
pub use bell::{Bell, Lookout};
pub use life::Life;
#[cfg(not(loom))]
pub use readiness::{DescriptorParker, Interest, sleep_at};
pub use signal::{Signal, Ticket};
#[cfg(not(loom))]
pub use thread::ThreadParker;
pub use until::{Deadline, Parker, WaitError, WaitPoint, try_until, wait_until};
#[cfg(not(loom))]
pub use weft_sys::futex::Woken;
