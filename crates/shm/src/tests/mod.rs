//! Attacks on the arena and the queue from inside, with the process-local twin of the locks.
//!
//! Several "processes" live in this one: each has a mapping of the arena and an identity of its own, and dies by
//! a panic at a crash point. `WEFT_SOAK_SECONDS` makes the random tests long. Under Miri they are short: it is some
//! thousand times slower.

mod blocks;
mod deaths;
mod hostile;
mod model;
mod regions;
mod threads;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proptest::test_runner::Config;

use crate::arena::Arena;
use crate::layout::{Kind, ORDERS, UNIT, order_of};
use crate::robust::LocalLock;

/// A small generator of reproducible numbers (splitmix64).
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(super) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// How much of something a test does: less of it under Miri.
pub(super) const fn sized<T: Copy>(usual: T, under_miri: T) -> T {
    if cfg!(miri) { under_miri } else { usual }
}

/// How a property is tested.
pub(super) fn property(cases: u32) -> Config {
    let usual = Config { cases, ..Config::default() };
    // Under Miri there are no files in which to keep what failed.
    if cfg!(miri) { Config { failure_persistence: None, ..usual } } else { usual }
}

/// Prints the seed if the round it was for panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.0);
        }
    }
}

/// Runs `round` with fixed seeds, or with new ones for as many seconds as `WEFT_SOAK_SECONDS` says.
pub(super) fn for_seeds(fixed: u64, mut round: impl FnMut(u64)) {
    let mut run = |seed| {
        let _seed = Seed(seed);
        round(seed);
    };
    let Some(seconds) = std::env::var("WEFT_SOAK_SECONDS").ok().and_then(|value| value.parse().ok()) else {
        return (1..=fixed).for_each(run);
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let mut seed = u64::try_from(start & u128::from(u64::MAX)).unwrap();
    while Instant::now() < end {
        seed = seed.wrapping_add(1);
        run(seed);
    }
}

pub(super) type Twin = Arena<LocalLock>;

/// The same arena as another process sees it.
pub(super) fn again(arena: &Twin) -> Arc<Twin> {
    Arena::attach(arena.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

/// The blocks in use, by unit, after a check of everything that the allocator promises.
pub(super) fn check(arena: &Twin) -> BTreeMap<u32, Kind> {
    let locked = arena.lock();
    locked.mend().unwrap();
    let header = arena.header();
    let high_water = header.high_water.load(Ordering::Relaxed);
    let (mut used, mut free) = (BTreeMap::new(), BTreeMap::new());
    let (mut taken, mut idle) = (0, 0);
    let mut unit = arena.first();
    while unit < high_water {
        let descriptor = arena.descriptor(unit).unwrap();
        let state = descriptor.state.load(Ordering::Relaxed);
        let (kind, order) = (Kind::of(state).unwrap(), order_of(state));
        let size = 1 << order;
        assert!((order as usize) < ORDERS && unit.is_multiple_of(size), "block {unit} of order {order}");
        let populated = descriptor.populated.load(Ordering::Relaxed);
        let resident = descriptor.resident.load(Ordering::Relaxed);
        assert!(populated <= size && resident <= size, "block {unit}: {populated}, {resident} of {size}");
        if populated > 0 {
            // What has memory already needs no more of it.
            let before = arena.resident().unwrap();
            let (offset, length) = (u64::from(unit) * UNIT as u64, u64::from(populated) * UNIT as u64);
            arena.windows().file().populate(offset, length).unwrap();
            assert_eq!(arena.resident().unwrap(), before, "block {unit} has less memory than it says");
        }
        if kind == Kind::Free {
            idle += resident;
            free.insert(unit, order);
        } else {
            taken += size;
            used.insert(unit, kind);
        }
        unit += size;
    }
    assert_eq!(unit, high_water, "the last block ends with the space in use");
    let mut listed = BTreeMap::new();
    for order in 0..ORDERS {
        let (mut before, mut at) = (0, header.heads[order].load(Ordering::Relaxed));
        while at != 0 {
            let descriptor = arena.descriptor(at).unwrap();
            assert_eq!(descriptor.previous.load(Ordering::Relaxed), before);
            assert!(listed.insert(at, order as u32).is_none(), "block {at} is listed twice");
            (before, at) = (at, descriptor.next.load(Ordering::Relaxed));
        }
    }
    assert_eq!(listed, free, "the lists have the free blocks");
    assert_eq!(header.taken.load(Ordering::Relaxed), taken);
    assert_eq!(header.free_resident.load(Ordering::Relaxed), idle);
    used
}
