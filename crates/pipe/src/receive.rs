//! Receiving a message.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use weft_shm::Span;
use weft_wait::{Deadline, DescriptorParker, Interest};

use crate::descriptor;
use crate::end::{End, Use};
use crate::error::PipeError;
use crate::frame::{Parsed, TOKEN_FRAME, Token, parse};
use crate::lane::{BEGUN, FILLING, FULL, IDLE, INLINE_MOST, Lane, Next, OFFERED, WHOLE, WRITER_SHOWN};
use crate::lock::{Guard, this_thread};

/// How much of a frame is looked at before its length is known.
const LOOK: usize = 64;
/// How much is thrown away at a time.
const DRAIN: usize = 64 << 10;

/// A message that was received, or begun to be.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// It is in the buffer, from this index on.
    Short(usize),
    /// It lies in shared memory.
    Span(Span),
    /// It is long and still to be read.
    Long(LongFrame<'a>),
}

/// What was found at the descriptor.
enum Look {
    /// A message in the buffer, from this index on.
    Short(usize),
    Span(Span),
    /// A frame whose body of `body` bytes begins behind the next `head` bytes.
    Long {
        head: usize,
        body: u64,
    },
    /// Nothing, after `sent` frames.
    Nothing {
        sent: u32,
    },
}

impl End {
    /// Receives the next message, waiting for it. If it is short it goes into `buffer`, which is overwritten.
    ///
    /// `most` is how long it may be.
    ///
    /// # Errors
    ///
    /// [`PipeError::Eof`] if nobody is left to send anything; [`PipeError::BadLength`] if it is longer than `most`, or no
    /// message begins like this; [`PipeError::WriterDied`], [`PipeError::WriterGaveUp`] or [`PipeError::ReaderDied`] if a
    /// message was lost; [`PipeError::System`], [`PipeError::Closed`], [`PipeError::Interrupted`] and what else is
    /// said there.
    pub fn receive<'a, P: DescriptorParker>(
        &'a self,
        buffer: &mut Vec<u8>,
        most: Option<u64>,
        parker: &mut P,
    ) -> Result<Incoming<'a>, PipeError<P::Interrupt>> {
        let most = most.unwrap_or(u64::MAX);
        let lane = self.inward();
        let using = self.enter()?;
        let (mut lingered, mut slept) = (false, false);
        loop {
            using.check()?;
            if self.cannot_receive.load(Ordering::Relaxed) {
                return Err(PipeError::Unusable);
            }
            let guard = lane.lock_reading(parker)?;
            if lane.taking.load(Ordering::Relaxed) != WHOLE {
                return Err(self.find_the_next(&using, &guard, parker));
            }
            let look = if self.is_plain() {
                self.read_head(&using, buffer, 0, parker)
            } else {
                self.look(&using, buffer, most, slept, parker)
            };
            let sent = match look {
                Ok(Look::Short(start)) => return Ok(Incoming::Short(start)),
                Ok(Look::Span(span)) => return Ok(Incoming::Span(span)),
                Ok(Look::Long { body, .. }) if body > most => return Err(PipeError::BadLength),
                Ok(Look::Long { head, body }) => {
                    return LongFrame::begin(self, using, guard, head, body, buffer).map(Incoming::Long);
                }
                Ok(Look::Nothing { sent }) => sent,
                Err(PipeError::System(error)) if self.turns_out_plain(error) => continue,
                Err(error) => return Err(error),
            };
            if !lingered {
                if self.linger(lane, using.fd(), sent, parker)? {
                    continue;
                }
                lingered = true;
            }
            drop(guard);
            parker
                .park_at(using.fd(), Interest::Readable, Deadline::NEVER)
                .map_err(PipeError::Interrupted)?;
            slept = true;
        }
    }

    /// Looks for a frame, and takes it if it is short.
    fn look<P: DescriptorParker>(
        &self,
        using: &Use<'_>,
        buffer: &mut Vec<u8>,
        most: u64,
        slept: bool,
        parker: &mut P,
    ) -> Result<Look, PipeError<P::Interrupt>> {
        let lane = self.inward();
        let shared = self.carrier().is_some();
        if shared && lane.slot.load(Ordering::Acquire) == FULL {
            buffer.clear();
            let is_token = lane.empty(buffer);
            return self.take(is_token, buffer, 0, most);
        }
        let sent = lane.sent.load(Ordering::SeqCst);
        if shared {
            match lane.next() {
                Next::Length(total) if total as u64 <= most => {
                    return self.take_noted(using, buffer, total, most);
                }
                // Whether the other end is closed is found out before the thread sleeps for the second time.
                Next::None if !slept => return Ok(Look::Nothing { sent }),
                _ => {}
            }
        }
        buffer.resize(LOOK, 0);
        let seen = match descriptor::peek(using.fd(), buffer) {
            Ok(0) => return Err(PipeError::Eof),
            Ok(seen) => seen,
            Err(Errno::AGAIN) => {
                self.put_in_order(using);
                return Ok(Look::Nothing { sent });
            }
            Err(error) => return Err(PipeError::System(error)),
        };
        let (head, body) = match parse(&buffer[..seen]) {
            Parsed::Body { head, body } => (head, body),
            Parsed::Token if shared => {
                take_out(using.fd(), buffer, TOKEN_FRAME)?;
                lane.count_received();
                return self.take(true, buffer, 4, most);
            }
            Parsed::Token | Parsed::Bad => return Err(PipeError::BadLength),
            Parsed::Incomplete(_) => return self.read_head(using, buffer, 0, parker),
        };
        let total = usize::try_from(body).map_or(usize::MAX, |body| body.saturating_add(head));
        // Of an end's, such a frame is there as a whole. From elsewhere, only what was seen is.
        let comes_whole = shared && lane.shown.load(Ordering::SeqCst) & WRITER_SHOWN == 0;
        if body <= most && (total <= seen || (comes_whole && total <= INLINE_MOST)) {
            take_out(using.fd(), buffer, total)?;
            lane.count_received();
            return Ok(Look::Short(head));
        }
        Ok(Look::Long { head, body })
    }

    /// Takes a frame whose length is known.
    fn take_noted<I>(
        &self,
        using: &Use<'_>,
        buffer: &mut Vec<u8>,
        total: usize,
        most: u64,
    ) -> Result<Look, PipeError<I>> {
        take_out(using.fd(), buffer, total)?;
        self.inward().count_received();
        match parse(buffer) {
            Parsed::Body { head, body } if body == (total - head) as u64 => Ok(Look::Short(head)),
            Parsed::Token if total == TOKEN_FRAME => self.take(true, buffer, 4, most),
            _ => Err(PipeError::BadLength),
        }
    }

    /// The message that was taken out and is in `buffer` from the index `start` on.
    fn take<I>(&self, is_token: bool, buffer: &[u8], start: usize, most: u64) -> Result<Look, PipeError<I>> {
        if !is_token {
            let is_short = (buffer.len() - start) as u64 <= most;
            return if is_short { Ok(Look::Short(start)) } else { Err(PipeError::BadLength) };
        }
        let token = Token::parse(&buffer[start..]).ok_or(PipeError::BadLength)?;
        let span = self.fetch(token)?;
        if token.length <= most { Ok(Look::Span(span)) } else { Err(PipeError::BadLength) }
    }

    /// Reads the bytes that say how long the frame is, and waits for them if need be.
    #[cold]
    fn read_head<P: DescriptorParker>(
        &self,
        using: &Use<'_>,
        buffer: &mut Vec<u8>,
        mut have: usize,
        parker: &mut P,
    ) -> Result<Look, PipeError<P::Interrupt>> {
        buffer.resize(LOOK, 0);
        loop {
            let needed = match parse(&buffer[..have]) {
                Parsed::Incomplete(needed) => needed,
                Parsed::Body { body, .. } => return Ok(Look::Long { head: 0, body }),
                Parsed::Token | Parsed::Bad => return Err(PipeError::BadLength),
            };
            match self.read_some(using, &mut buffer[have..needed], parker) {
                Ok(0) if have == 0 => return Err(PipeError::Eof),
                Ok(0) => return Err(PipeError::EofInMessage),
                Ok(count) => have += count,
                Err(error) => {
                    // Of what was read there is no trace any more.
                    if have > 0 && matches!(error, PipeError::Interrupted(_)) {
                        self.cannot_receive.store(true, Ordering::Relaxed);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Reads up to as many bytes as `place` has, waiting for the first; 0 at the end of the stream.
    fn read_some<P: DescriptorParker>(
        &self,
        using: &Use<'_>,
        place: &mut [u8],
        parker: &mut P,
    ) -> Result<usize, PipeError<P::Interrupt>> {
        let mut lingered = false;
        loop {
            using.check()?;
            if self.is_plain() {
                let mut outcome = Err(Errno::INTR);
                parker
                    .block(&mut || {
                        outcome = descriptor::read(using.fd(), place);
                        outcome != Err(Errno::INTR)
                    })
                    .map_err(PipeError::Interrupted)?;
                return outcome.map_err(PipeError::System);
            }
            match descriptor::receive(using.fd(), place) {
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => {}
                Err(error) if self.turns_out_plain(error) => continue,
                Err(error) => return Err(PipeError::System(error)),
            }
            self.check_for_writer(using)?;
            if !lingered {
                lingered = true;
                let arrived = || descriptor::peek(using.fd(), &mut [0]) != Err(Errno::AGAIN);
                if self.patience.linger(parker, &mut { arrived }) {
                    continue;
                }
            }
            parker
                .park_at(using.fd(), Interest::Readable, Deadline::NEVER)
                .map_err(PipeError::Interrupted)?;
        }
    }

    /// In the middle of a frame of which nothing more is there: an error if nothing more will come.
    fn check_for_writer<I>(&self, using: &Use<'_>) -> Result<(), PipeError<I>> {
        if self.carrier().is_none() {
            return Ok(());
        }
        let lane = self.inward();
        let Some(_guard) = lane.try_lock_writing() else { return Ok(()) };
        // Nobody writes now. What was written before is there.
        if descriptor::peek(using.fd(), &mut [0]) != Err(Errno::AGAIN) {
            return Ok(());
        }
        let error = lane.broken_off();
        lane.make_whole();
        Err(error)
    }

    /// Offers the slot, or just looks again and again, for a moment. Says whether it is worth another look.
    fn linger<P: DescriptorParker>(
        &self,
        lane: &Lane,
        fd: BorrowedFd<'_>,
        sent: u32,
        parker: &mut P,
    ) -> Result<bool, PipeError<P::Interrupt>> {
        if self.carrier().is_none() {
            let arrived = || descriptor::peek(fd, &mut [0]) != Err(Errno::AGAIN);
            return Ok(self.patience.linger(parker, &mut { arrived }));
        }
        lane.offered_at.store(sent, Ordering::Relaxed);
        lane.slot.store(OFFERED, Ordering::Release);
        let changed =
            || lane.slot.load(Ordering::Acquire) != OFFERED || lane.sent.load(Ordering::Relaxed) != sent;
        let worth = self.patience.linger(parker, &mut { changed });
        loop {
            match lane.slot.compare_exchange(OFFERED, IDLE, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(worth),
                Err(FILLING) => {
                    // A few instructions, unless its writer was stopped in the middle, or killed.
                    let filled = || lane.slot.load(Ordering::Acquire) != FILLING;
                    if !parker.linger(&mut { filled }) {
                        drop(lane.lock_writing(parker)?);
                    }
                }
                Err(_) => return Ok(true),
            }
        }
    }

    /// Nothing is there to be received. A writer that broke off before anything of its frame was sent left nothing, and
    /// the numbers can be set right.
    fn put_in_order(&self, using: &Use<'_>) {
        let lane = self.inward();
        let in_order =
            lane.stage.load(Ordering::Relaxed) == WHOLE && lane.unsure.load(Ordering::Relaxed) == 0;
        if in_order || self.carrier().is_none() {
            return;
        }
        if let Some(_guard) = lane.try_lock_writing()
            && descriptor::peek(using.fd(), &mut [0]) == Err(Errno::AGAIN)
        {
            lane.make_whole();
            lane.set_right();
        }
    }

    /// Another reader left in the middle of a frame: takes out everything there is. Returns the error that says so.
    #[cold]
    fn find_the_next<P: DescriptorParker>(
        &self,
        using: &Use<'_>,
        _guard: &Guard<'_>,
        parker: &mut P,
    ) -> PipeError<P::Interrupt> {
        let lane = self.inward();
        let mut rubbish = vec![0; DRAIN];
        loop {
            let writers = lane.try_lock_writing();
            let ended = loop {
                match descriptor::receive(using.fd(), &mut rubbish) {
                    Ok(0) => break true,
                    Ok(_) => {}
                    Err(Errno::AGAIN) => break false,
                    Err(error) => return PipeError::System(error),
                }
            };
            if writers.is_some() || ended {
                lane.taking.store(WHOLE, Ordering::Release);
                lane.make_whole();
                lane.set_right();
                return PipeError::ReaderDied { pid: lane.reader.load(Ordering::Relaxed) };
            }
            drop(writers);
            if let Err(interrupt) = parker.park_at(using.fd(), Interest::Readable, Deadline::NEVER) {
                return PipeError::Interrupted(interrupt);
            }
            if let Err(closed) = using.check() {
                return closed;
            }
        }
    }
}

/// Takes the next `length` bytes out, which are there.
fn take_out<I>(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>, length: usize) -> Result<(), PipeError<I>> {
    buffer.resize(length, 0);
    match descriptor::receive(fd, buffer) {
        Ok(count) if count == length => Ok(()),
        Ok(_) => Err(PipeError::EofInMessage),
        Err(error) => Err(PipeError::System(error)),
    }
}

impl Lane {
    /// The next byte that is sent begins a frame. The caller holds the writers' lock, or there is no writer.
    pub(crate) fn make_whole(&self) {
        self.stage.store(WHOLE, Ordering::Release);
        self.room.raise_all();
    }
}

/// A message that is being received piece by piece. Nobody else receives meanwhile.
///
/// Dropped before its end, the rest is lost.
pub struct LongFrame<'a> {
    end: &'a End,
    using: Use<'a>,
    _guard: Guard<'a>,
    left: u64,
    length: u64,
}

impl fmt::Debug for LongFrame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LongFrame").field("left", &self.left).finish_non_exhaustive()
    }
}

impl<'a> LongFrame<'a> {
    fn begin<I>(
        end: &'a End,
        using: Use<'a>,
        guard: Guard<'a>,
        head: usize,
        body: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<Self, PipeError<I>> {
        let lane = end.inward();
        lane.reader_thread.store(this_thread(), Ordering::Relaxed);
        lane.reader.store(std::process::id(), Ordering::Relaxed);
        lane.taking.store(BEGUN, Ordering::Release);
        let frame = Self { end, using, _guard: guard, left: body, length: body };
        if head > 0 {
            take_out(frame.using.fd(), buffer, head)?;
        }
        if body == 0 {
            frame.end.inward().taking.store(WHOLE, Ordering::Release);
        }
        Ok(frame)
    }

    /// How many bytes are still to be read. So many were promised, but perhaps not sent.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Reads the next bytes into `place`, at least one of them, and says how many. Zero only if nothing is left.
    ///
    /// # Errors
    ///
    /// As [`End::receive`], and [`PipeError::EofInMessage`].
    pub fn read<P: DescriptorParker>(
        &mut self,
        place: &mut [u8],
        parker: &mut P,
    ) -> Result<usize, PipeError<P::Interrupt>> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(place.len());
        if most == 0 {
            return Ok(0);
        }
        let lane = self.end.inward();
        match self.end.read_some(&self.using, &mut place[..most], parker) {
            Ok(0) => {
                let left_by_the_dead = self.end.carrier().is_some()
                    && lane
                        .try_lock_writing()
                        .is_some_and(|_guard| lane.stage.load(Ordering::Relaxed) != WHOLE);
                // As the standard library has it: it looks whether it is in the middle of the head or of the body.
                let nothing_came = self.left == self.length;
                self.finish();
                Err(match (left_by_the_dead, nothing_came) {
                    (true, _) => lane.broken_off(),
                    (false, true) => PipeError::Eof,
                    (false, false) => PipeError::EofInMessage,
                })
            }
            Ok(count) => {
                self.left -= count as u64;
                if self.left == 0 {
                    self.finish();
                }
                Ok(count)
            }
            Err(error) => {
                // The place where the frame ends too early is the beginning of the next.
                if matches!(error, PipeError::WriterDied { .. } | PipeError::WriterGaveUp { .. }) {
                    self.finish();
                }
                Err(error)
            }
        }
    }

    fn finish(&mut self) {
        self.left = 0;
        self.end.inward().taking.store(WHOLE, Ordering::Release);
    }
}

impl Drop for LongFrame<'_> {
    fn drop(&mut self) {
        // Of a pair's, the next reader sees that it was left, and by whom.
        if self.left > 0 && self.end.carrier().is_none() {
            self.end.cannot_receive.store(true, Ordering::Relaxed);
            self.end.inward().taking.store(WHOLE, Ordering::Release);
        }
    }
}
