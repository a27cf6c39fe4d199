//! A desk of the model's: what a caller and a server do beside each other, as in `client.rs` and `desk.rs`.

use std::convert::Infallible;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use weft_manager::board::{Board, LANES, hand_out};
use weft_manager::service::{Gone, Service};
use weft_manager::turn::{GivenUp, Handed, Swept, Tenure, Turn};
use weft_wait::{Deadline, Life, Parker, Signal, Ticket, wait_until};

pub(crate) struct Place {
    pub(crate) turn: Turn,
    pub(crate) call: AtomicU32,
    pub(crate) answered: AtomicU32,
    pub(crate) reply: Signal,
    pub(crate) owner: Tenure,
}

pub(crate) struct Desk {
    pub(crate) board: Board,
    pub(crate) places: [Place; LANES],
    pub(crate) service: Service,
    pub(crate) life: Life,
}

/// Sleeps until it is woken, and beside a life if it has one to watch, as a thread of the interpreter does.
struct Sleeper<'a>(Option<&'a Life>);

impl Parker for Sleeper<'_> {
    type Interrupt = Infallible;

    fn park(&mut self, signal: &Signal, ticket: Ticket, _: Deadline) -> Result<(), Infallible> {
        match self.0.map(Life::watch) {
            None => signal.sleep(ticket),
            Some(Some(beside)) => signal.sleep_beside(ticket, beside),
            Some(None) => {}
        }
        Ok(())
    }
}

fn sleep_until(signal: &Signal, condition: impl Fn() -> bool) {
    let Ok(()) =
        wait_until(signal, &mut Sleeper(None), Deadline::NEVER, &condition, |_| condition().then_some(()))
    else {
        unreachable!("there is no deadline")
    };
}

impl Desk {
    pub(crate) fn new() -> Arc<Self> {
        let place = |_| Place {
            turn: Turn::new(),
            call: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            reply: Signal::new(),
            owner: Tenure::new(),
        };
        let desk = Self {
            board: Board::new(),
            places: std::array::from_fn(place),
            service: Service::new(),
            life: Life::new(),
        };
        desk.service.begin();
        Arc::new(desk)
    }

    /// What any thread of the server does to end it.
    pub(crate) fn close(&self) {
        self.service.close(self.places.iter().map(|place| &place.reply), self.board.bell());
    }

    pub(crate) fn turn_of(&self, lane: usize) -> &Turn {
        &self.places[lane].turn
    }

    pub(crate) fn watch(&self, lane: usize) {
        self.board.watch(lane, |lane| self.turn_of(lane));
    }

    pub(crate) fn post(&self, lane: usize) -> u32 {
        let place = &self.places[lane];
        let number = place.call.load(Ordering::Relaxed) + 1;
        place.call.store(number, Ordering::Relaxed);
        self.board.post(lane, &place.turn);
        number
    }

    pub(crate) fn await_answer(&self, lane: usize, number: u32) {
        let place = &self.places[lane];
        sleep_until(&place.reply, || place.answered.load(Ordering::Acquire) == number);
        place.turn.take();
    }

    pub(crate) fn call(&self, lane: usize) {
        let number = self.post(lane);
        self.await_answer(lane, number);
    }

    /// A call that may find the server gone.
    pub(crate) fn try_call(&self, lane: usize) -> Result<(), Gone> {
        self.service.check(&self.life)?;
        let number = self.post(lane);
        let place = &self.places[lane];
        let awaited = (&place.reply, &place.answered, number);
        let Ok(outcome) = self.service.await_answer(&self.life, awaited, &mut Sleeper(Some(&self.life)));
        outcome?;
        place.turn.take();
        Ok(())
    }

    /// A call by somebody who is interrupted before the answer. Says whether the lane is its own still.
    pub(crate) fn call_in_vain(&self, lane: usize) -> bool {
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

    pub(crate) fn answer(&self, lane: usize) -> Handed {
        let place = &self.places[lane];
        hand_out(&place.turn, &place.call, &place.answered, &place.reply)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.board.is_ready(|lane| self.turn_of(lane))
    }

    /// Sleeps until there is a call, and begins it.
    pub(crate) fn next(&self) -> usize {
        loop {
            sleep_until(self.board.bell(), || self.is_ready());
            let found = self.board.next(0).or_else(|| self.board.watched(|lane| self.turn_of(lane)));
            if let Some(lane) = found.filter(|lane| self.turn_of(*lane).begin()) {
                return lane;
            }
        }
    }

    /// As `next`; nothing if the desk was closed.
    pub(crate) fn next_unless_closed(&self) -> Option<usize> {
        loop {
            sleep_until(self.board.bell(), || self.is_ready() || self.service.is_closed());
            if self.service.is_closed() {
                return None;
            }
            let found = self.board.next(0).or_else(|| self.board.watched(|lane| self.turn_of(lane)));
            if let Some(lane) = found.filter(|lane| self.turn_of(*lane).begin()) {
                return Some(lane);
            }
        }
    }

    /// The keeper's part: frees the lane of an owner that died.
    pub(crate) fn sweep(&self, lane: usize) {
        match self.turn_of(lane).sweep() {
            Swept::Running => {}
            Swept::Unbegun | Swept::Unread => self.places[lane].owner.end(self.turn_of(lane)),
        }
    }

    /// Answers the call in the lane, and frees it if nobody waits for that. Says the number of a call that somebody waited for.
    pub(crate) fn answer_anybody(&self, lane: usize) -> Option<u32> {
        let place = &self.places[lane];
        let number = place.call.load(Ordering::Relaxed);
        match self.answer(lane) {
            Handed::Out => return Some(number),
            Handed::Unwanted => place.owner.end(&place.turn),
            Handed::Nowhere => panic!("the call was somebody else's to answer"),
        }
        None
    }

    /// Answers so many calls, each time watching the lane of the last one, as a server of one caller does.
    pub(crate) fn serve(&self, calls: usize) {
        for _ in 0..calls {
            let lane = self.next();
            assert_eq!(self.answer(lane), Handed::Out);
            self.watch(lane);
        }
    }
}
