//! A pool whose workers are threads: cancelling against beginning, condemning against finishing, dismissing, closing.
//!
//! Seeds are printed when a round fails. `WEFT_SOAK_SECONDS` makes the random test long.

#[expect(dead_code, reason = "the tests with processes need the rest")]
#[path = "../../shm/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use support::{Rng, seeds};
use weft_pool::{Call, Cancelling, Outcome, Owner, ResultTrailer, Taken, TaskId, TaskTrailer, Worker};
use weft_shm::Arena;
use weft_wait::{Deadline, ThreadParker};

/// Prints the seed if the round it was for panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.0);
        }
    }
}

fn parker() -> ThreadParker {
    ThreadParker::default()
}

/// How a worker left.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Over,
    Dismissed,
    Condemned,
}

/// Does tasks as a worker process does, and counts in `begun` how often each was begun.
fn work(worker: &Worker, begun: &[AtomicU8], mut rng: Rng) -> End {
    let mut body = Vec::new();
    worker.arrive();
    loop {
        match worker.take(&mut body, &mut parker(), Deadline::NEVER).unwrap() {
            Taken::Over => return End::Over,
            Taken::Dismissed => return End::Dismissed,
            Taken::Task(_) => {}
        }
        let (trailer, _, _) = TaskTrailer::split(&body).unwrap();
        let report = |outcome| {
            let (mut body, mut spans) = (b"result".to_vec(), Vec::new());
            worker.report(trailer.id, outcome, 7, &mut body, &mut spans, &mut parker()).unwrap();
        };
        if !worker.begin(trailer.id, trailer.timed) {
            report(Outcome::Cancelled);
            continue;
        }
        begun[trailer.id as usize].fetch_add(1, Ordering::SeqCst);
        for _ in 0..rng.below(400) {
            std::hint::spin_loop();
        }
        if !worker.finish(trailer.id) {
            return End::Condemned;
        }
        report(Outcome::Returned);
    }
}

/// What became of a task, as its owner sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waiting,
    Done,
    Cancelled,
    Stopped,
}

struct Pool {
    arena: Arc<Arena>,
    owner: Owner,
    begun: Arc<Vec<AtomicU8>>,
    workers: BTreeMap<usize, JoinHandle<End>>,
    fates: Vec<Fate>,
    rng: Rng,
}

impl Pool {
    fn new(seed: u64, most: usize) -> Self {
        let arena = Arena::create().unwrap();
        let owner = Owner::create(&arena).unwrap();
        let begun = Arc::new((0..most).map(|_| AtomicU8::new(0)).collect());
        Self { arena, owner, begun, workers: BTreeMap::new(), fates: Vec::new(), rng: Rng::new(seed) }
    }

    fn hire(&mut self) {
        let slot = self.owner.open_slot().unwrap();
        let worker = Worker::attach(&self.arena, self.owner.handles(), slot).unwrap();
        let (begun, rng) = (Arc::clone(&self.begun), Rng::new(self.rng.next()));
        let before = self.workers.insert(slot, std::thread::spawn(move || work(&worker, &begun, rng)));
        assert!(before.is_none());
    }

    /// Waits for a worker that was told to end, or was condemned, and hires another one.
    fn replace(&mut self, slot: usize) -> End {
        let end = self.workers.remove(&slot).unwrap().join().unwrap();
        self.collect();
        self.owner.close_slot(slot);
        self.hire();
        end
    }

    fn post(&mut self) {
        let (id, mut message) = (self.fates.len() as TaskId, b"task".to_vec());
        let timed = self.rng.percent(30);
        TaskTrailer { id, call: Call::Item, function: 0, timed }.append(&mut message);
        self.owner.post(self.rng.percent(20), 7, &message, &mut Vec::new(), &mut parker()).unwrap();
        self.fates.push(Fate::Waiting);
    }

    fn collect(&mut self) {
        let mut body = Vec::new();
        while self.owner.collect(&mut body, &mut parker()).unwrap().is_some() {
            let (trailer, result) = ResultTrailer::split(&body).unwrap();
            self.owner.resolved(trailer.id);
            let fate = &mut self.fates[trailer.id as usize];
            if trailer.outcome == Outcome::Cancelled {
                // Perhaps while it is being cancelled.
                assert!(matches!(fate, Fate::Cancelled | Fate::Waiting), "task {} was skipped", trailer.id);
                *fate = Fate::Cancelled;
                continue;
            }
            assert_eq!(result, b"result");
            assert_eq!(*fate, Fate::Waiting, "task {} was done after all", trailer.id);
            *fate = Fate::Done;
        }
    }

    /// Cancels a task that is not resolved, as far as is known; stops it if it runs.
    fn cancel(&mut self, id: TaskId) {
        match self.owner.cancel(id) {
            Cancelling::NoRoom => panic!("a few tasks that are cancelled fill the table"),
            Cancelling::Done => {
                self.collect();
                let fate = &mut self.fates[id as usize];
                if *fate == Fate::Waiting {
                    *fate = Fate::Cancelled;
                }
            }
            Cancelling::Running(slot) => {
                if self.owner.condemn(slot, id) {
                    self.fates[id as usize] = Fate::Stopped;
                    assert_eq!(self.owner.in_hand(slot).map(|at_hand| at_hand.id), Some(id));
                    assert_eq!(self.replace(slot), End::Condemned);
                } else {
                    // Done: the result is there, or about to be.
                    self.wait_for(id);
                }
            }
        }
    }

    fn wait_for(&mut self, id: TaskId) {
        while self.fates[id as usize] == Fate::Waiting {
            let bell = self.owner.results_bell();
            let ready = || self.owner.has_result();
            bell.wait_until(&mut parker(), Deadline::NEVER, ready, ready, |_| ready().then_some(())).unwrap();
            self.collect();
        }
    }

    fn end(mut self) {
        self.owner.close();
        for id in 0..self.fates.len() {
            self.wait_for(id as TaskId);
        }
        for (_, worker) in std::mem::take(&mut self.workers) {
            assert_eq!(worker.join().unwrap(), End::Over);
        }
        self.collect();
        assert_eq!(self.owner.waiting(), (0, 0));
        for (id, fate) in self.fates.iter().enumerate() {
            let expected = u8::from(*fate != Fate::Cancelled);
            assert_eq!(self.begun[id].load(Ordering::SeqCst), expected, "task {id}: {fate:?}");
        }
        let arena = self.arena;
        drop(self.owner);
        arena.sweep();
        assert_eq!(arena.blocks_in_use().unwrap(), 0);
    }
}

#[test]
fn each_task_ends_once_whatever_its_owner_wants() {
    const TASKS: usize = 3000;
    for seed in seeds(20) {
        let _seed = Seed(seed);
        let mut pool = Pool::new(seed, TASKS);
        (0..1 + pool.rng.below(4)).for_each(|_| pool.hire());
        while pool.fates.len() < TASKS {
            match pool.rng.below(100) {
                0..60 => pool.post(),
                60..80 => pool.collect(),
                80..98 if !pool.fates.is_empty() => {
                    let back = 1 + pool.rng.below(30).min(pool.fates.len() - 1);
                    let id = pool.fates.len() - back;
                    if pool.fates[id] == Fate::Waiting {
                        pool.cancel(id as TaskId);
                    }
                }
                98 => {
                    let nth = pool.rng.below(pool.workers.len());
                    let slot = *pool.workers.keys().nth(nth).unwrap();
                    pool.owner.dismiss(slot);
                    assert_eq!(pool.replace(slot), End::Dismissed);
                }
                _ => {
                    if let Some(last) = pool.fates.len().checked_sub(1) {
                        pool.wait_for(last as TaskId);
                    }
                }
            }
        }
        pool.end();
    }
}

#[test]
fn what_was_put_before_the_close_is_done() {
    for seed in seeds(100) {
        let _seed = Seed(seed);
        let mut pool = Pool::new(seed, 64);
        (0..1 + pool.rng.below(3)).for_each(|_| pool.hire());
        (0..pool.rng.below(64)).for_each(|_| pool.post());
        pool.end();
    }
}

#[test]
fn a_worker_without_a_task_gives_up_when_its_time_is_over() {
    let mut pool = Pool::new(1, 1);
    let slot = pool.owner.open_slot().unwrap();
    let worker = Worker::attach(&pool.arena, pool.owner.handles(), slot).unwrap();
    assert!(!pool.owner.has_arrived(slot));
    worker.arrive();
    assert!(pool.owner.has_arrived(slot));
    let soon = Deadline::after(Duration::from_millis(1));
    let taken = worker.take(&mut Vec::new(), &mut parker(), soon);
    assert!(matches!(taken, Err(weft_pool::PoolError::TimedOut)), "{taken:?}");
    // And what comes then is taken by another one.
    pool.post();
    pool.hire();
    pool.wait_for(0);
    drop(worker);
    pool.end();
}

#[test]
fn tasks_that_were_cancelled_fill_the_table_and_are_taken_back() {
    let mut pool = Pool::new(1, 4000);
    (0..4000).for_each(|_| pool.post());
    let cancelled = (0..4000).take_while(|&id| pool.owner.cancel(id) == Cancelling::Done).count();
    assert!((64..4000).contains(&cancelled), "{cancelled}");
    let mut body = Vec::new();
    let mut taken = Vec::new();
    for express in [true, false] {
        while let Some((id, _)) = pool.owner.take_back(express, &mut body, &mut parker()).unwrap() {
            pool.owner.resolved(id);
            taken.push(id);
        }
    }
    taken.sort_unstable();
    assert_eq!(taken, (0..4000).collect::<Vec<_>>());
    assert_eq!(pool.owner.cancel(3999), Cancelling::Done, "there is room again");
    pool.owner.resolved(3999);
    pool.fates.fill(Fate::Cancelled);
    pool.end();
}
