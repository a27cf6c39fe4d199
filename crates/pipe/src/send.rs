//! Sending a message.

use std::sync::atomic::Ordering;

use rustix::io::Errno;
use weft_wait::{Deadline, DescriptorParker, Interest, WaitError, try_until};

use crate::descriptor::{self, advance, iovec};
use crate::end::{End, Use};
use crate::error::PipeError;
use crate::frame::Head;
use crate::lane::{BEGUN, BROKEN, GIVEN_UP, INLINE_MOST, Lane, SLOT, WHOLE};
use crate::lock::{Guard, this_thread};

/// A message's body has at most so many parts.
pub(crate) const MOST_PARTS: usize = 3;

impl End {
    /// Sends the body that `parts` (three at most) make up, whole, through the slot or the descriptor.
    ///
    /// # Errors
    ///
    /// [`PipeError::System`], with `EPIPE` if nobody is left to receive it, [`PipeError::Closed`],
    /// [`PipeError::Interrupted`] and what else is said there.
    ///
    /// # Panics
    ///
    /// If there are more than three parts.
    pub fn send<P: DescriptorParker>(
        &self,
        parts: &[&[u8]],
        parker: &mut P,
    ) -> Result<(), PipeError<P::Interrupt>> {
        let place = self.enter()?;
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let head = Head::new(length as u64);
        let head = head.as_bytes();
        let mut vectors = [iovec(head); MOST_PARTS + 1];
        for (vector, part) in vectors[1..].iter_mut().zip(parts) {
            *vector = iovec(part);
        }
        let vectors = &mut vectors[..=parts.len()];
        let lane = self.outward();
        loop {
            let guard = self.lock_whole(&place, parker)?;
            if length <= SLOT && self.carrier().is_some() && lane.fill(parts, 0) {
                return Ok(());
            }
            if self.is_plain() {
                return self.write_all(&place, &guard, vectors, parker);
            }
            let total = head.len() + length;
            if total > INLINE_MOST {
                return self.send_pieces(&place, &guard, vectors, parker);
            }
            lane.note_length(total);
            match descriptor::send(place.fd(), vectors) {
                Ok(count) => {
                    lane.count();
                    if count == total {
                        return Ok(());
                    }
                    // No socket of a pair's: that sends such a frame wholly or not at all.
                    return self.send_pieces(&place, &guard, advance(vectors, count), parker);
                }
                Err(Errno::AGAIN) => {
                    drop(guard);
                    self.park_for_room(&place, parker)?;
                }
                Err(error) if self.turns_out_plain(error) => {}
                Err(error) => return Err(PipeError::System(error)),
            }
        }
    }

    /// The writers' lock, with nobody's frame broken off.
    pub(crate) fn lock_whole<P: DescriptorParker>(
        &self,
        place: &Use<'_>,
        parker: &mut P,
    ) -> Result<Guard<'_>, PipeError<P::Interrupt>> {
        loop {
            if self.cannot_send.load(Ordering::Relaxed) {
                return Err(PipeError::Unusable);
            }
            let lane = self.outward();
            let guard = lane.lock_writing(parker)?;
            place.check()?;
            if lane.stage.load(Ordering::Relaxed) == WHOLE {
                return Ok(guard);
            }
            drop(guard);
            self.wait_until_whole(place, parker)?;
        }
    }

    pub(crate) fn park_for_room<P: DescriptorParker>(
        &self,
        place: &Use<'_>,
        parker: &mut P,
    ) -> Result<(), PipeError<P::Interrupt>> {
        parker.park_at(place.fd(), Interest::Writable, Deadline::NEVER).map_err(PipeError::Interrupted)?;
        place.check()
    }

    /// Waits until a reader has come to the end of what a dead writer left.
    #[cold]
    fn wait_until_whole<P: DescriptorParker>(
        &self,
        place: &Use<'_>,
        parker: &mut P,
    ) -> Result<(), PipeError<P::Interrupt>> {
        let lane = self.outward();
        if self.carrier().is_none() {
            return Err(PipeError::Unusable);
        }
        let whole = || lane.stage.load(Ordering::Acquire) == WHOLE;
        let outcome = try_until(&lane.room, parker, Deadline::NEVER, whole, |_| {
            if weft_sys::readiness::is_hung_up(place.fd()) {
                return Some(Err(PipeError::System(Errno::PIPE)));
            }
            if let Err(closed) = place.check() {
                return Some(Err(closed));
            }
            self.forget_what_is_not_there(place);
            whole().then_some(Ok(()))
        });
        outcome.map_err(interrupted)?
    }

    /// Of a frame that was broken off before anything of it was sent, or after all of it was, a reader may never learn:
    /// one that waits for the descriptor to become readable does not come to its end. If nothing is outstanding and
    /// nobody receives, the next byte begins a frame.
    fn forget_what_is_not_there(&self, place: &Use<'_>) {
        if !self.is_drained(place.fd()) {
            return;
        }
        let lane = self.outward();
        let Some(_writing) = lane.try_lock_writing() else { return };
        // One that is in the middle of the frame has it, and sees that nobody writes.
        let Some(_reading) = lane.try_lock_reading() else { return };
        if lane.stage.load(Ordering::Relaxed) != WHOLE && self.is_drained(place.fd()) {
            lane.make_whole();
            lane.set_right();
        }
    }

    /// Sends what `vectors` describe piece by piece.
    fn send_pieces<P: DescriptorParker>(
        &self,
        place: &Use<'_>,
        guard: &Guard<'_>,
        mut vectors: &mut [libc::iovec],
        parker: &mut P,
    ) -> Result<(), PipeError<P::Interrupt>> {
        let lane = self.outward();
        let mut midway = Midway::begin(self, lane, guard);
        loop {
            match descriptor::send(place.fd(), vectors) {
                Ok(count) => {
                    lane.count();
                    midway.sent |= count > 0;
                    vectors = advance(vectors, count);
                    if vectors.is_empty() {
                        midway.over();
                        return Ok(());
                    }
                }
                Err(Errno::AGAIN) => {
                    let writable = || {
                        let now = Some(std::time::Duration::ZERO);
                        weft_sys::readiness::wait(place.fd(), Interest::Writable, now).unwrap_or(true)
                    };
                    if !parker.linger(&mut { writable }) {
                        self.park_for_room(place, parker)?;
                    }
                }
                Err(error) if self.turns_out_plain(error) => {
                    midway.over();
                    return self.write_all(place, guard, vectors, parker);
                }
                Err(error) => return Err(PipeError::System(error)),
            }
        }
    }

    /// The same for what is no socket, where each call may block.
    fn write_all<P: DescriptorParker>(
        &self,
        place: &Use<'_>,
        guard: &Guard<'_>,
        mut vectors: &mut [libc::iovec],
        parker: &mut P,
    ) -> Result<(), PipeError<P::Interrupt>> {
        let mut midway = Midway::begin(self, self.outward(), guard);
        while !vectors.is_empty() {
            let mut outcome = Err(Errno::INTR);
            parker
                .block(&mut || {
                    outcome = descriptor::write(place.fd(), vectors);
                    outcome != Err(Errno::INTR)
                })
                .map_err(PipeError::Interrupted)?;
            let count = outcome.map_err(PipeError::System)?;
            midway.sent |= count > 0;
            vectors = advance(vectors, count);
        }
        midway.over();
        Ok(())
    }
}

fn interrupted<I>(error: WaitError<I>) -> PipeError<I> {
    match error {
        WaitError::Interrupted(interrupt) => PipeError::Interrupted(interrupt),
        // There is no deadline.
        WaitError::TimedOut => PipeError::Closed,
    }
}

/// This thread is in the middle of a long frame. Dropped before it is over, the frame was given up.
struct Midway<'a> {
    end: &'a End,
    lane: &'a Lane,
    sent: bool,
    over: bool,
}

impl<'a> Midway<'a> {
    /// The caller holds the writers' lock until the end.
    fn begin(end: &'a End, lane: &'a Lane, _guard: &Guard<'_>) -> Self {
        lane.writer_thread.store(this_thread(), Ordering::Relaxed);
        lane.writer.store(std::process::id(), Ordering::Relaxed);
        lane.stage.store(BEGUN, Ordering::Release);
        lane.unsure.store(1, Ordering::Release);
        Self { end, lane, sent: false, over: false }
    }

    fn over(&mut self) {
        self.lane.stage.store(WHOLE, Ordering::Release);
        self.over = true;
    }
}

impl Drop for Midway<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let stage = match (self.sent, self.end.carrier().is_some()) {
            (false, _) => WHOLE,
            (true, true) => GIVEN_UP,
            (true, false) => {
                self.end.cannot_send.store(true, Ordering::Relaxed);
                WHOLE
            }
        };
        self.lane.stage.store(stage, Ordering::Release);
    }
}

impl Lane {
    /// Who broke off in the middle of a frame, as an error.
    pub(crate) fn broken_off<I>(&self) -> PipeError<I> {
        let pid = self.writer.load(Ordering::Relaxed);
        if self.stage.load(Ordering::Relaxed) == BROKEN {
            PipeError::WriterDied { pid }
        } else {
            PipeError::WriterGaveUp { pid }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::thread;
    use std::time::Duration;

    use weft_shm::Arena;
    use weft_wait::ThreadParker;

    use super::*;
    use crate::pair;

    /// A reader that waits for the descriptor to become readable does not look into a frame of which nothing came.
    #[test]
    fn a_frame_broken_off_before_its_first_byte_holds_nobody_up() -> Result<(), Box<dyn Error>> {
        let (reading, writing) = pair::<std::convert::Infallible>(&Arena::create()?)?;
        reading.show();
        thread::scope(|scope| {
            // The lock is robust: a thread that ends with it has died with it.
            scope.spawn(|| {
                let guard = writing.outward().try_lock_writing();
                writing.outward().stage.store(BEGUN, Ordering::Release);
                std::mem::forget(guard);
            });
        });
        thread::scope(|scope| {
            scope.spawn(|| writing.send(&[b"next"], &mut ThreadParker::default()));
            let patience = Deadline::after(Duration::from_secs(20));
            let readable = reading.poll(&mut ThreadParker::default(), patience);
            // Also if it is not, so that the writer ends.
            let closed = reading.close();
            assert!(matches!(readable, Ok(true)), "{readable:?}");
            assert!(closed.is_ok(), "{closed:?}");
        });
        Ok(())
    }
}
