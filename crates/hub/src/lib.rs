//! The scheduler of a thread's coroutines: who runs next, who waits, and for what.
//!
//! * [`Hub`]: waiters, the ready queue, timers, descriptors. It switches to nobody: it is generic over what a
//!   coroutine is, and whoever drives it (an interpreter's greenlets, [`local`]'s Rust coroutines) asks it whom to
//!   run and does the switch itself, with nothing of the hub borrowed meanwhile.
//! * [`Remote`]: the part of a hub that other threads may use.
//! * [`Sentry`]: waits at words of shared memory on behalf of coroutines, so that what is written against
//!   [`weft_wait`] parks a coroutine without knowing it.
//! * [`local`]: a hub for Rust coroutines with stacks of their own.

mod hub;
pub mod local;
mod remote;
mod sentry;
mod waiters;

pub use hub::{Hub, InUse, Occurrence};
pub use remote::Remote;
pub use sentry::{Post, Sentry};
pub use waiters::{WaiterKey, Waiters};
