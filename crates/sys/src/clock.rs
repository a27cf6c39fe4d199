//! The clock that all processes of a machine share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the monotonic clock. Never 0.
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // It starts near zero, at boot, and never goes back.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64).max(1)
}
