//! The buddy allocator against a model.

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::prelude::*;

use super::{Twin, check, property, sized};
use crate::arena::Arena;
use crate::layout::{Kind, UNIT, order_of};
use crate::robust::LocalLock;

#[derive(Debug, Clone)]
enum Act {
    /// So many bytes.
    Take(usize),
    /// The n-th of those held.
    Free(usize),
    Trim,
    /// The lists are made anew.
    Rebuild,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let size = prop_oneof![4 => 1..5 * UNIT, 2 => 1..200 * UNIT, 1 => 1..sized(3000, 500) * UNIT];
    let act = prop_oneof![
        5 => size.prop_map(Act::Take),
        4 => (0..1000_usize).prop_map(Act::Free),
        1 => Just(Act::Trim),
        1 => Just(Act::Rebuild),
    ];
    prop::collection::vec(act, 1..sized(120, 30))
}

fn units(arena: &Twin, unit: u32) -> Range<u32> {
    let order = order_of(arena.descriptor(unit).unwrap().state.load(std::sync::atomic::Ordering::Relaxed));
    unit..unit + (1 << order)
}

/// The free blocks, after a check that nothing overlaps and all of `held` is in use.
fn agrees(arena: &Twin, held: &BTreeMap<u32, usize>) {
    let used = check(arena);
    assert!(used.keys().eq(held.keys()));
    assert!(used.values().all(|kind| *kind == Kind::Held));
    for (unit, bytes) in held {
        assert!(units(arena, *unit).len() * UNIT >= *bytes);
    }
}

proptest! {
    #![proptest_config(property(sized(60, 2)))]

    #[test]
    fn blocks_never_overlap_and_merge_back(acts in acts()) {
        let arena = Arena::<LocalLock>::create().unwrap();
        let mut held = BTreeMap::new();
        for act in acts {
            match act {
                Act::Take(bytes) => {
                    let unit = arena.allocate(bytes).unwrap();
                    let (start, size, _view) = arena.block(unit).unwrap();
                    // SAFETY: the block is this test's, and has so many bytes.
                    unsafe { start.as_ptr().write_bytes(unit as u8, bytes) };
                    assert!(size >= bytes);
                    assert!(held.insert(unit, bytes).is_none());
                }
                Act::Free(which) if !held.is_empty() => {
                    let unit = *held.keys().nth(which % held.len()).unwrap();
                    let bytes = held.remove(&unit).unwrap();
                    let (start, _, _view) = arena.block(unit).unwrap();
                    // SAFETY: as above.
                    let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) };
                    assert!(bytes.iter().step_by(sized(1, 1021)).all(|byte| *byte == unit as u8), "somebody wrote into a block");
                    arena.free(unit).unwrap();
                }
                Act::Free(_) => {}
                Act::Trim => arena.trim().unwrap(),
                Act::Rebuild => {
                    let before = check(&arena);
                    arena.header().torn.store(1, std::sync::atomic::Ordering::Relaxed);
                    assert_eq!(check(&arena), before);
                }
            }
            agrees(&arena, &held);
        }
        for unit in std::mem::take(&mut held).into_keys() {
            arena.free(unit).unwrap();
        }
        agrees(&arena, &held);
        // No two buddies are left apart.
        let locked = arena.lock();
        let mut free = BTreeMap::new();
        let mut unit = arena.first();
        while unit < arena.header().high_water.load(std::sync::atomic::Ordering::Relaxed) {
            let size = units(&arena, unit).len() as u32;
            free.insert(unit, size);
            unit += size;
        }
        drop(locked);
        for (unit, size) in &free {
            assert_ne!(free.get(&(unit ^ size)), Some(size), "{unit} and its buddy");
        }
    }
}

#[test]
fn a_block_is_not_freed_twice() {
    let arena = Arena::<LocalLock>::create().unwrap();
    let unit = arena.allocate(1).unwrap();
    arena.free(unit).unwrap();
    assert!(arena.free(unit).is_err());
    check(&arena);
}
