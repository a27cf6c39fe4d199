//! Callers and a server in one process.

#![cfg(not(loom))]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::channel;

use weft_manager::{Call, Desk, LANES, ManagerError, Reply, Request};
use weft_shm::{Arena, Span};
use weft_wait::{Deadline, Parker, Signal, ThreadParker, Ticket};

/// How much of something a test does: less of it under Miri.
const fn sized(usual: u32, under_miri: u32) -> u32 {
    if cfg!(miri) { under_miri } else { usual }
}

/// Answers calls with what they were, until the desk is closed. Short ones with an odd number get an answer that is not.
fn serve(desk: &Desk) {
    let mut bytes = Vec::new();
    let mut parker = ThreadParker::default();
    while !desk.is_closed() {
        let Ok(_) = desk.wait(&mut parker, Deadline::NEVER);
        while let Some(lane) = desk.next(0).or_else(|| desk.watched()) {
            let Some(call) = desk.begin(lane, &mut bytes) else { continue };
            match call.unwrap() {
                Call::Long(Request { what, mut buffers }) => {
                    desk.answer(lane, what + 1, &[&bytes], &mut buffers).unwrap();
                }
                Call::Short(what, words) if what % 2 == 0 => desk.answer_short(lane, what + 1, &words),
                Call::Short(what, words) => {
                    desk.answer(lane, what + 1, &[&words[5].to_le_bytes()], &mut Vec::new()).unwrap();
                }
            }
            // Now this one, now another one.
            desk.watch(lane);
        }
    }
}

fn with_server(test: impl FnOnce(&Arc<Desk>)) {
    let arena = Arena::create().unwrap();
    let before = arena.blocks_in_use().unwrap();
    let desk = Desk::create(&arena).unwrap();
    std::thread::scope(|scope| {
        let (ready, is_ready) = channel();
        let serving = Arc::clone(&desk);
        scope.spawn(move || {
            let _life = serving.open().unwrap();
            assert!(serving.open().is_none(), "only once");
            ready.send(()).unwrap();
            serve(&serving);
        });
        is_ready.recv().unwrap();
        test(&desk);
        desk.close();
    });
    drop(desk);
    assert_eq!(arena.blocks_in_use().unwrap(), before, "nothing is left on its way");
}

#[test]
fn calls_of_every_size_are_answered() {
    with_server(|desk| {
        let lane = desk.claim().unwrap();
        let mut answer = Vec::new();
        for size in [0, 1, 1000, 1839, 1840, 1856, 1857, 5000, 100_000] {
            for buffers in [0, 1, 3, 200] {
                let body = vec![size as u8; size];
                let mut spans: Vec<_> =
                    (0..buffers).map(|number| Span::new(desk.arena(), 1 + number * 100).unwrap()).collect();
                let got = lane
                    .call(
                        7,
                        &[&body[..size / 2], &body[size / 2..]],
                        &mut spans,
                        &mut answer,
                        &mut ThreadParker::default(),
                    )
                    .unwrap();
                assert_eq!((got.what, &answer), (8, &body));
                let lengths: Vec<_> = got.buffers.iter().map(Span::len).collect();
                assert_eq!(lengths, (0..buffers).map(|number| 1 + number * 100).collect::<Vec<_>>());
            }
        }
    });
}

#[test]
fn callers_get_their_own_answers() {
    with_server(|desk| {
        std::thread::scope(|scope| {
            for thread in 0..sized(8, 3) {
                scope.spawn(move || {
                    let lane = desk.claim().unwrap();
                    let mut answer = Vec::new();
                    for number in 0..sized(2000, 15) {
                        let body = [thread.to_le_bytes(), number.to_le_bytes()].concat();
                        let mut parker = ThreadParker::default();
                        let got =
                            lane.call(number, &[&body], &mut Vec::new(), &mut answer, &mut parker).unwrap();
                        assert_eq!((got.what, &answer), (number + 1, &body));
                    }
                });
            }
        });
    });
}

#[test]
fn short_calls_get_their_own_answers_of_either_kind() {
    with_server(|desk| {
        std::thread::scope(|scope| {
            for thread in 0..3_u64 {
                scope.spawn(move || {
                    let lane = desk.claim().unwrap();
                    let mut answer = Vec::new();
                    for number in 0..sized(5000, 15) {
                        let words = [thread, u64::from(number), 2, 3, 4, thread << 32 | u64::from(number)];
                        let mut parker = ThreadParker::default();
                        match lane.call_short(number, &words, &mut answer, &mut parker).unwrap() {
                            Reply::Short(what, got) => {
                                assert_eq!((what, got, number % 2), (number + 1, words, 0));
                            }
                            Reply::Long(got) => {
                                assert_eq!((got.what, number % 2), (number + 1, 1));
                                assert_eq!(answer, words[5].to_le_bytes());
                            }
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn a_call_in_a_lane_that_is_watched_no_more_is_found() {
    /// Looks elsewhere while a call is being posted, as it sees the posted state and not the bit.
    struct Elsewhere<'a>(&'a Desk, usize);

    impl Parker for Elsewhere<'_> {
        type Interrupt = ();

        fn park(&mut self, _: &Signal, _: Ticket, _: Deadline) -> Result<(), ()> {
            assert_eq!(self.0.next(0), None, "the bit of a lane that is watched is not set");
            assert_eq!(self.0.watched(), Some(self.1));
            self.0.watch(self.1 + 1);
            assert_eq!((self.0.watched(), self.0.next(0)), (None, Some(self.1)));
            Err(())
        }
    }

    let desk = Desk::create(&Arena::create().unwrap()).unwrap();
    let _life = desk.open().unwrap();
    let lane = desk.claim().unwrap();
    desk.watch(lane.index());
    let mut parker = Elsewhere(&desk, lane.index());
    let outcome = lane.call_short(1, &[0; 6], &mut Vec::new(), &mut parker);
    assert!(matches!(outcome, Err(ManagerError::Interrupted(()))));
    assert!(lane.is_usable());
}

#[test]
fn lanes_are_given_back() {
    with_server(|desk| {
        let mut lanes: Vec<_> = (0..LANES).map(|_| desk.claim().unwrap()).collect();
        assert!(desk.claim().is_none());
        lanes.pop();
        assert!(desk.claim().is_some());
    });
}

/// Is interrupted when it is about to sleep.
struct Impatient;

impl Parker for Impatient {
    type Interrupt = ();

    fn park(&mut self, _: &Signal, _: Ticket, _: Deadline) -> Result<(), ()> {
        Err(())
    }
}

#[test]
fn a_call_that_had_not_begun_is_taken_back() {
    let desk = Desk::create(&Arena::create().unwrap()).unwrap();
    assert!(desk.claim().is_none(), "nobody serves yet");
    let _life = desk.open().unwrap();
    let lane = desk.claim().unwrap();
    let span = Span::new(desk.arena(), 5000).unwrap();
    let blocks = desk.arena().blocks_in_use().unwrap();
    let outcome = lane.call(1, &[b"call"], &mut vec![span], &mut Vec::new(), &mut Impatient);
    assert!(matches!(outcome, Err(ManagerError::Interrupted(()))));
    assert!(lane.is_usable());
    assert_eq!(desk.next(0), Some(lane.index()), "its bit is left, and means nothing");
    assert!(desk.begin(lane.index(), &mut Vec::new()).is_none());
    assert_eq!(desk.arena().blocks_in_use().unwrap(), blocks - 1, "the buffer is freed");
}

/// Begins the call itself, as a server would, and is interrupted then.
struct Interfering<'a>(&'a Desk);

impl Parker for Interfering<'_> {
    type Interrupt = ();

    fn park(&mut self, _: &Signal, _: Ticket, _: Deadline) -> Result<(), ()> {
        let lane = self.0.next(0).unwrap();
        assert!(self.0.begin(lane, &mut Vec::new()).is_some());
        Err(())
    }
}

#[test]
fn a_call_that_had_begun_leaves_its_lane_to_the_server() {
    let desk = Desk::create(&Arena::create().unwrap()).unwrap();
    let _life = desk.open().unwrap();
    let lane = desk.claim().unwrap();
    let index = lane.index();
    let outcome = lane.call(1, &[b"call"], &mut Vec::new(), &mut Vec::new(), &mut Interfering(&desk));
    assert!(matches!(outcome, Err(ManagerError::Interrupted(()))));
    assert!(!lane.is_usable());
    drop(lane);
    assert!(desk.owner(index).is_some(), "the server is still at it");
    let span = Span::new(desk.arena(), 5000).unwrap();
    let blocks = desk.arena().blocks_in_use().unwrap();
    desk.answer(index, 0, &[b"answer"], &mut vec![span]).unwrap();
    assert_eq!(desk.owner(index), None);
    assert_eq!(desk.arena().blocks_in_use().unwrap(), blocks - 1, "the answer's buffer is freed");
}

#[test]
fn a_thread_that_ends_with_the_life_is_missed() {
    let desk = Desk::create(&Arena::create().unwrap()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| std::mem::forget(desk.open())).join().unwrap();
    });
    assert!(desk.is_dead());
    assert!(desk.claim().is_none());
}

#[test]
fn a_closed_desk_answers_nobody() {
    let desk = Desk::create(&Arena::create().unwrap()).unwrap();
    let _life = desk.open().unwrap();
    let lane = desk.claim().unwrap();
    desk.close();
    let outcome = lane.call(1, &[], &mut Vec::new(), &mut Vec::new(), &mut ThreadParker::default());
    assert!(matches!(outcome, Err(ManagerError::<Infallible>::Closed)));
    assert!(desk.claim().is_none());
}
