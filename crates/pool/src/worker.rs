//! The worker's side.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use weft_shm::robust::RobustMutex;
use weft_shm::{Arena, Queue, Received, ShmError, Span};
use weft_sys::clock;
use weft_wait::{Deadline, Parker, WaitError};

use crate::board::{CANCELLED, DONE, Line, Notes, Order, RUNNING, Shared, Slot, TAKEN};
use crate::trailer::{Outcome, ResultTrailer};
use crate::{Handles, PoolError, TaskId};

/// What a worker got.
#[derive(Debug)]
pub enum Taken {
    /// A task, whose message is in the buffer that was given.
    Task(Received<RobustMutex>),
    /// There are no tasks, and will be none.
    Over,
    /// The owner wants it to end.
    Dismissed,
}

/// One worker's hands.
pub struct Worker {
    express: Queue,
    common: Queue,
    results: Queue,
    shared: Shared,
    slot: usize,
}

impl Worker {
    /// Attaches to a pool, at the slot that its owner opened for this worker.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if the pool has ended, [`ShmError::Damaged`] if there is no such slot.
    pub fn attach(arena: &Arc<Arena>, handles: Handles, slot: usize) -> Result<Self, ShmError> {
        let worker = Self {
            express: Queue::attach(arena, handles.express)?,
            common: Queue::attach(arena, handles.common)?,
            results: Queue::attach(arena, handles.results)?,
            shared: Shared::attach(arena, handles.board)?,
            slot,
        };
        if slot < worker.shared.board().slots.len() {
            Ok(worker)
        } else {
            Err(ShmError::Damaged { what: "a pool has no such place for a worker" })
        }
    }

    /// The arena where results go.
    pub fn arena(&self) -> &Arc<Arena> {
        self.results.arena()
    }

    /// The queue of results.
    pub const fn results(&self) -> &Queue {
        &self.results
    }

    fn slot(&self) -> &Slot {
        &self.shared.board().slots[self.slot]
    }

    /// Says that this worker is ready for tasks.
    pub fn arrive(&self) {
        self.slot().began.store(clock::monotonic().max(1), Ordering::Release);
    }

    /// Takes a task, waiting for it until `deadline`.
    ///
    /// # Errors
    ///
    /// [`PoolError::TimedOut`], [`PoolError::Interrupted`] or [`PoolError::Memory`].
    pub fn take<P: Parker>(
        &self,
        body: &mut Vec<u8>,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<Taken, PoolError<P::Interrupt>> {
        if let Some(outcome) = self.attempt(body, parker) {
            return outcome;
        }
        let board = self.shared.board();
        let has_task = || !self.common.is_empty() || !self.express.is_empty();
        let ready = || has_task() || self.is_over() || self.is_dismissed();
        let outcome =
            board.tasks.wait_until(parker, deadline, ready, has_task, |parker| self.attempt(body, parker));
        outcome.map_err(|error| match error {
            WaitError::TimedOut => PoolError::TimedOut,
            WaitError::Interrupted(interrupt) => PoolError::Interrupted(interrupt),
        })?
    }

    fn is_over(&self) -> bool {
        self.shared.board().closed.load(Ordering::Acquire) != 0
    }

    /// Whether the owner wants this worker to end.
    pub fn is_dismissed(&self) -> bool {
        self.slot().order.load(Ordering::Acquire) == Order::Leave as u32
    }

    fn attempt<P: Parker>(
        &self,
        body: &mut Vec<u8>,
        parker: &mut P,
    ) -> Option<Result<Taken, PoolError<P::Interrupt>>> {
        if self.is_dismissed() {
            return Some(Ok(Taken::Dismissed));
        }
        // Looked at first: what was put before it closed is seen after.
        let over = self.is_over();
        for (queue, line) in [(&self.express, Line::Express), (&self.common, Line::Common)] {
            if line == Line::Express && queue.is_empty() {
                continue;
            }
            let mut notes = Notes { board: self.shared.board(), slot: Some(self.slot()), line };
            match queue.try_get_noted(body, &mut notes, parker) {
                Ok(None) => {}
                Ok(Some(received)) => return Some(Ok(Taken::Task(received))),
                Err(error) => return Some(Err(error)),
            }
        }
        over.then_some(Ok(Taken::Over))
    }

    /// Begins the task `id` that was taken; false if it was cancelled, which is to be [reported](Self::report).
    #[must_use]
    pub fn begin(&self, id: TaskId, timed: bool) -> bool {
        let slot = self.slot();
        if timed {
            slot.began.store(clock::monotonic(), Ordering::Release);
        }
        let (taken, running) = (id << 2 | TAKEN, id << 2 | RUNNING);
        if self.shared.board().cancelled.has(id) {
            let skipped = id << 2 | CANCELLED;
            let _ = slot.task.compare_exchange(taken, skipped, Ordering::SeqCst, Ordering::Relaxed);
            return false;
        }
        slot.task.compare_exchange(taken, running, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Says that the task `id` has been done, before it is [reported](Self::report). False if the owner was quicker to
    /// want it stopped: the worker ends then, without a report.
    #[must_use]
    pub fn finish(&self, id: TaskId) -> bool {
        let (running, done) = (id << 2 | RUNNING, id << 2 | DONE);
        self.slot().task.compare_exchange(running, done, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// An interrupting signal came: the task that the owner sent it for, if it did. Asked once for each.
    pub fn interrupted(&self) -> Option<TaskId> {
        self.slot().interrupt.swap(0, Ordering::SeqCst).checked_sub(1)
    }

    /// Reports how the task `id` ended; `body` and `kind` are its value.
    ///
    /// # Errors
    ///
    /// [`PoolError::Memory`] if there is no room for it, [`PoolError::Interrupted`].
    pub fn report<P: Parker>(
        &self,
        id: TaskId,
        outcome: Outcome,
        kind: u8,
        body: &mut Vec<u8>,
        spans: &mut Vec<Span<RobustMutex>>,
        parker: &mut P,
    ) -> Result<(), PoolError<P::Interrupt>> {
        let length = body.len();
        ResultTrailer { id, outcome }.append(body);
        let posted = self.results.put_quietly(kind, body, spans, parker);
        body.truncate(length);
        posted?;
        let done = &self.slot().done;
        done.store(done.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.shared.board().results.ring();
        Ok(())
    }
}
