//! Locks between processes that survive the death of those who hold them, and of those who wait.
//!
//! * [`Mutex`]: one holder, who is known from the very word that he took;
//! * [`Semaphore`]: a count, without holders;
//! * [`Condition`]: waiting for a notification, under anybody's lock;
//! * [`Event`]: a flag to wait for;
//! * [`Barrier`]: so many that wait for each other, and break when one dies.
//!
//! Each is a piece of shared memory ([`weft_shm::Carrier`]) that any process of the program may attach, and every wait
//! goes through [`weft_wait::wait_until`]. What a process holds, or is counted as waiting for, is written with its
//! identity (process id and time of start) by the same store that makes it so; there is no instant at which a
//! kill leaves a number that nobody can put right.
//!
//! Nobody watches for deaths. Those who wait look from time to time ([`owner::LOOK`]) whether who they wait for
//! still lives, so a death costs nothing until somebody would wait for ever because of it.

mod barrier;
mod condition;
mod error;
mod event;
mod memory;
mod mutex;
pub mod owner;
mod semaphore;

pub use barrier::{Arrival, Barrier, BarrierError};
pub use condition::{Condition, Entry};
pub use error::{AcquireError, OverRelease, WaitError};
pub use event::Event;
pub use mutex::{Grant, Mutex, Tenure};
pub use semaphore::{LARGEST_VALUE, Semaphore};
