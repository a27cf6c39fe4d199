//! Every interleaving of waiters and wakers at a signal, up to a bound, with a model of the kernel's futex.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p weft-wait --release --test loom`. A waiter that is never woken is a deadlock of
//! the model, which loom reports. Sleeps have no slices here: the signal has to do without its backstop.
//!
//! The bound: one waiter and one waker without any; the same twice in a row with at most four preemptions each run; three or
//! four threads with at most two, or three where two show nothing.

#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use std::convert::Infallible;
use weft_wait::{Baton, Bell, Deadline, Parker, Signal, Ticket, WaitError, wait_until};

/// Items to take, and a signal for when there is one: a queue as waiters see it.
struct Box {
    put: AtomicU32,
    got: AtomicU32,
    closed: AtomicU32,
    signal: Signal,
}

impl Box {
    fn new() -> Arc<Self> {
        let counter = || AtomicU32::new(0);
        Arc::new(Self { put: counter(), got: counter(), closed: counter(), signal: Signal::new() })
    }

    fn put(&self) {
        self.put.fetch_add(1, Ordering::Release);
        self.signal.raise();
    }

    fn close(&self) {
        self.closed.store(1, Ordering::Release);
        self.signal.raise_all();
    }

    /// Some(true) with an item, Some(false) if there will be none. The looks are plain loads, as the queue's are.
    fn try_get(&self) -> Option<bool> {
        loop {
            let got = self.got.load(Ordering::Acquire);
            if got >= self.put.load(Ordering::Acquire) {
                // Nobody puts after the end, so a second look that finds nothing finds nothing for ever.
                let is_over =
                    self.closed.load(Ordering::Acquire) != 0 && got >= self.put.load(Ordering::Acquire);
                return is_over.then_some(false);
            }
            if self.got.compare_exchange(got, got + 1, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Some(true);
            }
        }
    }

    fn get(&self) -> bool {
        loop {
            if let Some(outcome) = self.try_get() {
                return outcome;
            }
            let ticket = self.signal.announce();
            if let Some(outcome) = self.try_get() {
                return outcome;
            }
            self.signal.sleep(ticket);
        }
    }

    /// Announces itself, finds nothing perhaps, and goes away: its time is over, or it was killed.
    fn give_up(&self) -> bool {
        let _ = self.signal.announce();
        self.try_get() == Some(true)
    }
}

fn model(preemptions: Option<usize>, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(check);
}

#[test]
fn one_waiter_one_waker() {
    model(None, || {
        let items = Box::new();
        let waiter = thread::spawn({
            let items = Arc::clone(&items);
            move || assert!(items.get())
        });
        items.put();
        waiter.join().unwrap();
    });
}

#[test]
fn one_waiter_two_items() {
    model(Some(4), || {
        let items = Box::new();
        let waiter = thread::spawn({
            let items = Arc::clone(&items);
            move || assert!(items.get() && items.get())
        });
        items.put();
        items.put();
        waiter.join().unwrap();
    });
}

#[test]
fn two_waiters_two_wakers() {
    model(Some(2), || {
        let items = Box::new();
        let waiters = [(); 2].map(|()| {
            let items = Arc::clone(&items);
            thread::spawn(move || assert!(items.get()))
        });
        let waker = thread::spawn({
            let items = Arc::clone(&items);
            move || items.put()
        });
        items.put();
        waker.join().unwrap();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

#[test]
fn a_stale_flag_costs_a_call_and_no_wake_up() {
    model(Some(2), || {
        let items = Box::new();
        // Somebody was killed in its sleep.
        let _ = items.signal.announce();
        let waiter = thread::spawn({
            let items = Arc::clone(&items);
            move || assert!(items.get())
        });
        let waker = thread::spawn({
            let items = Arc::clone(&items);
            move || items.put()
        });
        items.put();
        waker.join().unwrap();
        waiter.join().unwrap();
    });
}

#[test]
fn one_that_gives_up_takes_no_wake_up_along() {
    model(Some(2), || {
        let items = Box::new();
        let fickle = thread::spawn({
            let items = Arc::clone(&items);
            move || items.give_up()
        });
        let waiter = thread::spawn({
            let items = Arc::clone(&items);
            move || assert!(items.get())
        });
        items.put();
        if fickle.join().unwrap() {
            items.put();
        }
        waiter.join().unwrap();
    });
}

#[test]
fn a_shutdown_reaches_everybody() {
    model(Some(2), || {
        let items = Box::new();
        let waiters = [(); 2].map(|()| {
            let items = Arc::clone(&items);
            thread::spawn(move || items.get())
        });
        items.put();
        items.close();
        let got = waiters.map(|waiter| waiter.join().unwrap());
        assert_eq!(got.iter().filter(|got| **got).count(), 1);
    });
}

/// Items behind a bell. Who waits keeps the lookout for one look.
struct Crowd {
    put: AtomicU32,
    got: AtomicU32,
    bell: Bell,
}

struct Waiter;

impl Parker for Waiter {
    type Interrupt = Infallible;

    fn park(&mut self, signal: &Signal, ticket: Ticket, _deadline: Deadline) -> Result<(), Infallible> {
        signal.sleep(ticket);
        Ok(())
    }

    fn linger(&mut self, ready: &mut dyn FnMut() -> bool) -> bool {
        ready()
    }
}

impl Crowd {
    fn new() -> Arc<Self> {
        Arc::new(Self { put: AtomicU32::new(0), got: AtomicU32::new(0), bell: Bell::new() })
    }

    fn put(&self) {
        self.put.fetch_add(1, Ordering::Release);
        self.bell.ring();
    }

    fn has_item(&self) -> bool {
        self.got.load(Ordering::Acquire) < self.put.load(Ordering::Acquire)
    }

    fn try_get(&self) -> Option<()> {
        loop {
            let got = self.got.load(Ordering::Acquire);
            if got >= self.put.load(Ordering::Acquire) {
                return None;
            }
            if self.got.compare_exchange(got, got + 1, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Some(());
            }
        }
    }

    fn get(&self) {
        let (ready, has_more) = (|| self.has_item(), || self.has_item());
        let got = self.bell.wait_until(&mut Waiter, Deadline::NEVER, ready, has_more, |_| self.try_get());
        assert!(got.is_ok());
    }
}

#[test]
fn a_lookout_misses_nothing() {
    model(None, || {
        let crowd = Crowd::new();
        let waiter = thread::spawn({
            let crowd = Arc::clone(&crowd);
            move || crowd.get()
        });
        crowd.put();
        waiter.join().unwrap();
    });
}

#[test]
fn what_comes_during_a_lookout_is_left_to_those_who_sleep() {
    model(Some(2), || {
        let crowd = Crowd::new();
        let waiters = [(); 2].map(|()| {
            let crowd = Arc::clone(&crowd);
            thread::spawn(move || crowd.get())
        });
        crowd.put();
        crowd.put();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

#[test]
fn two_ringers_and_two_of_a_crowd() {
    model(Some(2), || {
        let crowd = Crowd::new();
        let waiters = [(); 2].map(|()| {
            let crowd = Arc::clone(&crowd);
            thread::spawn(move || crowd.get())
        });
        let ringer = thread::spawn({
            let crowd = Arc::clone(&crowd);
            move || crowd.put()
        });
        crowd.put();
        ringer.join().unwrap();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

/// A lock with a baton for those who wait for it.
struct Lock {
    taken: AtomicU32,
    released: Baton,
}

/// Sleeps until it is woken, and is interrupted if it is to be.
struct Sleeper {
    is_interrupted: bool,
}

impl Parker for Sleeper {
    type Interrupt = ();

    fn park(&mut self, signal: &Signal, ticket: Ticket, _: Deadline) -> Result<(), ()> {
        signal.sleep(ticket);
        if self.is_interrupted { Err(()) } else { Ok(()) }
    }
}

impl Lock {
    fn new() -> Arc<Self> {
        Arc::new(Self { taken: AtomicU32::new(0), released: Baton::new() })
    }

    fn try_take(&self) -> bool {
        self.taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn take(&self, mut parker: Sleeper) -> Result<(), WaitError<()>> {
        wait_until(&self.released, &mut parker, Deadline::NEVER, || true, |_| self.try_take().then_some(()))
    }

    fn give_back(&self) {
        assert_eq!(self.taken.swap(0, Ordering::SeqCst), 1);
        self.released.raise();
    }

    fn turn(&self) {
        assert!(self.take(Sleeper { is_interrupted: false }).is_ok());
        self.give_back();
    }
}

fn turns(lock: &Arc<Lock>, count: usize) -> thread::JoinHandle<()> {
    let lock = Arc::clone(lock);
    thread::spawn(move || (0..count).for_each(|_| lock.turn()))
}

#[test]
fn one_that_takes_it_again_and_again_leaves_nobody_asleep() {
    model(Some(3), || {
        let lock = Lock::new();
        let other = turns(&lock, 1);
        (0..3).for_each(|_| lock.turn());
        other.join().unwrap();
    });
}

#[test]
fn a_lock_goes_round() {
    model(Some(2), || {
        let lock = Lock::new();
        let others = [turns(&lock, 1), turns(&lock, 1)];
        lock.turn();
        lock.turn();
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn a_note_without_a_waiter_holds_nobody_up() {
    model(Some(3), || {
        let lock = Lock::new();
        // Somebody was killed in its sleep: the flag of those that wait is stale.
        assert!(lock.try_take());
        let _ = weft_wait::WaitPoint::signal(&lock.released).announce();
        let others = [turns(&lock, 1), turns(&lock, 1)];
        lock.give_back();
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn one_that_is_interrupted_passes_the_baton_on() {
    model(Some(2), || {
        let lock = Lock::new();
        assert!(lock.try_take());
        let fickle = thread::spawn({
            let lock = Arc::clone(&lock);
            move || match lock.take(Sleeper { is_interrupted: true }) {
                Ok(()) => lock.give_back(),
                Err(error) => assert_eq!(error, WaitError::Interrupted(())),
            }
        });
        let other = turns(&lock, 1);
        lock.give_back();
        fickle.join().unwrap();
        other.join().unwrap();
    });
}
