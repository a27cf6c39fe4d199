//! What a server and its clients share, and the server's part in it.
//!
//! Who serves holds the desk's *life*, a robust lock, for as long as it serves: when its thread ends in whatever way, the
//! kernel marks the lock, and wakes one of those who wait for an answer, who wakes the others. So the death of the server
//! is known at once to all of its callers, without a descriptor or a thread of theirs.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use weft_shm::identity::Identity;
use weft_shm::robust::{Robust, RobustMutex};
use weft_shm::{Arena, Carrier, Handle, ShmError};
use weft_wait::{Deadline, Life, Parker, WaitError, wait_until};

use crate::board::{self, Board, LANES};
use crate::client::Lane;
use crate::lane::{Short, Slot, identity_of, word_of};
use crate::message::{self, Buffers, is_of_lane};
use crate::service::Service;
use crate::turn::{Handed, NOBODY, Swept, Turn};

const TAG: u64 = u64::from_le_bytes(*b"weftdsk2");

/// Set in `cause` if it is known.
const KNOWN: u32 = 1 << 16;

#[repr(C, align(64))]
struct Header {
    tag: AtomicU64,
    service: Service,
    /// How the server ended, for those who cannot find out: [`KNOWN`] and 16 bits, or 0.
    cause: AtomicU32,
    life: RobustMutex,
    _apart: [u64; 1],
    /// How the server learns of calls.
    board: Board,
}

#[repr(C)]
struct Layout {
    header: Header,
    lanes: [Slot; LANES],
}

const _: () = assert!(size_of::<Layout>() <= (512 << 10) - Carrier::OVERHEAD);

/// A process's handle of a desk. Forked children have it, too.
pub struct Desk {
    carrier: Carrier,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("handle", &self.carrier.handle()).finish_non_exhaustive()
    }
}

/// The desk's life, which the serving thread holds. It closes the desk when it is dropped.
#[derive(Debug)]
pub struct Serving {
    desk: Arc<Desk>,
    /// A robust lock is its thread's.
    _of_this_thread: PhantomData<*const ()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.desk.close();
        // SAFETY: this thread locked it, in `open`, and the guard cannot have left it.
        unsafe { self.desk.layout().header.life.unlock() };
    }
}

/// What a caller wants.
#[derive(Debug)]
pub enum Call {
    /// What the caller said it is, and a few words.
    Short(u32, Short),
    /// Anything else.
    Long(Request),
}

/// A call that was begun, or an answer that nobody took.
#[derive(Debug)]
pub struct Request {
    /// What its sender said it is.
    pub what: u32,
    /// The buffers that came with it.
    pub buffers: Buffers,
}

impl Desk {
    /// A new desk.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had.
    pub fn create(arena: &Arc<Arena>) -> Result<Arc<Self>, ShmError> {
        let carrier = Carrier::create(arena, size_of::<Layout>(), |start| {
            let layout: NonNull<Layout> = start.cast();
            // SAFETY: zeroed, long enough, aligned to 64, nobody else's yet, and it does not move.
            unsafe {
                RobustMutex::init(&raw mut (*layout.as_ptr()).header.life);
                (*layout.as_ptr()).header.tag.store(TAG, Ordering::Release);
            }
        })?;
        Ok(Arc::new(Self { carrier }))
    }

    /// The desk that another process made.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if it has ended, [`ShmError::Damaged`] if it is something else.
    pub fn attach(arena: &Arc<Arena>, handle: Handle) -> Result<Arc<Self>, ShmError> {
        let desk = Self { carrier: Carrier::attach(arena, handle, size_of::<Layout>())? };
        if desk.layout().header.tag.load(Ordering::Acquire) != TAG {
            return Err(ShmError::Damaged { what: "an object is not of the kind that it was taken for" });
        }
        Ok(Arc::new(desk))
    }

    fn layout(&self) -> &Layout {
        // SAFETY: as long as this, made by `create`, mapped as long as the carrier; all of it atomic, locks, or `Slot`.
        unsafe { self.carrier.start().cast::<Layout>().as_ref() }
    }

    pub(crate) fn slot(&self, lane: usize) -> &Slot {
        &self.layout().lanes[lane]
    }

    fn turn_of(&self, lane: usize) -> &Turn {
        &self.slot(lane).state
    }

    #[inline]
    pub(crate) fn board(&self) -> &Board {
        &self.layout().header.board
    }

    #[inline]
    pub(crate) fn service(&self) -> &Service {
        &self.layout().header.service
    }

    pub(crate) const fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// What another process with the same arena needs to attach.
    pub fn handle(&self) -> Handle {
        self.carrier.handle()
    }

    /// The arena it lies in, where the buffers of calls and answers have to lie.
    pub fn arena(&self) -> &Arc<Arena> {
        self.carrier.arena()
    }

    // -- The server's part

    /// Begins to serve, in the calling thread, which goes on to do so for as long as it keeps what it gets. `None` if
    /// somebody has served before.
    pub fn open(self: &Arc<Self>) -> Option<Serving> {
        let header = &self.layout().header;
        if !header.service.is_new() || header.life.try_lock().is_none() {
            return None;
        }
        header.service.begin();
        Some(Serving { desk: Arc::clone(self), _of_this_thread: PhantomData })
    }

    /// Ends serving in good order, and lets all callers know. Any thread of the server may call it.
    pub fn close(&self) {
        self.service().close(self.layout().lanes.iter().map(|slot| &slot.reply), self.board().bell());
    }

    /// Waits until a call is [ready](Self::next), or `poke` was called, or `deadline`. Says whether anything may be ready.
    ///
    /// # Errors
    ///
    /// What interrupts the parker.
    pub fn wait<P: Parker>(&self, parker: &mut P, deadline: Deadline) -> Result<bool, P::Interrupt> {
        let any = || self.is_ready() || self.is_closed();
        match wait_until(self.board().bell(), parker, deadline, any, |_| any().then_some(())) {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut) => Ok(false),
            Err(WaitError::Interrupted(interrupt)) => Err(interrupt),
        }
    }

    /// Whether some lane's bit is set, or a call is in the lane that is watched.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.board().is_ready(|lane| self.turn_of(lane))
    }

    /// The lane that is watched, if there is a call in it.
    #[inline]
    pub fn watched(&self) -> Option<usize> {
        self.board().watched(|lane| self.turn_of(lane))
    }

    /// Looks at this lane from now on, whether its bit is set or not, and at no other one: its caller need not touch the words that
    /// all callers share. For the one thread that serves.
    pub fn watch(&self, lane: usize) {
        self.board().watch(lane, |lane| self.turn_of(lane));
    }

    /// A lane with a call in it, from `after` on and around; its bit is taken.
    #[inline]
    pub fn next(&self, after: usize) -> Option<usize> {
        self.board().next(after)
    }

    /// Begins the call in the lane, and takes it out into `bytes`. `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if it cannot be taken out; the call has begun all the same, and needs an answer.
    #[inline]
    pub fn begin(&self, lane: usize, bytes: &mut Vec<u8>) -> Option<Result<Call, ShmError>> {
        let slot = self.slot(lane);
        if !slot.state.begin() {
            return None;
        }
        if let Some((what, words)) = message::read_short(slot) {
            return Some(Ok(Call::Short(what, words)));
        }
        let read = message::read(&self.carrier, lane, slot, bytes);
        Some(read.map(|(what, buffers)| Call::Long(Request { what, buffers })))
    }

    /// Answers a short call with a few words. If nobody waits for the answer, the lane is free.
    #[inline]
    pub fn answer_short(&self, lane: usize, what: u32, words: &Short) {
        self.hand_out(lane, self.slot(lane), Some((what, words)));
    }

    #[inline]
    fn hand_out(&self, lane: usize, slot: &Slot, short: Option<(u32, &Short)>) -> bool {
        message::write_answer(slot, short);
        match board::hand_out(&slot.state, &slot.call, &slot.answer.call, &slot.reply) {
            Handed::Out => return true,
            Handed::Unwanted => {
                self.discard(lane);
                slot.free();
            }
            Handed::Nowhere => {}
        }
        false
    }

    /// Answers the call in the lane. If nobody waits for the answer, which is false, the lane is free.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if there is no memory for the answer: then another one has to be given.
    pub fn answer(
        &self,
        lane: usize,
        what: u32,
        parts: &[&[u8]],
        buffers: &mut Buffers,
    ) -> Result<bool, ShmError> {
        let slot = self.slot(lane);
        message::write(&self.carrier, lane, slot, what, parts, buffers)?;
        Ok(self.hand_out(lane, slot, None))
    }

    /// Whose the lane is.
    pub fn owner(&self, lane: usize) -> Option<Identity> {
        let word = self.slot(lane).owner.word();
        (word != NOBODY).then(|| identity_of(word))
    }

    /// The processes that have lanes.
    pub fn owners(&self) -> Vec<Identity> {
        let mut owners: Vec<_> = (0..LANES).filter_map(|lane| self.owner(lane)).collect();
        owners.sort_unstable_by_key(|owner| (owner.pid, owner.start));
        owners.dedup();
        owners
    }

    /// Frees the lanes of a process that has ended. A call that is being carried out goes on, and frees its lane
    /// at its end. Answers that were never taken are given to `unread`, with their bytes and the lane. For one thread at a
    /// time.
    pub fn sweep(&self, dead: Identity, unread: &mut dyn FnMut(usize, Request, &[u8])) {
        let mut bytes = Vec::new();
        for lane in 0..LANES {
            let slot = self.slot(lane);
            if slot.owner.word() != word_of(dead) {
                continue;
            }
            match slot.state.sweep() {
                Swept::Running => continue,
                Swept::Unbegun => {}
                Swept::Unread => {
                    // What is damaged nobody can have.
                    if let Ok((what, buffers)) = message::read(&self.carrier, lane, slot, &mut bytes) {
                        unread(lane, Request { what, buffers }, &bytes);
                    }
                }
            }
            self.discard(lane);
            slot.free();
        }
    }

    /// As [`sweep`](Self::sweep) for all processes that have ended, also those that never called.
    pub fn sweep_dead(&self, unread: &mut dyn FnMut(usize, Request, &[u8])) {
        for owner in self.owners() {
            if !owner.is_alive() {
                self.sweep(owner, unread);
            }
        }
    }

    /// Frees buffers that were on their way through a lane that nobody uses.
    fn discard(&self, lane: usize) {
        // Damage is met, and reported, where it stands in somebody's way.
        let _ = self.carrier.discard(|ordinal| is_of_lane(ordinal, lane));
    }

    // -- Both sides

    /// Whether it was closed in good order.
    pub fn is_closed(&self) -> bool {
        self.service().is_closed()
    }

    /// Whether whoever served has ended without closing it.
    #[inline]
    pub fn is_dead(&self) -> bool {
        self.life().is_over()
    }

    /// Tells all others how the server process ended: its exit code, or minus the signal.
    pub fn publish_cause(&self, code: i16) {
        self.layout().header.cause.store(KNOWN | u32::from(code.cast_unsigned()), Ordering::Relaxed);
    }

    /// How the server process ended, if somebody has found out.
    pub fn cause(&self) -> Option<i16> {
        let word = self.layout().header.cause.load(Ordering::Relaxed);
        (word & KNOWN != 0).then_some((word as u16).cast_signed())
    }

    /// That of whoever serves.
    #[inline]
    pub fn life(&self) -> &Life {
        self.layout().header.life.life()
    }

    // -- The clients' part

    /// A lane for the caller. `None` if there is none left, or nobody serves.
    pub fn claim(self: &Arc<Self>) -> Option<Lane> {
        if !self.service().is_on() || self.is_dead() {
            return None;
        }
        let me = word_of(self.arena().identity());
        (0..LANES).find_map(|lane| {
            let is_free = self.slot(lane).owner.claim(me);
            is_free.then(|| Lane::new(Arc::clone(self), lane, me))
        })
    }
}
