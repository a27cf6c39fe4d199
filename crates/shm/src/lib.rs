//! Shared memory that survives the death of those who use it.
//!
//! * [`Arena`]: one segment for all shared objects of a program, and who owns which part of it;
//! * [`Span`]: a large buffer in one process's hands;
//! * [`Queue`]: messages between processes;
//! * [`Region`]: memory that several processes use at once, until the last of them is gone;
//! * [`Carrier`]: a few words for objects of other crates, and buffers on their way.
//!
//! The header of a segment and everything in it is untrusted input: offsets are checked before they are followed.
//! Who may write into a segment can still make others read nonsense; it is trusted like the sender of a pickle.

mod arena;
mod buddy;
mod carrier;
mod copy;
mod crash;
mod error;
mod fork;
pub mod identity;
mod layout;
mod lock;
mod object;
mod private;
pub mod queue;
mod region;
pub mod robust;
mod span;
mod sweep;
mod windows;

#[cfg(test)]
mod tests;

pub use arena::Arena;
pub use carrier::{Carrier, Look};
pub use copy::copy_for_another;
pub use error::ShmError;
pub use layout::UNIT;
pub use object::{Handle, Route, Transit};
pub use private::PrivateSpan;
pub use queue::{Queue, QueueError, Received};
pub use region::Region;
pub use span::Span;
