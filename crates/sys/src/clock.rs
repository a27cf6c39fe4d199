//! The clock that all processes of a machine share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the monotonic clock. Never 0.
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // It starts near zero, at boot, and never goes back.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64).max(1)
}

/// A count that grows by at least one a nanosecond, for who wants to know that hardly any time has passed: it costs a fraction of
/// what [`monotonic`] does. On different processors it may differ.
#[inline]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every such processor has the instruction.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    monotonic()
}
