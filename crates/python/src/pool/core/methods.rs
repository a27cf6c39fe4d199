//! The pool's core as its face has it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use weft_pool::Owner;
use weft_wait::Signal;

use super::super::futures::FutureBase;
use super::super::result::AsyncResult;
use super::super::value::Value;
use super::service::NEVER_ASKED;
use super::table::Target;
use super::workers::Known;
use super::{CLOSE, Core, RUN, state_named};
use crate::queue::arenas::{own_arena, shm_error};

#[pymethods]
impl Core {
    /// A pool without workers. `start_service` is called, once, when a thread is needed that runs `serve`, `call_workers` when
    /// a task was put and workers are `missing`.
    #[new]
    fn new(py: Python<'_>, start_service: Py<PyAny>, call_workers: Py<PyAny>) -> PyResult<Self> {
        let arena = own_arena(py)?;
        Ok(Self {
            owner: Owner::create(&arena).map_err(shm_error)?,
            pid: std::process::id(),
            references: Mutex::default(),
            table: Mutex::default(),
            held: Mutex::default(),
            turns: AtomicU64::new(0),
            deferred: Mutex::default(),
            observed: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            streams: Mutex::default(),
            lazy: Mutex::default(),
            unfed_lazy: AtomicUsize::new(0),
            reads: AtomicU64::new(0),
            service: Signal::new(),
            service_state: AtomicU32::new(NEVER_ASKED),
            state: AtomicU8::new(RUN),
            size: AtomicUsize::new(0),
            retries: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            joined: AtomicBool::new(false),
            missing: AtomicUsize::new(0),
            retried: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            resolved: AtomicU64::new(0),
            put: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            start_service: Mutex::new(Some(start_service)),
            broken: Mutex::default(),
            call_workers: Mutex::new(Some(call_workers)),
            on_unreadable: Mutex::default(),
            refuses_unpicklable: AtomicBool::new(false),
        })
    }

    /// What a worker needs: the arena's id, and place and generation of the express, common and result queues and the board.
    fn handles(&self) -> (u64, [(u32, u64); 4]) {
        let handles = self.owner.handles();
        let of = |handle: weft_shm::Handle| (handle.unit, handle.generation);
        let all = [of(handles.express), of(handles.common), of(handles.results), of(handles.board)];
        (self.owner.arena().id(), all)
    }

    /// Have the thread that runs `serve` started, if it is not. Raises what starting it raises.
    fn ready_service(&self, py: Python<'_>) -> PyResult<()> {
        self.call_service(py)
    }

    /// Run what has to be done though nobody waits, until `stop`.
    fn serve(&self, py: Python<'_>) -> PyResult<()> {
        self.run_service(py)
    }

    /// End `serve`.
    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.service.raise_all();
        self.owner.wake_all();
    }

    /// How many tasks are not resolved.
    fn outstanding(&self) -> usize {
        self.table.lock().count
    }

    /// How many tasks no worker has taken.
    fn queued(&self) -> u64 {
        let (express, common) = self.owner.waiting();
        express + common + self.held.lock().len() as u64
    }

    /// How many tasks were put that no worker has reported anything of, those counted that could not be sent.
    fn unanswered(&self) -> u64 {
        self.put.load(Ordering::Relaxed).saturating_sub(self.reported.load(Ordering::Relaxed))
    }

    /// How many tasks were resolved, how many of these failed, and how often one was put again.
    fn counts(&self) -> (u64, u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.resolved), of(&self.failed), of(&self.retried))
    }

    /// Say how many workers there could be more, if there were tasks for them.
    #[setter(missing)]
    fn set_missing(&self, missing: usize) {
        self.missing.store(missing, Ordering::Relaxed);
    }

    #[getter(missing)]
    fn get_missing(&self) -> usize {
        self.missing.load(Ordering::Relaxed)
    }

    /// Have `hook` called with the reason when the result of a future cannot be unpickled; it makes the failure.
    #[setter(on_unreadable)]
    fn set_on_unreadable(&self, hook: Py<PyAny>) {
        let before = self.on_unreadable.lock().replace(hook);
        drop(before);
    }

    /// Say whether tasks are taken: "RUN", "CLOSE" or "TERMINATE".
    #[setter(state)]
    pub(in crate::pool) fn set_state_name(&self, name: &str) -> PyResult<()> {
        self.state.store(state_named(name)?, Ordering::SeqCst);
        Ok(())
    }

    #[getter(state)]
    pub(in crate::pool) fn get_state_name(&self) -> &'static str {
        match self.state.load(Ordering::Relaxed) {
            RUN => "RUN",
            CLOSE => "CLOSE",
            _ => "TERMINATE",
        }
    }

    /// Let go of the callables: nothing will be started any more.
    fn forget_callers(&self) {
        let before = (
            self.start_service.lock().take(),
            self.call_workers.lock().take(),
            self.on_unreadable.lock().take(),
        );
        drop(before);
    }

    /// Whether something remains to be done: a task is not resolved, a stream not fed, or a callback not called.
    fn is_busy(&self) -> bool {
        self.has_work() || self.observed.load(Ordering::SeqCst) > 0
    }

    /// Whether there is, or will be, something for workers: a task is not resolved, or a stream not fed.
    fn has_work(&self) -> bool {
        self.table.lock().count > 0 || self.has_unfed()
    }

    /// Wait until `is_busy` is false; False if `timeout` seconds passed before.
    #[pyo3(signature = (timeout = None))]
    fn wait_idle(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = crate::queue::parker::deadline(true, timeout);
        self.hurry_streams(py)?;
        self.wait(py, deadline, || !self.is_busy())
    }

    /// Collect what came.
    fn collect_results(&self, py: Python<'_>) -> PyResult<()> {
        self.collect(py)
    }

    /// Say how many workers the pool has, which chunk sizes are made of.
    #[setter(size)]
    pub(in crate::pool) fn set_size(&self, size: usize) {
        self.size.store(size, Ordering::Relaxed);
    }

    #[getter(size)]
    pub(in crate::pool) fn get_size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Say how often a task is done again whose worker died, if its caller did not.
    #[setter(retries)]
    fn set_retries(&self, retries: u32) {
        self.retries.store(retries, Ordering::Relaxed);
    }

    #[getter(retries)]
    pub(in crate::pool) fn get_retries(&self) -> u32 {
        self.retries.load(Ordering::Relaxed)
    }

    // --- workers -----------------------------------------------------------------------------------------------

    /// A place for a new worker; RuntimeError if there are as many as can be.
    fn open_slot(&self) -> PyResult<usize> {
        self.check_process()?;
        self.owner.open_slot().ok_or_else(|| {
            PyRuntimeError::new_err(format!(
                "a pool cannot have more than {} workers",
                weft_pool::MOST_WORKERS
            ))
        })
    }

    /// The worker of this slot has ended. Returns the unresolved task it had in its hands, if any: its number, how often it
    /// may be done again, and how often it was.
    fn worker_ended(&self, py: Python<'_>, slot: usize) -> PyResult<Option<(u64, u32, u32)>> {
        self.settle_worker(py, slot)
    }

    /// The place of a worker that ended, and whose task was dealt with, is free.
    fn close_slot(&self, slot: usize) {
        self.owner.close_slot(slot);
    }

    /// Put the task again. False if it is resolved, or there is nothing to put.
    fn retry(&self, py: Python<'_>, id: u64) -> PyResult<bool> {
        self.put_again(py, id)
    }

    /// The task fails with `error`. False if it is resolved already.
    fn fail(&self, py: Python<'_>, id: u64, error: Py<PyAny>) -> bool {
        let failed = self.resolve(py, id, Value::Failed(error));
        self.owner.results_bell().ring_all();
        failed
    }

    /// All tasks that are not resolved fail; `make` makes the exception of each from its function.
    ///
    /// No task is taken any more.
    fn fail_all(&self, py: Python<'_>, make: &Bound<'_, PyAny>) -> PyResult<()> {
        self.fail_unresolved(py, make)
    }

    /// Take no more tasks, if all are resolved. False if they are not.
    fn seal(&self) -> bool {
        let mut table = self.table.lock();
        table.sealed |= table.count == 0;
        table.sealed
    }

    /// Whether no task is taken any more, and why: what `broken` was set to.
    #[setter(broken)]
    fn set_broken(&self, error: Py<PyAny>) {
        let before = self.broken.lock().replace(error);
        drop(before);
    }

    /// RuntimeError in a process that was forked off the owner.
    fn check(&self) -> PyResult<()> {
        self.check_process()
    }

    /// Take back the tasks that no worker has taken, as cancelled, but for the first `kept`.
    fn cancel_queued(&self, py: Python<'_>, kept: usize) -> PyResult<()> {
        self.withdraw_queued(py, kept)
    }

    /// The futures that are not resolved, by the number of the task.
    fn futures(&self, py: Python<'_>) -> Vec<(u64, Py<FutureBase>)> {
        let table = self.table.lock();
        let futures = table.unresolved().filter_map(|(id, pending)| match &pending.target {
            Target::Future(future) => Some((id, future.clone_ref(py))),
            _ => None,
        });
        futures.collect()
    }

    /// Keep the task from being begun. Returns None if no worker will do it, the slot of the worker that does it, or -1
    /// if it is resolved. Who cancels a task has to resolve it.
    fn cancel(&self, py: Python<'_>, id: u64) -> PyResult<Option<i64>> {
        self.cancel_task(py, id)
    }

    /// Let the worker of a slot end when its task is done.
    fn dismiss(&self, slot: usize) {
        self.owner.dismiss(slot);
    }

    /// The number of the task that a worker has begun and not finished, as far as is known.
    fn running(&self, py: Python<'_>, slot: usize) -> PyResult<Option<u64>> {
        self.running_at(py, slot)
    }

    /// The number of the task that a worker took last, as far as is known; it may be done.
    fn at_hand(&self, slot: usize) -> Option<u64> {
        self.owner.in_hand(slot).map(|at_hand| at_hand.id)
    }

    /// Whether the worker of a slot has ever been ready for tasks.
    fn has_arrived(&self, slot: usize) -> bool {
        self.owner.has_arrived(slot)
    }

    /// How many tasks the worker of a slot has done.
    fn done(&self, slot: usize) -> u64 {
        self.owner.done(slot)
    }

    /// Let the worker do no other task after this one. False if it has done it.
    fn condemn(&self, slot: usize, id: u64) -> bool {
        self.owner.condemn(slot, id)
    }

    /// Note that the signal that is sent to the worker next is meant for this task.
    fn mark_interrupted(&self, slot: usize, id: u64) {
        self.owner.interrupt(slot, id);
    }

    /// The unresolved tasks with a limit on their time: number, and how many seconds are left at the earliest.
    ///
    /// A task that waits has all of its time left. `slots` are those of the living workers.
    fn time_left(&self, slots: Vec<usize>) -> Vec<(u64, Option<usize>, f64)> {
        self.limits(&slots)
    }

    /// The seconds that an unresolved task may run.
    fn limit_of(&self, id: u64) -> Option<f64> {
        self.limit(id)
    }

    /// What is known of an unresolved task: its function, its arguments if they are plain, and which items of an iterable it is
    /// of, the first one and how many.
    fn known_of(&self, py: Python<'_>, id: u64) -> Option<Known> {
        self.described(py, id)
    }

    /// The numbers of the unresolved tasks of a result.
    fn tasks_of(&self, result: &Bound<'_, AsyncResult>) -> Vec<u64> {
        let table = self.table.lock();
        let mine = |target: &Target| matches!(target, Target::Result(of, _) if of.is(result));
        table.unresolved().filter(|(_, pending)| mine(&pending.target)).map(|(id, _)| id).collect()
    }

    /// Have a task that cannot be pickled refused where it is put, by `weft.UnpicklableError`.
    fn refuse_unpicklable(&self) {
        self.refuses_unpicklable.store(true, Ordering::Relaxed);
    }

    /// Let workers end that find no task, as soon as all streams are fed.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process()?;
        self.closing.store(true, Ordering::SeqCst);
        self.close_if_fed();
        if self.has_unfed_eager() { self.call_service(py) } else { Ok(()) }
    }

    /// Wake all that wait for anything.
    fn wake(&self) {
        self.owner.wake_all();
    }
}
