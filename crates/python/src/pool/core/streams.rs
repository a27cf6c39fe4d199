//! The streams that have more to put: until they are fed the pool cannot close its queue.

use std::sync::atomic::Ordering;

use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::super::stream::Stream;
use super::Core;

impl Core {
    /// Enters a stream that the service feeds when nobody reads it.
    pub(in crate::pool) fn add_stream(&self, py: Python<'_>, stream: Py<Stream>) -> PyResult<()> {
        self.streams.lock().push(stream);
        self.reopen();
        self.call_service(py)
    }

    /// There is a stream with more to put. If the pool was closed while it was being made, workers that find no task are not to
    /// end yet: others would take their places again and again.
    fn reopen(&self) {
        if self.closing.load(Ordering::SeqCst) {
            self.owner.reopen();
        }
    }

    /// Enters a stream that is fed as it is read.
    pub(in crate::pool) fn add_lazy_stream(&self, stream: &Bound<'_, Stream>) -> PyResult<()> {
        self.unfed_lazy.fetch_add(1, Ordering::SeqCst);
        let py = stream.py();
        let weak = PyWeakrefReference::new(stream.as_any())?.unbind();
        let over: Vec<_> = {
            let mut lazy = self.lazy.lock();
            let over = lazy.extract_if(.., |weak| weak.bind(py).upgrade().is_none()).collect();
            lazy.push(weak);
            over
        };
        drop(over);
        self.reopen();
        // Whoever joins the pool has had all streams hurried that there were. This one came in that very moment, and may never be
        // read.
        if self.joined.load(Ordering::SeqCst) { self.hurry_streams(py) } else { Ok(()) }
    }

    /// A stream that is fed as it is read is fed, or nobody will read it.
    pub(in crate::pool) fn lazy_stream_over(&self) {
        self.unfed_lazy.fetch_sub(1, Ordering::SeqCst);
        self.close_if_fed();
        self.owner.results_bell().ring_all();
    }

    /// The streams that are fed as they are read, from now on no longer known as such.
    pub(super) fn take_lazy_streams<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, Stream>>> {
        let lazy = std::mem::take(&mut *self.lazy.lock());
        let streams = lazy.iter().map(|weak| weak.bind(py).upgrade_as::<Stream>());
        Ok(streams.collect::<PyResult<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Has all streams fed, whether somebody reads them or not.
    pub(super) fn hurry_streams(&self, py: Python<'_>) -> PyResult<()> {
        self.joined.store(true, Ordering::SeqCst);
        for stream in self.take_lazy_streams(py)? {
            if !stream.get().is_fed() {
                self.streams.lock().push(stream.clone().unbind());
                stream.get().hurry();
            }
        }
        if self.has_unfed_eager() { self.call_service(py) } else { Ok(()) }
    }

    /// Forgets the streams that are fed.
    pub(in crate::pool) fn let_go_of_fed(&self) {
        let over: Vec<_> = {
            let mut kept = self.streams.lock();
            kept.extract_if(.., |stream| stream.get().is_fed()).collect()
        };
        drop(over);
    }

    pub(super) fn feed_streams(&self, py: Python<'_>) {
        let streams: Vec<_> = {
            let streams = self.streams.lock();
            let mine = streams.iter().filter(|stream| !stream.get().has_feeder());
            mine.map(|stream| stream.clone_ref(py)).collect()
        };
        for stream in &streams {
            if let Err(error) = Stream::feed(stream.bind(py)) {
                error.write_unraisable(py, Some(stream.bind(py)));
            }
        }
        self.let_go_of_fed();
    }

    /// A stream is fed.
    pub(in crate::pool) fn close_if_fed(&self) {
        if self.closing.load(Ordering::SeqCst) && !self.has_unfed() && self.held.lock().is_empty() {
            self.owner.close();
        }
    }

    /// Whether a stream has more to put: until then the pool cannot close its queue.
    pub(super) fn has_unfed(&self) -> bool {
        self.unfed_lazy.load(Ordering::SeqCst) > 0 || self.has_unfed_eager()
    }

    pub(super) fn has_unfed_eager(&self) -> bool {
        self.streams.lock().iter().any(|stream| !stream.get().is_fed())
    }
}
