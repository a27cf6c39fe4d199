//! References to regions on their way to other processes.
//!
//! A region is pickled as its place and a *transit*, an entry that keeps it alive until it is received. Where it is going
//! is known by the thread: a `put` says so while it pickles. What was made for a message that is not put after all is
//! taken back. While a message is being put, which may park the greenlet that puts it, the thread knows nothing of it any more.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use weft_shm::{Handle, Region, Route, ShmError, Transit};

thread_local! {
    /// The queue that this thread is pickling for: its arena and its place there.
    static QUEUE: Cell<Option<(u64, Handle)>> = const { Cell::new(None) };
    /// The references made for the message at hand.
    static MADE: RefCell<Vec<(Arc<Region>, Transit)>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, what this thread pickles is for one queue.
pub(crate) struct Sending {
    outer: Option<(u64, Handle)>,
    /// So many references were made before, for another message.
    before: usize,
}

/// The references of a message that is pickled and not put yet. Dropped before it is, they are taken back.
#[must_use]
pub(crate) struct Sent(Vec<(Arc<Region>, Transit)>);

impl Sending {
    #[inline]
    pub(crate) fn into(arena: u64, queue: Handle) -> Self {
        let outer = QUEUE.replace(Some((arena, queue)));
        let before = if outer.is_some() { MADE.with_borrow(Vec::len) } else { 0 };
        Self { outer, before }
    }

    /// The message is pickled.
    #[inline]
    pub(crate) fn pickled(self) -> Sent {
        Sent(self.take())
    }

    #[inline]
    fn take(&self) -> Vec<(Arc<Region>, Transit)> {
        MADE.with_borrow_mut(
            |made| {
                if made.len() > self.before { made.split_off(self.before) } else { Vec::new() }
            },
        )
    }
}

impl Drop for Sending {
    #[inline]
    fn drop(&mut self) {
        QUEUE.set(self.outer);
        drop(Sent(self.take()));
    }
}

impl Sent {
    /// The message was put: the references are the queue's.
    #[inline]
    pub(crate) fn done(mut self) {
        self.0.clear();
    }
}

impl Drop for Sent {
    #[inline]
    fn drop(&mut self) {
        for (region, transit) in self.0.drain(..) {
            region.withdraw(transit);
        }
    }
}

/// A reference to `region` for wherever this thread is pickling for.
pub(super) fn send(region: &Arc<Region>) -> Result<Transit, ShmError> {
    match QUEUE.get() {
        Some((arena, queue)) => {
            // The list of a region's holders can name what lies in the same arena only.
            let route = if arena == region.arena().id() { Route::Queue(queue) } else { Route::Other };
            let transit = region.send(route)?;
            MADE.with_borrow_mut(|made| made.push((Arc::clone(region), transit)));
            Ok(transit)
        }
        None => region.send(Route::Other),
    }
}
