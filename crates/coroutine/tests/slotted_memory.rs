//! Memory of slotted coroutines: everything comes back, and shortage is an error that changes nothing.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

use support::world::{Plan, World};
use support::{for_seeds, in_child, is_child};
use weft_coroutine::slotted::{Config, Coroutine, Host, Slots, SwitchError};
use weft_sys::mapping::MappingError;

/// Counts the live bytes of each thread, and refuses images when it is told to.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    /// Refuse every n-th allocation with the alignment and the least size of an image; 0 refuses none.
    static REFUSE: Cell<u32> = const { Cell::new(0) };
    static ASKED: Cell<u32> = const { Cell::new(0) };
}

// SAFETY: passes everything on to the system's allocator, or refuses.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Images are the only allocations with this alignment in these tests.
        if layout.align() == 16 && REFUSE.get() > 0 {
            ASKED.set(ASKED.get() + 1);
            if ASKED.get().is_multiple_of(REFUSE.get()) {
                return ptr::null_mut();
            }
        }
        LIVE.set(LIVE.get() + layout.size().cast_signed());
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size().cast_signed());
        // SAFETY: passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn plan(seed: u64, max_slots: u32) -> Plan {
    let config = Config { slot_size: 1 << 20, max_slots, ..Config::default() };
    Plan { seed, config, population: 200, steps: 20_000, depth: 100_000 }
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

#[test]
fn the_heap_returns_to_the_start() {
    for max_slots in [1, 3, 64] {
        for_seeds(2, |seed| {
            World::run(plan(seed, max_slots));
            let before = LIVE.get();
            World::run(plan(seed + 1, max_slots));
            assert_eq!(LIVE.get() - before, 0, "bytes are left");
        });
    }
}

#[test]
fn the_mappings_return_to_the_start() {
    if !is_child() {
        let output = in_child("the_mappings_return_to_the_start");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    World::run(plan(1, 8));
    let before = mappings();
    for seed in 2..6 {
        World::run(plan(seed, 8));
    }
    assert!(mappings() <= before + 1, "{before} mappings became {}", mappings());
}

#[test]
fn a_refused_image_changes_nothing() {
    for max_slots in [1, 2, 64] {
        for_seeds(3, |seed| {
            REFUSE.set(3);
            let stats = World::run(plan(seed, max_slots));
            REFUSE.set(0);
            assert!(stats.refused > 10, "{stats:?}");
            assert!(stats.relocations > 100, "{stats:?}");
        });
    }
}

#[test]
fn coroutines_share_what_slots_there_are_when_the_budget_of_the_process_is_spent() {
    for_seeds(3, |seed| {
        let config = Config { process_budget: 3, ..plan(seed, 64).config };
        let stats = World::run(Plan { config, ..plan(seed, 64) });
        assert!(stats.relocations > 100, "{stats:?}");
        assert_eq!(stats.refused, 0);
    });
}

/// A host without any state.
struct Nothing;

// SAFETY: does nothing.
unsafe impl Host for Nothing {
    type Thread = ();
    unsafe fn suspend(&mut self, _: *mut ()) {}
    unsafe fn resume(&mut self, _: *mut ()) {}
    unsafe fn relocate(&mut self, _: std::ops::Range<usize>, _: isize) {}
}

unsafe extern "C" fn never(_: usize) -> ! {
    std::process::abort()
}

/// Starts one coroutine and expects to be refused.
fn refused(slot_size: usize) -> SwitchError {
    let mut slots = Slots::new(Config { slot_size, max_slots: 4, ..Config::default() });
    let mut root = Coroutine::native(Nothing);
    let mut target = Coroutine::new(Nothing);
    // SAFETY: all three belong to this thread; the entry aborts, so a start that succeeds is noticed.
    unsafe { Slots::start(&mut slots, ptr::null_mut(), &mut root, &mut target, never, 0) }.unwrap_err()
}

#[test]
fn no_stack_at_all_is_an_error() {
    let error = refused(1 << 60);
    assert!(matches!(error, SwitchError::Mapping(MappingError::Map { .. })), "{error:?}");
    assert!(error.to_string().contains("cannot map a coroutine stack"), "{error}");
    for size in [usize::MAX, usize::MAX - 4096] {
        assert!(matches!(refused(size), SwitchError::Mapping(MappingError::Size { .. })));
    }
}

#[test]
fn an_address_space_limit_is_an_error_and_no_crash() {
    if !is_child() {
        let output = in_child("an_address_space_limit_is_an_error_and_no_crash");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split(' ').next().unwrap().parse().unwrap();
    let now = pages * weft_sys::mapping::page_size() as u64;
    let limit = |extra: u64| {
        let limit = libc::rlimit { rlim_cur: now + extra, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: a plain call with a valid argument; this process exists for this test alone.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
    };
    limit(1 << 20);
    assert!(matches!(refused(8 << 20), SwitchError::Mapping(MappingError::Map { .. })));
    // Two slots of 8 MiB and the helper fit: the rest share.
    limit(40 << 20);
    let config = Config { slot_size: 8 << 20, ..plan(1, 64).config };
    let stats = World::run(Plan { config, ..plan(1, 64) });
    assert!(stats.relocations > 100, "{stats:?}");
}
