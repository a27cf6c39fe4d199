//! One end of a connection, as one process has it.
//!
//! The descriptor is closed when the program says so and no thread is using it: a number that is closed under a thread
//! that waits for it soon means another file. `state` is
//!
//! ```text
//! 63            32   31   30                 0
//! ├─ forks::now ─┤ CLOSED ├─ threads using it ─┤
//! ```
//!
//! Threads of a parent are not here any more after a fork, so a count under another number of forks is none.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use weft_shm::{Arena, Carrier, Handle, ShmError};
use weft_wait::{Deadline, DescriptorParker, Interest};

use crate::descriptor;
use crate::error::PipeError;
use crate::forks;
use crate::home::Home;
use crate::lane::{FULL, Lane, READER_SHOWN, WRITER_SHOWN};
use crate::patience::Patience;

const CLOSED: u64 = 1 << 31;
const THREADS: u64 = CLOSED - 1;

/// One end of a connection.
pub struct End {
    fd: RawFd,
    state: AtomicU64,
    home: Home,
    /// Which end of the pair: it writes into the lane of this number, and reads from the other.
    side: usize,
    /// It is no socket, so that calls block.
    pub(crate) plain: AtomicBool,
    /// This process was interrupted in the middle of a message that nobody else can put right.
    pub(crate) cannot_send: AtomicBool,
    pub(crate) cannot_receive: AtomicBool,
    pub(crate) patience: Patience,
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End").field("fd", &self.fd).field("side", &self.side).finish_non_exhaustive()
    }
}

/// Two new connected ends; each can send and receive.
///
/// # Errors
///
/// [`PipeError::System`] if there is no descriptor left, [`PipeError::Memory`] if there is no shared memory.
pub fn pair<I>(arena: &Arc<Arena>) -> Result<(End, End), PipeError<I>> {
    let carrier = Home::shared(arena)?;
    let (one, other) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(PipeError::System)?;
    let end = |fd, side| End::with(fd, Home::Shared(Arc::clone(&carrier)), side);
    Ok((end(one, 0), end(other, 1)))
}

/// The descriptor stays open for as long as this.
pub(crate) struct Use<'a> {
    end: &'a End,
    forks: u32,
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let state = &self.end.state;
        let mut now = state.load(Ordering::Relaxed);
        // After a fork that a signal handler made, somebody else counts.
        while (now >> 32) as u32 == self.forks {
            match state.compare_exchange_weak(now, now - 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if now & (CLOSED | THREADS) == CLOSED | 1 => return self.end.close_descriptor(),
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }
}

impl Use<'_> {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open until the last user is gone. A number that was never open is an error of the kernel's.
        unsafe { BorrowedFd::borrow_raw(self.end.fd) }
    }

    /// An error if this process closed the end meanwhile.
    pub(crate) fn check<I>(&self) -> Result<(), PipeError<I>> {
        if self.end.is_closed() { Err(PipeError::Closed) } else { Ok(()) }
    }
}

impl End {
    fn with(fd: OwnedFd, home: Home, side: usize) -> Self {
        forks::count();
        Self {
            fd: fd.into_raw_fd(),
            state: AtomicU64::new(u64::from(forks::now()) << 32),
            home,
            side,
            plain: AtomicBool::new(false),
            cannot_send: AtomicBool::new(false),
            cannot_receive: AtomicBool::new(false),
            patience: Patience::default(),
        }
    }

    /// An end that is nothing but a descriptor, whose other end may be anybody's.
    ///
    /// The number is taken over; it need not be open, but then every use is an error.
    pub fn of_descriptor(fd: RawFd) -> Self {
        forks::count();
        // SAFETY: the number, which is not negative, is this end's from now on.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Self::with(fd, Home::own(), 0)
    }

    /// The end of a pair that another process had, with its descriptor.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if the pair's shared part has ended.
    pub fn attach(fd: OwnedFd, arena: &Arc<Arena>, handle: Handle, side: usize) -> Result<Self, ShmError> {
        Ok(Self::with(fd, Home::Shared(Home::attach(arena, handle)?), side & 1))
    }

    /// What else than the descriptor another process needs: the shared part, and which side this is.
    pub fn shared(&self) -> Option<(&Arc<Carrier>, usize)> {
        self.home.carrier().map(|carrier| (carrier, self.side))
    }

    /// The descriptor's number. Who passes it on to the program says so by [`show`](Self::show).
    pub const fn number(&self) -> RawFd {
        self.fd
    }

    /// Says that the program may read from and write to the descriptor by itself, or let others do so.
    pub fn show(&self) {
        if self.home.carrier().is_some() {
            self.outward().shown.fetch_or(WRITER_SHOWN, Ordering::SeqCst);
            self.inward().shown.fetch_or(READER_SHOWN, Ordering::SeqCst);
        }
    }

    pub(crate) const fn carrier(&self) -> Option<&Arc<Carrier>> {
        match &self.home {
            Home::Shared(carrier) => Some(carrier),
            Home::Own(_) => None,
        }
    }

    pub(crate) const fn side(&self) -> usize {
        self.side
    }

    /// The lane that this end writes into.
    pub(crate) fn outward(&self) -> &Lane {
        self.home.lane(self.side)
    }

    /// The lane that this end reads from.
    pub(crate) fn inward(&self) -> &Lane {
        self.home.lane(self.side ^ 1)
    }

    /// Whether this process closed it.
    pub fn is_closed(&self) -> bool {
        self.state.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Counts the calling thread as a user of the descriptor.
    pub(crate) fn enter<I>(&self) -> Result<Use<'_>, PipeError<I>> {
        if let Some(carrier) = self.carrier() {
            carrier.check()?;
        }
        let forks = forks::now();
        let mut now = self.state.load(Ordering::Relaxed);
        loop {
            if now & CLOSED != 0 {
                return Err(PipeError::Closed);
            }
            let threads = if (now >> 32) as u32 == forks { now & THREADS } else { 0 };
            let next = u64::from(forks) << 32 | (threads + 1);
            match self.state.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(Use { end: self, forks }),
                Err(other) => now = other,
            }
        }
    }

    /// Closes the descriptor, as soon as no thread of this process uses it; from now on it is of no use.
    ///
    /// # Errors
    ///
    /// What the kernel says of the descriptor. It is closed nevertheless.
    pub fn close(&self) -> Result<(), Errno> {
        let forks = forks::now();
        let mut now = self.state.load(Ordering::Relaxed);
        loop {
            if now & CLOSED != 0 {
                return Ok(());
            }
            let threads = if (now >> 32) as u32 == forks { now & THREADS } else { 0 };
            let next = u64::from(forks) << 32 | CLOSED | threads;
            match self.state.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if threads == 0 => break,
                Ok(_) => return Ok(()),
                Err(other) => now = other,
            }
        }
        // SAFETY: the number is this end's, and nobody uses it any more.
        if unsafe { libc::close(self.fd) } == 0 {
            return Ok(());
        }
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }

    /// Lets go of the descriptor without closing it: it is the caller's.
    pub fn release(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
    }

    fn close_descriptor(&self) {
        // SAFETY: as in `close`. Nobody is there to be told of an error.
        unsafe { libc::close(self.fd) };
    }

    /// Whether a message can be received, or the end of the stream. Waits for it until `deadline`.
    ///
    /// # Errors
    ///
    /// [`PipeError::Closed`], [`PipeError::Interrupted`], or [`PipeError::Memory`] if this process has no share in it.
    pub fn poll<P: DescriptorParker>(
        &self,
        parker: &mut P,
        deadline: Deadline,
    ) -> Result<bool, PipeError<P::Interrupt>> {
        let place = self.enter()?;
        let mut lingered = false;
        loop {
            if self.is_ready(place.fd()) {
                return Ok(true);
            }
            if deadline.is_over() {
                return Ok(false);
            }
            if !lingered {
                lingered = true;
                if self.patience.linger(parker, &mut || self.is_ready(place.fd())) {
                    continue;
                }
            }
            parker.park_at(place.fd(), Interest::Readable, deadline).map_err(PipeError::Interrupted)?;
            place.check()?;
        }
    }

    fn is_ready(&self, fd: BorrowedFd<'_>) -> bool {
        // A full slot is its reader's, unless that is dead.
        let left_behind = || {
            let lane = self.inward();
            lane.slot.load(Ordering::Acquire) == FULL
                && lane.try_lock_reading().is_some_and(|_guard| lane.slot.load(Ordering::Acquire) == FULL)
        };
        weft_sys::readiness::wait(fd, Interest::Readable, Some(Duration::ZERO)).unwrap_or(true)
            || left_behind()
    }

    /// Whether the descriptor is no socket. It was found out by a call that failed.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain.load(Ordering::Relaxed)
    }

    /// Whether `error` says that it is no socket.
    pub(crate) fn turns_out_plain(&self, error: Errno) -> bool {
        let plain = error == Errno::NOTSOCK;
        if plain {
            self.plain.store(true, Ordering::Relaxed);
        }
        plain
    }

    /// Whether everything that was sent has been received.
    pub(crate) fn is_drained(&self, fd: BorrowedFd<'_>) -> bool {
        descriptor::outstanding(fd) == Ok(0)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Nobody is there to be told of an error.
        let _ = self.close();
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open unless it was closed, and then the kernel says so, or the caller asked for it.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}
