//! Calls to a server process through shared memory.
//!
//! * [`Desk`]: what a server and its clients share: a bell, and lanes; what the server does with it;
//! * [`Lane`]: one caller's place at the desk;
//! * [`board`]: how the server learns of calls, and their callers of answers;
//! * [`lane`]: how it lies in shared memory;
//! * [`service`]: how serving ends, and who learns of it;
//! * [`turn`]: the states of a lane, and who changes them;
//! * [`message`]: how calls and answers lie in a lane.
//!
//! Nothing in here knows what is called: calls and answers are bytes, and buffers in shared memory.

// The model checker sees the states, who wakes whom, and the ends.
#[cfg(not(loom))]
#[expect(unreachable_pub, reason = "the model is a test, which sees what is public alone")]
mod board;
#[cfg(loom)]
pub mod board;
#[cfg(not(loom))]
mod client;
#[cfg(not(loom))]
mod desk;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod lane;
#[cfg(not(loom))]
mod message;
mod primitives;
#[cfg(not(loom))]
#[expect(unreachable_pub, reason = "the model is a test, which sees what is public alone")]
mod service;
#[cfg(loom)]
pub mod service;
#[cfg(all(test, not(loom)))]
mod tests;
#[cfg(not(loom))]
#[expect(unreachable_pub, reason = "the model is a test, which sees what is public alone")]
mod turn;
#[cfg(loom)]
pub mod turn;

#[cfg(not(loom))]
pub use board::LANES;
#[cfg(not(loom))]
pub use client::{Answer, Lane, Reply};
#[cfg(not(loom))]
pub use desk::{Call, Desk, Request, Serving};
#[cfg(not(loom))]
pub use error::ManagerError;
#[cfg(not(loom))]
pub use lane::{SHORT, Short};
#[cfg(not(loom))]
pub use message::Buffers;
