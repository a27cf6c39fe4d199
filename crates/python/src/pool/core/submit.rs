//! From a call to a message in a queue.

use std::sync::atomic::Ordering;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyCFunction, PyFloat, PyFunction, PyInt, PyModule, PyString, PyTuple, PyType};
use weft_pool::Call;
use weft_wait::Deadline;

use super::super::calls::{self, Task};
use super::super::value::{Value, helper};
use super::held::Held;
use super::table::{Again, Pending, Target, Wishes};
use super::{Core, pool_error, with_message};
use crate::queue::codec::{Failure, Spans};
use crate::queue::parker::GilParker;
use crate::shared::sending::Sending;

impl Core {
    /// Puts a task. One that cannot be pickled is refused if that is what the pool is told to do; otherwise, and in a
    /// stream, it fails as if it had been done. After an error it was not put, or is taken back if it can be.
    pub(in crate::pool) fn submit<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        call: Call,
        arguments: &Bound<'py, PyAny>,
        target: Target,
        wishes: Wishes,
    ) -> PyResult<u64> {
        let (this, py) = (slf.get(), slf.py());
        this.check_process()?;
        let again = (!wishes.is_plain())
            .then(|| Box::new(Again { call, arguments: arguments.clone().unbind(), wishes, retried: 0 }));
        let function_too = if wishes.is_plain() { name_giver(function) } else { function.clone() }.unbind();
        let shown = matches!(call, Call::Arguments | Call::Item).then(|| plain(arguments)).flatten();
        let pending = Pending { target, function: function_too, call, shown, wishes: again };
        let entered = this.table.lock().insert(pending);
        let id = match entered {
            Ok(id) => id,
            Err(refused) => {
                drop(refused);
                return Err(this.refusal(py));
            }
        };
        let called = this.call_if_missing(py);
        if let Err(error) = called.and_then(|()| this.post(py, id, function, call, arguments, wishes)) {
            let forgotten = this.table.lock().remove(id);
            drop(forgotten);
            return Err(error);
        }
        // Once more: whoever was called before may have found nothing to do yet.
        if let Err(error) = this.call_if_missing(py) {
            this.withdraw(py, id)?;
            return Err(error);
        }
        Ok(id)
    }

    /// Puts a task that is in the table; after an error it was not put, and is still there.
    pub(super) fn post<'py>(
        &self,
        py: Python<'py>,
        id: u64,
        function: &Bound<'py, PyAny>,
        call: Call,
        arguments: &Bound<'py, PyAny>,
        wishes: Wishes,
    ) -> PyResult<()> {
        let posted = with_message(|message| {
            let mut spans = Spans::new();
            let common = self.owner.common();
            let sending = Sending::into(common.arena().id(), common.handle());
            let task = Task { id, call, function, arguments, timed: wishes.timeout != 0 };
            let kind = calls::encode(&task, &self.references, self.owner.arena(), message, &mut spans)?;
            let sent = sending.pickled();
            if wishes.priority == 0 {
                let mut parker = GilParker::new(py);
                self.owner
                    .post(false, kind, message, &mut spans, &mut parker)
                    .map_err(|error| Failure::Memory(pool_error(error)))?;
            } else {
                // Until it is put somebody has to look whether it can be.
                self.observe(py).map_err(Failure::Memory)?;
                let turn = self.turns.fetch_add(1, Ordering::Relaxed);
                let message = std::mem::take(message);
                self.held.lock().push(Held { priority: wishes.priority, turn, kind, message, spans, id });
            }
            sent.done();
            Ok(())
        });
        self.put.fetch_add(1, Ordering::Relaxed);
        match posted {
            Ok(()) => {
                if wishes.priority != 0 {
                    self.put_held(py)?;
                }
                Ok(())
            }
            Err(Failure::Memory(error)) => Err(error),
            Err(Failure::Pickle(error)) => {
                if !error.is_instance_of::<pyo3::exceptions::PyException>(py) {
                    return Err(error);
                }
                let refuses = self.refuses_unpicklable.load(Ordering::Relaxed);
                let items = self.described(py, id).and_then(|(_, _, items)| items);
                let parts = (error.into_value(py), function, arguments, call as u8, items, refuses);
                let explained = helper(py, "unpicklable")?.call1(parts)?;
                // What a stream is fed with comes in its turn, whatever it comes to.
                let streams =
                    self.table.lock().get(id).is_some_and(|task| matches!(task.target, Target::Stream(..)));
                if refuses && !streams {
                    return Err(PyErr::from_value(explained));
                }
                self.resolve(py, id, Value::Failed(explained.unbind()));
                Ok(())
            }
        }
    }

    pub(super) fn call_if_missing(&self, py: Python<'_>) -> PyResult<()> {
        if self.missing.load(Ordering::Relaxed) > 0 { self.call_for_workers(py) } else { Ok(()) }
    }

    /// There is a task, and fewer workers than there may be.
    #[cold]
    pub(super) fn call_for_workers(&self, py: Python<'_>) -> PyResult<()> {
        let call = self.call_workers.lock().as_ref().map(|call| call.clone_ref(py));
        call.map_or(Ok(()), |call| call.call0(py).map(drop))
    }

    /// Keeps a caller that puts tasks quicker than they are done from filling memory with them.
    pub(in crate::pool) fn hold_back(&self, py: Python<'_>) -> PyResult<()> {
        const MOST: u64 = 16 << 10;
        if self.owner.has_result() {
            self.collect(py)?;
        }
        if self.owner.waiting().1 >= MOST {
            self.wait(py, Deadline::NEVER, || self.owner.waiting().1 < MOST / 2 || self.table.lock().sealed)?;
        }
        Ok(())
    }
}

/// What a call is made with, if it is a number, a short string or the like, or a tuple of few of them.
#[inline]
fn plain(arguments: &Bound<'_, PyAny>) -> Option<Py<PyAny>> {
    const MOST: usize = 6;
    let Ok(tuple) = arguments.cast_exact::<PyTuple>() else {
        return is_plain(arguments).then(|| arguments.clone().unbind());
    };
    (tuple.len() <= MOST && tuple.iter_borrowed().all(|one| is_plain(&one)))
        .then(|| arguments.clone().unbind())
}

fn is_plain(one: &Bound<'_, PyAny>) -> bool {
    one.is_exact_instance_of::<PyInt>()
        || one.is_exact_instance_of::<PyFloat>()
        || one.is_exact_instance_of::<PyBool>()
        || one.is_none()
        || one.cast_exact::<PyString>().is_ok_and(|text| text.len().is_ok_and(|length| length <= 256))
}

/// What gives a task its name in messages. Of a method, that is not the object: tasks keep none alive that the program
/// has let go of.
fn name_giver<'py>(function: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
    if function.is_exact_instance_of::<PyFunction>() || function.is_exact_instance_of::<PyType>() {
        return function.clone();
    }
    let py = function.py();
    let part = |name| function.getattr_opt(name).ok().flatten();
    if function.is_exact_instance_of::<PyCFunction>() {
        let bound = part(intern!(py, "__self__")).is_some_and(|of| !of.is_exact_instance_of::<PyModule>());
        return if bound { function.get_type().into_any() } else { function.clone() };
    }
    // Of a method, and of a partial.
    match part(intern!(py, "__func__")).or_else(|| part(intern!(py, "func"))) {
        Some(inner) => inner,
        None => function.get_type().into_any(),
    }
}
