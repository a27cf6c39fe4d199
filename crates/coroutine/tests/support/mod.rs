//! What the integration tests share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod world;

use std::time::{Duration, Instant};

/// A small generator of reproducible numbers (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(crate) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// Runs `round` with fixed seeds, or with new ones for as many seconds as `WEFT_SOAK_SECONDS` says.
pub(crate) fn for_seeds(fixed: u64, mut round: impl FnMut(u64)) {
    let Some(seconds) = std::env::var("WEFT_SOAK_SECONDS").ok().and_then(|value| value.parse().ok()) else {
        return (1..=fixed).for_each(round);
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let mut seed = u64::try_from(start & u128::from(u64::MAX)).unwrap();
    while Instant::now() < end {
        seed = seed.wrapping_add(1);
        round(seed);
    }
}

/// Runs the test `name` of this binary again in a child process with `WEFT_TEST_CHILD=1`.
pub(crate) fn in_child(name: &str) -> std::process::Output {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("WEFT_TEST_CHILD", "1")
        .output()
        .unwrap()
}

/// Whether this is the process that [`in_child`] started.
pub(crate) fn is_child() -> bool {
    std::env::var_os("WEFT_TEST_CHILD").is_some()
}

/// The rounding mode of the running code, 0 to 3.
#[cfg(target_arch = "x86_64")]
pub(crate) fn rounding_mode() -> u32 {
    let mut mxcsr = 0u32;
    // SAFETY: stores the control word in a local.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr, options(nostack)) };
    (mxcsr >> 13) & 3
}

/// Sets the rounding mode. The caller does no floating-point arithmetic while it is not 0.
#[cfg(target_arch = "x86_64")]
pub(crate) fn set_rounding_mode(mode: u32) {
    let mxcsr = 0x1f80u32 | (mode << 13);
    // SAFETY: a valid control word: all exceptions masked, only the rounding differs.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack)) };
}

/// The rounding mode of the running code, 0 to 3.
#[cfg(target_arch = "aarch64")]
pub(crate) fn rounding_mode() -> u32 {
    let fpcr: u64;
    // SAFETY: reads a control register.
    unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) fpcr, options(nomem, nostack)) };
    ((fpcr >> 22) & 3) as u32
}

/// Sets the rounding mode. The caller does no floating-point arithmetic while it is not 0.
#[cfg(target_arch = "aarch64")]
pub(crate) fn set_rounding_mode(mode: u32) {
    // SAFETY: only the rounding differs from the default.
    unsafe { std::arch::asm!("msr fpcr, {}", in(reg) u64::from(mode) << 22, options(nomem, nostack)) };
}
