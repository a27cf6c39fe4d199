//! Connections between processes: whole messages over one descriptor.
//!
//! * [`End`]: one end of a connection; what it sends and receives;
//! * [`frame`]: what a message looks like on the wire;
//! * [`lane`]: what the ends of a pipe share beside the descriptor, one for each direction;
//! * [`descriptor`]: the system calls.
//!
//! A descriptor alone is enough: any stream socket, or a pipe of the kernel's. The ends of a [`pair`] share memory as
//! well, so that several processes may use one end at once, messages stay whole whoever is killed, and most
//! messages need no system call or no copy through the kernel. See [`lane`] for how.

mod descriptor;
mod end;
mod error;
mod forks;
pub mod frame;
mod home;
pub mod lane;
mod lock;
mod patience;
mod receive;
mod send;
mod spans;

pub use descriptor::{is_socket, outstanding};
pub use end::{End, pair};
pub use error::PipeError;
pub use receive::{Incoming, LongFrame};
pub use spans::{MOST_ON_THE_WAY, Reserved};
