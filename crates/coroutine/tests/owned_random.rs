//! Random programs of resume, yield, return, panic, cancel, drop and forget, against a model.

mod support;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use weft_coroutine::owned::{Coroutine, CoroutineResult, Scope, StackConfig, StackPool, Yielder};

/// What the driver does with one of its coroutines.
#[derive(Clone, Copy, Debug)]
enum Act {
    Make(Plan),
    Resume(usize),
    Cancel(usize),
    Drop(usize),
    Forget(usize),
}

/// How a coroutine behaves.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// How often it yields.
    yields: u64,
    /// How deep it recurses before each yield.
    depth: u32,
    panics: bool,
    /// Whether it runs a nested coroutine between its own yields.
    nests: bool,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let plan = (0..6u64, 0..40u32, any::<bool>(), any::<bool>())
        .prop_map(|(yields, depth, panics, nests)| Plan { yields, depth, panics, nests });
    let act = prop_oneof![
        2 => plan.prop_map(Act::Make),
        8 => any::<usize>().prop_map(Act::Resume),
        1 => any::<usize>().prop_map(Act::Cancel),
        1 => any::<usize>().prop_map(Act::Drop),
        1 => any::<usize>().prop_map(Act::Forget),
    ];
    prop::collection::vec(act, 0..200)
}

/// What the model knows of a coroutine.
struct Modelled<'scope> {
    coroutine: Coroutine<'scope, u64, u64, u64>,
    plan: Plan,
    resumes: u64,
    sum: u64,
    done: bool,
}

struct Alive<'a>(&'a Cell<i64>);

impl<'a> Alive<'a> {
    fn new(count: &'a Cell<i64>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Yields from `depth` frames further down, each with something to drop and something to check.
#[inline(never)]
fn deep(yielder: &Yielder<u64, u64>, alive: &Cell<i64>, value: u64, depth: u32) -> u64 {
    let _alive = Alive::new(alive);
    let words = std::hint::black_box([value ^ u64::from(depth); 8]);
    let answer = if depth == 0 { yielder.yield_(value) } else { deep(yielder, alive, value, depth - 1) };
    assert!(words.iter().all(|&word| word == value ^ u64::from(depth)));
    answer
}

fn make<'scope>(
    scope: &'scope Scope<'scope, '_>,
    plan: Plan,
    alive: &'scope Cell<i64>,
) -> Coroutine<'scope, u64, u64, u64> {
    let captured = Alive::new(alive);
    scope
        .coroutine(move |yielder, first| {
            let _captured = captured;
            let mut sum = first;
            let mut nested = plan.nests.then(|| {
                scope.generator(move |yielder| {
                    let _alive = Alive::new(alive);
                    (0..plan.yields).for_each(|number| yielder.yield_(number));
                })
            });
            for turn in 0..plan.yields {
                if let Some(Ok(nested)) = &mut nested {
                    assert_eq!(nested.next(), Some(turn));
                }
                sum += deep(yielder, alive, sum, plan.depth);
            }
            if plan.panics {
                std::panic::resume_unwind(Box::new(sum));
            }
            sum
        })
        .unwrap()
}

fn run(acts: &[Act]) {
    let alive = Cell::new(0);
    let pool = StackPool::new(StackConfig { kept: 1000, ..StackConfig::default() });
    pool.scope(|scope| {
        let mut all: Vec<Modelled<'_>> = Vec::new();
        for (index, &act) in acts.iter().enumerate() {
            let count = all.len().max(1);
            match act {
                Act::Make(plan) => {
                    let coroutine = make(scope, plan, &alive);
                    all.push(Modelled { coroutine, plan, resumes: 0, sum: 0, done: false });
                }
                _ if all.is_empty() => {}
                Act::Resume(which) => resume(&mut all[which % count], index as u64),
                Act::Cancel(which) => {
                    let one = &mut all[which % count];
                    one.coroutine.cancel();
                    one.done = true;
                    assert!(one.coroutine.is_done());
                }
                Act::Drop(which) => drop(all.swap_remove(which % count)),
                Act::Forget(which) => std::mem::forget(all.swap_remove(which % count).coroutine),
            }
        }
    });
    assert_eq!(alive.get(), 0, "every frame was unwound once");
    assert_eq!(pool.unused(), pool.mapped(), "every stack came back");
}

fn resume(one: &mut Modelled<'_>, input: u64) {
    let result = catch_unwind(AssertUnwindSafe(|| one.coroutine.try_resume(input)));
    if one.done {
        assert_eq!(result.unwrap().unwrap_err().value, input);
        return;
    }
    one.sum += input;
    one.resumes += 1;
    match result {
        Ok(Ok(CoroutineResult::Yield(value))) => {
            assert_eq!(value, one.sum);
            assert!(one.resumes <= one.plan.yields);
        }
        Ok(Ok(CoroutineResult::Return(value))) => {
            assert_eq!(value, one.sum);
            assert!(one.resumes == one.plan.yields + 1 && !one.plan.panics);
            one.done = true;
        }
        Ok(Err(refused)) => panic!("{refused}"),
        Err(payload) => {
            assert_eq!(payload.downcast_ref(), Some(&one.sum));
            assert!(one.resumes == one.plan.yields + 1 && one.plan.panics);
            one.done = true;
        }
    }
    assert_eq!(one.coroutine.is_done(), one.done);
    assert!(one.coroutine.is_started());
}

fn config() -> ProptestConfig {
    let soak = std::env::var_os("WEFT_SOAK_SECONDS").is_some();
    // Failures print their minimal program and seed; nothing is written next to the sources.
    ProptestConfig {
        cases: if soak { 20_000 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_programs_behave_like_the_model(acts in acts()) {
        run(&acts);
    }
}

#[test]
fn random_programs_run_on_several_threads_at_once() {
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            std::thread::spawn(move || {
                support::for_seeds(20, |seed| {
                    let mut rng = support::Rng::new(seed.wrapping_mul(4) + thread);
                    let acts: Vec<Act> = (0..300)
                        .map(|_| {
                            let which = rng.below(1 << 20);
                            match rng.below(12) {
                                0..3 => Act::Make(Plan {
                                    yields: rng.next() % 6,
                                    depth: u32::try_from(rng.below(40)).unwrap(),
                                    panics: rng.percent(50),
                                    nests: rng.percent(50),
                                }),
                                3 => Act::Cancel(which),
                                4 => Act::Drop(which),
                                5 => Act::Forget(which),
                                _ => Act::Resume(which),
                            }
                        })
                        .collect();
                    run(&acts);
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
