//! Groups: coroutines on owned stacks that switch to each other directly.

mod support;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use support::{Rng, for_seeds};
use weft_coroutine::owned::{
    self, CoroutineResult, Error, Group, Handoff, MemberId, StackPool, Target, Yielder, scope,
};

#[test]
fn members_pass_control_in_a_ring() {
    const COUNT: usize = 100;
    scope(|scope| {
        let group = scope.group::<u64>();
        let ring = Rc::new(RefCell::new(Vec::<MemberId>::new()));
        for index in 0..COUNT {
            let ring_of_member = Rc::clone(&ring);
            let id = group
                .add(move |me, mut value| {
                    assert_eq!(me.id(), ring_of_member.borrow()[index]);
                    loop {
                        let to = ring_of_member.borrow()[(index + 1) % COUNT];
                        let target = if value >= 10_000 { Target::Resumer } else { to.into() };
                        value = me.switch_to(target, value + 1).unwrap();
                    }
                })
                .unwrap();
            ring.borrow_mut().push(id);
        }
        let first = ring.borrow()[0];
        assert_eq!(group.resume(first, 0).unwrap(), 10_001);
        assert_eq!(group.len(), COUNT);
    });
}

#[test]
fn a_member_may_end_into_another_one() {
    let pool = StackPool::default();
    let ends = Cell::new(0);
    pool.scope(|scope| {
        let group = scope.group::<u64>();
        // Each member adds the next one and ends into it: a chain that is longer than there are stacks.
        fn link<'scope>(group: &owned::Members<'scope, u64>, ends: &'scope Cell<u64>) -> MemberId {
            group
                .add(move |me, value| {
                    ends.set(ends.get() + 1);
                    if value == 0 {
                        Handoff::resumer(ends.get())
                    } else {
                        Handoff::member(link(me, ends), value - 1)
                    }
                })
                .unwrap()
        }
        let first = link(&group, &ends);
        assert_eq!(group.resume(first, 5000).unwrap(), 5001);
        assert!(group.is_empty());
    });
    assert_eq!(pool.unused(), pool.mapped());
    assert!(pool.mapped() <= 2, "{}", pool.mapped());
}

#[test]
fn refusals_give_the_value_back_and_switch_nothing() {
    scope(|scope| {
        let group = scope.group::<String>();
        let gone = group.add(|_, value| Handoff::resumer(value)).unwrap();
        group.cancel(gone).unwrap();
        let id = group
            .add(move |me, value| {
                let refused = me.switch_to(gone, value).unwrap_err();
                assert!(matches!(refused.error, Error::NoSuchMember(id) if id == gone));
                let refused = me.switch_to(me.id(), refused.value).unwrap_err();
                assert!(matches!(refused.error, Error::Running(_)));
                assert!(matches!(me.cancel(me.id()), Err(Error::Running(_))));
                assert!(me.resume(me.id(), String::new()).is_err());
                Handoff::member(gone, refused.value)
            })
            .unwrap();
        let refused = group.resume(id, "kept".to_string()).unwrap_err();
        assert!(matches!(refused.error, Error::NoSuchMember(_)));
        assert_eq!(refused.value, "kept");
        assert!(refused.to_string().contains("not in this group any more"), "{refused}");
        assert!(group.is_empty() && !group.contains(id));
        assert!(group.resume(id, String::new()).is_err());
    });
}

#[test]
fn names_are_not_reused() {
    scope(|scope| {
        let group = scope.group::<()>();
        let old = group.add(|_, ()| Handoff::resumer(())).unwrap();
        group.resume(old, ()).unwrap();
        let new = group.add(|_, ()| Handoff::resumer(())).unwrap();
        assert_ne!(old, new);
        assert!(group.resume(old, ()).is_err());
        group.resume(new, ()).unwrap();
    });
}

#[test]
fn a_panic_reaches_the_resumer_of_whoever_handed_over() {
    scope(|scope| {
        let group = scope.group::<u32>();
        let bad = group.add(|_, _| panic!("no")).unwrap();
        let good = group.add(move |me, value| Handoff::resumer(me.switch_to(bad, value).unwrap())).unwrap();
        let payload = catch_unwind(AssertUnwindSafe(|| group.resume(good, 1))).unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&"no"));
        assert!(group.contains(good) && !group.contains(bad));
        assert_eq!(group.resume(good, 9).unwrap(), 9);
    });
}

#[test]
fn a_member_is_not_suspended_from_a_coroutine_that_it_resumed() {
    scope(|scope| {
        let group = scope.group::<u32>();
        let other = group.add(|_, value| Handoff::resumer(value)).unwrap();
        let member = group
            .add(move |me, value| {
                owned::scope(|inner| {
                    let mut nested = inner
                        .coroutine(|_: &Yielder<(), ()>, ()| me.switch_to(other, value).unwrap_err().error)
                        .unwrap();
                    let CoroutineResult::Return(error) = nested.resume(()) else { panic!("it ends") };
                    assert!(matches!(error, Error::NotOnItsStack(_)), "{error}");
                });
                Handoff::resumer(value + 1)
            })
            .unwrap();
        assert_eq!(group.resume(member, 1).unwrap(), 2);
    });
}

#[test]
fn members_may_resume_and_cancel_others() {
    let drops = Cell::new(0);
    struct Count<'a>(&'a Cell<u32>);
    impl Drop for Count<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let drops = &drops;
    scope(|scope| {
        let group = scope.group::<u32>();
        let sleeper = group
            .add(|me, value| {
                let _count = Count(drops);
                Handoff::resumer(me.switch_to(Target::Resumer, value + 1).unwrap())
            })
            .unwrap();
        let fresh = group
            .add(|_, value| {
                let _count = Count(drops);
                Handoff::resumer(value)
            })
            .unwrap();
        let boss = group
            .add(move |me, value| {
                let value = me.resume(sleeper, value).unwrap();
                me.cancel(sleeper).unwrap();
                me.cancel(fresh).unwrap();
                assert_eq!(drops.get(), 1);
                Handoff::resumer(value)
            })
            .unwrap();
        assert_eq!(group.resume(boss, 1).unwrap(), 2);
        assert!(group.is_empty());
    });
}

#[test]
fn members_that_own_their_group_are_unwound_by_the_scope() {
    let pool = StackPool::default();
    pool.scope(|scope| {
        let group = Rc::new(scope.group::<u32>());
        for _ in 0..3 {
            let handle = Rc::clone(&group);
            let id = group
                .add(move |me, value| {
                    struct Late<'a, 'scope>(&'a owned::Member<'scope, u32>);
                    impl Drop for Late<'_, '_> {
                        fn drop(&mut self) {
                            assert!(!self.0.contains(self.0.id()), "its name went first");
                        }
                    }
                    let _late = Late(me);
                    let _handle: Rc<Group<'_, u32>> = handle;
                    Handoff::resumer(me.switch_to(Target::Resumer, value).unwrap())
                })
                .unwrap();
            group.resume(id, 0).unwrap();
        }
    });
    assert_eq!(pool.unused(), pool.mapped());
}

/// What the members of the random test share.
struct Shared {
    rng: RefCell<Rng>,
    members: RefCell<Vec<MemberId>>,
    left: Cell<u64>,
    started: Cell<u64>,
    dropped: Cell<u64>,
}

struct Alive<'a>(&'a Shared);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.dropped.set(self.0.dropped.get() + 1);
    }
}

fn add_random<'scope>(group: &owned::Members<'scope, u64>, shared: &'scope Shared) -> MemberId {
    let id = group
        .add(move |me, value| {
            let _alive = Alive(shared);
            shared.started.set(shared.started.get() + 1);
            let seed = shared.rng.borrow_mut().next();
            let handoff = random_life(me, shared, value, seed, 0);
            shared.members.borrow_mut().retain(|&id| id != me.id());
            let next = pick(shared);
            match next {
                Some(next) if me.contains(next) && shared.left.get() > 0 => Handoff::member(next, handoff),
                _ => Handoff::resumer(handoff),
            }
        })
        .unwrap();
    shared.members.borrow_mut().push(id);
    id
}

fn pick(shared: &Shared) -> Option<MemberId> {
    let members = shared.members.borrow();
    let index = shared.rng.borrow_mut().below(members.len() + 1);
    members.get(index).copied()
}

#[inline(never)]
fn random_life<'scope>(
    me: &owned::Member<'scope, u64>,
    shared: &'scope Shared,
    mut value: u64,
    seed: u64,
    depth: u32,
) -> u64 {
    let mut rng = Rng::new(seed);
    let words: [u64; 16] = std::array::from_fn(|_| rng.next());
    let words = std::hint::black_box(words);
    while shared.left.get() > 0 && !rng.percent(10) {
        shared.left.set(shared.left.get() - 1);
        match rng.below(10) {
            0 if shared.members.borrow().len() < 200 => drop(add_random(me, shared)),
            1 if depth < 20 => value = random_life(me, shared, value, rng.next(), depth + 1),
            2 => {
                let victim = pick(shared);
                if let Some(victim) = victim.filter(|&victim| me.cancel(victim).is_ok()) {
                    shared.members.borrow_mut().retain(|&id| id != victim);
                }
            }
            3 => value = me.switch_to(Target::Resumer, value + 1).unwrap(),
            _ => match pick(shared) {
                Some(id) if id != me.id() => match me.switch_to(id, value + 1) {
                    Ok(next) => value = next,
                    Err(refused) => {
                        assert!(matches!(refused.error, Error::Running(_)), "{refused}");
                        value = refused.value;
                    }
                },
                _ => {}
            },
        }
        let mut check = Rng::new(seed);
        assert!(words.iter().all(|&word| word == check.next()), "the stack changed, seed {seed}");
    }
    value
}

#[test]
fn random_switching_keeps_every_stack_and_drops_every_frame() {
    for_seeds(20, |seed| {
        println!("seed {seed}");
        let pool = StackPool::default();
        let shared = Shared {
            rng: RefCell::new(Rng::new(seed)),
            members: RefCell::default(),
            left: Cell::new(10_000),
            started: Cell::new(0),
            dropped: Cell::new(0),
        };
        pool.scope(|scope| {
            let group = scope.group::<u64>();
            let mut value = 0;
            while shared.left.get() > 0 {
                let next = pick(&shared).unwrap_or_else(|| add_random(&group, &shared));
                value = group.resume(next, value + 1).unwrap();
            }
            assert_eq!(group.len(), shared.members.borrow().len());
        });
        assert!(shared.started.get() > 100);
        assert_eq!(shared.started.get(), shared.dropped.get());
        assert_eq!(pool.unused(), pool.mapped().min(256));
    });
}
