//! Everything between the threads of one process, under stress, with a parker that sleeps until it is really woken: a
//! wake-up that is lost is a hang here, not a delay.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use weft_shm::Arena;
use weft_sync::{
    AcquireError, Arrival, Barrier, BarrierError, Condition, Event, Grant, LARGEST_VALUE, Mutex, OverRelease,
    Semaphore, Tenure, WaitError, owner,
};
use weft_wait::thread::{Slices, sleep};
use weft_wait::{Deadline, Parker, Signal, Ticket, Woken};

/// Sleeps until it is woken, or the time is over: the end of a slice wakes nobody.
#[derive(Default)]
struct Stubborn;

impl Parker for Stubborn {
    type Interrupt = Infallible;

    fn park(&mut self, signal: &Signal, ticket: Ticket, deadline: Deadline) -> Result<(), Infallible> {
        while sleep(signal, ticket, &mut Slices::default(), deadline) == Woken::TimedOut
            && !deadline.is_over()
        {}
        Ok(())
    }
}

/// Is interrupted whenever it would sleep.
struct Impatient;

impl Parker for Impatient {
    type Interrupt = &'static str;

    fn park(&mut self, _: &Signal, _: Ticket, _: Deadline) -> Result<(), &'static str> {
        Err("interrupted")
    }
}

const ROUNDS: u32 = 20_000;
const NEVER: Deadline = Deadline::NEVER;

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(1))
}

fn arena() -> Arc<Arena> {
    Arena::create().unwrap()
}

#[test]
fn a_mutex_excludes() {
    for tenure in [Tenure::Always, Tenure::UntilNormalEnd] {
        let arena = arena();
        let mutex = Mutex::create(&arena, tenure).unwrap();
        let (inside, sum) = (AtomicU32::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let other = Mutex::attach(&arena, mutex.handle()).unwrap();
                    for _ in 0..ROUNDS {
                        assert_eq!(other.acquire(false, &mut Stubborn, NEVER), Ok(Grant::Clean));
                        assert_eq!(inside.swap(1, Ordering::Relaxed), 0);
                        sum.store(sum.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                        inside.store(0, Ordering::Relaxed);
                        other.release().unwrap();
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * u64::from(ROUNDS));
        assert_eq!(mutex.owner(), owner::Owner::None);
        drop(mutex);
        arena.sweep();
        assert_eq!(arena.blocks_in_use().unwrap(), 0);
    }
}

#[test]
fn a_mutex_says_no() {
    let mutex = Mutex::create(&arena(), Tenure::Always).unwrap();
    assert_eq!(mutex.release(), Err(OverRelease));
    assert!(mutex.try_take() && !mutex.try_take() && mutex.is_taken());
    assert!(matches!(mutex.owner(), owner::Owner::Process(me) if me.pid == std::process::id()));
    assert_eq!(mutex.try_acquire::<Infallible>(false), Err(AcquireError::TimedOut));
    assert_eq!(mutex.acquire(true, &mut Stubborn, soon()), Err(AcquireError::TimedOut));
    assert_eq!(mutex.acquire(false, &mut Impatient, NEVER), Err(AcquireError::Interrupted("interrupted")));
    mutex.release().unwrap();
    assert_eq!(mutex.release(), Err(OverRelease));
    assert_eq!(mutex.acquire(false, &mut Impatient, NEVER), Ok(Grant::Clean));
}

#[test]
fn a_semaphore_counts() {
    let arena = arena();
    let semaphore = Semaphore::create(&arena, 3, LARGEST_VALUE).unwrap();
    let inside = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    semaphore.acquire(&mut Stubborn, NEVER).unwrap();
                    assert!(inside.fetch_add(1, Ordering::Relaxed) < 3);
                    inside.fetch_sub(1, Ordering::Relaxed);
                    semaphore.release().unwrap();
                }
            });
        }
    });
    assert_eq!(semaphore.value(), 3);
    let bounded = Semaphore::create(&arena, 1, 1).unwrap();
    assert_eq!(bounded.release(), Err(OverRelease));
    bounded.acquire(&mut Stubborn, NEVER).unwrap();
    assert_eq!(bounded.acquire(&mut Stubborn, soon()), Err(AcquireError::TimedOut));
    assert_eq!(bounded.acquire(&mut Impatient, NEVER), Err(AcquireError::Interrupted("interrupted")));
}

/// Takes a mutex, waits at a condition under it until `ready`, and gives it back. Gives up after `patience`.
fn wait_for(
    mutex: &Mutex,
    condition: &Condition,
    patience: Option<Duration>,
    ready: impl Fn() -> bool,
) -> bool {
    mutex.acquire(false, &mut Stubborn, NEVER).unwrap();
    while !ready() {
        let entry = condition.enter().unwrap();
        let deadline = patience.map_or(NEVER, Deadline::after);
        let notified = loop {
            mutex.release().unwrap();
            let may = condition.sleep(entry, &mut Stubborn, deadline).is_ok();
            mutex.acquire(false, &mut Stubborn, NEVER).unwrap();
            if condition.take(entry) || !may {
                break may;
            }
        };
        condition.leave(entry);
        if !notified && patience.is_some() {
            break;
        }
    }
    let outcome = ready();
    if !outcome {
        mutex.release().unwrap();
    }
    outcome
}

/// Producers notify one for each item, and consumers each take one: an item that stays is a notification lost.
#[test]
fn a_condition_loses_no_notification() {
    let arena = arena();
    let mutex = Mutex::create(&arena, Tenure::Always).unwrap();
    let condition = Condition::create(&arena).unwrap();
    let (items, end) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    wait_for(&mutex, &condition, None, || items.load(Ordering::Relaxed) > 0);
                    items.fetch_sub(1, Ordering::Relaxed);
                    mutex.release().unwrap();
                }
            });
        }
        // Those that come and go take no notification along.
        let fickle = scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                let patience = Some(Duration::from_micros(20));
                if wait_for(&mutex, &condition, patience, || items.load(Ordering::Relaxed) > 0) {
                    // What it was notified of is for another one after all.
                    condition.notify(1);
                    mutex.release().unwrap();
                }
            }
        });
        let producers = [(); 3].map(|()| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    mutex.acquire(false, &mut Stubborn, NEVER).unwrap();
                    items.fetch_add(1, Ordering::Relaxed);
                    condition.notify(1);
                    mutex.release().unwrap();
                }
            })
        });
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        end.store(true, Ordering::Relaxed);
        fickle.join().unwrap();
    });
    assert_eq!(items.into_inner(), 0);
    assert_eq!((condition.waiting(), condition.pending()), (0, 0));
}

#[test]
fn who_comes_later_takes_no_notification() {
    let condition = Condition::create(&arena()).unwrap();
    let early = condition.enter().unwrap();
    assert_eq!(condition.notify(1), 1);
    assert_eq!(condition.notify(1), 0, "nobody is left");
    let late = condition.enter().unwrap();
    assert!(!condition.take(late));
    assert_eq!(condition.sleep(late, &mut Stubborn, soon()), Err(WaitError::TimedOut));
    assert_eq!(condition.sleep(late, &mut Impatient, NEVER), Err(WaitError::Interrupted("interrupted")));
    assert_eq!(condition.waiting(), 2);
    assert!(condition.take(early) && !condition.take(early));
    condition.leave(early);
    assert_eq!(condition.notify(5), 1);
    assert_eq!(condition.pending(), 1);
    condition.leave(late);
    assert_eq!((condition.waiting(), condition.pending()), (0, 0), "it left without");
    assert_eq!(condition.notify(u32::MAX), 0);
}

#[test]
fn more_wait_than_there_are_places() {
    let condition = Condition::create(&arena()).unwrap();
    let entries: Vec<_> = (0..1000).map(|_| condition.enter().unwrap()).collect();
    assert_eq!(condition.waiting(), 1000);
    assert_eq!(condition.notify(u32::MAX), 1000);
    assert!(entries.iter().all(|entry| condition.take(*entry)));
    entries.into_iter().for_each(|entry| condition.leave(entry));
    assert_eq!((condition.waiting(), condition.pending()), (0, 0));
}

#[test]
fn an_event_wakes_all() {
    let arena = arena();
    let (event, ready) = (Event::create(&arena).unwrap(), Semaphore::create(&arena, 0, 10).unwrap());
    for round in 0..1000 {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    ready.release().unwrap();
                    event.wait(&mut Stubborn, NEVER).unwrap();
                });
            }
            for _ in 0..3 {
                ready.acquire(&mut Stubborn, NEVER).unwrap();
            }
            event.set().unwrap();
        });
        assert!(event.is_set());
        event.clear().unwrap();
        assert!(!event.is_set(), "round {round}");
    }
    assert_eq!(event.wait(&mut Stubborn, soon()), Err(WaitError::TimedOut));
    assert_eq!(event.wait(&mut Impatient, NEVER), Err(WaitError::Interrupted("interrupted")));
}

/// Set and cleared at once: who waited at that time goes on, whenever it comes to look.
#[test]
fn an_event_that_was_set_for_a_moment() {
    let event = Event::create(&arena()).unwrap();
    let woken = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                event.wait(&mut Stubborn, NEVER).unwrap();
                woken.fetch_add(1, Ordering::Relaxed);
            });
        }
        while woken.load(Ordering::Relaxed) < 3 {
            event.set().unwrap();
            event.clear().unwrap();
            thread::yield_now();
        }
    });
}

#[test]
fn a_barrier_keeps_step() {
    let arena = arena();
    for acts in [false, true] {
        let barrier = Barrier::create(&arena, 4).unwrap();
        let (before, actions) = ([const { AtomicU32::new(0) }; 4], AtomicU32::new(0));
        thread::scope(|scope| {
            for me in 0..4 {
                let (barrier, before, actions) = (&barrier, &before, &actions);
                scope.spawn(move || {
                    for round in 1..=5000 {
                        before[me].store(round, Ordering::Relaxed);
                        match barrier.wait(acts, &mut Stubborn, NEVER).unwrap() {
                            Arrival::Passed(index) => assert!(index < 4),
                            Arrival::Last { index, place } => {
                                assert_eq!(index, 3);
                                assert_eq!(actions.fetch_add(1, Ordering::Relaxed), round - 1);
                                barrier.finish(place, &mut Stubborn).unwrap();
                            }
                        }
                        assert!(before.iter().all(|other| other.load(Ordering::Relaxed) >= round));
                        assert!(!acts || actions.load(Ordering::Relaxed) >= round);
                    }
                });
            }
        });
        assert_eq!((barrier.waiting(), barrier.is_broken()), (0, false));
    }
}

#[test]
fn a_barrier_breaks() {
    let arena = arena();
    let barrier = Barrier::create(&arena, 2).unwrap();
    assert_eq!(barrier.wait(false, &mut Impatient, NEVER), Err(BarrierError::Interrupted("interrupted")));
    assert_eq!((barrier.waiting(), barrier.is_broken()), (0, false));
    assert_eq!(barrier.wait(false, &mut Stubborn, soon()), Err(BarrierError::Broken));
    assert!(barrier.is_broken());
    assert_eq!(barrier.wait(false, &mut Stubborn, NEVER), Err(BarrierError::Broken));
    barrier.reset(&mut Stubborn).unwrap();
    assert!(!barrier.is_broken());
    type Breaker = fn(&Barrier);
    let breakers: [Breaker; 3] = [
        |barrier| barrier.abort(&mut Stubborn).unwrap(),
        |barrier| barrier.reset(&mut Stubborn).unwrap(),
        |barrier| match barrier.wait(true, &mut Stubborn, NEVER) {
            Ok(Arrival::Last { place, .. }) => barrier.fail(place, &mut Stubborn),
            other => panic!("{other:?}"),
        },
    ];
    for breaker in breakers {
        thread::scope(|scope| {
            let waiter = scope.spawn(|| barrier.wait(false, &mut Stubborn, NEVER));
            while barrier.waiting() == 0 {
                thread::yield_now();
            }
            breaker(&barrier);
            assert_eq!(waiter.join().unwrap(), Err(BarrierError::Broken));
        });
        barrier.reset(&mut Stubborn).unwrap();
    }
    // One that acts is told that the barrier was reset meanwhile, and the next round is not its.
    let alone = Barrier::create(&arena, 1).unwrap();
    let Ok(Arrival::Last { index: 0, place }) = alone.wait(true, &mut Stubborn, NEVER) else { panic!() };
    assert_eq!(
        alone.wait(true, &mut Stubborn, soon()),
        Err(BarrierError::Broken),
        "nobody arrives meanwhile"
    );
    alone.reset(&mut Stubborn).unwrap();
    assert_eq!(alone.finish(place, &mut Stubborn), Err(BarrierError::Broken));
    assert_eq!(alone.wait(false, &mut Stubborn, NEVER), Ok(Arrival::Passed(0)));
}

#[test]
fn what_is_attached_must_be_of_its_kind() {
    let arena = arena();
    let (event, barrier) = (Event::create(&arena).unwrap(), Barrier::create(&arena, 2).unwrap());
    assert!(Mutex::attach(&arena, event.handle()).is_err());
    assert!(Semaphore::attach(&arena, event.handle()).is_err());
    assert!(Condition::attach(&arena, event.handle()).is_err());
    assert!(Event::attach(&arena, barrier.handle()).is_err());
    assert!(Barrier::attach(&arena, barrier.handle(), 3).is_err());
    assert!(Barrier::create(&arena, u32::MAX).is_err());
    let handle = event.handle();
    drop(event);
    assert!(Event::attach(&arena, handle).is_err());
}
