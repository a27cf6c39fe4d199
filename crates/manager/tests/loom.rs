//! Every interleaving of a caller, the server, and the one that sweeps up behind the dead, at one lane.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p weft-manager --release --test loom`. What lies in the lane is a cell of the
//! model's, so that it is reported if two touch it at once. Nobody sleeps here: who wakes whom is in `loom/board.rs`, and what
//! happens when the server is closed or dies in `loom/ends.rs`.
//!
//! The bound: two threads without any, but two calls in a row and three threads with at most three preemptions each run.

#![cfg(loom)]

#[path = "loom/board.rs"]
mod board;
#[path = "loom/desk.rs"]
mod desk;
#[path = "loom/ends.rs"]
mod ends;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use weft_manager::turn::{GivenUp, Handed, Swept, Tenure, Turn};

const CALL: u32 = 1;
const ANSWER: u32 = 2;

struct Lane {
    turn: Turn,
    owner: Tenure,
    content: UnsafeCell<u32>,
    /// How often the call was carried out, how often its answer was taken, and came back.
    done: AtomicU32,
    taken: AtomicU32,
    back: AtomicU32,
}

impl Lane {
    fn new() -> Arc<Self> {
        let count = || AtomicU32::new(0);
        Arc::new(Self {
            turn: Turn::new(),
            owner: Tenure::new(),
            content: UnsafeCell::new(0),
            done: count(),
            taken: count(),
            back: count(),
        })
    }

    fn write(&self, value: u32) {
        // SAFETY: the model reports it if anybody else touches it meanwhile.
        self.content.with_mut(|content| unsafe { *content = value });
    }

    fn read(&self) -> u32 {
        // SAFETY: as above.
        self.content.with(|content| unsafe { *content })
    }

    fn call(&self) {
        self.write(CALL);
        self.turn.call();
    }

    /// The server's part, once: false if there was no call.
    fn serve(&self) -> bool {
        if !self.turn.begin() {
            return false;
        }
        assert_eq!(self.read(), CALL);
        self.done.fetch_add(1, Ordering::Relaxed);
        self.write(ANSWER);
        match self.turn.answer() {
            Handed::Out => {}
            Handed::Unwanted => {
                self.back.fetch_add(1, Ordering::Relaxed);
                self.write(0);
                self.owner.end(&self.turn);
            }
            Handed::Nowhere => panic!("the call was somebody else's to answer"),
        }
        true
    }

    fn take(&self) {
        assert_eq!(self.read(), ANSWER);
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.turn.take();
    }

    fn sweep(&self) {
        match self.turn.sweep() {
            Swept::Running => return,
            Swept::Unbegun => {}
            Swept::Unread => {
                assert_eq!(self.read(), ANSWER);
                self.back.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.write(0);
        self.owner.end(&self.turn);
    }

    fn counts(&self) -> (u32, u32, u32) {
        let count = |word: &AtomicU32| word.load(Ordering::Relaxed);
        (count(&self.done), count(&self.taken), count(&self.back))
    }
}

fn model(preemptions: Option<usize>, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(check);
}

fn server(lane: &Arc<Lane>) -> thread::JoinHandle<bool> {
    let lane = Arc::clone(lane);
    thread::spawn(move || lane.serve())
}

#[test]
fn two_calls_are_answered() {
    model(Some(3), || {
        let lane = Lane::new();
        assert!(lane.owner.claim(7));
        let serving = thread::spawn({
            let lane = Arc::clone(&lane);
            move || {
                for _ in 0..2 {
                    while !lane.serve() {
                        thread::yield_now();
                    }
                }
            }
        });
        for _ in 0..2 {
            lane.call();
            while !lane.turn.is_answered() {
                thread::yield_now();
            }
            lane.take();
        }
        serving.join().unwrap();
        assert_eq!(lane.counts(), (2, 2, 0));
    });
}

#[test]
fn a_call_that_is_given_up_happens_wholly_or_not_at_all() {
    model(None, || {
        let lane = Lane::new();
        assert!(lane.owner.claim(7));
        let serving = server(&lane);
        lane.call();
        let given_up = lane.turn.give_up();
        match given_up {
            GivenUp::Unbegun => {
                assert_eq!(lane.read(), CALL);
                lane.turn.take();
                lane.write(0);
            }
            GivenUp::Answered => lane.take(),
            GivenUp::Left => {}
            GivenUp::Nothing => panic!("there was a call"),
        }
        serving.join().unwrap();
        let expected = match given_up {
            GivenUp::Unbegun => (0, 0, 0),
            GivenUp::Answered => (1, 1, 0),
            _ => (1, 0, 1),
        };
        assert_eq!(lane.counts(), expected);
        assert_eq!(lane.owner.word() == 7, given_up != GivenUp::Left);
    });
}

#[test]
fn what_the_dead_never_took_comes_back_once() {
    model(None, || {
        let lane = Lane::new();
        assert!(lane.owner.claim(7));
        lane.call();
        // It is killed here, and swept up behind while the server is at it.
        let serving = server(&lane);
        lane.sweep();
        serving.join().unwrap();
        let (done, taken, back) = lane.counts();
        assert_eq!((done, taken), (back, 0));
        assert!(lane.owner.claim(8), "the lane is free");
        lane.write(CALL);
    });
}

#[test]
fn a_lane_that_is_free_again_is_one_claimants() {
    model(Some(3), || {
        let lane = Lane::new();
        assert!(lane.owner.claim(7));
        lane.call();
        let serving = server(&lane);
        let claimant = thread::spawn({
            let lane = Arc::clone(&lane);
            move || {
                let got = lane.owner.claim(8);
                if got {
                    lane.write(0);
                }
                got
            }
        });
        lane.sweep();
        let got = lane.owner.claim(9);
        if got {
            lane.write(0);
        }
        serving.join().unwrap();
        let other = claimant.join().unwrap();
        assert!(!(got && other), "two have it");
    });
}
