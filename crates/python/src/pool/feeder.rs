//! A thread that reads the source of a stream, if that may take its time.
//!
//! It has no hold on the stream while it waits at the *trough*, and ends when nobody will read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyWeakrefMethods, PyWeakrefReference};
use weft_wait::{Deadline, Signal, wait_until};

use super::stream::Stream;
use crate::queue::parker::GilParker;

/// Where a feeder waits until more can be put.
#[derive(Default)]
pub(super) struct Trough {
    signal: Signal,
    wanted: AtomicBool,
    /// The stream was dropped.
    gone: AtomicBool,
}

impl Trough {
    /// More can be put, or there is nothing to put any more.
    pub(super) fn ask(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        self.signal.raise_all();
    }

    /// The stream is dropped.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.ask();
    }
}

/// Whether an iterator has its items at hand, and runs no code of the program's to give them.
pub(super) fn is_at_hand(source: &Bound<'_, PyIterator>) -> bool {
    const AT_HAND: &[&str] = &[
        "list_iterator",
        "list_reverseiterator",
        "tuple_iterator",
        "range_iterator",
        "longrange_iterator",
        "set_iterator",
        "dict_keyiterator",
        "dict_valueiterator",
        "dict_itemiterator",
        "str_iterator",
        "str_ascii_iterator",
        "bytes_iterator",
    ];
    // Without a module: it is one of the interpreter's own.
    let name = source.get_type().fully_qualified_name();
    name.is_ok_and(|name| AT_HAND.iter().any(|known| name == *known))
}

/// What the thread of a stream runs that has a source of its own pace.
#[pyclass(frozen, name = "Feeder", module = "weft._native._pool")]
pub(crate) struct Feeder {
    stream: Py<PyWeakrefReference>,
    trough: Arc<Trough>,
}

impl Feeder {
    pub(super) fn start(stream: &Bound<'_, Stream>, trough: Arc<Trough>) -> PyResult<()> {
        let py = stream.py();
        let weak = PyWeakrefReference::new(stream.as_any())?.unbind();
        let thread = PyDict::new(py);
        thread.set_item("target", Bound::new(py, Self { stream: weak, trough })?)?;
        thread.set_item("name", "weft-pool-feeder")?;
        thread.set_item("daemon", true)?;
        py.import("threading")?.getattr("Thread")?.call((), Some(&thread))?.call_method0("start")?;
        Ok(())
    }
}

#[pymethods]
impl Feeder {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        loop {
            {
                let Some(stream) = self.stream.bind(py).upgrade_as::<Stream>()? else { return Ok(()) };
                Stream::feed(&stream)?;
                if stream.get().is_fed() {
                    return Ok(());
                }
            }
            let trough = &self.trough;
            let called = || trough.wanted.load(Ordering::SeqCst) || trough.gone.load(Ordering::SeqCst);
            let mut parker = GilParker::for_event(py);
            // No other thread than the main one is interrupted; and there is no deadline.
            let _ =
                wait_until(&trough.signal, &mut parker, Deadline::NEVER, called, |_| called().then_some(()));
            trough.wanted.store(false, Ordering::SeqCst);
        }
    }
}
