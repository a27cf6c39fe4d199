//! How a reactor learns that it is in the child of a fork.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count() {
    crate::signals::after_fork();
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// How many forks lie between the process that asked first and this one.
#[must_use]
pub fn forks() -> u32 {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler changes two numbers. It fails only without memory.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(count)) };
    });
    FORKS.load(Ordering::Relaxed)
}
