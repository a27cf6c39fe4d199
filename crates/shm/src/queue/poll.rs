//! Descriptors that are readable while a queue has a message, for those who wait with `select` or `epoll`.
//!
//! A queue has no descriptor of its own: a thousand queues would use them all up. Who wants to poll makes a pipe
//! and registers it, by the numbers of its process and descriptor. From then on, everybody whose put or get lets
//! the queue become non-empty or empty brings the pipe in line: one byte in it, or none. It reaches a pipe of
//! another process through `/proc/<pid>/fd/<number>`, checks that it is the very pipe that was registered,
//! and opens it for that one write or read. While nobody polls this costs a load of one word.
//!
//! The pipes are changed under a lock of their own, and to what the queue is *then*; so whoever is last leaves them
//! right, in whatever order commits and looks happen. A pipe that is gone is struck off by the next one who looks.
//!
//! A producer that is killed between its commit and the pipes would leave a message that nobody is told of. So with pollers
//! about, it puts the bytes in *first*, and keeps the pipes' lock until it has committed: killed anywhere, it leaves
//! readable pipes. If that is for nothing, the first one who then tries to get a message takes the bytes out.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Weak};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::Queue;
use crate::crash::crash_point;
use crate::error::ShmError;
use crate::layout::{Kind, UNIT, order_of, state};
use crate::robust::{Held, Robust};
use crate::windows::system;

/// One registered pipe. Free if `pid` is 0.
#[repr(C)]
struct Slot {
    pid: AtomicU32,
    number: AtomicU32,
    inode: AtomicU64,
    /// Whether there is a byte in it: 0, 1 or `UNKNOWN`.
    raised: AtomicU32,
    _unused: [u32; 3],
}

const UNKNOWN: u32 = 2;

const SLOTS: usize = UNIT / size_of::<Slot>();

/// A registered pipe. Dropping it ends the registration.
#[derive(Debug)]
pub struct Poller<L: Robust> {
    queue: Weak<Queue<L>>,
    readable: OwnedFd,
    /// Kept open, so that the pipe never looks as if its other end had been closed.
    _writable: OwnedFd,
    pid: u32,
    inode: u64,
}

impl<L: Robust> AsFd for Poller<L> {
    /// Readable while the queue has a message, or is shut down. Nobody may read from it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

impl<L: Robust> Poller<L> {
    /// The process that registered it. In the child of a fork it is of no use.
    pub const fn pid(&self) -> u32 {
        self.pid
    }
}

struct Locked<'a, L: Robust>(&'a L);

impl<L: Robust> Drop for Locked<'_, L> {
    fn drop(&mut self) {
        // SAFETY: held since this was made, by this thread.
        unsafe { self.0.unlock() };
    }
}

impl<L: Robust> Queue<L> {
    /// Registers a new pipe, which is readable while there is a message.
    ///
    /// # Errors
    ///
    /// [`ShmError::System`] if there is no descriptor or memory left, or more pollers than a queue can have (128).
    pub fn poller(self: &Arc<Self>) -> Result<Poller<L>, ShmError> {
        self.object.check()?;
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (readable, writable) =
            rustix::pipe::pipe_with(flags).map_err(|source| system("watch", 0, source))?;
        let inode = rustix::fs::fstat(&readable).map_err(|source| system("watch", 0, source))?.st_ino;
        if self.header().poll_block.load(Ordering::Acquire) == 0 {
            self.add_poll_block()?;
        }
        let pid = self.arena().identity().pid;
        {
            let _locked = self.lock_pollers();
            let free = self.slots().iter().find(|slot| slot.pid.load(Ordering::Relaxed) == 0);
            let Some(slot) = free else {
                return Err(system("watch", 0, rustix::io::Errno::USERS));
            };
            slot.number.store(readable.as_raw_fd() as u32, Ordering::Relaxed);
            slot.inode.store(inode, Ordering::Relaxed);
            slot.raised.store(0, Ordering::Relaxed);
            slot.pid.store(pid, Ordering::Release);
            self.count_pollers();
        }
        // A producer that did not see the poller has the side's lock, or puts its message before the look that follows.
        fence(Ordering::SeqCst);
        self.pass_put_lock()?;
        let poller = Poller { queue: Arc::downgrade(self), readable, _writable: writable, pid, inode };
        self.tell_pollers();
        Ok(poller)
    }

    /// Whether anybody polls the queue.
    #[inline]
    pub(super) fn has_pollers(&self) -> bool {
        self.header().pollers.load(Ordering::SeqCst) != 0
    }

    /// Brings the pollers' pipes in line with the queue, if there are any.
    #[inline]
    pub(super) fn tell_pollers(&self) {
        // Ordered behind the commit by the fence in `raise`, which came just before.
        if self.has_pollers() {
            self.bring_in_line();
        }
    }

    /// Takes back what a producer promised the pollers that was killed before its commit. For one who found the queue empty.
    #[cold]
    pub(super) fn calm_pollers(&self) {
        if self.slots().iter().any(|slot| slot.raised.load(Ordering::Relaxed) != 0) {
            self.bring_in_line();
        }
    }

    /// Makes all pipes readable, has them stay so during `change`, and leaves them as the queue is then. Whoever dies in it
    /// leaves them readable.
    #[cold]
    pub(super) fn telling_pollers<T>(&self, change: impl FnOnce() -> T) -> T {
        let _locked = self.lock_pollers();
        self.set_pollers(1);
        crash_point("poll: promised");
        let outcome = change();
        self.align_pollers();
        outcome
    }

    #[cold]
    fn bring_in_line(&self) {
        let _locked = self.lock_pollers();
        self.align_pollers();
    }

    /// With the lock.
    fn align_pollers(&self) {
        self.set_pollers(u32::from(!self.is_empty() || self.is_shut_down()));
    }

    /// With the lock: one byte in each pipe, or none.
    fn set_pollers(&self, wanted: u32) {
        let mut lost = false;
        for slot in self.slots() {
            if slot.pid.load(Ordering::Acquire) != 0 && slot.raised.load(Ordering::Relaxed) != wanted {
                // Unknown, until it is done.
                slot.raised.store(UNKNOWN, Ordering::Relaxed);
                crash_point("poll: unknown");
                match slot.set(wanted != 0) {
                    Ok(()) => {
                        crash_point("poll: set");
                        slot.raised.store(wanted, Ordering::Relaxed);
                    }
                    Err(Errno::NOENT | Errno::SRCH | Errno::BADF) => {
                        slot.pid.store(0, Ordering::Release);
                        lost = true;
                    }
                    // This process has no descriptor left, or may not reach the other: the next one may.
                    Err(_) => {}
                }
            }
        }
        if lost {
            self.count_pollers();
        }
    }

    fn lock_pollers(&self) -> Locked<'_, L> {
        let lock = &self.header().poll_lock;
        loop {
            match lock.try_lock().or_else(|| lock.lock_within(super::LOCK_SLICE)) {
                None => {}
                Some(Held::Clean) => return Locked(lock),
                Some(Held::AfterDeath) => {
                    // The pipe that was being changed says so itself.
                    self.count_pollers();
                    lock.repaired();
                    return Locked(lock);
                }
            }
        }
    }

    fn count_pollers(&self) {
        let count = self.slots().iter().filter(|slot| slot.pid.load(Ordering::Relaxed) != 0).count();
        self.header().pollers.store(count as u32, Ordering::SeqCst);
    }

    fn slots(&self) -> &[Slot] {
        let unit = self.header().poll_block.load(Ordering::Acquire);
        match (unit != 0).then(|| self.arena().piece(unit)) {
            // SAFETY: the block has at least a unit, holds nothing but slots, which are atomic, and stays the
            // queue's and mapped as long as the queue.
            Some(Ok((start, _))) => unsafe {
                std::slice::from_raw_parts(start.cast::<Slot>().as_ptr(), SLOTS)
            },
            _ => &[],
        }
    }

    fn add_poll_block(&self) -> Result<(), ShmError> {
        let (unit, start) = self.arena().allocate_piece(UNIT)?;
        // SAFETY: ours alone, mapped, of this length.
        unsafe { start.as_ptr().write_bytes(0, UNIT) };
        let _locked = self.lock_pollers();
        if self.header().poll_block.load(Ordering::Acquire) != 0 {
            return self.arena().free(unit);
        }
        let descriptor = self.arena().descriptor(unit)?;
        descriptor.object.store(self.handle().unit, Ordering::Relaxed);
        let order = order_of(descriptor.state.load(Ordering::Relaxed));
        descriptor.state.store(state(Kind::Holders, order), Ordering::Release);
        self.header().poll_block.store(unit, Ordering::Release);
        Ok(())
    }
}

impl Slot {
    /// Puts a byte into the pipe, or takes it out. An error if it is not there any more.
    fn set(&self, raised: bool) -> Result<(), Errno> {
        let (pid, number) = (self.pid.load(Ordering::Relaxed), self.number.load(Ordering::Relaxed));
        // In tests, processes that are none pass for this one.
        let pid = if cfg!(test) { std::process::id() } else { pid };
        let path = PathBuf::from(format!("/proc/{pid}/fd/{number}"));
        // First without opening it in earnest: it may be something else by now.
        let found = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let status = rustix::fs::fstat(&found)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::Fifo
            || status.st_ino != self.inode.load(Ordering::Relaxed)
        {
            return Err(Errno::NOENT);
        }
        let own = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
        let access = if raised { OFlags::WRONLY } else { OFlags::RDONLY };
        let pipe = rustix::fs::open(own, access | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        let outcome =
            if raised { rustix::io::write(&pipe, &[1]) } else { rustix::io::read(&pipe, &mut [0; 64]) };
        match outcome {
            // Full, or empty already: as wanted.
            Err(Errno::AGAIN) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

impl<L: Robust> Drop for Poller<L> {
    fn drop(&mut self) {
        let Some(queue) = self.queue.upgrade() else { return };
        if queue.object.check().is_err() || queue.arena().identity().pid != self.pid {
            return;
        }
        let _locked = queue.lock_pollers();
        for slot in queue.slots() {
            if slot.pid.load(Ordering::Relaxed) == self.pid
                && slot.inode.load(Ordering::Relaxed) == self.inode
            {
                slot.pid.store(0, Ordering::Release);
            }
        }
        queue.count_pollers();
    }
}
