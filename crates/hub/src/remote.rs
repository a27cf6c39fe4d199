//! What other threads may do to a hub.

use std::sync::{Arc, Mutex, PoisonError};

use weft_reactor::Waker;

use crate::WaiterKey;

/// Wakes coroutines of a hub from other threads. Outlives the hub; then it does nothing.
#[derive(Debug, Clone)]
pub struct Remote(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    woken: Mutex<Vec<WaiterKey>>,
    /// `None` if there is nobody to be woken.
    waker: Option<Waker>,
}

impl Remote {
    pub(crate) fn new(waker: Waker) -> Self {
        Self(Arc::new(Inner { woken: Mutex::default(), waker: Some(waker) }))
    }

    /// Of a hub that is closed.
    pub(crate) fn to_nobody() -> Self {
        Self(Arc::new(Inner { woken: Mutex::default(), waker: None }))
    }

    /// Makes the waiter ready, if that wait is not over by then.
    pub fn wake(&self, key: WaiterKey) {
        self.lock().push(key);
        self.nudge();
    }

    /// Has the hub's thread come back from its sleep, or not go to sleep.
    pub fn nudge(&self) {
        if let Some(waker) = &self.0.waker {
            waker.wake();
        }
    }

    /// Those that were woken meanwhile.
    pub(crate) fn take(&self) -> Vec<WaiterKey> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<WaiterKey>> {
        self.0.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
