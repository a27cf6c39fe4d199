//! Coroutines that wait for time, each other, other threads, and for what the process side has, whose code knows nothing
//! of coroutines.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use weft_coroutine::owned::{Scope, Yielder, scope};
use weft_hub::local::{Here, LocalHub, Task};
use weft_shm::{Queue, QueueError};

use weft_sync::{AcquireError, Mutex, Tenure};
use weft_wait::{Deadline, DescriptorParker, Interest, ThreadParker};

type Arena = weft_shm::Arena<weft_shm::robust::RobustMutex>;

fn task<'scope>(
    scope: &'scope Scope<'scope, '_>,
    hub: &'scope LocalHub,
    body: impl FnOnce(Here<'_>) + 'scope,
) -> Task<'scope> {
    scope.coroutine(move |yielder: &Yielder<(), ()>, ()| body(hub.here(yielder))).unwrap()
}

#[test]
fn they_take_turns() {
    let hub = LocalHub::new().unwrap();
    let order = RefCell::new(Vec::new());
    scope(|scope| {
        let (hub, order) = (&hub, &order);
        let one = |name| {
            task(scope, hub, move |here| {
                for round in 0..3 {
                    order.borrow_mut().push((round, name));
                    here.give_way();
                }
            })
        };
        hub.run(vec![one('a'), one('b'), one('c')]).unwrap();
    });
    let expected: Vec<_> = (0..3).flat_map(|round| ['a', 'b', 'c'].map(|name| (round, name))).collect();
    assert_eq!(order.into_inner(), expected);
}

#[test]
fn sleepers_wake_in_the_order_of_their_times() {
    let hub = LocalHub::new().unwrap();
    let woken = RefCell::new(Vec::new());
    scope(|scope| {
        let (hub, woken) = (&hub, &woken);
        let tasks = [5, 1, 4, 2, 3, 0].map(|time| {
            task(scope, hub, move |here| {
                here.sleep(Duration::from_millis(time * 3));
                woken.borrow_mut().push(time);
            })
        });
        hub.run(tasks.into()).unwrap();
    });
    assert_eq!(woken.into_inner(), [0, 1, 2, 3, 4, 5]);
}

/// The busy ones stop only when the others got what they wait for: starved, this would never end.
#[test]
fn busy_ones_starve_neither_timers_nor_descriptors_nor_threads() {
    let hub = LocalHub::new().unwrap();
    let (mut near, far) = UnixStream::pair().unwrap();
    let left = Cell::new(3);
    std::thread::scope(|threads| {
        scope(|scope| {
            let (hub, left, far, near) = (&hub, &left, &far, &mut near);
            let mut tasks: Vec<_> = (0..20)
                .map(|_| {
                    task(scope, hub, |here| {
                        while left.get() > 0 {
                            here.give_way();
                        }
                    })
                })
                .collect();
            tasks.push(task(scope, hub, |here| {
                here.sleep(Duration::from_millis(2));
                left.set(left.get() - 1);
                near.write_all(b"x").unwrap();
            }));
            tasks.push(task(scope, hub, move |mut here| {
                here.park_at(far.as_fd(), Interest::Readable, Deadline::NEVER).unwrap();
                let mut far = far;
                far.read_exact(&mut [0]).unwrap();
                left.set(left.get() - 1);
            }));
            tasks.push(task(scope, hub, move |here| {
                here.wait_for_remote(|remote, key| {
                    threads.spawn(move || remote.wake(key));
                });
                left.set(left.get() - 1);
            }));
            hub.run(tasks).unwrap();
        });
    });
    assert_eq!(left.get(), 0);
}

#[test]
fn a_process_queue_parks_coroutines_and_nobody_else() {
    let arena = Arena::create().unwrap();
    for limit in [1, 3, 0] {
        let queue = Queue::create(&arena, limit).unwrap();
        let hub = LocalHub::new().unwrap();
        let (seen, beats) = (RefCell::new(Vec::new()), Cell::new(0));
        scope(|scope| {
            let (hub, queue, seen, beats) = (&hub, &queue, &seen, &beats);
            let consumer = task(scope, hub, |mut here| {
                let mut body = Vec::new();
                for _ in 0..200 {
                    queue.get(&mut body, &mut here, Deadline::NEVER).unwrap();
                    seen.borrow_mut().push(u64::from_le_bytes(body[..].try_into().unwrap()));
                }
            });
            let producer = task(scope, hub, |mut here| {
                // The consumer waits already, and others run meanwhile.
                while beats.get() < 100 {
                    here.give_way();
                }
                for number in 0..200_u64 {
                    queue.put(1, &number.to_le_bytes(), &mut Vec::new(), &mut here, Deadline::NEVER).unwrap();
                }
            });
            let heart = task(scope, hub, |here| {
                while seen.borrow().len() < 200 {
                    beats.set(beats.get() + 1);
                    here.give_way();
                }
            });
            hub.run(vec![consumer, producer, heart]).unwrap();
        });
        assert!(seen.into_inner().into_iter().eq(0..200));
        assert!(beats.get() >= 100);
    }
}

#[test]
fn coroutines_and_threads_meet_at_a_process_queue() {
    const COUNT: u64 = 2000;
    let arena = Arena::create().unwrap();
    for limit in [1, 0] {
        let (there, back) = (Queue::create(&arena, limit).unwrap(), Queue::create(&arena, limit).unwrap());
        let hub = LocalHub::new().unwrap();
        let seen = RefCell::new(Vec::new());
        std::thread::scope(|threads| {
            // It sends everything back.
            threads.spawn(|| {
                let (mut body, mut parker) = (Vec::new(), ThreadParker::default());
                for _ in 0..COUNT {
                    there.get(&mut body, &mut parker, Deadline::NEVER).unwrap();
                    back.put(1, &body, &mut Vec::new(), &mut parker, Deadline::NEVER).unwrap();
                }
            });
            scope(|scope| {
                let (hub, there, back, seen) = (&hub, &there, &back, &seen);
                let producer = |numbers: std::ops::Range<u64>| {
                    task(scope, hub, move |mut here| {
                        for number in numbers {
                            let body = number.to_le_bytes();
                            there.put(1, &body, &mut Vec::new(), &mut here, Deadline::NEVER).unwrap();
                        }
                    })
                };
                let consumer = |count: u64| {
                    task(scope, hub, move |mut here| {
                        let mut body = Vec::new();
                        for _ in 0..count {
                            back.get(&mut body, &mut here, Deadline::NEVER).unwrap();
                            seen.borrow_mut().push(u64::from_le_bytes(body[..].try_into().unwrap()));
                        }
                    })
                };
                let half = COUNT / 2;
                hub.run(vec![
                    producer(0..half),
                    producer(half..COUNT),
                    consumer(half / 2),
                    consumer(COUNT - half / 2),
                ])
                .unwrap();
            });
        });
        let mut seen = seen.into_inner();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..COUNT));
    }
}

/// More than one sentry can watch, at words that are all of one queue.
#[test]
fn three_hundred_wait_at_one_queue() {
    let arena = Arena::create().unwrap();
    let queue = Queue::create(&arena, 0).unwrap();
    let hub = LocalHub::new().unwrap();
    let got = Cell::new(0_u64);
    scope(|scope| {
        let (hub, queue, got) = (&hub, &queue, &got);
        let mut tasks: Vec<_> = (0..300)
            .map(|_| {
                task(scope, hub, |mut here| {
                    let mut body = Vec::new();
                    queue.get(&mut body, &mut here, Deadline::NEVER).unwrap();
                    got.set(got.get() + u64::from_le_bytes(body[..].try_into().unwrap()));
                })
            })
            .collect();
        tasks.push(task(scope, hub, |mut here| {
            for number in 0..300_u64 {
                queue.put(1, &number.to_le_bytes(), &mut Vec::new(), &mut here, Deadline::NEVER).unwrap();
                if number % 50 == 0 {
                    here.sleep(Duration::from_millis(1));
                }
            }
        }));
        hub.run(tasks).unwrap();
    });
    assert_eq!(got.get(), (0..300).sum());
}

#[test]
fn a_process_lock_is_taken_by_coroutines_and_threads_one_at_a_time() {
    const TIMES: u32 = 300;
    let arena = Arena::create().unwrap();
    let lock = Mutex::create(&arena, Tenure::Always).unwrap();
    let hub = LocalHub::new().unwrap();
    let (inside, sum, beats) = (AtomicU32::new(0), AtomicU32::new(0), Cell::new(0));
    let enter = || {
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
        sum.fetch_add(1, Ordering::SeqCst);
    };
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut parker = ThreadParker::default();
            for _ in 0..TIMES {
                lock.acquire(false, &mut parker, Deadline::NEVER).unwrap();
                enter();
                inside.store(0, Ordering::SeqCst);
                lock.release().unwrap();
            }
        });
        scope(|scope| {
            let (hub, lock, inside, beats, enter) = (&hub, &lock, &inside, &beats, &enter);
            let left = &*Box::leak(Box::new(Cell::new(4)));
            let mut tasks: Vec<_> = (0..4)
                .map(|_| {
                    task(scope, hub, move |mut here| {
                        for _ in 0..TIMES {
                            lock.acquire(false, &mut here, Deadline::NEVER).unwrap();
                            enter();
                            here.give_way(); // with the lock: the others find it taken
                            inside.store(0, Ordering::SeqCst);
                            lock.release().unwrap();
                        }
                        left.set(left.get() - 1);
                    })
                })
                .collect();
            tasks.push(task(scope, hub, move |here| {
                while left.get() > 0 {
                    beats.set(beats.get() + 1);
                    here.sleep(Duration::from_micros(100));
                }
            }));
            hub.run(tasks).unwrap();
        });
    });
    assert_eq!(sum.into_inner(), 5 * TIMES);
    assert!(beats.get() > 0);
}

#[test]
fn deadlines_end_their_waits() {
    let arena = Arena::create().unwrap();
    let queue = Queue::create(&arena, 0).unwrap();
    let lock = Mutex::create(&arena, Tenure::Always).unwrap();
    lock.acquire(false, &mut ThreadParker::default(), Deadline::NEVER).unwrap();
    let hub = LocalHub::new().unwrap();
    scope(|scope| {
        let (hub, queue, lock) = (&hub, &queue, &lock);
        let getter = task(scope, hub, |mut here| {
            let soon = Deadline::after(Duration::from_millis(2));
            let outcome = queue.get(&mut Vec::new(), &mut here, soon).map(|_| ());
            assert_eq!(outcome, Err(QueueError::TimedOut));
        });
        let taker = task(scope, hub, |mut here| {
            let soon = Deadline::after(Duration::from_millis(2));
            assert!(matches!(lock.acquire(false, &mut here, soon), Err(AcquireError::TimedOut)));
        });
        hub.run(vec![getter, taker]).unwrap();
    });
}

/// One that gives up while it is posted takes no wake-up away from who waits on: else the last would wait for a slice, and
/// a thousand of those for ever.
#[test]
fn those_that_give_up_take_no_wake_up_with_them() {
    let arena = Arena::create().unwrap();
    let queue = Queue::create(&arena, 0).unwrap();
    let hub = LocalHub::new().unwrap();
    let got = Cell::new(0);
    std::thread::scope(|threads| {
        let reader = threads.spawn(|| {
            let (mut body, mut parker) = (Vec::new(), ThreadParker::default());
            for _ in 0..200 {
                queue.get(&mut body, &mut parker, Deadline::NEVER).unwrap();
            }
        });
        scope(|scope| {
            let (hub, queue, got) = (&hub, &queue, &got);
            let hasty = task(scope, hub, |mut here| {
                while !reader.is_finished() {
                    let soon = Deadline::after(Duration::from_micros(50));
                    if queue.get(&mut Vec::new(), &mut here, soon).is_ok() {
                        got.set(got.get() + 1);
                    }
                }
            });
            let producer = task(scope, hub, |mut here| {
                while !reader.is_finished() {
                    queue.put(1, b"word", &mut Vec::new(), &mut here, Deadline::NEVER).unwrap();
                    here.sleep(Duration::from_micros(120));
                }
            });
            hub.run(vec![hasty, producer]).unwrap();
        });
    });
}

#[test]
fn coroutines_that_are_cancelled_while_they_wait_leave_nothing() {
    let arena = Arena::create().unwrap();
    let queue = Queue::create(&arena, 0).unwrap();
    let hub = LocalHub::new().unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        scope(|scope| {
            let (hub, queue) = (&hub, &queue);
            let waits = task(scope, hub, |mut here| {
                let _ = queue.get(&mut Vec::new(), &mut here, Deadline::NEVER);
            });
            let sleeps = task(scope, hub, |here| here.sleep(Duration::from_secs(3600)));
            let fails = task(scope, hub, |here| {
                here.give_way();
                panic!("on purpose");
            });
            hub.run(vec![waits, sleeps, fails]).unwrap();
        });
    }));
    assert_eq!(*outcome.unwrap_err().downcast::<&str>().unwrap(), "on purpose");
}
