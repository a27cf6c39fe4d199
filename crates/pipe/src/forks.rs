//! How many forks lie behind this process: what was noted under another number may be another thread's, of a parent.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Counts from now on.
pub(crate) fn count() {
    static HANDLER: Once = Once::new();
    // SAFETY: the handler is a function of this program, which stays loaded, and does nothing but add.
    HANDLER.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    });
}

/// The number of this process.
#[inline]
pub(crate) fn now() -> u32 {
    FORKS.load(Ordering::Relaxed)
}
