//! Starting processes, knowing how they ended, and letting none outlive the program.
//!
//! * [`lifeline`]: the root program's death ends every process started here, in the kernel.
//! * The *template process* has imported what the program needs and forks children on request. [`server`] is its
//!   loop, [`client`] asks it, [`wire`] is what they say to each other, [`table`] the shared memory in which it
//!   publishes how children ended, [`spares`] how many children it forks in advance.
//! * [`state`]: what a child takes over from the process that asked for it.
//! * [`title`]: what the processes are called that nobody but this system asked for.
//! * [`child`]: one child, whoever forked it: waiting, signals, a descriptor to poll.
//!
//! No interpreter is known here: what forks comes in through the trait [`server::Host`].
//!
//! # One start
//!
//! The client sends one message on a SEQPACKET socket: the state, the payload (in a memory file if it is large) and
//! descriptors, first the writing end of a fresh pipe. A spare, forked in advance and blocked on the other end of the
//! socket, receives it without any help of the template, takes its entry of the table, answers through the
//! pipe and goes on as the child. Whoever dies on the way, the pipe reports its end to the client: no start hangs, and
//! since the answer comes before anything is run, a start that got none can be repeated.
//!
//! # One end
//!
//! The template looks at the dead child without reaping it, writes the status into the child's entry, wakes the
//! sleepers there, and reaps. So a process id is free for others only after its entry says that it ended, and who
//! opened a process descriptor and *then* found no end in the entry holds the right process.

pub mod child;
pub mod client;
mod error;
pub mod lifeline;
pub mod server;
pub mod spares;
pub mod state;
pub mod table;
pub mod threads;
pub mod title;
mod transport;
mod wait;
pub mod wire;

pub use error::ProcessError;
