//! A second way to wait, for which the queue's code needs no change: coroutines of one thread, taken in turns.
//!
//! The hub that is to come parks a coroutine by letting others run, and sleeps when all wait. This toy looks at the
//! signals of those that wait, one after the other, and lets those go on whose signal was raised.

#![cfg(not(loom))]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;

use weft_coroutine::owned::{Coroutine, CoroutineResult, Scope, Yielder, scope};
use weft_shm::robust::RobustMutex;
use weft_shm::{Arena, Queue, QueueError};
use weft_wait::{Deadline, Parker, Signal, ThreadParker, Ticket};

type Shared = Queue<RobustMutex>;

/// What a parked coroutine waits for. The signal outlives the wait: the coroutine that is parked borrows it.
#[derive(Clone, Copy)]
struct Wait {
    signal: *const Signal,
    ticket: Option<Ticket>,
    deadline: Deadline,
}

impl Wait {
    fn is_over(&self) -> bool {
        // SAFETY: the coroutine that gave it away is suspended inside of the call that borrows it.
        let raised = self.ticket.is_none_or(|ticket| !unsafe { &*self.signal }.is_current(ticket));
        raised || self.deadline.is_over()
    }
}

/// Parks the coroutine that it belongs to.
struct Turns<'a>(&'a Yielder<(), Wait>);

impl Parker for Turns<'_> {
    type Interrupt = Infallible;

    fn park(&mut self, signal: &Signal, ticket: Ticket, deadline: Deadline) -> Result<(), Infallible> {
        self.0.yield_(Wait { signal, ticket: Some(ticket), deadline });
        Ok(())
    }
}

type Task<'scope> = Coroutine<'scope, (), Wait, ()>;

/// Runs coroutines in turns until all are done. Says how often one was parked.
fn run(tasks: Vec<Task<'_>>) -> usize {
    let mut waiting: VecDeque<(Task<'_>, Option<Wait>)> =
        tasks.into_iter().map(|task| (task, None)).collect();
    let mut parked = 0;
    while let Some((mut task, wait)) = waiting.pop_front() {
        if wait.is_some_and(|wait| !wait.is_over()) {
            waiting.push_back((task, wait));
            std::thread::yield_now();
            continue;
        }
        if let CoroutineResult::Yield(wait) = task.resume(()) {
            parked += 1;
            waiting.push_back((task, Some(wait)));
        }
    }
    parked
}

fn producer<'scope>(
    scope: &'scope Scope<'scope, '_>,
    queue: &'scope Shared,
    numbers: std::ops::Range<u64>,
) -> Task<'scope> {
    scope
        .coroutine(move |yielder, ()| {
            for number in numbers {
                let mut turns = Turns(yielder);
                queue.put(1, &number.to_le_bytes(), &mut Vec::new(), &mut turns, Deadline::NEVER).unwrap();
            }
        })
        .unwrap()
}

fn consumer<'scope>(
    scope: &'scope Scope<'scope, '_>,
    queue: &'scope Shared,
    seen: &'scope RefCell<Vec<u64>>,
    count: usize,
) -> Task<'scope> {
    scope
        .coroutine(move |yielder, ()| {
            let mut body = Vec::new();
            for _ in 0..count {
                queue.get(&mut body, &mut Turns(yielder), Deadline::NEVER).unwrap();
                seen.borrow_mut().push(u64::from_le_bytes(body[..].try_into().unwrap()));
            }
        })
        .unwrap()
}

#[test]
fn producer_and_consumer_are_coroutines_of_one_thread() {
    let arena = Arena::create().unwrap();
    for limit in [1, 3, 0] {
        let queue = Shared::create(&arena, limit).unwrap();
        let seen = RefCell::new(Vec::new());
        let parked =
            scope(|scope| run(vec![consumer(scope, &queue, &seen, 500), producer(scope, &queue, 0..500)]));
        assert!(seen.borrow().iter().copied().eq(0..500));
        // The consumer came first and found nothing; with a limit both wait for each other again and again.
        assert!(parked >= if limit == 0 { 1 } else { 100 }, "{parked}");
    }
}

#[test]
fn a_thread_stands_on_the_other_side() {
    const COUNT: u64 = 3000;
    let arena = Arena::create().unwrap();
    for limit in [1, 0] {
        let (there, back) = (Shared::create(&arena, limit).unwrap(), Shared::create(&arena, limit).unwrap());
        std::thread::scope(|threads| {
            // It sends everything back.
            threads.spawn(|| {
                let (mut body, mut parker) = (Vec::new(), ThreadParker::default());
                for _ in 0..COUNT {
                    there.get(&mut body, &mut parker, Deadline::NEVER).unwrap();
                    back.put(1, &body, &mut Vec::new(), &mut parker, Deadline::NEVER).unwrap();
                }
            });
            let seen = RefCell::new(Vec::new());
            scope(|scope| {
                run(vec![
                    producer(scope, &there, 0..COUNT / 2),
                    producer(scope, &there, COUNT / 2..COUNT),
                    consumer(scope, &back, &seen, COUNT as usize / 3),
                    consumer(scope, &back, &seen, COUNT as usize * 2 / 3),
                ])
            });
            let mut seen = seen.into_inner();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..COUNT));
        });
    }
}

#[test]
fn a_deadline_ends_a_coroutines_wait() {
    let arena = Arena::create().unwrap();
    let queue = Shared::create(&arena, 0).unwrap();
    let outcome = RefCell::new(None);
    scope(|scope| {
        let (queue, outcome) = (&queue, &outcome);
        let task = scope.coroutine(move |yielder, ()| {
            let soon = Deadline::after(std::time::Duration::from_millis(2));
            outcome.replace(Some(queue.get(&mut Vec::new(), &mut Turns(yielder), soon).map(|_| ())));
        });
        run(vec![task.unwrap()]);
    });
    assert_eq!(outcome.into_inner(), Some(Err(QueueError::TimedOut)));
}
