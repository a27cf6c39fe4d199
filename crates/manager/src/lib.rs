//! Calls to a server process through shared memory.
//!
//! * [`Desk`]: what a server and its clients share: a bell, and lanes; what the server does with it;
//! * [`Lane`]: one caller's place at the desk;
//! * [`lane`]: the states of a lane, and who changes them;
//! * [`message`]: how calls and answers lie in a lane.
//!
//! Nothing in here knows what is called: calls and answers are bytes, and buffers in shared memory.

mod client;
mod desk;
mod error;
mod lane;
mod message;

pub use client::{Answer, Lane, Reply};
pub use desk::{Call, Desk, LANES, Request, Serving};
pub use error::ManagerError;
pub use lane::{SHORT, Short};
pub use message::Buffers;
