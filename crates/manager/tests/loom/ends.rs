//! How serving ends, and whom that reaches: callers and a server that sleep without slices.
//!
//! Whoever is left asleep is a deadlock of the model. The bound: two threads with at most four preemptions each run, three with two.

use loom::sync::Arc;
use loom::thread;
use weft_manager::service::Gone;

use super::desk::Desk;
use super::model;

type Outcome = thread::JoinHandle<Result<(), Gone>>;

fn caller(desk: &Arc<Desk>, lane: usize) -> Outcome {
    let desk = Arc::clone(desk);
    thread::spawn(move || desk.try_call(lane))
}

fn told<const N: usize>(callers: [Outcome; N]) -> [Result<(), Gone>; N] {
    callers.map(|caller| caller.join().unwrap())
}

#[test]
fn a_caller_is_told_that_the_server_was_closed() {
    model(Some(4), || {
        let desk = Desk::new();
        let caller = caller(&desk, 0);
        desk.close();
        desk.life.leave();
        assert_eq!(told([caller]), [Err(Gone::Closed)]);
    });
}

#[test]
fn all_callers_are_told_that_the_server_was_closed() {
    model(Some(2), || {
        let desk = Desk::new();
        let callers = [caller(&desk, 0), caller(&desk, 1)];
        desk.close();
        // It goes on for a while: nobody learns of it by the end of its life.
        assert_eq!(told(callers), [Err(Gone::Closed); 2]);
    });
}

#[test]
fn a_server_that_sleeps_is_told_that_it_was_closed() {
    model(Some(4), || {
        let desk = Desk::new();
        let serving = thread::spawn({
            let desk = Arc::clone(&desk);
            move || desk.next_unless_closed()
        });
        desk.close();
        assert_eq!(serving.join().unwrap(), None);
    });
}

#[test]
fn a_caller_is_told_of_the_death() {
    model(Some(4), || {
        let desk = Desk::new();
        let caller = caller(&desk, 0);
        desk.life.end();
        assert_eq!(told([caller]), [Err(Gone::Died)]);
    });
}

#[test]
fn all_callers_are_told_of_the_death() {
    model(Some(2), || {
        let desk = Desk::new();
        let callers = [caller(&desk, 0), caller(&desk, 1)];
        // The kernel wakes one of them.
        desk.life.end();
        assert_eq!(told(callers), [Err(Gone::Died); 2]);
    });
}

/// A server that answers one call at most, and ends in the way that `end` does.
fn serve_one(desk: &Arc<Desk>, end: fn(&Desk)) -> thread::JoinHandle<bool> {
    let desk = Arc::clone(desk);
    thread::spawn(move || {
        let found = desk.next_unless_closed();
        let answered = found.map(|lane| desk.answer_anybody(lane));
        end(&desk);
        answered.flatten().is_some()
    })
}

#[test]
fn one_that_is_closed_has_answered_or_says_so() {
    model(Some(2), || {
        let desk = Desk::new();
        let serving = serve_one(&desk, |desk| desk.life.leave());
        let caller = caller(&desk, 0);
        desk.close();
        let [outcome] = told([caller]);
        let answered = serving.join().unwrap();
        match outcome {
            Ok(()) => assert!(answered),
            Err(gone) => assert_eq!(gone, Gone::Closed),
        }
    });
}

#[test]
fn one_that_dies_after_an_answer_leaves_nobody_asleep() {
    model(Some(2), || {
        let desk = Desk::new();
        let serving = serve_one(&desk, |desk| desk.life.end());
        let other = caller(&desk, 1);
        let outcome = desk.try_call(0);
        let [other] = told([other]);
        assert!(serving.join().unwrap());
        // One call was answered, and its caller may have seen the end before the answer.
        assert!(outcome.is_err() || other.is_err());
        for outcome in [outcome, other] {
            assert!(matches!(outcome, Ok(()) | Err(Gone::Died)));
        }
    });
}

#[test]
fn a_lane_that_is_swept_up_behind_the_dead_is_found_for_its_next_owner() {
    model(Some(2), || {
        let desk = Desk::new();
        assert!(desk.places[0].owner.claim(7));
        // Its process is killed behind this.
        let _ = desk.post(0);
        let serving = thread::spawn({
            let desk = Arc::clone(&desk);
            move || {
                while desk.answer_anybody(desk.next()) != Some(2) {
                    desk.watch(0);
                }
            }
        });
        let claimant = thread::spawn({
            let desk = Arc::clone(&desk);
            move || {
                while !desk.places[0].owner.claim(8) {
                    thread::yield_now();
                }
                desk.call(0);
            }
        });
        desk.sweep(0);
        claimant.join().unwrap();
        serving.join().unwrap();
    });
}
