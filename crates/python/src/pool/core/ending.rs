//! Tasks that end before their time: cancelled, taken back, failed with the pool.

use std::sync::atomic::Ordering;

use pyo3::prelude::*;
use weft_pool::Cancelling;

use super::super::futures::FutureBase;
use super::super::value::Value;
use super::table::Target;
use super::{Core, pool_error, with_message};
use crate::queue::parker::GilParker;

impl Core {
    /// All tasks that are not resolved fail; `make` makes the exception of each from its function.
    ///
    /// No task is taken any more.
    pub(super) fn fail_unresolved(&self, py: Python<'_>, make: &Bound<'_, PyAny>) -> PyResult<()> {
        self.table.lock().sealed = true;
        let fed: Vec<_> = std::mem::take(&mut *self.streams.lock());
        for stream in &fed {
            stream.get().end(make)?;
        }
        for stream in self.take_lazy_streams(py)? {
            stream.get().end(make)?;
        }
        let held = std::mem::take(&mut *self.held.lock());
        self.observed.fetch_sub(held.len(), Ordering::SeqCst);
        drop(held);
        let ids: Vec<u64> = self.table.lock().unresolved().map(|(id, _)| id).collect();
        for id in ids {
            let function = self.table.lock().get(id).map(|pending| pending.function.clone_ref(py));
            let Some(function) = function else { continue };
            let error = make.call1((function,))?;
            self.resolve(py, id, Value::Failed(error.unbind()));
        }
        self.owner.results_bell().ring_all();
        Ok(())
    }

    /// Take back the tasks that no worker has taken, as cancelled, but for the first `kept`.
    pub(super) fn withdraw_queued(&self, py: Python<'_>, kept: usize) -> PyResult<()> {
        let mut withdrawn = Vec::new();
        let mut again = Vec::new();
        // What was taken back is nobody else's to know: a failure is told when all of it has been dealt with.
        let mut outcome = Ok(());
        for express in [true, false] {
            let taken = with_message(|message| {
                let mut parker = GilParker::deaf(py);
                while let Some((id, received)) =
                    self.owner.take_back(express, message, &mut parker).map_err(pool_error)?
                {
                    if again.len() < kept && self.table.lock().get(id).is_some() {
                        again.push((id, express, message.clone(), received));
                    } else {
                        self.owner.resolved(id);
                        withdrawn.extend(self.table.lock().remove(id));
                    }
                }
                Ok(())
            });
            outcome = outcome.and(taken);
        }
        for (id, express, message, mut received) in again {
            let mut parker = GilParker::deaf(py);
            let posted = self.owner.post(express, received.kind, &message, &mut received.spans, &mut parker);
            if let Err(error) = posted {
                self.resolve(py, id, Value::Failed(pool_error(error).into_value(py).into_any()));
            }
        }
        for pending in withdrawn {
            if let Target::Future(future) = &pending.target {
                outcome = outcome.and(FutureBase::withdrawn(future.bind(py)).map(drop));
            }
        }
        outcome
    }

    /// Keep the task from being begun. Returns None if no worker will do it, the slot of the worker that does it, or -1
    /// if it is resolved. Who cancels a task has to resolve it.
    pub(in crate::pool) fn cancel_task(&self, py: Python<'_>, id: u64) -> PyResult<Option<i64>> {
        self.check_process()?;
        loop {
            self.collect(py)?;
            if self.table.lock().get(id).is_none() {
                return Ok(Some(-1));
            }
            match self.owner.cancel(id) {
                Cancelling::Running(slot) => return Ok(Some(slot as i64)),
                Cancelling::Done => {
                    // A result that came meanwhile counts.
                    self.collect(py)?;
                    let resolved = self.table.lock().get(id).is_none();
                    return Ok(resolved.then_some(-1));
                }
                Cancelling::NoRoom => self.sort_out(py)?,
            }
        }
    }

    /// Takes all tasks out of the queues and puts those again that were not cancelled, in their order: the table of
    /// cancelled ones is full.
    pub(super) fn sort_out(&self, py: Python<'_>) -> PyResult<()> {
        for express in [false, true] {
            let mut kept = Vec::new();
            with_message(|message| {
                // Not to be interrupted: nobody else knows of what was taken back.
                let mut parker = GilParker::deaf(py);
                while let Some((id, received)) =
                    self.owner.take_back(express, message, &mut parker).map_err(pool_error)?
                {
                    if self.table.lock().get(id).is_some() {
                        kept.push((id, message.clone(), received));
                    } else {
                        self.owner.resolved(id);
                    }
                }
                for (id, message, received) in &mut kept {
                    let posted =
                        self.owner.post(express, received.kind, message, &mut received.spans, &mut parker);
                    if let Err(error) = posted {
                        let error = pool_error(error).into_value(py).into_any();
                        self.resolve(py, *id, Value::Failed(error));
                    }
                }
                Ok::<_, PyErr>(())
            })?;
        }
        Ok(())
    }

    /// Keeps the task from being begun, and forgets it. False if it was begun, or is resolved.
    pub(in crate::pool) fn withdraw(&self, py: Python<'_>, id: u64) -> PyResult<bool> {
        if self.cancel_task(py, id)?.is_some() {
            return Ok(false);
        }
        let withdrawn = self.table.lock().remove(id);
        Ok(withdrawn.is_some())
    }
}
