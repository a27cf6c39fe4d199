//! What a thread keeps of Python's objects for its next call.

use std::cell::RefCell;

use parking_lot::Mutex;

/// A place for a value in a `thread_local!`, to be taken out while in use, because Python code may run in between.
///
/// At the thread's end the GIL is not held, and the binding's own count of who holds it cannot be trusted then: a greenlet that
/// is parked in a call for good has entered it and never left. So what is there is left behind for another thread to drop.
pub(crate) struct Kept<T: Send + 'static>(RefCell<Option<T>>);

/// Of threads that have ended.
static LEFT_BEHIND: Mutex<Vec<Box<dyn Send>>> = Mutex::new(Vec::new());

impl<T: Send + 'static> Kept<T> {
    pub(crate) const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Takes it out. The GIL is held.
    pub(crate) fn take(&self) -> Option<T> {
        let found = self.0.borrow_mut().take();
        if found.is_none() {
            // Whoever has to make one anew clears up. The child of a fork may find the lock taken for ever.
            let left = LEFT_BEHIND.try_lock().map(|mut left| std::mem::take(&mut *left));
            drop(left);
        }
        found
    }

    /// Puts one there. The GIL is held.
    pub(crate) fn put(&self, value: T) {
        let old = self.0.borrow_mut().replace(value);
        drop(old);
    }
}

impl<T: Send + 'static> Drop for Kept<T> {
    fn drop(&mut self) {
        let Some(value) = self.0.get_mut().take() else { return };
        match LEFT_BEHIND.try_lock() {
            Some(mut left) => left.push(Box::new(value)),
            None => std::mem::forget(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Kept;

    thread_local! {
        static KEPT: Kept<Arc<()>> = const { Kept::new() };
    }

    #[test]
    fn what_a_thread_has_left_is_dropped_by_another() {
        let value = Arc::new(());
        let theirs = Arc::clone(&value);
        std::thread::spawn(move || KEPT.with(|kept| kept.put(theirs))).join().unwrap();
        assert_eq!(Arc::strong_count(&value), 2, "it is left behind");
        KEPT.with(|kept| assert!(kept.take().is_none()));
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
