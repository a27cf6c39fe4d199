//! Tasks for worker processes.
//!
//! A pool is two queues for tasks (an express one, which is looked into first, and the common one), a queue for
//! results, and a *board*: a few words for each worker, and two bells. There is no feeder and no dispatcher: whoever has a
//! task puts it into a queue, any worker takes it, and whoever waits for a result drains the queue of results.
//!
//! ```text
//! owner                    shared memory                      worker
//! post ───────────────►  express, common  ───────────────►  take (notes the task in its slot)
//!                           board: slots                      begin, or skip if it was cancelled
//! collect ◄────────────────  results  ◄───────────────────  report
//! ```
//!
//! # Who has which task
//!
//! A worker notes a task in its [slot](board) under the lock of the queue, before it commits that it took it ([`Ledger`]).
//! When it dies, the owner first settles both queues, so that a note of something that was not taken is wiped out, and
//! then collects all results. If the task of the slot is still unresolved after that, it was in the dead worker's hands:
//! it fails, or is put again. All other tasks are untouched. So each task ends once.
//!
//! # Cancelling
//!
//! The word of a slot goes `TAKEN → RUNNING` by the worker, or `TAKEN → CANCELLED` by the owner; whoever comes first has
//! it. For what is still in a queue the owner enters the task's number in a table on the board, which a worker
//! looks at between taking and beginning. Both sides write before they look, so one of them sees the other.
//!
//! [`Ledger`]: weft_shm::queue::Ledger

mod board;
mod cancelled;
mod owner;
mod trailer;
mod worker;

pub use board::{MOST_WORKERS, Order};
pub use owner::{Cancelling, Collected, InHand, Owner};
pub use trailer::{Call, Outcome, ResultTrailer, TaskTrailer};
pub use worker::{Taken, Worker};

pub use weft_sys::clock::monotonic as now;
pub use weft_sys::memory_limit::in_use as memory_in_use;

use weft_shm::Handle;

/// What a worker needs to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handles {
    /// The queue that is looked into first.
    pub express: Handle,
    /// The queue for all other tasks.
    pub common: Handle,
    /// The queue of results.
    pub results: Handle,
    /// The board.
    pub board: Handle,
}

/// The number of a task: no two of a pool have the same.
pub type TaskId = u64;

/// The largest number a task can have.
pub const LARGEST_ID: TaskId = u64::MAX >> 2;

/// Why something could not be done.
pub type PoolError<I> = weft_shm::QueueError<I>;
