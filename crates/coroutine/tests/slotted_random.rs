//! Random switching among slotted coroutines, on one slot and on many, each checking its own stack.
//!
//! The switch is assembler, which Miri cannot run; these tests look at the memory itself instead.

mod support;

use support::for_seeds;
use support::world::{Plan, Stats, World};
use weft_coroutine::slotted::Config;

const MIB: usize = 1 << 20;

fn plan(seed: u64, max_slots: u32, population: usize) -> Plan {
    Plan {
        seed,
        config: Config { slot_size: 2 * MIB, max_slots, ..Config::default() },
        population,
        steps: 20_000,
        depth: 0,
    }
}

fn total(rounds: u64, plan: impl Fn(u64) -> Plan) -> Stats {
    let mut sum = Stats::default();
    for_seeds(rounds, |seed| {
        println!("{:?}", plan(seed));
        let stats = World::run(plan(seed));
        sum.switches += stats.switches;
        sum.starts += stats.starts;
        sum.finishes += stats.finishes;
        sum.finishes_into += stats.finishes_into;
        sum.discards += stats.discards;
        sum.discards_evicted += stats.discards_evicted;
        sum.relocations += stats.relocations;
        sum.refused += stats.refused;
        sum.deep_moves += stats.deep_moves;
    });
    println!("{sum:?}");
    assert_eq!(sum.refused, 0, "nothing was short, but a switch was refused");
    sum
}

fn everything_happened(stats: Stats) {
    for count in [stats.switches, stats.starts, stats.finishes, stats.finishes_into, stats.discards] {
        assert!(count > 100, "{stats:?}");
    }
}

#[test]
fn hundreds_of_coroutines_collide_on_one_slot() {
    let stats = total(4, |seed| plan(seed, 1, 300));
    everything_happened(stats);
    assert!(stats.relocations > 1000 && stats.discards_evicted > 100, "{stats:?}");
}

#[test]
fn hundreds_of_coroutines_collide_on_two_and_three_slots() {
    for max_slots in [2, 3] {
        let stats = total(3, |seed| plan(seed, max_slots, 300));
        everything_happened(stats);
        assert!(stats.relocations > 1000 && stats.discards_evicted > 100, "{stats:?}");
    }
}

#[test]
fn hundreds_of_coroutines_collide_on_many_slots() {
    let stats = total(3, |seed| plan(seed, 64, 500));
    everything_happened(stats);
    assert!(stats.relocations > 1000 && stats.discards_evicted > 100, "{stats:?}");
}

#[test]
fn nothing_is_moved_while_there_are_slots_for_all() {
    let stats = total(3, |seed| plan(seed, 64, 50));
    everything_happened(stats);
    assert_eq!(stats.relocations, 0);
}

#[test]
fn deep_stacks_are_moved_whole() {
    for (max_slots, population) in [(1, 20), (3, 40), (64, 200)] {
        let stats = total(3, |seed| Plan { depth: 400_000, ..plan(seed, max_slots, population) });
        everything_happened(stats);
        assert!(stats.deep_moves > 5, "{stats:?}");
    }
}

#[test]
fn the_default_configuration_works() {
    for_seeds(1, |seed| {
        World::run(Plan { config: Config::default(), depth: 300_000, ..plan(seed, 0, 400) });
    });
}

#[test]
fn no_slots_at_all_means_one() {
    let stats = total(1, |seed| plan(seed, 0, 100));
    assert!(stats.relocations > 1000, "{stats:?}");
}

#[test]
fn threads_have_their_own_slots() {
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            std::thread::spawn(move || {
                for_seeds(2, |seed| {
                    let max_slots = [1, 2, 3, 64][usize::try_from(thread).unwrap()];
                    World::run(plan(seed.wrapping_mul(1000) + thread, max_slots, 200));
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
