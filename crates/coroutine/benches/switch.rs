//! Switching, living and dying, beside corosensei in the same run.
//!
//! Scenario: one thread, everything warm; each figure is one *pair* of switches (in and out) unless the
//! name says otherwise. The rival is corosensei 0.3 with its default stack and, where coroutines are
//! made, with its stack reused, as weft's pool does. `cargo bench -p weft-coroutine`.

use std::hint::black_box;
use std::ptr;

use corosensei::stack::DefaultStack;
use criterion::{Criterion, criterion_group, criterion_main};
use weft_coroutine::owned::{Coroutine, Handoff, StackPool, Target, Yielder, scope};
use weft_coroutine::slotted::{self, Config, Host, Slots};

fn switch_pair(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resume and yield");
    scope(|scope| {
        let mut coroutine = scope
            .coroutine(|yielder: &Yielder<usize, usize>, mut input| {
                loop {
                    input = yielder.yield_(input + 1);
                }
                #[allow(unreachable_code, reason = "it names the return type")]
                ()
            })
            .unwrap();
        group.bench_function("weft", |bencher| bencher.iter(|| coroutine.resume(black_box(1))));
        let members = scope.group::<usize>();
        let echo = members
            .add(|me, mut value| {
                loop {
                    value = me.switch_to(Target::Resumer, value).unwrap();
                }
            })
            .unwrap();
        group.bench_function("weft group", |bencher| bencher.iter(|| members.resume(echo, black_box(1))));
    });
    let mut rival = corosensei::Coroutine::new(|yielder: &corosensei::Yielder<usize, usize>, mut input| {
        loop {
            input = yielder.suspend(input + 1);
        }
        #[allow(unreachable_code, reason = "it names the return type")]
        ()
    });
    group.bench_function("corosensei", |bencher| bencher.iter(|| rival.resume(black_box(1))));
    group.finish();
}

fn direct_switch(criterion: &mut Criterion) {
    // Two members pass control to each other 1000 times and go back once.
    scope(|scope| {
        let group = scope.group::<u32>();
        let partner = std::cell::Cell::new(None);
        let partner: &_ = Box::leak(Box::new(partner));
        let ping = group
            .add(|me, mut value| {
                loop {
                    value = match (value, partner.get()) {
                        (0, _) | (_, None) => me.switch_to(Target::Resumer, 0).unwrap(),
                        (left, Some(pong)) => me.switch_to(Target::Member(pong), left - 1).unwrap(),
                    };
                }
            })
            .unwrap();
        let pong = group
            .add(move |me, mut value| {
                loop {
                    value = me.switch_to(Target::Member(ping), value).unwrap();
                }
            })
            .unwrap();
        partner.set(Some(pong));
        criterion.bench_function("1000 direct switch pairs/weft group", |bencher| {
            bencher.iter(|| group.resume(ping, black_box(1000)));
        });
    });
}

fn life(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("create, run, die");
    let pool = StackPool::default();
    pool.scope(|scope| {
        group.bench_function("weft", |bencher| {
            bencher.iter(|| {
                let mut coroutine: Coroutine<'_, usize, (), usize> =
                    scope.coroutine(|_: &Yielder<usize, ()>, input| input + 1).unwrap();
                coroutine.resume(black_box(1))
            });
        });
        let members = scope.group::<usize>();
        group.bench_function("weft group", |bencher| {
            bencher.iter(|| {
                let id = members.add(|_, value| Handoff::resumer(value + 1)).unwrap();
                members.resume(id, black_box(1))
            });
        });
    });
    let mut stack = DefaultStack::default();
    group.bench_function("corosensei, stack reused", |bencher| {
        bencher.iter(|| {
            let coroutine = corosensei::ScopedCoroutine::with_stack(
                &mut stack,
                |_: &corosensei::Yielder<usize, ()>, input: usize| input + 1,
            );
            coroutine.scope(|mut coroutine| coroutine.as_mut().resume(black_box(1)))
        });
    });
    group.bench_function("corosensei, new stack", |bencher| {
        bencher.iter(|| {
            let mut coroutine =
                corosensei::Coroutine::new(|_: &corosensei::Yielder<usize, ()>, input: usize| input + 1);
            coroutine.resume(black_box(1))
        });
    });
    group.finish();
}

fn cancel(criterion: &mut Criterion) {
    let pool = StackPool::default();
    pool.scope(|scope| {
        criterion.bench_function("create, suspend, cancel/weft", |bencher| {
            bencher.iter(|| {
                let mut coroutine =
                    scope.coroutine(|yielder: &Yielder<(), ()>, ()| yielder.yield_(())).unwrap();
                coroutine.resume(())
            });
        });
    });
}

fn generator(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("generator, 1000 items");
    let pool = StackPool::default();
    pool.scope(|scope| {
        group.bench_function("weft", |bencher| {
            bencher.iter(|| {
                let items =
                    scope.generator(|yielder| (0..1000u64).for_each(|item| yielder.yield_(item))).unwrap();
                items.sum::<u64>()
            });
        });
    });
    let mut stack = DefaultStack::default();
    group.bench_function("corosensei", |bencher| {
        bencher.iter(|| {
            let coroutine = corosensei::ScopedCoroutine::with_stack(
                &mut stack,
                |yielder: &corosensei::Yielder<(), u64>, ()| {
                    (0..1000u64).for_each(|item| yielder.suspend(item))
                },
            );
            coroutine.scope(|mut coroutine| {
                let mut sum = 0;
                while let corosensei::CoroutineResult::Yield(item) = coroutine.as_mut().resume(()) {
                    sum += item;
                }
                sum
            })
        });
    });
    group.finish();
}

fn round_robin(criterion: &mut Criterion) {
    const COUNT: usize = 1000;
    let mut group = criterion.benchmark_group("1000 coroutines in turn");
    let pool = StackPool::default();
    pool.scope(|scope| {
        let mut all: Vec<_> = (0..COUNT)
            .map(|_| {
                scope
                    .coroutine(|yielder: &Yielder<(), ()>, ()| {
                        loop {
                            yielder.yield_(());
                        }
                    })
                    .unwrap()
            })
            .collect::<Vec<Coroutine<'_, (), (), ()>>>();
        group.bench_function("weft owned", |bencher| {
            bencher.iter(|| {
                all.iter_mut().for_each(|coroutine| {
                    black_box(coroutine.resume(()));
                })
            });
        });
    });
    let mut all: Vec<_> = (0..COUNT)
        .map(|_| {
            corosensei::Coroutine::<(), (), ()>::new(|yielder, ()| {
                loop {
                    yielder.suspend(());
                }
            })
        })
        .collect();
    group.bench_function("corosensei", |bencher| {
        bencher.iter(|| {
            all.iter_mut().for_each(|coroutine| {
                black_box(coroutine.resume(()));
            })
        });
    });
    group.finish();
    for slots in [1024, 64] {
        slotted_round_robin(criterion, COUNT, slots);
    }
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

type Slotted = slotted::Coroutine<Nothing>;

struct Stage {
    slots: Slots<Nothing>,
    root: Slotted,
    #[allow(clippy::vec_box, reason = "coroutines must not move")]
    all: Vec<Box<Slotted>>,
}

/// Switches back to the native stack for ever. `stage` and the index come as two transfers.
unsafe extern "C" fn echo(stage: usize) -> ! {
    let stage = ptr::with_exposed_provenance_mut::<Stage>(stage);
    // SAFETY: the stage outlives its coroutines; nothing here holds a borrow across a switch.
    unsafe {
        let me = (*stage).all.last_mut().map(|me| &raw mut **me).unwrap();
        loop {
            let _ = Slots::switch(&raw mut (*stage).slots, ptr::null_mut(), me, &raw mut (*stage).root, 0);
        }
    }
}

fn slotted_round_robin(criterion: &mut Criterion, count: usize, max_slots: u32) {
    let mut stage = Box::new(Stage {
        slots: Slots::new(Config { slot_size: 256 << 10, max_slots, ..Config::default() }),
        root: slotted::Coroutine::native(Nothing),
        all: Vec::new(),
    });
    let this = &raw mut *stage;
    // SAFETY: all of it belongs to this thread; each coroutine is boxed and never moves.
    unsafe {
        let (slots, root) = (&raw mut (*this).slots, &raw mut (*this).root);
        for _ in 0..count {
            (*this).all.push(Box::new(slotted::Coroutine::new(Nothing)));
            let target = (*this).all.last_mut().map(|target| &raw mut **target).unwrap();
            Slots::start(slots, ptr::null_mut(), root, target, echo, this.expose_provenance()).unwrap();
        }
        let all: Vec<*mut Slotted> = (*this).all.iter_mut().map(|one| &raw mut **one).collect();
        let name = format!("1000 coroutines in turn/weft slotted, {max_slots} slots");
        criterion.bench_function(&name, |bencher| {
            bencher.iter(|| {
                for &target in &all {
                    Slots::switch(slots, ptr::null_mut(), root, target, 0).unwrap();
                }
            });
        });
        all.iter().for_each(|&one| Slots::discard(slots, one));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).warm_up_time(std::time::Duration::from_millis(500)).measurement_time(std::time::Duration::from_secs(1));
    targets = switch_pair, direct_switch, life, cancel, generator, round_robin
}
criterion_main!(benches);
