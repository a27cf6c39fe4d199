//! Who wakes whom: callers and a server that sleep whenever they find nothing, without slices.
//!
//! A call that the server never finds, and an answer that its caller never learns of, are deadlocks of the model.
//!
//! The bound: one caller and the server with at most four preemptions each run, three threads with two.

use loom::sync::Arc;
use loom::sync::atomic::Ordering;
use loom::thread;
use weft_manager::turn::{GivenUp, Handed};

use super::desk::Desk;
use super::model;

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
