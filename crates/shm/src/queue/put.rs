//! The producers' end.

use std::sync::atomic::Ordering;

use weft_wait::{Deadline, Parker, try_until};

use super::layout::{
    HEAD, JUMP, LARGE_CHUNK, LONGEST_BODY, MOST_SPANS, Place, RECORDS, REFERENCE, RecordHead, SMALL_CHUNK,
    TRAILER,
};
use super::{ChunkView, OPEN, Queue, QueueError};
use crate::error::ShmError;
use crate::layout::{Kind, UNIT, order_for, order_of, state};
use crate::robust::Robust;
use crate::span::Span;

/// How an attempt to put ended that met no error.
enum Put {
    Done,
    Full,
    /// Somebody polls the queue, and has to be told first.
    Polled,
}

/// Whom an attempt to put has to heed.
#[derive(PartialEq, Eq)]
enum Heed {
    Pollers,
    Nobody,
}

impl<L: Robust> Queue<L> {
    /// Puts a message: a `kind` and a `body` as the caller likes, and `spans`, which are the queue's if it succeeds.
    ///
    /// # Errors
    ///
    /// [`QueueError::TimedOut`] if there was no room until the deadline, and the other errors. The spans are still
    /// the caller's then.
    ///
    /// # Panics
    ///
    /// If the kind is 255, the body longer than [`LONGEST_BODY`] and a [`TRAILER`] or there are more than [`MOST_SPANS`] spans, or
    /// one is of another arena than the queue.
    pub fn put<P: Parker>(
        &self,
        kind: u8,
        body: &[u8],
        spans: &mut Vec<Span<L>>,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<(), QueueError<P::Interrupt>> {
        assert!(kind != JUMP && body.len() <= LONGEST_BODY + TRAILER && spans.len() <= MOST_SPANS);
        assert!(spans.iter().all(|span| span.is_of(self.arena())));
        // Each outcome by itself: to move one that was written in parts just now holds the processor up.
        match self.attempt_put(kind, body, spans, parker) {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => return Err(error),
            None => {}
        }
        let ready = || !self.is_full() || self.is_shut_down();
        try_until(&self.header().room.0, parker, deadline, ready, |parker| {
            self.attempt_put(kind, body, spans, parker)
        })?
    }

    /// As [`put`](Self::put) into a queue without a limit, but wakes nobody: the caller does, elsewhere.
    ///
    /// # Errors
    ///
    /// As of [`put`](Self::put); [`QueueError::TimedOut`] if there is a limit, and no room.
    ///
    /// # Panics
    ///
    /// As [`put`](Self::put).
    pub fn put_quietly<P: Parker>(
        &self,
        kind: u8,
        body: &[u8],
        spans: &mut Vec<Span<L>>,
        parker: &mut P,
    ) -> Result<(), QueueError<P::Interrupt>> {
        assert!(kind != JUMP && body.len() <= LONGEST_BODY + TRAILER && spans.len() <= MOST_SPANS);
        assert!(spans.iter().all(|span| span.is_of(self.arena())));
        match self.put_locked(kind, body, spans, Heed::Nobody, parker)? {
            Put::Done => Ok(()),
            Put::Full | Put::Polled => Err(QueueError::TimedOut),
        }
    }

    /// Tries once; `None` if there is no room.
    fn attempt_put<P: Parker>(
        &self,
        kind: u8,
        body: &[u8],
        spans: &mut Vec<Span<L>>,
        parker: &mut P,
    ) -> Option<Result<(), QueueError<P::Interrupt>>> {
        match self.put_locked(kind, body, spans, Heed::Pollers, parker) {
            Ok(Put::Done) => {
                self.raise_unlocked(&self.header().items.0);
                Some(Ok(()))
            }
            Ok(Put::Full) => None,
            Ok(Put::Polled) => self.put_polled(kind, body, spans, parker),
            Err(error) => Some(Err(error)),
        }
    }

    /// As `attempt_put`, into a queue with pollers. They are told first: nobody would do it for a producer that was killed right
    /// after its commit.
    #[cold]
    fn put_polled<P: Parker>(
        &self,
        kind: u8,
        body: &[u8],
        spans: &mut Vec<Span<L>>,
        parker: &mut P,
    ) -> Option<Result<(), QueueError<P::Interrupt>>> {
        match self.telling_pollers(|| self.put_locked(kind, body, spans, Heed::Nobody, parker)) {
            Ok(Put::Done) => {
                self.raise_unlocked(&self.header().items.0);
                Some(Ok(()))
            }
            Ok(Put::Full | Put::Polled) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn put_locked<P: Parker>(
        &self,
        kind: u8,
        body: &[u8],
        spans: &mut Vec<Span<L>>,
        heed: Heed,
        parker: &mut P,
    ) -> Result<Put, QueueError<P::Interrupt>> {
        let header = self.header();
        let most = header.max_size.load(Ordering::Relaxed);
        let _side = self.lock_put(parker)?;
        if header.closed.load(Ordering::SeqCst) != OPEN {
            return Err(QueueError::ShutDown);
        }
        // With the lock: who registers takes it afterwards, and so sees what is put by those who saw no poller.
        if heed == Heed::Pollers && self.has_pollers() {
            return Ok(Put::Polled);
        }
        let place = header.put.0.place();
        if most != 0 && place.count.saturating_sub(header.get.0.count()) >= most {
            return Ok(Put::Full);
        }
        let head = RecordHead { length: body.len() as u32, kind, spans: spans.len() as u8 };
        let mut view = self.view(&self.put_view, place)?;
        let (mut next, size) = (place, head.size());
        // Behind each record there must be room for a jump.
        if place.offset as usize + size + HEAD > view.limit as usize {
            (next, view) = self.chain(place, view, size)?;
        }
        let mut given = 0;
        let outcome = spans.iter().try_for_each(|span| {
            span.hand_over(self.handle().unit, place.count)?;
            given += 1;
            crash_point("put: span handed over");
            Ok::<_, ShmError>(())
        });
        if let Err(error) = outcome {
            for span in &spans[..given] {
                let _ = span.take_back();
            }
            if next.chunk != place.chunk {
                let _ = self.arena().free(next.chunk);
            }
            return Err(error.into());
        }
        // SAFETY: `size` bytes from the place on lie in the chunk, and nobody reads them before the commit.
        unsafe {
            let mut at = view.start.as_ptr().add(next.offset as usize);
            at.cast::<u64>().write(head.encode());
            at = at.add(HEAD);
            for span in spans.iter() {
                at.cast::<[u64; 2]>().write([span.unit().into(), span.len() as u64]);
                at = at.add(REFERENCE);
            }
            at.copy_from_nonoverlapping(body.as_ptr(), body.len());
        }
        crash_point("put: written");
        header.put.0.commit(Place {
            offset: next.offset + size as u32,
            count: place.count.wrapping_add(1),
            ..next
        });
        crash_point("put: committed");
        // SAFETY: guarded by the side's lock, which is held.
        unsafe { *self.put_view.get() = view };
        while let Some(span) = spans.pop() {
            span.forget();
        }
        Ok(Put::Done)
    }

    /// Adds a chunk with room for a record of `size` bytes, and writes the jump to it.
    #[cold]
    fn chain(&self, place: Place, view: ChunkView, size: usize) -> Result<(Place, ChunkView), ShmError> {
        let order = (view.limit as usize / UNIT).trailing_zeros();
        // A consumer in the same chunk keeps up: there is no need for larger ones.
        let wanted = if self.header().get.0.ordinal_hint() == place.ordinal {
            order.saturating_sub(1).max(SMALL_CHUNK)
        } else {
            (order + 1).clamp(SMALL_CHUNK, LARGE_CHUNK)
        };
        let least = RECORDS as usize + size + HEAD;
        let least = order_for(least).ok_or(ShmError::TooLarge { bytes: size as u64 })?;
        let (unit, start) = self.arena().allocate_piece(UNIT << wanted.max(least))?;
        let ordinal = place.ordinal.wrapping_add(1);
        let descriptor = self.arena().descriptor(unit)?;
        descriptor.object.store(self.handle().unit, Ordering::Relaxed);
        descriptor.ordinal.store(ordinal, Ordering::Relaxed);
        let order = order_of(descriptor.state.load(Ordering::Relaxed));
        descriptor.state.store(state(Kind::Chunk, order), Ordering::Release);
        crash_point("put: chunk taken");
        let fresh = ChunkView { ordinal, start, limit: (UNIT as u32) << order, forks: self.object.forks() };
        let jump = RecordHead { length: unit, kind: JUMP, spans: 0 };
        // SAFETY: the chunk is longer than its head; behind every record there is room for a jump.
        unsafe {
            fresh.start.as_ptr().cast::<u64>().write(ordinal);
            view.start.as_ptr().add(place.offset as usize).cast::<u64>().write(jump.encode());
        }
        crash_point("put: jump written");
        Ok((Place { chunk: unit, offset: RECORDS, ordinal, count: place.count }, fresh))
    }
}

pub(super) use crate::crash::crash_point;
