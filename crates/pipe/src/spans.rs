//! Long messages of a pair: in shared memory, by reference.
//!
//! The writer copies the body into a span, hands it over to the pair's shared part under a number, and sends a token
//! with that number as a frame of its own. So it comes in order with everything else, and can be waited for by the
//! descriptor. At most [`MOST_ON_THE_WAY`] bytes are on their way in one direction, as the kernel's buffer would
//! hold back a writer; but one message always may be, and its writer then waits until it is received.
//!
//! Somebody who is killed between the handing over and the token, or between the token and the taking over, leaves a
//! span that nobody will ask for, and `posted` or `fetched` wrong. It is noticed where it matters, by a writer that waits
//! for room: with both locks, an empty slot and nothing outstanding at the descriptor, nothing is on its way.

use std::sync::atomic::Ordering;

use rustix::io::Errno;
use weft_shm::{Carrier, ShmError, Span};
use weft_wait::{Deadline, DescriptorParker, WaitError, try_until};

use crate::descriptor::{self, iovec};
use crate::end::{End, Use};
use crate::error::PipeError;
use crate::frame::{TOKEN, TOKEN_FRAME, Token};
use crate::lane::{FULL, INLINE_MOST, IS_TOKEN, READER_SHOWN};

/// So many bytes of spans may be on their way in one direction.
pub const MOST_ON_THE_WAY: u64 = 2 << 20;

/// Memory for a message, which is still to be filled in and [posted](End::post).
#[derive(Debug)]
pub struct Reserved(Span);

impl Reserved {
    /// The memory: as many bytes as were asked for, which may hold anything, aligned to 16.
    pub fn memory(&mut self) -> &mut [u8] {
        // SAFETY: a span is its holder's alone, and this long; any value is one of a byte.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), self.0.len()) }
    }
}

impl End {
    /// Shared memory for a message of `length` bytes, as soon as there is room for it on the way. `None` if it has
    /// to be [sent](Self::send) through the descriptor: it is short, or who will read it may not know of the memory.
    ///
    /// # Errors
    ///
    /// [`PipeError::Memory`] if the memory is not to be had; [`PipeError::System`] with `EPIPE` if nobody is left to
    /// receive it; [`PipeError::Closed`]; [`PipeError::Interrupted`].
    pub fn reserve<P: DescriptorParker>(
        &self,
        length: usize,
        parker: &mut P,
    ) -> Result<Option<Reserved>, PipeError<P::Interrupt>> {
        let Some(carrier) = self.carrier() else { return Ok(None) };
        let lane = self.outward();
        if length <= INLINE_MOST || lane.shown.load(Ordering::SeqCst) & READER_SHOWN != 0 {
            return Ok(None);
        }
        let place = self.enter()?;
        let has_room = || {
            let fetched = lane.fetched.load(Ordering::Acquire);
            let on_the_way = lane.posted.load(Ordering::Acquire).saturating_sub(fetched);
            on_the_way == 0 || on_the_way + length as u64 <= MOST_ON_THE_WAY
        };
        self.wait_for_room(carrier, &place, parker, has_room)?;
        Ok(Some(Reserved(Span::new(carrier.arena(), length)?)))
    }

    /// Waits until `has_room`, which looks at what is on its way outward.
    fn wait_for_room<P: DescriptorParker>(
        &self,
        carrier: &Carrier,
        place: &Use<'_>,
        parker: &mut P,
        has_room: impl Fn() -> bool,
    ) -> Result<(), PipeError<P::Interrupt>> {
        if has_room() {
            return Ok(());
        }
        let outcome = try_until(&self.outward().room, parker, Deadline::NEVER, &has_room, |_| {
            if has_room() {
                return Some(Ok(()));
            }
            if weft_sys::readiness::is_hung_up(place.fd()) {
                return Some(Err(PipeError::System(Errno::PIPE)));
            }
            if let Err(closed) = place.check() {
                return Some(Err(closed));
            }
            if let Err(error) = self.forget_what_was_lost(carrier, place) {
                return Some(Err(error.into()));
            }
            has_room().then_some(Ok(()))
        });
        match outcome {
            Ok(outcome) => outcome,
            Err(WaitError::Interrupted(interrupt)) => Err(PipeError::Interrupted(interrupt)),
            Err(WaitError::TimedOut) => unreachable!("there is no deadline"),
        }
    }

    /// Sends the message in `reserved`. One that is longer than all that may be on the way is waited for until
    /// somebody has received it, as if it went through the kernel's buffer.
    ///
    /// # Errors
    ///
    /// As [`End::send`].
    pub fn post<P: DescriptorParker>(
        &self,
        reserved: Reserved,
        parker: &mut P,
    ) -> Result<(), PipeError<P::Interrupt>> {
        let Some(carrier) = self.carrier() else { return Err(PipeError::Closed) };
        let Reserved(span) = reserved;
        let length = span.len() as u64;
        self.patience.note(length);
        let place = self.enter()?;
        let lane = self.outward();
        loop {
            let guard = self.lock_whole(&place, parker)?;
            // The numbers of the two directions differ, because the spans have one owner.
            let last = lane.ordinal.load(Ordering::Relaxed);
            lane.ordinal.store(last + 1, Ordering::Relaxed);
            let ordinal = last << 1 | self.side() as u64;
            let unit = carrier.hand_over(&span, ordinal)?;
            // Before anybody can receive it.
            let posted = lane.posted.fetch_add(length, Ordering::AcqRel) + length;
            let token = Token { unit, ordinal, length }.body();
            if lane.fill(&[&token], IS_TOKEN) {
                carrier.forget(span);
                drop(guard);
                return self.wait_if_long(carrier, &place, parker, length, posted);
            }
            lane.note_length(TOKEN_FRAME);
            let outcome = descriptor::send(place.fd(), &[iovec(&TOKEN.to_be_bytes()), iovec(&token)]);
            if outcome.is_ok() {
                lane.count();
                carrier.forget(span);
                drop(guard);
                return self.wait_if_long(carrier, &place, parker, length, posted);
            }
            lane.posted.fetch_sub(length, Ordering::AcqRel);
            carrier.take_back(&span)?;
            match outcome {
                Err(Errno::AGAIN) => {
                    drop(guard);
                    self.park_for_room(&place, parker)?;
                }
                Err(error) => return Err(PipeError::System(error)),
                Ok(_) => {}
            }
        }
    }

    fn wait_if_long<P: DescriptorParker>(
        &self,
        carrier: &Carrier,
        place: &Use<'_>,
        parker: &mut P,
        length: u64,
        posted: u64,
    ) -> Result<(), PipeError<P::Interrupt>> {
        if length <= MOST_ON_THE_WAY {
            return Ok(());
        }
        let lane = self.outward();
        self.wait_for_room(carrier, place, parker, || lane.fetched.load(Ordering::Acquire) >= posted)
    }

    /// The span that a token names. The caller holds the readers' lock.
    pub(crate) fn fetch(&self, token: Token) -> Result<Span, ShmError> {
        let damaged = ShmError::Damaged { what: "a message names memory that is none" };
        let (Some(carrier), Ok(length)) = (self.carrier(), usize::try_from(token.length)) else {
            return Err(damaged);
        };
        self.patience.note(token.length);
        let lane = self.inward();
        let span = carrier.take_over(token.unit, length, token.ordinal);
        lane.fetched.fetch_add(token.length, Ordering::AcqRel);
        lane.room.raise_all();
        span
    }

    /// If nothing is on its way, then what is said to be was lost with somebody who was killed.
    fn forget_what_was_lost(&self, carrier: &Carrier, place: &Use<'_>) -> Result<(), ShmError> {
        if !self.is_drained(place.fd()) {
            return Ok(());
        }
        let lane = self.outward();
        let Some(_writing) = lane.try_lock_writing() else { return Ok(()) };
        let Some(_reading) = lane.try_lock_reading() else { return Ok(()) };
        if lane.slot.load(Ordering::Acquire) == FULL || !self.is_drained(place.fd()) {
            return Ok(());
        }
        let side = self.side() as u64;
        carrier.discard(|ordinal| ordinal & 1 == side)?;
        lane.fetched.store(lane.posted.load(Ordering::Acquire), Ordering::Release);
        Ok(())
    }
}
