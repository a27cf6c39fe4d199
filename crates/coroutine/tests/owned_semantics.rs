//! What each operation on owned stacks does, seen from outside.

mod support;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use support::{in_child, is_child, rounding_mode, set_rounding_mode};
use weft_coroutine::owned::{
    self, Coroutine, CoroutineResult, Error, Handoff, StackConfig, StackPool, Target, Yielder, scope,
};

/// Counts destructors.
struct Guard<'a>(&'a Cell<u32>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

fn message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("?")
}

#[test]
fn values_pass_both_ways() {
    scope(|scope| {
        let mut adder = scope
            .coroutine(|yielder, mut input: u64| {
                let mut sum = 0;
                while input != 0 {
                    sum += input;
                    input = yielder.yield_(sum.to_string());
                }
                vec![sum; 3]
            })
            .unwrap();
        assert!(!adder.is_started() && !adder.is_done());
        assert_eq!(adder.resume(3), CoroutineResult::Yield("3".to_string()));
        assert_eq!(adder.resume(4), CoroutineResult::Yield("7".to_string()));
        assert!(adder.is_started() && !adder.is_done());
        assert_eq!(adder.resume(0), CoroutineResult::Return(vec![7; 3]));
        assert!(adder.is_done());
        let refused = adder.try_resume(5).unwrap_err();
        assert!(matches!(refused.error, Error::Finished));
        assert_eq!(refused.value, 5);
        let panic = catch_unwind(AssertUnwindSafe(|| adder.resume(5))).unwrap_err();
        assert!(message(&*panic).contains("has finished"), "{}", message(&*panic));
    });
}

#[test]
fn a_suspended_coroutine_may_be_moved() {
    scope(|scope| {
        let mut first = scope
            .coroutine(|yielder, ()| {
                let local = [1u8, 2, 3];
                let reference = &local;
                yielder.yield_(());
                reference.iter().map(|&byte| u32::from(byte)).sum::<u32>()
            })
            .unwrap();
        first.resume(());
        let mut boxed = Box::new(first);
        assert_eq!(boxed.resume(()), CoroutineResult::Return(6));
    });
}

#[test]
fn a_panic_goes_to_the_resumer_with_its_payload() {
    let drops = Cell::new(0);
    scope(|scope| {
        let mut coroutine = scope
            .coroutine(|yielder: &Yielder<(), ()>, ()| {
                let _guard = Guard(&drops);
                yielder.yield_(());
                std::panic::panic_any(42u32);
            })
            .unwrap();
        coroutine.resume(());
        let payload = catch_unwind(AssertUnwindSafe(|| coroutine.resume(()))).unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&42u32));
        assert!(coroutine.is_done());
        assert!(!std::thread::panicking());
    });
    assert_eq!(drops.get(), 1);
}

#[test]
fn cancelling_and_dropping_run_the_destructors() {
    let drops = Cell::new(0);
    scope(|scope| {
        let make = || {
            let guard = Guard(&drops);
            scope
                .coroutine(|yielder: &Yielder<(), u32>, ()| {
                    let _guard = guard;
                    let _vector = [Guard(&drops), Guard(&drops)];
                    for number in 0.. {
                        yielder.yield_(number);
                    }
                })
                .unwrap()
        };
        let mut suspended = make();
        suspended.resume(());
        suspended.resume(());
        suspended.cancel();
        assert_eq!(drops.take(), 3);
        assert!(suspended.is_done() && suspended.is_started());
        suspended.cancel();

        let mut fresh = make();
        fresh.cancel();
        assert_eq!(drops.take(), 1);
        assert!(fresh.is_done() && !fresh.is_started());

        let mut dropped = make();
        dropped.resume(());
        drop(dropped);
        assert_eq!(drops.take(), 3);
        assert_eq!(scope.live(), 0);
    });
    assert_eq!(drops.get(), 0);
}

#[test]
fn the_end_of_a_scope_unwinds_what_was_leaked() {
    let drops = Cell::new(0);
    let pool = StackPool::default();
    let data = String::from("borrowed from outside");
    pool.scope(|scope| {
        for suspended in [false, true] {
            let guard = Guard(&drops);
            let mut coroutine = scope
                .coroutine(|yielder: &Yielder<(), ()>, ()| {
                    let _guard = guard;
                    yielder.yield_(());
                    data.len()
                })
                .unwrap();
            if suspended {
                coroutine.resume(());
            }
            std::mem::forget(coroutine);
        }
        let group = scope.group::<u32>();
        for _ in 0..3 {
            let member = group
                .add(|me, value| {
                    let _guard = Guard(&drops);
                    Handoff::resumer(me.switch_to(Target::Resumer, value).unwrap())
                })
                .unwrap();
            group.resume(member, 1).unwrap();
        }
        std::mem::forget(group);
        assert_eq!((drops.get(), scope.live()), (0, 5));
    });
    assert_eq!(drops.get(), 5);
    assert_eq!(pool.unused(), pool.mapped());
}

#[test]
fn handles_may_lie_in_frames_that_the_scope_unwinds_later() {
    let drops = Cell::new(0);
    let pool = StackPool::default();
    let drops_ref = &drops;
    pool.scope(|scope| {
        let mut outer = scope
            .coroutine(move |yielder, _: ()| {
                // Made later than `outer`, so unwound before it, while this frame still has the handle.
                let mut inner = scope
                    .coroutine(move |yielder, ()| {
                        let _guard = Guard(drops_ref);
                        yielder.yield_(());
                    })
                    .unwrap();
                inner.resume(());
                struct Late<'a, 'b>(Coroutine<'a, (), (), ()>, &'b Cell<u32>);
                impl Drop for Late<'_, '_> {
                    fn drop(&mut self) {
                        assert!(self.0.is_done());
                        assert!(self.0.try_resume(()).is_err());
                        self.1.set(self.1.get() + 10);
                    }
                }
                let _late = Late(inner, drops_ref);
                yielder.yield_(());
            })
            .unwrap();
        outer.resume(());
        std::mem::forget(outer);
    });
    assert_eq!(drops.get(), 11);
    assert_eq!(pool.unused(), pool.mapped());
}

#[test]
fn a_coroutine_may_own_its_own_handle() {
    for suspended in [false, true] {
        let drops = Cell::new(0);
        let pool = StackPool::new(StackConfig { kept: 0, ..StackConfig::default() });
        pool.scope(|scope| {
            type Slot<'scope> = Rc<RefCell<Option<Coroutine<'scope, (), (), ()>>>>;
            let slot: Slot<'_> = Rc::default();
            // Captured in this order: the handle goes first, and what comes later still lies on the stack.
            let (own, late) = (Rc::clone(&slot), Guard(&drops));
            let mut coroutine = scope
                .coroutine(move |yielder: &Yielder<(), ()>, ()| {
                    let _late = late;
                    let _own = own;
                    yielder.yield_(());
                })
                .unwrap();
            if suspended {
                coroutine.resume(());
            }
            slot.replace(Some(coroutine));
            assert_eq!(scope.live(), 1);
        });
        assert_eq!(drops.get(), 1);
    }
}

#[test]
fn the_end_of_a_scope_survives_payloads_whose_destructors_panic() {
    struct Nasty;
    impl Drop for Nasty {
        fn drop(&mut self) {
            panic!("payload");
        }
    }
    let drops = Cell::new(0);
    let payload = catch_unwind(AssertUnwindSafe(|| {
        scope(|scope| {
            for _ in 0..4 {
                let mut coroutine = scope
                    .coroutine(|yielder: &Yielder<(), ()>, ()| {
                        let _guard = Guard(&drops);
                        let _ = catch_unwind(AssertUnwindSafe(|| yielder.yield_(())));
                        std::panic::panic_any(Nasty);
                    })
                    .unwrap();
                let _: CoroutineResult<(), ()> = coroutine.resume(());
                std::mem::forget(coroutine);
            }
        })
    }))
    .unwrap_err();
    assert_eq!(drops.get(), 4);
    std::mem::forget(payload);
}

#[test]
fn a_panic_in_the_scope_still_unwinds_its_coroutines() {
    let drops = Cell::new(0);
    let payload = catch_unwind(AssertUnwindSafe(|| {
        scope(|scope| {
            let mut coroutine = scope
                .coroutine(|yielder: &Yielder<(), ()>, ()| {
                    let _guard = Guard(&drops);
                    yielder.yield_(());
                })
                .unwrap();
            coroutine.resume(());
            std::mem::forget(coroutine);
            panic!("scope body");
        })
    }))
    .unwrap_err();
    assert_eq!(message(&*payload), "scope body");
    assert_eq!(drops.get(), 1);
}

#[test]
fn a_body_may_catch_its_cancellation_and_return() {
    let returned = Rc::new(());
    scope(|scope| {
        let value = Rc::clone(&returned);
        let mut coroutine = scope
            .coroutine(move |yielder: &Yielder<(), ()>, ()| {
                let caught = catch_unwind(AssertUnwindSafe(|| yielder.yield_(())));
                assert!(caught.is_err());
                value
            })
            .unwrap();
        coroutine.resume(());
        coroutine.cancel();
        assert!(coroutine.is_done());
    });
    assert_eq!(Rc::strong_count(&returned), 1, "the value was dropped");
}

#[test]
fn a_body_that_yields_while_it_is_cancelled_is_unwound_again() {
    let unwound = Cell::new(0);
    scope(|scope| {
        let mut coroutine = scope
            .coroutine(|yielder: &Yielder<(), ()>, ()| {
                for _ in 0..5 {
                    if catch_unwind(AssertUnwindSafe(|| yielder.yield_(()))).is_err() {
                        unwound.set(unwound.get() + 1);
                    }
                }
            })
            .unwrap();
        coroutine.resume(());
        coroutine.resume(());
        coroutine.cancel();
    });
    assert_eq!(unwound.get(), 4);
}

#[test]
fn a_body_that_never_lets_go_aborts_the_process() {
    if is_child() {
        scope(|scope| {
            let mut coroutine = scope
                .coroutine(|yielder: &Yielder<(), ()>, ()| {
                    loop {
                        let _ = catch_unwind(AssertUnwindSafe(|| yielder.yield_(())));
                    }
                })
                .unwrap();
            coroutine.resume(());
        });
        return;
    }
    let output = in_child("a_body_that_never_lets_go_aborts_the_process");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(stderr.contains("caught its unwinding and yielded again"), "{stderr}");
}

#[test]
fn a_stolen_cancellation_has_no_power_elsewhere() {
    scope(|scope| {
        let stolen = Rc::new(RefCell::new(None));
        let thief = Rc::clone(&stolen);
        let mut victim = scope
            .coroutine(move |yielder: &Yielder<(), ()>, ()| {
                *thief.borrow_mut() = catch_unwind(AssertUnwindSafe(|| yielder.yield_(()))).err();
            })
            .unwrap();
        victim.resume(());
        victim.cancel();
        let payload = stolen.take().unwrap();
        let mut other = scope.coroutine(move |_: &Yielder<(), ()>, ()| resume_unwind(payload)).unwrap();
        let result: Result<CoroutineResult<(), ()>, _> = catch_unwind(AssertUnwindSafe(|| other.resume(())));
        assert!(result.is_err(), "it is a panic like any other");
        assert!(other.is_done());
    });
}

#[test]
fn a_panic_while_cancelling_reaches_the_canceller() {
    scope(|scope| {
        let make = || {
            let mut coroutine = scope
                .coroutine(|yielder: &Yielder<(), ()>, ()| {
                    let _ = catch_unwind(AssertUnwindSafe(|| yielder.yield_(())));
                    panic!("from within");
                })
                .unwrap();
            coroutine.resume(());
            coroutine
        };
        let mut cancelled: Coroutine<'_, (), (), ()> = make();
        let payload = catch_unwind(AssertUnwindSafe(|| cancelled.cancel())).unwrap_err();
        assert_eq!(message(&*payload), "from within");
        let dropped: Coroutine<'_, (), (), ()> = make();
        let payload = catch_unwind(AssertUnwindSafe(|| drop(dropped))).unwrap_err();
        assert_eq!(message(&*payload), "from within");
        let unwinding: Coroutine<'_, (), (), ()> = make();
        let payload = catch_unwind(AssertUnwindSafe(move || {
            let _unwinding = unwinding;
            panic!("outer");
        }))
        .unwrap_err();
        assert_eq!(message(&*payload), "outer", "the first panic wins, and nothing aborts");
    });
}

#[test]
fn coroutines_nest() {
    fn tree<'scope>(scope: &'scope owned::Scope<'scope, '_>, depth: u32) -> u64 {
        if depth == 0 {
            return 1;
        }
        let mut sum = 0;
        for _ in 0..2 {
            let mut child = scope
                .coroutine(move |yielder, ()| {
                    yielder.yield_(tree(scope, depth - 1));
                    tree(scope, depth - 1)
                })
                .unwrap();
            loop {
                match child.resume(()) {
                    CoroutineResult::Yield(count) => sum += count,
                    CoroutineResult::Return(count) => break sum += count,
                }
            }
        }
        sum
    }
    assert_eq!(scope(|scope| tree(scope, 5)), 4u64.pow(5));
}

#[test]
fn another_coroutines_yielder_is_refused() {
    let report = RefCell::new(String::new());
    scope(|scope| {
        let mut outer = scope
            .coroutine(|outer: &Yielder<(), u32>, ()| {
                owned::scope(|inner_scope| {
                    let mut inner = inner_scope.coroutine(|_: &Yielder<(), ()>, ()| outer.yield_(1)).unwrap();
                    let panic = catch_unwind(AssertUnwindSafe(|| inner.resume(()))).unwrap_err();
                    report.replace(message(&*panic).to_string());
                });
                outer.yield_(2);
            })
            .unwrap();
        assert_eq!(outer.resume(()), CoroutineResult::Yield(2));
    });
    assert!(report.borrow().contains("on the stack of another coroutine"), "{report:?}");
}

#[test]
fn a_scope_inside_a_coroutine_is_unwound_with_it() {
    let drops = Cell::new(0);
    scope(|scope| {
        let mut outer = scope
            .coroutine(|yielder: &Yielder<(), ()>, ()| {
                owned::scope(|inner_scope| {
                    let mut inner = inner_scope
                        .coroutine(|yielder: &Yielder<(), ()>, ()| {
                            let _guard = Guard(&drops);
                            yielder.yield_(());
                        })
                        .unwrap();
                    inner.resume(());
                    std::mem::forget(inner);
                    yielder.yield_(());
                });
            })
            .unwrap();
        outer.resume(());
        std::mem::forget(outer);
        assert_eq!(drops.get(), 0);
    });
    assert_eq!(drops.get(), 1);
}

#[test]
fn generators_are_iterators() {
    let words = ["a", "b", "c"];
    scope(|scope| {
        let mut generator =
            scope.generator(|yielder| words.iter().for_each(|word| yielder.yield_(*word))).unwrap();
        assert_eq!(generator.by_ref().take(2).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(generator.next(), Some("c"));
        assert_eq!(generator.next(), None);
        assert_eq!(generator.next(), None);
        let endless = scope
            .generator(|yielder| {
                for number in 0u64.. {
                    yielder.yield_(number * number);
                }
            })
            .unwrap();
        assert_eq!(endless.skip(3).step_by(2).take(3).sum::<u64>(), 9 + 25 + 49);
    });
}

#[test]
fn a_scoped_thread_inside_a_coroutine_is_joined_when_it_is_cancelled() {
    let done = std::sync::atomic::AtomicBool::new(false);
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = std::sync::Mutex::new(receiver);
    scope(|scope| {
        let mut coroutine = scope
            .coroutine(|yielder: &Yielder<(), ()>, ()| {
                std::thread::scope(|threads| {
                    threads.spawn(|| {
                        receiver.lock().unwrap().recv().unwrap();
                        done.store(true, std::sync::atomic::Ordering::Relaxed);
                    });
                    yielder.yield_(());
                });
            })
            .unwrap();
        coroutine.resume(());
        std::mem::forget(coroutine);
        sender.send(()).unwrap();
    });
    assert!(done.into_inner());
}

#[test]
fn control_words_belong_to_the_coroutine() {
    scope(|scope| {
        let mut coroutines: Vec<_> = (0..4)
            .map(|mode| {
                scope
                    .coroutine(move |yielder, ()| {
                        assert_eq!(rounding_mode(), 0);
                        set_rounding_mode(mode);
                        for _ in 0..3 {
                            yielder.yield_(rounding_mode());
                        }
                        rounding_mode()
                    })
                    .unwrap()
            })
            .collect();
        for round in 0..4 {
            for (mode, coroutine) in (0u32..).zip(&mut coroutines) {
                let expected =
                    if round < 3 { CoroutineResult::Yield(mode) } else { CoroutineResult::Return(mode) };
                assert_eq!(coroutine.resume(()), expected);
                assert_eq!(rounding_mode(), 0);
            }
        }
    });
}

/// Recurses until the stack is `bytes` deeper than `from`, an address on it.
#[inline(never)]
fn dig(from: usize, bytes: usize) -> u64 {
    let block = std::hint::black_box([3u8; 512]);
    let depth = from.saturating_sub((&raw const block).addr());
    let below = if depth < bytes { dig(from, bytes) } else { 0 };
    below + u64::from(std::hint::black_box(block)[depth % 512])
}

fn here() -> usize {
    let local = 0u8;
    (&raw const local).addr()
}

#[test]
fn a_stack_can_be_used_to_near_its_end() {
    let pool = StackPool::new(StackConfig { size: 256 << 10, kept: 4 });
    pool.scope(|scope| {
        let mut coroutine = scope
            .coroutine(|yielder, ()| {
                let before = dig(here(), 240 << 10);
                yielder.yield_(before);
                dig(here(), 240 << 10)
            })
            .unwrap();
        let CoroutineResult::Yield(first) = coroutine.resume(()) else { panic!("it yields first") };
        assert!(first > 0);
        assert_eq!(coroutine.resume(()), CoroutineResult::Return(first));
    });
}

#[test]
fn an_overflow_hits_the_guard_page() {
    use std::os::unix::process::ExitStatusExt;
    if is_child() {
        scope(|scope| scope.coroutine(|_: &Yielder<(), ()>, ()| dig(here(), 1 << 30)).unwrap().resume(()));
        return;
    }
    let output = in_child("an_overflow_hits_the_guard_page");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
}

#[test]
fn a_panic_with_a_full_backtrace_fits_on_the_default_stack() {
    if is_child() {
        let result = catch_unwind(|| {
            scope(|scope| {
                scope.coroutine(|_: &Yielder<(), ()>, ()| -> () { panic!("look at me") }).unwrap().resume(());
            });
        });
        assert_eq!(message(&*result.unwrap_err()), "look at me");
        return;
    }
    // The child inherits RUST_BACKTRACE from this process or gets it here.
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["a_panic_with_a_full_backtrace_fits_on_the_default_stack", "--exact", "--nocapture"])
        .env("WEFT_TEST_CHILD", "1")
        .env("RUST_BACKTRACE", "full")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("look at me") && stderr.contains("stack backtrace"), "{stderr}");
}

#[test]
fn too_large_a_closure_and_no_memory_are_errors() {
    scope(|scope| {
        let large = [0u8; 100_000];
        let error = scope.coroutine(move |_: &Yielder<(), ()>, ()| large[3]).unwrap_err();
        assert!(matches!(error, Error::ClosureTooLarge { size, .. } if size >= 100_000));
        assert!(error.to_string().contains("box what it captures"), "{error}");
        let group = scope.group::<()>();
        assert!(
            group
                .add(move |_, ()| {
                    let _: () = assert_eq!(large[0], 0);
                    Handoff::resumer(())
                })
                .is_err()
        );
        assert!(group.is_empty());
    });
    let drops = Cell::new(0);
    StackPool::new(StackConfig { size: 1 << 60, kept: 1 }).scope(|scope| {
        let guard = Guard(&drops);
        let error = scope
            .coroutine(move |_: &Yielder<(), ()>, ()| {
                let _guard = guard;
            })
            .unwrap_err();
        assert!(matches!(error, Error::Stack(_)));
        assert!(error.to_string().contains("cannot map a coroutine stack"), "{error}");
    });
    assert_eq!(drops.get(), 1);
}

#[test]
fn closures_and_values_of_every_size_and_alignment_arrive() {
    #[repr(align(256))]
    struct Aligned([u8; 256]);
    scope(|scope| {
        let captured = Aligned([7; 256]);
        let mut coroutine = scope
            .coroutine(move |yielder, input: Aligned| {
                let captured = captured;
                assert_eq!((&raw const captured).addr() % 256, 0);
                let next = yielder.yield_(Aligned([captured.0[0] + input.0[255]; 256]));
                Aligned(next.0)
            })
            .unwrap();
        let CoroutineResult::Yield(value) = coroutine.resume(Aligned([3; 256])) else { panic!("it yields") };
        assert!(value.0.iter().all(|&byte| byte == 10));
        let CoroutineResult::Return(value) = coroutine.resume(Aligned([9; 256])) else { panic!("it ends") };
        assert!(value.0.iter().all(|&byte| byte == 9));
    });
}
