//! What a thread that waits for many things at once asks the kernel, and what the kernel says.
//!
//! * [`Reactor`]: descriptors, wake-ups from other threads, and one sleep for all of them.
//! * [`Timers`]: a heap of instants; cancelled ones are left in it until they are too many.
//! * [`FileState`]: what is under a name; told by the kernel where it does, else looked at from time to time.
//! * [`signals`]: signals as something to wait for, without a signal handler that does any work.
//! * [`ChildExit`]: the end of one child process; nobody else's status is ever taken.
//!
//! It knows neither who waits nor what happens then: what is ready is handed to the caller, by key.

mod child;
mod error;
mod files;
mod forks;
mod reactor;
mod ready;
pub mod signals;
mod sources;
mod timers;
mod waker;
mod watches;

pub use child::{ChildExit, ExitStatus};
pub use error::ReactorError;
pub use files::{FileKey, FileState, FileStatus};
pub use forks::forks;
pub use reactor::{Event, Reactor, Sleep};
pub use ready::Ready;
pub use sources::SourceKey;
pub use timers::{TimerKey, Timers};
pub use waker::Waker;
pub use watches::WatchKey;
