//! Calls as messages.
//!
//! ```text
//! arguments     as any message of a queue; in front of them the function, if it has no reference
//! reference     the pickle of the function, if that is its name
//! trailer       see `weft_pool::TaskTrailer`
//! ```

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use weft_pool::{Call, TaskTrailer};
use weft_shm::Arena;

use super::functions::{Known, References, reference_to};
use crate::queue::codec::{self, Failure, Spans};

/// One task, not yet a message.
pub(super) struct Task<'a, 'py> {
    pub(super) id: u64,
    pub(super) call: Call,
    pub(super) function: &'a Bound<'py, PyAny>,
    /// What the call is made with: see [`Call`].
    pub(super) arguments: &'a Bound<'py, PyAny>,
    pub(super) timed: bool,
}

/// Writes the task into `message`, which is empty, and says its kind. `references` is asked and taught under its lock, which
/// is not held while Python code runs.
pub(super) fn encode(
    task: &Task<'_, '_>,
    references: &parking_lot::Mutex<References>,
    arena: &Arc<Arena>,
    message: &mut Vec<u8>,
    spans: &mut Spans,
) -> Result<u8, Failure> {
    let trailer = |function| TaskTrailer { id: task.id, call: task.call, function, timed: task.timed };
    if let Some(kind) = try_known(task, references, arena, message, spans, &trailer)? {
        return Ok(kind);
    }
    if let Some(reference) = reference_to(task.function).map_err(Failure::Pickle)?
        && let Some(known) = Known::of(task.function, reference.as_bytes())
    {
        let forgotten = references.lock().learn(known);
        drop(forgotten);
        if let Some(kind) = try_known(task, references, arena, message, spans, &trailer)? {
            return Ok(kind);
        }
    }
    let py = task.function.py();
    let whole = PyTuple::new(py, [task.function, task.arguments])?;
    let kind = codec::encode(&whole, arena, message, spans)?;
    trailer(0).append(message);
    Ok(kind)
}

fn try_known(
    task: &Task<'_, '_>,
    references: &parking_lot::Mutex<References>,
    arena: &Arc<Arena>,
    message: &mut Vec<u8>,
    spans: &mut Spans,
    trailer: &impl Fn(u16) -> TaskTrailer,
) -> Result<Option<u8>, Failure> {
    if !references.lock().has(task.function) {
        return Ok(None);
    }
    let kind = codec::encode(task.arguments, arena, message, spans)?;
    // Pickling the arguments may have run code that made another function of the name.
    let appended = references.lock().append(task.function, message);
    let Some(length) = appended else {
        message.clear();
        spans.clear();
        return Ok(None);
    };
    trailer(length).append(message);
    Ok(Some(kind))
}
