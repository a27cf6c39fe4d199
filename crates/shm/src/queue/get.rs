//! The consumers' end.

use std::sync::atomic::Ordering;

use weft_wait::{Deadline, Parker, try_until};

use super::layout::{HEAD, JUMP, Place, RECORDS, REFERENCE, RecordHead};
use super::put::crash_point;
use super::{ChunkView, Queue, QueueError};
use crate::error::ShmError;
use crate::layout::Kind;
use crate::robust::Robust;
use crate::span::Span;

/// What a consumer notes elsewhere about the message in its hands, so that others know if it dies.
///
/// Both calls are made with the lock of the get side.
pub trait Ledger {
    /// The message at `position` with this body is about to be taken; killed before that is committed, it is not.
    fn note(&mut self, position: u64, body: &[u8]);

    /// A process died with the lock, and the message at `position` is still in the queue: whoever noted it, and does not
    /// hold it by another commit, died before it had it.
    fn forget(&mut self, position: u64);
}

/// No notes.
impl Ledger for () {
    fn note(&mut self, _position: u64, _body: &[u8]) {}

    fn forget(&mut self, _position: u64) {}
}

/// A message without its body.
#[derive(Debug)]
pub struct Received<L: Robust> {
    /// As it was put.
    pub kind: u8,
    /// As they were put; they are this process's now.
    pub spans: Vec<Span<L>>,
}

impl<L: Robust> Queue<L> {
    /// Gets a message. Its body replaces what is in `body`.
    ///
    /// # Errors
    ///
    /// [`QueueError::TimedOut`] if there was none until the deadline, [`QueueError::ShutDown`] if there is none
    /// and will be none, and the other errors.
    pub fn get<P: Parker>(
        &self,
        body: &mut Vec<u8>,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<Received<L>, QueueError<P::Interrupt>> {
        let mut spans = Vec::new();
        self.get_into(body, &mut spans, parker, deadline).map(|kind| Received { kind, spans })
    }

    /// As [`get`](Self::get), with the spans into `spans`, which is empty; returns the kind.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_into<P: Parker>(
        &self,
        body: &mut Vec<u8>,
        spans: &mut Vec<Span<L>>,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<u8, QueueError<P::Interrupt>> {
        // Each outcome by itself: to move one that was written in parts just now holds the processor up.
        match self.attempt_get(body, spans, &mut (), parker) {
            Some(Ok(kind)) => return Ok(kind),
            Some(Err(error)) => return Err(error),
            None => {}
        }
        let ready = || !self.is_empty() || self.is_shut_down();
        try_until(&self.header().items.0, parker, deadline, ready, |parker| {
            self.attempt_get(body, spans, &mut (), parker)
        })?
    }

    /// Gets a message if there is one.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), without the deadline.
    pub fn try_get<P: Parker>(
        &self,
        body: &mut Vec<u8>,
        parker: &mut P,
    ) -> Result<Option<Received<L>>, QueueError<P::Interrupt>> {
        self.try_get_noted(body, &mut (), parker)
    }

    /// As [`try_get`](Self::try_get), with a note of what is taken in `ledger`. All consumers of a queue keep one, or none.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), without the deadline.
    pub fn try_get_noted<P: Parker>(
        &self,
        body: &mut Vec<u8>,
        ledger: &mut impl Ledger,
        parker: &mut P,
    ) -> Result<Option<Received<L>>, QueueError<P::Interrupt>> {
        let mut spans = Vec::new();
        match self.attempt_get(body, &mut spans, ledger, parker) {
            None | Some(Err(QueueError::ShutDown)) => Ok(None),
            Some(Ok(kind)) => Ok(Some(Received { kind, spans })),
            Some(Err(error)) => Err(error),
        }
    }

    /// Waits for those who are taking a message at this moment, and puts in order what the dead among them left: afterwards
    /// all notes of the dead are true.
    ///
    /// # Errors
    ///
    /// [`QueueError::Interrupted`], or [`QueueError::Memory`] if the queue is gone.
    pub fn settle<P: Parker>(
        &self,
        ledger: &mut impl Ledger,
        parker: &mut P,
    ) -> Result<(), QueueError<P::Interrupt>> {
        self.lock_get(ledger, parker).map(drop)
    }

    fn attempt_get<P: Parker>(
        &self,
        body: &mut Vec<u8>,
        spans: &mut Vec<Span<L>>,
        ledger: &mut impl Ledger,
        parker: &mut P,
    ) -> Option<Result<u8, QueueError<P::Interrupt>>> {
        if let Err(error) = self.object.check() {
            return Some(Err(error.into()));
        }
        if !self.has_known_message() && self.is_empty() {
            // Nobody puts after a shutdown, so "shut down" and then still empty is for good.
            let over = self.is_shut_down() && self.is_empty();
            if !over && self.has_pollers() {
                self.calm_pollers();
            }
            return over.then_some(Err(QueueError::ShutDown));
        }
        match self.get_locked(body, spans, ledger, parker) {
            Ok(None) => None,
            Ok(Some(kind)) => {
                self.raise_unlocked(&self.header().room.0);
                self.tell_pollers();
                Some(Ok(kind))
            }
            Err(error) => Some(Err(error)),
        }
    }

    fn get_locked<P: Parker>(
        &self,
        body: &mut Vec<u8>,
        spans: &mut Vec<Span<L>>,
        ledger: &mut impl Ledger,
        parker: &mut P,
    ) -> Result<Option<u8>, QueueError<P::Interrupt>> {
        let header = self.header();
        let _side = self.lock_get(ledger, parker)?;
        let place = header.get.0.place();
        if place.count >= self.known_puts.load(Ordering::Relaxed) {
            let puts = header.put.0.count();
            self.known_puts.store(puts, Ordering::Relaxed);
            if place.count >= puts {
                return Ok(None);
            }
        }
        let mut view = self.view(&self.get_view, place)?;
        let mut next = place;
        let mut head = read_head(view, next.offset)?;
        if head.kind == JUMP {
            (next, view) = self.follow(place, head.length)?;
            head = read_head(view, next.offset)?;
        }
        let size = head.size();
        if head.kind == JUMP || next.offset as usize + size > view.limit as usize {
            return Err(ShmError::Damaged { what: "a message is longer than its chunk" }.into());
        }
        spans.clear();
        let mut damage = None;
        body.clear();
        // SAFETY: `size` bytes from the place on lie in the chunk; they were committed, and do not change before
        // the commit below. The counts are those of the head that `size` was made of.
        unsafe {
            let mut at = view.start.as_ptr().add(next.offset as usize + HEAD);
            for _ in 0..head.spans {
                let [unit, length] = at.cast::<[u64; 2]>().read();
                let unit = u32::try_from(unit).unwrap_or(u32::MAX);
                match Span::peek(self.arena(), unit, length as usize, self.handle().unit, place.count) {
                    Ok(span) => spans.push(span),
                    // Nobody will ever be able to get it: let it go, so that those behind it can be got.
                    Err(error @ ShmError::Damaged { .. }) => damage = Some(error),
                    // It could not be mapped. The message stays, for another process or a better time.
                    Err(error) => {
                        spans.drain(..).for_each(Span::forget);
                        return Err(error.into());
                    }
                }
                at = at.add(REFERENCE);
            }
            body.extend_from_slice(std::slice::from_raw_parts(at, head.length as usize));
        }
        crash_point("get: read");
        ledger.note(place.count, body);
        crash_point("get: noted");
        header.get.0.commit(Place {
            offset: next.offset + size as u32,
            count: place.count.wrapping_add(1),
            ..next
        });
        crash_point("get: committed");
        // SAFETY: as above.
        unsafe { *self.get_view.get() = view };
        for span in spans.iter() {
            // It was mapped just now, so this cannot fail.
            let _ = span.take_over();
            crash_point("get: span taken over");
        }
        crash_point("get: all taken over");
        if next.ordinal != place.ordinal && place.ordinal != 0 {
            // What cannot be freed is the queue's until it ends. The message counts.
            let _ = self.arena().free(place.chunk);
        }
        match damage {
            None => Ok(Some(head.kind)),
            Some(damage) => {
                spans.clear();
                Err(damage.into())
            }
        }
    }

    /// Whether a message is left of those that this process has seen: without a look at the producers' line.
    #[inline]
    fn has_known_message(&self) -> bool {
        self.header().get.0.count() < self.known_puts.load(Ordering::Relaxed)
    }

    /// The chunk that a jump leads to.
    #[cold]
    fn follow(&self, place: Place, unit: u32) -> Result<(Place, ChunkView), ShmError> {
        let ordinal = place.ordinal.wrapping_add(1);
        let descriptor = self.arena().descriptor(unit)?;
        if Kind::of(descriptor.state.load(Ordering::Acquire)) != Some(Kind::Chunk)
            || descriptor.object.load(Ordering::Relaxed) != self.handle().unit
            || descriptor.ordinal.load(Ordering::Relaxed) != ordinal
        {
            return Err(ShmError::Damaged { what: "a queue leads into memory that is not its own" });
        }
        let view = self.look_at_chunk(unit, ordinal)?;
        Ok((Place { chunk: unit, offset: RECORDS, ordinal, count: place.count }, view))
    }
}

#[inline]
fn read_head(view: ChunkView, offset: u32) -> Result<RecordHead, ShmError> {
    if offset as usize + HEAD > view.limit as usize || !offset.is_multiple_of(8) {
        return Err(ShmError::Damaged { what: "a queue's place lies outside of its chunk" });
    }
    // SAFETY: inside the chunk and aligned, as just checked; written before the put side's commit.
    Ok(RecordHead::decode(unsafe { view.start.as_ptr().add(offset as usize).cast::<u64>().read() }))
}
