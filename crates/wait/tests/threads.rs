//! Threads that wait for each other, with the kernel's futex. Under Miri, also with memory as weak as the language allows.

#![cfg(not(loom))]

use std::cell::UnsafeCell;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use weft_wait::{Deadline, Parker, Signal, ThreadParker, Ticket, WaitError, try_until, wait_until};

const COUNT: usize = if cfg!(miri) { 12 } else { 20_000 };

/// Places for items, each used once, and who waits for them.
struct Shelf {
    items: Vec<UnsafeCell<usize>>,
    put: AtomicUsize,
    got: AtomicUsize,
    signal: Signal,
}

// SAFETY: a place is written before `put` counts it, by one thread, and read after that, by the one that counted it in `got`.
unsafe impl Sync for Shelf {}

impl Shelf {
    fn new() -> Self {
        let (put, got) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { items: (0..COUNT).map(|_| UnsafeCell::new(0)).collect(), put, got, signal: Signal::new() }
    }

    /// For one thread at a time.
    fn put(&self, item: usize) {
        self.put_silently(item);
        self.signal.raise();
    }

    fn put_silently(&self, item: usize) {
        let place = self.put.load(Ordering::Relaxed);
        // SAFETY: nobody looks at the place yet.
        unsafe { *self.items[place].get() = item };
        self.put.store(place + 1, Ordering::Release);
    }

    fn has_item(&self) -> bool {
        self.got.load(Ordering::Acquire) < self.put.load(Ordering::Acquire)
    }

    fn try_get(&self) -> Option<usize> {
        loop {
            let got = self.got.load(Ordering::Acquire);
            if got >= self.put.load(Ordering::Acquire) {
                return None;
            }
            if self.got.compare_exchange(got, got + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                // SAFETY: the place was filled, and is this thread's now.
                return Some(unsafe { *self.items[got].get() });
            }
        }
    }

    fn get<P: Parker>(&self, parker: &mut P, deadline: Deadline) -> Result<usize, WaitError<P::Interrupt>> {
        wait_until(&self.signal, parker, deadline, || self.has_item(), |_| self.try_get())
    }
}

#[test]
fn every_item_reaches_one_waiter_whole() {
    for consumers in [1, 3] {
        let shelf = Shelf::new();
        let sum: usize = std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..consumers)
                .map(|_| {
                    scope.spawn(|| {
                        let mut parker = ThreadParker::default();
                        (0..COUNT / consumers)
                            .map(|_| shelf.get(&mut parker, Deadline::NEVER).unwrap())
                            .sum::<usize>()
                    })
                })
                .collect();
            (1..=COUNT).for_each(|item| shelf.put(item));
            waiters.into_iter().map(|waiter| waiter.join().unwrap()).sum()
        });
        let left: usize = std::iter::from_fn(|| shelf.try_get()).sum();
        assert_eq!(sum + left, COUNT * (COUNT + 1) / 2);
    }
}

#[test]
fn a_wait_ends_at_its_deadline() {
    let shelf = Shelf::new();
    let soon = Deadline::after(Duration::from_millis(2));
    assert_eq!(shelf.get(&mut ThreadParker::default(), soon), Err(WaitError::TimedOut));
    assert!(soon.is_over());
    shelf.put(7);
    assert_eq!(shelf.get(&mut ThreadParker::default(), soon), Ok(7), "one attempt is always made");
}

/// It is interrupted when it would sleep, and has used up a wake-up by then.
struct Interrupted<'a>(&'a Shelf);

impl Parker for Interrupted<'_> {
    type Interrupt = &'static str;

    fn park(&mut self, signal: &Signal, ticket: Ticket, _: Deadline) -> Result<(), &'static str> {
        self.0.put(9);
        assert!(!signal.is_current(ticket));
        Err("interrupted")
    }
}

#[test]
fn an_interrupted_waiter_takes_no_item_along() {
    let shelf = Shelf::new();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| shelf.get(&mut ThreadParker::default(), Deadline::NEVER));
        let outcome = shelf.get(&mut Interrupted(&shelf), Deadline::NEVER);
        assert_eq!(outcome, Err(WaitError::Interrupted("interrupted")));
        assert_eq!(waiter.join().unwrap(), Ok(9));
    });
}

/// Comes back from its sleep with an item put, as if it had been woken for that.
struct Called<'a>(&'a Shelf);

impl Parker for Called<'_> {
    type Interrupt = Infallible;

    fn park(&mut self, signal: &Signal, ticket: Ticket, _: Deadline) -> Result<(), Infallible> {
        self.0.put_silently(3);
        assert!(signal.is_current(ticket));
        Ok(())
    }
}

#[test]
fn one_that_fails_to_take_an_item_wakes_the_next() {
    let shelf = Shelf::new();
    let fail = |_: &mut Called<'_>| shelf.has_item().then_some(Err::<usize, _>("out of memory"));
    let before = shelf.signal.announce();
    let outcome = try_until(&shelf.signal, &mut Called(&shelf), Deadline::NEVER, || shelf.has_item(), fail);
    assert_eq!(outcome, Ok(Err("out of memory")));
    assert!(!shelf.signal.is_current(before), "the signal was raised for the others");
    assert_eq!(shelf.get(&mut ThreadParker::default(), Deadline::NEVER), Ok(3));
}
