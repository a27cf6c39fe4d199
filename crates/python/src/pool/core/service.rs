//! What has to happen though nobody waits: the work of a thread of the pool's own.
//!
//! It is started with the first result that is *observed*: one that somebody wants to be told of. Such a result is counted
//! from before it can come until it has been told; when it comes it is *deferred* to this thread.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pyo3::prelude::*;
use weft_wait::{Deadline, WaitError, wait_until};

use super::super::futures::FutureBase;
use super::super::result::AsyncResult;
use super::Core;
use crate::queue::parker::GilParker;

/// What came and is to be told, by the service.
pub(super) enum Deferred {
    Result(Py<AsyncResult>),
    Future(Py<FutureBase>),
    /// So many calls of it are over, of so many.
    Progress(Py<AsyncResult>, usize, usize),
}

/// Values of `service_state`.
pub(super) const NEVER_ASKED: u32 = 0;
pub(super) const ASKED: u32 = 1;

/// How long the service leaves a stream to whoever reads it, before it looks whether anybody still does.
pub(super) const ABSENCE: Duration = Duration::from_millis(20);

impl Core {
    /// Says that a result is observed, before it is resolved: the service will be needed.
    pub(in crate::pool) fn observe(&self, py: Python<'_>) -> PyResult<()> {
        self.observed.fetch_add(1, Ordering::SeqCst);
        self.call_service(py).inspect_err(|_| self.unobserve())
    }

    /// Takes [`Core::observe`] back.
    pub(in crate::pool) fn unobserve(&self) {
        self.observed.fetch_sub(1, Ordering::SeqCst);
        self.owner.results_bell().ring_all();
    }

    /// A result that is observed has come.
    pub(in crate::pool) fn defer(&self, py: Python<'_>, result: Py<AsyncResult>) {
        self.defer_any(py, Deferred::Result(result));
    }

    /// A watched future is over.
    pub(in crate::pool) fn defer_future(&self, py: Python<'_>, future: Py<FutureBase>) {
        self.defer_any(py, Deferred::Future(future));
    }

    /// More of a result that is observed has come.
    pub(in crate::pool) fn defer_progress(&self, result: Py<AsyncResult>, over: usize, calls: usize) {
        // Counted for itself: nothing is idle before it is told. The service runs since the result is observed.
        self.observed.fetch_add(1, Ordering::SeqCst);
        self.deferred.lock().push_back(Deferred::Progress(result, over, calls));
        self.service.raise_all();
        self.owner.results_bell().ring_all();
    }

    fn defer_any(&self, py: Python<'_>, deferred: Deferred) {
        self.deferred.lock().push_back(deferred);
        // A thread that cannot be started has been told of when the result was asked for.
        let _ = self.call_service(py);
    }

    /// Has the service look around.
    pub(in crate::pool) fn call_service(&self, py: Python<'_>) -> PyResult<()> {
        if self.service_state.swap(ASKED, Ordering::SeqCst) == NEVER_ASKED {
            let start = self.start_service.lock().as_ref().map(|start| start.clone_ref(py));
            if let Some(start) = start
                && let Err(error) = start.call0(py)
            {
                self.service_state.store(NEVER_ASKED, Ordering::SeqCst);
                return Err(error);
            }
        }
        self.service.raise_all();
        self.owner.results_bell().ring_all();
        Ok(())
    }

    /// Runs the callbacks of results that came.
    pub(super) fn run_deferred(&self, py: Python<'_>) {
        loop {
            let next = self.deferred.lock().pop_front();
            match next {
                None => break,
                Some(Deferred::Result(result)) => AsyncResult::complete(result.bind(py)),
                Some(Deferred::Future(future)) => FutureBase::complete(future.bind(py)),
                Some(Deferred::Progress(result, over, calls)) => {
                    AsyncResult::tell(result.bind(py), over, calls);
                }
            }
            self.unobserve();
        }
    }

    /// Run what has to be done though nobody waits, until `stop`.
    pub(super) fn run_service(&self, py: Python<'_>) -> PyResult<()> {
        while !self.stopped.load(Ordering::Acquire) {
            let collected = self.collect(py);
            self.run_deferred(py); // after a failure, too: what came is told
            collected?;
            let reads = self.reads.load(Ordering::Relaxed);
            let has_streams = self.has_unfed_eager();
            if has_streams {
                self.feed_streams(py);
            }
            let has_deferred = || !self.deferred.lock().is_empty() || self.stopped.load(Ordering::Acquire);
            // Somebody else collects as long as somebody reads.
            let absent = |deadline| {
                let mut parker = GilParker::for_event(py);
                let outcome = wait_until(&self.service, &mut parker, deadline, has_deferred, |_| {
                    (has_deferred()
                        || (!has_streams && self.observed.load(Ordering::SeqCst) > 0)
                        || (!has_streams && self.has_unfed_eager()))
                    .then_some(())
                });
                match outcome {
                    Err(WaitError::Interrupted(error)) => Err(error),
                    _ => Ok(()),
                }
            };
            if self.observed.load(Ordering::SeqCst) > 0 {
                self.wait_for_result(py, Deadline::NEVER, has_deferred)?;
            } else if has_streams {
                absent(Deadline::after(ABSENCE))?;
                if self.reads.load(Ordering::Relaxed) == reads {
                    self.wait_for_result(py, Deadline::after(ABSENCE), has_deferred)?;
                }
            } else {
                absent(Deadline::NEVER)?;
            }
        }
        // What came last of all.
        self.run_deferred(py);
        Ok(())
    }
}
