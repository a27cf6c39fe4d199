//! What becomes of a worker's task, and how long it may take.

use std::sync::atomic::Ordering;

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use weft_pool::Call;

use super::super::value::Value;
use super::table::Target;
use super::{Core, pool_error};
use crate::queue::parker::GilParker;

/// A task's function, its arguments if they are plain, and which items of an iterable it is of: the first one, and how many.
pub(super) type Known = (Py<PyAny>, Option<Py<PyAny>>, Option<(usize, usize)>);

impl Core {
    /// The worker of this slot has ended. Returns the unresolved task it had in its hands, if any: its number, how often it
    /// may be done again, and how often it was.
    pub(super) fn settle_worker(&self, py: Python<'_>, slot: usize) -> PyResult<Option<(u64, u32, u32)>> {
        self.owner.settle(&mut GilParker::new(py)).map_err(pool_error)?;
        self.collect(py)?;
        // No result may follow that would have the next ones put.
        self.put_held(py)?;
        let Some(at_hand) = self.owner.in_hand(slot) else { return Ok(None) };
        self.owner.resolved(at_hand.id);
        let mut table = self.table.lock();
        Ok(table.get(at_hand.id).map(|pending| {
            let wishes = pending.wishes.as_ref();
            let (left, retried) =
                wishes.map_or((0, 0), |again| (again.wishes.retries - again.retried, again.retried));
            (at_hand.id, left, retried)
        }))
    }

    /// What is known of an unresolved task.
    pub(super) fn described(&self, py: Python<'_>, id: u64) -> Option<Known> {
        let mut table = self.table.lock();
        let pending = table.get(id)?;
        let items = match &pending.target {
            Target::Result(result, part) => result.get().calls_of(*part),
            Target::Stream(stream, number) => Some(stream.get().items_of(*number)),
            Target::Future(_) => None,
        };
        let (function, call) = (pending.function.clone_ref(py), pending.call);
        let shown = pending.shown.as_ref().map(|shown| shown.clone_ref(py));
        drop(table);
        let arguments = match shown {
            Some(item) if call == Call::Item => {
                PyTuple::new(py, [item]).ok().map(|one| one.into_any().unbind())
            }
            shown => shown,
        };
        Some((function, arguments, items))
    }

    /// Put the task again. False if it is resolved, or there is nothing to put.
    pub(super) fn put_again(&self, py: Python<'_>, id: u64) -> PyResult<bool> {
        let again = {
            let mut table = self.table.lock();
            let Some(pending) = table.get(id) else { return Ok(false) };
            let Some(again) = pending.wishes.as_mut() else { return Ok(false) };
            again.retried += 1;
            self.retried.fetch_add(1, Ordering::Relaxed);
            (pending.function.clone_ref(py), again.call, again.arguments.clone_ref(py), again.wishes)
        };
        let (function, call, arguments, wishes) = again;
        if let Err(error) = self.post(py, id, function.bind(py), call, arguments.bind(py), wishes) {
            self.resolve(py, id, Value::Failed(error.into_value(py).into_any()));
        }
        Ok(true)
    }

    /// The number of the task that a worker has begun and not finished, as far as is known.
    pub(super) fn running_at(&self, py: Python<'_>, slot: usize) -> PyResult<Option<u64>> {
        self.collect(py)?;
        let at_hand = self.owner.in_hand(slot).filter(|at_hand| at_hand.begun);
        let mut table = self.table.lock();
        Ok(at_hand.map(|at_hand| at_hand.id).filter(|&id| table.get(id).is_some()))
    }

    /// The unresolved tasks with a limit on their time: number, and how many seconds are left at the earliest.
    ///
    /// A task that waits has all of its time left. `slots` are those of the living workers.
    pub(super) fn limits(&self, slots: &[usize]) -> Vec<(u64, Option<usize>, f64)> {
        let now = weft_pool::now();
        let timed: Vec<(u64, u64)> = {
            let table = self.table.lock();
            let limits = table.unresolved().filter_map(|(id, pending)| {
                let timeout = pending.wishes.as_ref()?.wishes.timeout;
                (timeout != 0).then_some((id, timeout))
            });
            limits.collect()
        };
        let of = |id, timeout: u64| {
            let running =
                slots.iter().find_map(|&slot| self.owner.began(slot, id).map(|began| (slot, began)));
            match running {
                None => (id, None, timeout as f64 / 1e9),
                Some((slot, began)) => (id, Some(slot), (began as f64 + timeout as f64 - now as f64) / 1e9),
            }
        };
        timed.into_iter().map(|(id, timeout)| of(id, timeout)).collect()
    }

    /// The seconds that an unresolved task may run.
    pub(super) fn limit(&self, id: u64) -> Option<f64> {
        let mut table = self.table.lock();
        let timeout = table.get(id)?.wishes.as_ref().map_or(0, |again| again.wishes.timeout);
        Some(timeout as f64 / 1e9)
    }
}
