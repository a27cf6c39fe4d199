//! The side of the process that has the pool.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use weft_shm::robust::RobustMutex;
use weft_shm::{Arena, Queue, Received, ShmError, Span};
use weft_wait::{Bell, Parker};

use crate::board::{CANCELLED, DONE, Line, MOST_WORKERS, Notes, Order, RUNNING, Shared, TAKEN};
use crate::trailer::TaskTrailer;
use crate::{Handles, PoolError, TaskId};

/// A result, whose message is in the buffer that was given.
pub type Collected = Received<RobustMutex>;

/// What came of cancelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Cancelling {
    /// No worker will do it. One may report that it skipped it.
    Done,
    /// A worker is doing it, the one at this slot, or has done it and is about to say so.
    Running(usize),
    /// There is no room to note it: [take the tasks back](Owner::take_back), and put those again that shall be done.
    NoRoom,
}

/// A task that a worker has, or had, in its hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InHand {
    /// Its number. It may be done.
    pub id: TaskId,
    /// Whether it was begun.
    pub begun: bool,
}

/// The owner's hands. All methods are for one process; its threads use them in turn.
pub struct Owner {
    express: Queue,
    common: Queue,
    results: Queue,
    shared: Shared,
}

impl Owner {
    /// A pool without workers.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had.
    pub fn create(arena: &Arc<Arena>) -> Result<Self, ShmError> {
        Ok(Self {
            express: Queue::create(arena, 0)?,
            common: Queue::create(arena, 0)?,
            results: Queue::create(arena, 0)?,
            shared: Shared::create(arena)?,
        })
    }

    /// What workers need to attach.
    pub fn handles(&self) -> Handles {
        Handles {
            express: self.express.handle(),
            common: self.common.handle(),
            results: self.results.handle(),
            board: self.shared.handle(),
        }
    }

    /// Whether this process is the child of a fork of the owner, and not the owner.
    #[inline]
    pub fn is_inherited(&self) -> bool {
        self.shared.is_inherited()
    }

    /// The arena where tasks go.
    pub fn arena(&self) -> &Arc<Arena> {
        self.common.arena()
    }

    /// The queue of common tasks.
    pub const fn common(&self) -> &Queue {
        &self.common
    }

    /// Where those wait who want a result.
    pub fn results_bell(&self) -> &Bell {
        &self.shared.board().results
    }

    // --- tasks ---------------------------------------------------------------------------------------------------

    /// Puts a task; `message` ends with a [`TaskTrailer`].
    ///
    /// # Errors
    ///
    /// [`PoolError::Memory`] or [`PoolError::Interrupted`]: it was not put then, and the spans are still the caller's.
    pub fn post<P: Parker>(
        &self,
        express: bool,
        kind: u8,
        message: &[u8],
        spans: &mut Vec<Span<RobustMutex>>,
        parker: &mut P,
    ) -> Result<(), PoolError<P::Interrupt>> {
        let queue = if express { &self.express } else { &self.common };
        queue.put_quietly(kind, message, spans, parker)?;
        self.shared.board().tasks.ring();
        Ok(())
    }

    /// How many tasks no worker has taken: in the express queue, and in the common one.
    pub fn waiting(&self) -> (u64, u64) {
        (self.express.len(), self.common.len())
    }

    /// Takes a task back that no worker has taken: the next one, of the common queue first.
    ///
    /// # Errors
    ///
    /// [`PoolError`].
    pub fn take_back<P: Parker>(
        &self,
        express: bool,
        body: &mut Vec<u8>,
        parker: &mut P,
    ) -> Result<Option<(TaskId, Collected)>, PoolError<P::Interrupt>> {
        let (queue, line) =
            if express { (&self.express, Line::Express) } else { (&self.common, Line::Common) };
        // As a consumer without a slot: it has to know what to forget.
        let mut notes = Notes { board: self.shared.board(), slot: None, line };
        let received = queue.try_get_noted(body, &mut notes, parker)?;
        Ok(received.and_then(|received| TaskTrailer::id_of(body).map(|id| (id, received))))
    }

    /// Lets no worker begin the task `id`, if none has.
    pub fn cancel(&self, id: TaskId) -> Cancelling {
        let board = self.shared.board();
        if !board.cancelled.add(id) {
            return Cancelling::NoRoom;
        }
        for (index, slot) in board.slots.iter().enumerate() {
            if slot.in_use.load(Ordering::Relaxed) == 0 || slot.at_hand().is_none_or(|(task, _)| task != id) {
                continue;
            }
            let (taken, cancelled) = (id << 2 | TAKEN, id << 2 | CANCELLED);
            let exchanged = slot.task.compare_exchange(taken, cancelled, Ordering::SeqCst, Ordering::SeqCst);
            if exchanged.is_err_and(|now| now == (id << 2 | RUNNING) || now == (id << 2 | DONE)) {
                board.cancelled.remove(id);
                return Cancelling::Running(index);
            }
        }
        Cancelling::Done
    }

    /// Says that the task `id` is resolved: nobody need know any more that it was cancelled.
    pub fn resolved(&self, id: TaskId) {
        self.shared.board().cancelled.remove(id);
    }

    /// Whether a worker has begun the task `id`, and not reported it as far as is known.
    pub fn is_running(&self, id: TaskId) -> bool {
        let in_use = |slot: &&crate::board::Slot| slot.in_use.load(Ordering::Relaxed) != 0;
        let mut slots = self.shared.board().slots.iter().filter(in_use);
        slots.any(|slot| slot.at_hand().is_some_and(|(task, state)| task == id && state != TAKEN))
    }

    /// Whether a result can be collected.
    #[inline]
    pub fn has_result(&self) -> bool {
        !self.results.is_empty()
    }

    /// How many results can be collected.
    pub fn results_waiting(&self) -> u64 {
        self.results.len()
    }

    /// Collects a result, if there is one; its message replaces what is in `body`.
    ///
    /// # Errors
    ///
    /// [`PoolError`].
    pub fn collect<P: Parker>(
        &self,
        body: &mut Vec<u8>,
        parker: &mut P,
    ) -> Result<Option<Collected>, PoolError<P::Interrupt>> {
        self.results.try_get(body, parker)
    }

    // --- workers ---------------------------------------------------------------------------------------------------

    /// A place for a new worker, `None` if there are [`MOST_WORKERS`].
    pub fn open_slot(&self) -> Option<usize> {
        let slots = &self.shared.board().slots;
        let index = (0..MOST_WORKERS).find(|&index| slots[index].in_use.load(Ordering::Relaxed) == 0)?;
        let slot = &slots[index];
        slot.position.store(0, Ordering::Relaxed);
        slot.task.store(0, Ordering::Relaxed);
        slot.began.store(0, Ordering::Relaxed);
        slot.done.store(0, Ordering::Relaxed);
        slot.interrupt.store(0, Ordering::Relaxed);
        slot.order.store(Order::Work as u32, Ordering::Relaxed);
        slot.in_use.store(1, Ordering::Release);
        Some(index)
    }

    /// Puts in order what workers that died left in the queues. Afterwards the slots of the dead are true.
    ///
    /// # Errors
    ///
    /// [`PoolError::Interrupted`], or [`PoolError::Memory`].
    pub fn settle<P: Parker>(&self, parker: &mut P) -> Result<(), PoolError<P::Interrupt>> {
        for (queue, line) in [(&self.express, Line::Express), (&self.common, Line::Common)] {
            queue.settle(&mut Notes { board: self.shared.board(), slot: None, line }, parker)?;
        }
        Ok(())
    }

    /// The task that the worker of a slot took last.
    pub fn in_hand(&self, slot: usize) -> Option<InHand> {
        let slot = self.shared.board().slots.get(slot)?;
        slot.at_hand().map(|(id, state)| InHand { id, begun: state != TAKEN })
    }

    /// The worker of this slot has ended, and its task was dealt with: another one can have the place.
    pub fn close_slot(&self, slot: usize) {
        if let Some(slot) = self.shared.board().slots.get(slot) {
            slot.position.store(0, Ordering::Relaxed);
            slot.in_use.store(0, Ordering::Release);
        }
        // It may have been on the lookout, or have used up a wake-up.
        self.wake_all();
    }

    /// Whether the worker of a slot has ever been ready for tasks.
    pub fn has_arrived(&self, slot: usize) -> bool {
        self.shared.board().slots.get(slot).is_some_and(|slot| slot.began.load(Ordering::Acquire) != 0)
    }

    /// How many tasks the worker of a slot has done.
    pub fn done(&self, slot: usize) -> u64 {
        self.shared.board().slots.get(slot).map_or(0, |slot| slot.done.load(Ordering::Relaxed))
    }

    /// When the worker of a slot began the timed task `id`, in nanoseconds of the monotonic clock; `None` if it is not at it.
    pub fn began(&self, slot: usize, id: TaskId) -> Option<u64> {
        let slot = self.shared.board().slots.get(slot)?;
        let runs = || slot.at_hand() == Some((id, RUNNING));
        // Before: that of an earlier task it would be otherwise. And after, because it may be that of a later one.
        let began = runs().then(|| slot.began.load(Ordering::Acquire));
        began.filter(|_| runs())
    }

    /// Lets the worker of a slot do no other task after `id`, which it is doing. False if it has done it.
    ///
    /// So the worker can be killed for that task, and no other one is in its hands by then.
    pub fn condemn(&self, slot: usize, id: TaskId) -> bool {
        let Some(slot) = self.shared.board().slots.get(slot) else { return false };
        let (running, cancelled) = (id << 2 | RUNNING, id << 2 | CANCELLED);
        let exchanged = slot.task.compare_exchange(running, cancelled, Ordering::SeqCst, Ordering::SeqCst);
        exchanged.is_ok() || exchanged == Err(cancelled)
    }

    /// Notes that the signal that follows is meant for the task `id`.
    pub fn interrupt(&self, slot: usize, id: TaskId) {
        if let Some(slot) = self.shared.board().slots.get(slot) {
            slot.interrupt.store(id + 1, Ordering::SeqCst);
        }
    }

    /// Has the worker of a slot end when its task is done.
    pub fn dismiss(&self, slot: usize) {
        if let Some(slot) = self.shared.board().slots.get(slot) {
            slot.order.store(Order::Leave as u32, Ordering::Release);
        }
        self.wake_all();
    }

    /// Says that no task will be put any more: workers that find none end.
    pub fn close(&self) {
        self.shared.board().closed.store(1, Ordering::SeqCst);
        self.wake_all();
    }

    /// Takes [`close`](Self::close) back: there will be tasks all the same. Workers that have ended by then have ended.
    pub fn reopen(&self) {
        self.shared.board().closed.store(0, Ordering::SeqCst);
    }

    /// Wakes all workers, and all that wait for results.
    pub fn wake_all(&self) {
        self.shared.board().tasks.ring_all();
        self.shared.board().results.ring_all();
    }
}
