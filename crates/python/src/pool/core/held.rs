//! Tasks with a priority: held by the owner until their turn comes, because the queues keep their order.

use std::cmp::Ordering as Order;
use std::sync::atomic::Ordering;

use pyo3::prelude::*;

use super::super::value::Value;
use super::{Core, pool_error};
use crate::queue::codec::Spans;
use crate::queue::parker::GilParker;

/// A task with a priority, ready to be put.
pub(super) struct Held {
    pub(super) priority: i64,
    /// Among those of one priority, the first come.
    pub(super) turn: u64,
    pub(super) kind: u8,
    pub(super) message: Vec<u8>,
    pub(super) spans: Spans,
    pub(super) id: u64,
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Order {
        self.priority.cmp(&other.priority).then(other.turn.cmp(&self.turn))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Held {}

impl Core {
    /// Puts those of the tasks with a priority whose turn it is: urgent ones as long as no more wait than there are workers,
    /// the others when nothing else waits.
    pub(super) fn put_held(&self, py: Python<'_>) -> PyResult<()> {
        let workers = self.size.load(Ordering::Relaxed).max(1) as u64;
        loop {
            let mut next = {
                let mut held = self.held.lock();
                let Some(first) = held.peek() else { break };
                let (express, common) = self.owner.waiting();
                let fits = if first.priority > 0 { express < workers } else { express + common < workers };
                if !fits {
                    return Ok(());
                }
                let Some(next) = held.pop() else { break };
                next
            };
            self.observed.fetch_sub(1, Ordering::SeqCst);
            if self.table.lock().get(next.id).is_none() {
                self.owner.resolved(next.id); // cancelled before it was put
                continue;
            }
            let mut parker = GilParker::deaf(py);
            let express = next.priority > 0;
            let posted = self.owner.post(express, next.kind, &next.message, &mut next.spans, &mut parker);
            if let Err(error) = posted {
                let error = pool_error(error);
                self.resolve(py, next.id, Value::Failed(error.into_value(py).into_any()));
            }
        }
        self.close_if_fed();
        Ok(())
    }
}
