//! A pool whose workers are processes that are killed and stopped at random instants: each task ends once.
//!
//! A program of its own without threads, so that it can fork. The seeds are printed; `WEFT_SOAK_SECONDS` makes it long.

#[path = "../../shm/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use support::{Rng, fork, seeds, send, shared, wait, watched};
use weft_pool::{Call, Cancelling, Outcome, Owner, ResultTrailer, Taken, TaskId, TaskTrailer, Worker};
use weft_shm::{Arena, Span};
use weft_wait::{Deadline, ThreadParker};

/// Tasks that a round can have.
const TASKS: usize = 1 << 20;
/// Tasks that are out at a time.
const OUT: usize = 40;

/// How often each task was begun.
struct Notes {
    begun: [AtomicU8; TASKS],
}

fn parker() -> ThreadParker {
    ThreadParker::default()
}

fn spans_of(arena: &Arc<Arena>, id: TaskId) -> Vec<Span<weft_shm::robust::RobustMutex>> {
    let count = if id.is_multiple_of(5) { id as usize % 3 } else { 0 };
    (0..count).map(|nth| Span::new(arena, 1 + (id as usize * 977 + nth) % 40_000).unwrap()).collect()
}

fn work(arena: &Arc<Arena>, handles: weft_pool::Handles, slot: usize, notes: &Notes) {
    let worker = Worker::attach(arena, handles, slot).unwrap();
    worker.arrive();
    let mut body = Vec::new();
    while let Taken::Task(received) = worker.take(&mut body, &mut parker(), Deadline::NEVER).unwrap() {
        let (trailer, _, text) = TaskTrailer::split(&body).unwrap();
        let id = trailer.id;
        assert_eq!(text, id.to_le_bytes(), "a corrupt task");
        let lengths = |spans: &[Span<_>]| spans.iter().map(Span::len).collect::<Vec<_>>();
        let mut spans = spans_of(arena, id);
        assert_eq!(lengths(&received.spans), lengths(&spans), "the spans of task {id}");
        drop(received);
        let outcome = if worker.begin(id, trailer.timed) {
            notes.begun[id as usize].fetch_add(1, Ordering::SeqCst);
            assert!(worker.finish(id), "nobody condemns here");
            Outcome::Returned
        } else {
            spans.clear();
            Outcome::Cancelled
        };
        let mut result = id.wrapping_mul(3).to_le_bytes().to_vec();
        worker.report(id, outcome, 7, &mut result, &mut spans, &mut parker()).unwrap();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waiting,
    Done,
    Cancelled,
    Died,
}

struct Round<'a> {
    arena: &'a Arc<Arena>,
    owner: Owner,
    notes: &'static Notes,
    rng: Rng,
    workers: BTreeMap<usize, libc::pid_t>,
    fates: Vec<Fate>,
    waiting: usize,
    died: usize,
}

impl Round<'_> {
    fn hire(&mut self) {
        let slot = self.owner.open_slot().unwrap();
        let (arena, handles, notes) = (self.arena, self.owner.handles(), self.notes);
        self.workers.insert(slot, fork(|| work(arena, handles, slot, notes)));
    }

    fn post(&mut self) {
        let id = self.fates.len() as TaskId;
        let mut message = id.to_le_bytes().to_vec();
        TaskTrailer { id, call: Call::Item, function: 0, timed: id.is_multiple_of(4) }.append(&mut message);
        let mut spans = spans_of(self.arena, id);
        self.owner.post(self.rng.percent(20), 7, &message, &mut spans, &mut parker()).unwrap();
        self.fates.push(Fate::Waiting);
        self.waiting += 1;
    }

    fn ends(&mut self, id: TaskId, fate: Fate) {
        assert_eq!(self.fates[id as usize], Fate::Waiting, "task {id} ends again, {fate:?}");
        self.fates[id as usize] = fate;
        self.waiting -= 1;
    }

    fn collect(&mut self) {
        let mut body = Vec::new();
        while let Some(received) = self.owner.collect(&mut body, &mut parker()).unwrap() {
            let (trailer, result) = ResultTrailer::split(&body).unwrap();
            self.owner.resolved(trailer.id);
            if trailer.outcome == Outcome::Cancelled {
                // Perhaps while it is being cancelled.
                if self.fates[trailer.id as usize] != Fate::Cancelled {
                    self.ends(trailer.id, Fate::Cancelled);
                }
                continue;
            }
            assert_eq!(result, trailer.id.wrapping_mul(3).to_le_bytes(), "a corrupt result");
            assert_eq!(received.spans.len(), spans_of(self.arena, trailer.id).len());
            self.ends(trailer.id, Fate::Done);
        }
    }

    fn cancel_one(&mut self) {
        let back = 1 + self.rng.below(OUT).min(self.fates.len() - 1);
        let id = (self.fates.len() - back) as TaskId;
        if self.fates[id as usize] != Fate::Waiting {
            return;
        }
        match self.owner.cancel(id) {
            Cancelling::NoRoom => panic!("a few tasks that are cancelled fill the table"),
            Cancelling::Running(_) => {}
            Cancelling::Done => {
                self.collect();
                if self.fates[id as usize] == Fate::Waiting {
                    self.ends(id, Fate::Cancelled);
                }
            }
        }
    }

    fn play(&mut self, pulse: &AtomicU32) {
        for _ in 0..self.rng.below(200) {
            if self.waiting < OUT {
                self.post();
            }
            if self.rng.percent(10) {
                self.cancel_one();
            }
            if self.waiting >= OUT {
                let ready = || self.owner.has_result();
                // It may be that all workers are stopped.
                let soon = Deadline::after(Duration::from_millis(2));
                let bell = self.owner.results_bell();
                let _ = bell.wait_until(&mut parker(), soon, ready, ready, |_| ready().then_some(()));
            }
            self.collect();
        }
        pulse.fetch_add(1, Ordering::Relaxed);
    }

    fn bury(&mut self, slot: usize) {
        self.owner.settle(&mut parker()).unwrap();
        self.collect();
        if let Some(at_hand) = self.owner.in_hand(slot) {
            self.owner.resolved(at_hand.id);
            if self.fates[at_hand.id as usize] == Fate::Waiting {
                self.ends(at_hand.id, Fate::Died);
                self.died += 1;
            }
        }
        self.owner.close_slot(slot);
    }
}

fn round(arena: &Arc<Arena>, notes: &'static Notes, pulse: &AtomicU32, seed: u64) -> (usize, usize) {
    let (owner, rng) = (Owner::create(arena).unwrap(), Rng::new(seed));
    let (workers, fates) = (BTreeMap::new(), Vec::new());
    let mut round = Round { arena, owner, notes, rng, workers, fates, waiting: 0, died: 0 };
    (0..1 + round.rng.below(4)).for_each(|_| round.hire());
    let kills = 5 + round.rng.below(20);
    for _ in 0..kills {
        round.play(pulse);
        let nth = round.rng.below(round.workers.len());
        let (&slot, &victim) = round.workers.iter().nth(nth).unwrap();
        if round.rng.percent(25) {
            send(victim, libc::SIGSTOP);
            std::thread::sleep(Duration::from_micros(round.rng.below(2000) as u64));
            if round.rng.percent(50) {
                send(victim, libc::SIGCONT);
                round.play(pulse);
            }
        }
        send(victim, libc::SIGKILL);
        assert_eq!(wait(victim), -libc::SIGKILL, "a worker ended before it was killed");
        round.workers.remove(&slot);
        round.bury(slot);
        round.hire();
    }
    round.owner.close();
    while round.waiting > 0 {
        let ready = || round.owner.has_result();
        let bell = round.owner.results_bell();
        bell.wait_until(&mut parker(), Deadline::NEVER, ready, ready, |_| ready().then_some(())).unwrap();
        round.collect();
        pulse.fetch_add(1, Ordering::Relaxed);
    }
    for (_, worker) in std::mem::take(&mut round.workers) {
        assert_eq!(wait(worker), 0, "a worker's end");
    }
    round.collect();
    assert!(round.died <= kills);
    for (id, fate) in round.fates.iter().enumerate() {
        let begun = notes.begun[id].swap(0, Ordering::SeqCst);
        let right = match fate {
            Fate::Waiting => false,
            Fate::Done => begun == 1,
            Fate::Cancelled => begun == 0,
            Fate::Died => begun <= 1,
        };
        assert!(right, "task {id}, {fate:?}, was begun {begun} times");
    }
    assert_eq!(round.owner.waiting(), (0, 0));
    (kills, round.died)
}

fn workers_killed_at_random_instants(pulse: &AtomicU32) {
    let notes = shared::<Notes>();
    let (mut kills, mut died) = (0, 0);
    for seed in seeds(20) {
        println!("workers_killed_at_random_instants: seed {seed}");
        let arena = Arena::create().unwrap();
        let (more, had) = round(&arena, notes, pulse, seed);
        (kills, died) = (kills + more, died + had);
        arena.sweep();
    }
    println!("workers_killed_at_random_instants: {kills} kills, {died} tasks died with their worker");
    assert!(died > 0, "no worker had a task in its hands");
}

fn main() {
    let pulse = shared::<AtomicU32>();
    watched("workers_killed_at_random_instants", pulse, || workers_killed_at_random_instants(pulse));
}
