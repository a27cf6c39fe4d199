//! The words that a pool's owner and its workers share.
//!
//! ```text
//! Board    tasks    bell: where workers wait
//!          results  bell: where those wait who want a result
//!          closed   no task will be put any more
//!          cancelled  numbers of tasks to skip
//!          slots    one for each worker
//! ```
//!
//! A slot belongs to one worker from the owner's [`Owner::open_slot`](crate::Owner) to its `close_slot`:
//!
//! | word | who writes | what |
//! |---|---|---|
//! | `order` | owner | what the worker shall do when its task is done |
//! | `interrupt` | owner | the task to be interrupted by the signal that follows |
//! | `task` | worker; owner by exchange | number and state of the task at hand |
//! | `position` | worker, whoever repairs | where it was taken from; 0: it was not |
//! | `began` | worker | when, in nanoseconds of the monotonic clock; before the first timed task, when it was ready for tasks |
//! | `done` | worker | how many tasks it has done |
//!
//! `task` keeps the last task's number when that is done: whether it is done, the results tell. Its states are
//!
//! ```text
//! TAKEN ──► RUNNING ──► DONE     the worker
//!   └──────────┴──► CANCELLED    the owner: it shall not begin, or, killed or not, do no other one
//! ```

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use weft_shm::queue::Ledger;
use weft_shm::{Arena, Carrier, Handle, ShmError};
use weft_wait::Bell;

use crate::cancelled::Cancelled;
use crate::trailer::TaskTrailer;

/// So many workers a pool can have at a time.
pub const MOST_WORKERS: usize = 480;

/// What a worker shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// Go on.
    Work = 0,
    /// End as soon as the task at hand is done.
    Leave = 1,
}

/// States of a task in a worker's hands, in the lower bits of `Slot::task`.
pub(crate) const TAKEN: u64 = 0;
pub(crate) const RUNNING: u64 = 1;
pub(crate) const CANCELLED: u64 = 2;
pub(crate) const DONE: u64 = 3;
pub(crate) const STATE: u64 = 3;

/// Which queue a position is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Line {
    Common = 0,
    Express = 1,
}

impl Line {
    /// What a slot says about the message number `position` of this queue.
    pub(crate) const fn position(self, position: u64) -> u64 {
        (position + 1) << 1 | self as u64
    }
}

#[repr(C, align(64))]
pub(crate) struct Slot {
    pub(crate) task: AtomicU64,
    pub(crate) position: AtomicU64,
    pub(crate) began: AtomicU64,
    pub(crate) done: AtomicU64,
    pub(crate) interrupt: AtomicU64,
    pub(crate) order: AtomicU32,
    /// Not 0 while a worker has it.
    pub(crate) in_use: AtomicU32,
}

impl Slot {
    /// The task that was taken, and its state, if one ever was.
    pub(crate) fn at_hand(&self) -> Option<(u64, u64)> {
        (self.position.load(Ordering::SeqCst) != 0).then(|| {
            let word = self.task.load(Ordering::SeqCst);
            (word >> 2, word & STATE)
        })
    }
}

#[repr(C)]
pub(crate) struct Board {
    pub(crate) tasks: Bell,
    pub(crate) results: Bell,
    pub(crate) closed: AtomicU32,
    pub(crate) cancelled: Cancelled,
    pub(crate) slots: [Slot; MOST_WORKERS],
}

/// The board in one process's hands.
pub(crate) struct Shared {
    carrier: Carrier,
}

impl Shared {
    pub(crate) fn create(arena: &Arc<Arena>) -> Result<Self, ShmError> {
        // Zeroed memory is a fresh board.
        Carrier::create(arena, size_of::<Board>(), |_| {}).map(|carrier| Self { carrier })
    }

    pub(crate) fn attach(arena: &Arc<Arena>, handle: Handle) -> Result<Self, ShmError> {
        Carrier::attach(arena, handle, size_of::<Board>()).map(|carrier| Self { carrier })
    }

    pub(crate) fn handle(&self) -> Handle {
        self.carrier.handle()
    }

    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        self.carrier.forks() != 0
    }

    #[inline]
    pub(crate) fn board(&self) -> &Board {
        let start: NonNull<Board> = self.carrier.start().cast();
        // SAFETY: at least this long and aligned to 64 by the carrier's contract, zeroed when it was made, all of it atomic,
        // and mapped for as long as the carrier lives.
        unsafe { start.as_ref() }
    }
}

/// Notes of what one worker takes from one queue.
pub(crate) struct Notes<'a> {
    pub(crate) board: &'a Board,
    pub(crate) slot: Option<&'a Slot>,
    pub(crate) line: Line,
}

impl Ledger for Notes<'_> {
    #[inline]
    fn note(&mut self, position: u64, body: &[u8]) {
        let (Some(slot), Some(id)) = (self.slot, TaskTrailer::id_of(body)) else { return };
        // Killed in between, it has nothing.
        slot.position.store(0, Ordering::Relaxed);
        slot.task.store(id << 2 | TAKEN, Ordering::Release);
        slot.position.store(self.line.position(position), Ordering::SeqCst);
    }

    fn forget(&mut self, position: u64) {
        let position = self.line.position(position);
        for slot in &self.board.slots {
            let _ = slot.position.compare_exchange(position, 0, Ordering::SeqCst, Ordering::Relaxed);
        }
    }
}

const _: () = assert!(size_of::<Board>() + Carrier::OVERHEAD <= 64 << 10);
