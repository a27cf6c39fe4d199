//! Taking results off their queue, and waiting for them.

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;
use weft_pool::{Outcome, ResultTrailer};
use weft_wait::{Deadline, WaitError, wait_until};

use super::super::futures::FutureBase;
use super::super::result::AsyncResult;
use super::super::value::{self, Value};
use super::table::{Pending, Target};
use super::{Core, pool_error, with_message};
use crate::queue::parker::GilParker;

impl Core {
    /// The outcome of the task `id`. False if it is resolved already.
    pub(in crate::pool) fn resolve(&self, py: Python<'_>, id: u64, value: Value) -> bool {
        let Some(pending) = self.take(id) else { return false };
        self.deliver(py, &pending, value);
        true
    }

    /// Takes a task off the table. Whoever does has to deliver its outcome.
    fn take(&self, id: u64) -> Option<Pending> {
        self.table.lock().remove(id)
    }

    fn deliver(&self, py: Python<'_>, pending: &Pending, value: Value) {
        self.resolved.fetch_add(1, Ordering::Relaxed);
        if value.is_failure() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        match &pending.target {
            Target::Result(result, part) => AsyncResult::accept(result.bind(py), *part, value),
            Target::Stream(stream, number) => stream.bind(py).get().accept(*number, value),
            Target::Future(future) => FutureBase::accept(future.bind(py), value),
        }
    }

    /// Takes all results that came, and delivers them.
    pub(in crate::pool) fn collect(&self, py: Python<'_>) -> PyResult<()> {
        self.collect_beside(py, 0)
    }

    /// As [`Core::collect`], for a caller that is `own` of those that wait.
    pub(super) fn collect_beside(&self, py: Python<'_>, own: usize) -> PyResult<()> {
        // A process that was forked off has no claim to them.
        if !self.owner.has_result() || self.owner.is_inherited() {
            return Ok(());
        }
        with_message(|message| {
            let mut parker = GilParker::new(py);
            while let Some(received) = self.owner.collect(message, &mut parker).map_err(pool_error)? {
                let Some((trailer, body)) = ResultTrailer::split(message) else { continue };
                // No worker has it any more: that it was cancelled is of no interest.
                self.owner.resolved(trailer.id);
                self.reported.fetch_add(1, Ordering::Relaxed);
                if trailer.outcome == Outcome::Cancelled {
                    continue; // who cancelled it resolves it
                }
                // Before anything that may run Python code, and let the thread go on that looks what ended workers had in
                // their hands: this was done, and is reported.
                let pending = self.take(trailer.id);
                let raised = trailer.outcome == Outcome::Raised;
                let value = Value::of(py, raised, received.kind, body, received.spans);
                if let Some(pending) = pending {
                    self.deliver(py, &pending, value);
                }
            }
            if !self.held.lock().is_empty() {
                self.put_held(py)?;
            }
            if self.waiting.load(Ordering::Relaxed) > own {
                // Among what came may be what another thread waits for.
                self.owner.results_bell().ring_all();
            }
            Ok(())
        })
    }

    /// Waits until `done`, collecting. False if the deadline passed before.
    pub(in crate::pool) fn wait(
        &self,
        py: Python<'_>,
        deadline: Deadline,
        done: impl Fn() -> bool,
    ) -> PyResult<bool> {
        if done() {
            return Ok(true);
        }
        self.check_process()?;
        let _counted = Counted::new(&self.waiting);
        let mut parker = GilParker::new(py);
        let ready = || done() || self.owner.has_result();
        let has_more = || self.owner.has_result();
        let outcome = self.owner.results_bell().wait_until(&mut parker, deadline, ready, has_more, |_| {
            if let Err(error) = self.collect_beside(py, 1) {
                return Some(Err(error));
            }
            done().then_some(Ok(()))
        });
        match outcome {
            Ok(done) => done.map(|()| true),
            Err(WaitError::TimedOut) => Ok(false),
            Err(WaitError::Interrupted(error)) => Err(error),
        }
    }

    /// Waits at the bell until there is a result, or `called`, and takes nothing.
    pub(super) fn wait_for_result(
        &self,
        py: Python<'_>,
        deadline: Deadline,
        called: impl Fn() -> bool,
    ) -> PyResult<()> {
        let mut parker = GilParker::for_event(py);
        let ready = || called() || self.owner.has_result() || self.observed.load(Ordering::SeqCst) == 0;
        let signal = self.owner.results_bell().signal();
        match wait_until(signal, &mut parker, deadline, ready, |_| ready().then_some(())) {
            Err(WaitError::Interrupted(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// The failure of a future whose result cannot be unpickled.
    pub(in crate::pool) fn unreadable(&self, py: Python<'_>, error: PyErr) -> Py<PyAny> {
        let hook = self.on_unreadable.lock().as_ref().map(|hook| hook.clone_ref(py));
        match hook {
            None => value::unreadable(py, error),
            Some(hook) => match hook.call1(py, (error.into_value(py),)) {
                Ok(failure) => failure,
                Err(error) => error.into_value(py).into_any(),
            },
        }
    }
}

/// Counted as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
