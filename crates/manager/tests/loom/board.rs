//! Who wakes whom: callers and a server that sleep whenever they find nothing, without slices.
//!
//! A call that the server never finds, and an answer that its caller never learns of, are deadlocks of the model.
//!
//! The bound: one caller and the server with at most four preemptions each run, three threads with two.

use std::convert::Infallible;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use weft_manager::board::{Board, LANES, hand_out};
use weft_manager::turn::{GivenUp, Handed, Turn};
use weft_wait::{Deadline, Parker, Signal, Ticket, wait_until};

use super::model;

struct Place {
    turn: Turn,
    call: AtomicU32,
    answered: AtomicU32,
    reply: Signal,
}

struct Desk {
    board: Board,
    places: [Place; LANES],
}

/// Sleeps until it is woken.
struct Sleeper;

impl Parker for Sleeper {
    type Interrupt = Infallible;

    fn park(&mut self, signal: &Signal, ticket: Ticket, _: Deadline) -> Result<(), Infallible> {
        signal.sleep(ticket);
        Ok(())
    }
}

fn sleep_until(signal: &Signal, condition: impl Fn() -> bool) {
    let Ok(()) = wait_until(signal, &mut Sleeper, Deadline::NEVER, &condition, |_| condition().then_some(()))
    else {
        unreachable!("there is no deadline")
    };
}

impl Desk {
    fn new() -> Arc<Self> {
        let place = |_| Place {
            turn: Turn::new(),
            call: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            reply: Signal::new(),
        };
        Arc::new(Self { board: Board::new(), places: std::array::from_fn(place) })
    }

    fn turn_of(&self, lane: usize) -> &Turn {
        &self.places[lane].turn
    }

    fn watch(&self, lane: usize) {
        self.board.watch(lane, |lane| self.turn_of(lane));
    }

    fn post(&self, lane: usize) -> u32 {
        let place = &self.places[lane];
        let number = place.call.load(Ordering::Relaxed) + 1;
        place.call.store(number, Ordering::Relaxed);
        self.board.post(lane, &place.turn);
        number
    }

    fn await_answer(&self, lane: usize, number: u32) {
        let place = &self.places[lane];
        sleep_until(&place.reply, || place.answered.load(Ordering::Acquire) == number);
        place.turn.take();
    }

    fn call(&self, lane: usize) {
        let number = self.post(lane);
        self.await_answer(lane, number);
    }

    /// A call by somebody who is interrupted before the answer. Says whether the lane is its own still.
    fn call_in_vain(&self, lane: usize) -> bool {
        let _ = self.post(lane);
        match self.turn_of(lane).give_up() {
            GivenUp::Unbegun | GivenUp::Answered => {
                self.turn_of(lane).take();
                true
            }
            GivenUp::Left => false,
            GivenUp::Nothing => panic!("there was a call"),
        }
    }

    fn answer(&self, lane: usize) -> Handed {
        let place = &self.places[lane];
        hand_out(&place.turn, &place.call, &place.answered, &place.reply)
    }

    fn is_ready(&self) -> bool {
        self.board.is_ready(|lane| self.turn_of(lane))
    }

    /// Sleeps until there is a call, and begins it.
    fn next(&self) -> usize {
        loop {
            sleep_until(self.board.bell(), || self.is_ready());
            let found = self.board.next(0).or_else(|| self.board.watched(|lane| self.turn_of(lane)));
            if let Some(lane) = found.filter(|lane| self.turn_of(*lane).begin()) {
                return lane;
            }
        }
    }

    /// Answers so many calls, each time watching the lane of the last one, as a server of one caller does.
    fn serve(&self, calls: usize) {
        for _ in 0..calls {
            let lane = self.next();
            assert_eq!(self.answer(lane), Handed::Out);
            self.watch(lane);
        }
    }
}

fn caller(desk: &Arc<Desk>, lane: usize, calls: usize) -> thread::JoinHandle<()> {
    let desk = Arc::clone(desk);
    thread::spawn(move || (0..calls).for_each(|_| desk.call(lane)))
}

#[test]
fn a_caller_that_is_watched_wakes_the_server() {
    model(Some(4), || {
        let desk = Desk::new();
        desk.watch(0);
        let caller = caller(&desk, 0, 2);
        desk.serve(2);
        caller.join().unwrap();
    });
}

#[test]
fn a_caller_comes_to_be_watched_between_its_calls() {
    model(Some(4), || {
        let desk = Desk::new();
        let caller = caller(&desk, 0, 2);
        desk.serve(2);
        caller.join().unwrap();
    });
}

#[test]
fn a_call_is_found_although_another_lane_comes_to_be_watched() {
    model(Some(4), || {
        let desk = Desk::new();
        desk.watch(0);
        let watched = caller(&desk, 0, 1);
        // Whether its call is there before, meanwhile, or afterwards.
        desk.watch(1);
        desk.serve(1);
        watched.join().unwrap();
    });
}

#[test]
fn two_callers_are_watched_in_turns() {
    model(Some(2), || {
        let desk = Desk::new();
        desk.watch(0);
        let callers = [caller(&desk, 0, 1), caller(&desk, 1, 1)];
        desk.serve(2);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
}

#[test]
fn one_that_is_killed_while_it_is_watched_holds_nobody_up() {
    model(Some(2), || {
        let desk = Desk::new();
        desk.watch(0);
        // It posts its call, and ends there: without its bit, and without the bell.
        desk.turn_of(0).call();
        let other = caller(&desk, 1, 1);
        desk.serve(2);
        other.join().unwrap();
    });
}

#[test]
fn a_lane_that_is_watched_and_claimed_anew_is_found() {
    model(Some(3), || {
        let desk = Desk::new();
        desk.watch(0);
        let owners = thread::spawn({
            let desk = Arc::clone(&desk);
            // The second owner has the lane where the first one was interrupted, unless it was left to the server.
            move || {
                desk.call_in_vain(0) && {
                    desk.call(0);
                    true
                }
            }
        });
        loop {
            let lane = desk.next();
            let number = desk.places[lane].call.load(Ordering::Relaxed);
            // Whoever waits for this answer is the last one, or has left the lane.
            if desk.answer(lane) == Handed::Unwanted || number == 2 {
                break;
            }
        }
        let _ = owners.join().unwrap();
    });
}

#[test]
fn an_answer_that_is_late_hides_no_later_one() {
    model(Some(3), || {
        let desk = Desk::new();
        assert_eq!(desk.post(0), 1);
        assert_eq!(desk.next(), 0);
        // A thread of the server answers the first call, while its caller gives it up and calls again.
        let late = thread::spawn({
            let desk = Arc::clone(&desk);
            move || desk.answer(0)
        });
        let serving = Arc::clone(&desk);
        if desk.turn_of(0).give_up() == GivenUp::Answered {
            desk.turn_of(0).take();
            let serving = thread::spawn(move || serving.serve(1));
            desk.call(0);
            serving.join().unwrap();
        }
        let _ = late.join().unwrap();
    });
}
