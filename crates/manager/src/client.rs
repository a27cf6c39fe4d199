//! A caller's part.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weft_shm::ShmError;
use weft_wait::Parker;

use crate::desk::Desk;
use crate::error::ManagerError;
use crate::lane::{Short, Slot, word_of};
use crate::message::{self, Buffers};
use crate::turn::GivenUp;

/// One caller's place at a desk. It is given back when this is dropped.
pub struct Lane {
    desk: Arc<Desk>,
    index: usize,
    /// The process that claimed it, which is this one or a parent of it.
    owner: u64,
    busy: AtomicBool,
    /// Left to the server in the middle of a call.
    abandoned: AtomicBool,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("desk", &self.desk).field("index", &self.index).finish_non_exhaustive()
    }
}

/// What a call was answered with; the bytes are where the caller wanted them.
#[derive(Debug)]
pub struct Answer {
    /// What the server said it is.
    pub what: u32,
    /// The buffers that came with it.
    pub buffers: Buffers,
}

/// What a short call was answered with.
#[derive(Debug)]
pub enum Reply {
    /// What the server said it is, and a few words.
    Short(u32, Short),
    /// As of any other call.
    Long(Answer),
}

/// Says that the lane is in use, for as long as it lives.
struct InUse<'a>(&'a AtomicBool);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Lane {
    pub(crate) const fn new(desk: Arc<Desk>, index: usize, owner: u64) -> Self {
        Self { desk, index, owner, busy: AtomicBool::new(false), abandoned: AtomicBool::new(false) }
    }

    /// The desk it is at.
    pub const fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    /// Its number.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Whether a call can be made through it by this process.
    pub fn is_usable(&self) -> bool {
        self.owner == word_of(self.desk.arena().identity()) && !self.abandoned.load(Ordering::Relaxed)
    }

    /// Whether a thread is in the middle of a call.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Makes a call, and waits for its answer, whose bytes replace what is in `bytes`.
    ///
    /// `what` is for the server; the buffers are of the desk's arena, and the server's afterwards.
    ///
    /// # Errors
    ///
    /// All that [`ManagerError`] has. After [`ManagerError::Interrupted`] the lane cannot be used any more, unless the
    /// call had not begun.
    pub fn call<P: Parker>(
        &self,
        what: u32,
        parts: &[&[u8]],
        buffers: &mut Buffers,
        bytes: &mut Vec<u8>,
        parker: &mut P,
    ) -> Result<Answer, ManagerError<P::Interrupt>> {
        let write = |slot: &Slot| message::write(self.desk.carrier(), self.index, slot, what, parts, buffers);
        self.exchange(parker, write, |slot| self.read(slot, bytes))
    }

    /// As [`call`](Self::call), for a call that is a few words.
    ///
    /// # Errors
    ///
    /// As of `call`.
    #[inline]
    pub fn call_short<P: Parker>(
        &self,
        what: u32,
        words: &Short,
        bytes: &mut Vec<u8>,
        parker: &mut P,
    ) -> Result<Reply, ManagerError<P::Interrupt>> {
        let write = |slot: &Slot| {
            message::write_short(slot, what, words);
            Ok(())
        };
        self.exchange(parker, write, |slot| match message::read_answer(slot) {
            Some((what, words)) => Ok(Reply::Short(what, words)),
            None => self.read(slot, bytes).map(Reply::Long),
        })
    }

    fn read(&self, slot: &Slot, bytes: &mut Vec<u8>) -> Result<Answer, ShmError> {
        let (what, buffers) = message::read(self.desk.carrier(), self.index, slot, bytes)?;
        Ok(Answer { what, buffers })
    }

    /// Makes a call that `write` puts into the lane, waits for the answer, and lets `read` take it out.
    #[inline]
    fn exchange<T, P: Parker>(
        &self,
        parker: &mut P,
        write: impl FnOnce(&Slot) -> Result<(), ShmError>,
        read: impl FnOnce(&Slot) -> Result<T, ShmError>,
    ) -> Result<T, ManagerError<P::Interrupt>> {
        if !self.is_usable() {
            return Err(ManagerError::Foreign);
        }
        if self.busy.swap(true, Ordering::Acquire) {
            return Err(ManagerError::Busy);
        }
        let _in_use = InUse(&self.busy);
        self.desk.service().check(self.desk.life())?;
        let slot = self.desk.slot(self.index);
        write(slot)?;
        // Another number than that of the call before, to whose answer the server may still be putting the last touch: its caller
        // was interrupted, or it was another owner's.
        let number = slot.call.load(Ordering::Relaxed).wrapping_add(1);
        slot.call.store(number, Ordering::Relaxed);
        self.desk.board().post(self.index, &slot.state);
        let (service, life) = (self.desk.service(), self.desk.life());
        match service.await_answer(life, (&slot.reply, &slot.answer.call, number), parker) {
            Ok(outcome) => outcome?,
            Err(interrupt) => {
                self.give_up();
                return Err(ManagerError::Interrupted(interrupt));
            }
        }
        let answer = read(slot);
        slot.state.take();
        Ok(answer?)
    }

    /// Takes the call back if it has not begun; otherwise leaves the lane to the server.
    fn give_up(&self) {
        let slot = self.desk.slot(self.index);
        match slot.state.give_up() {
            GivenUp::Unbegun | GivenUp::Answered => {}
            GivenUp::Left => {
                self.abandoned.store(true, Ordering::Relaxed);
                return;
            }
            GivenUp::Nothing => return,
        }
        // The call's own buffers, or the answer's, come back to be freed.
        let _ = message::read(self.desk.carrier(), self.index, slot, &mut Vec::new());
        slot.state.take();
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.is_usable() {
            self.desk.slot(self.index).free();
        }
    }
}
