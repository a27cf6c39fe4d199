//! The children of one template, in memory that it shares with everyone who may ask it for children.
//!
//! An entry belongs to the template while it is free or spare, to the client that asked for the child from then on,
//! and to the template again when the client has taken the status, or given the child up:
//!
//! ```text
//!            template forks          spare takes a request        template reaps
//!   FREE ───────────────────▶ SPARE ────────────────────▶ RUNNING ──────────────▶ ENDED
//!    ▲                          │                            │                      │
//!    │      dies unused         │        client gives up     ▼      client collects │
//!    ├──────────────────────────┘                        DETACHED                   │
//!    │                 template reaps                        │                      │
//!    └───────────────────────────────────────────────────────┴──────────────────────┘
//! ```
//!
//! A child that ends by itself also says its exit code before it does. A client that knows that the process has ended,
//! from its descriptor, takes that, and goes on while the template has yet to reap.
//!
//! Every arrow is one compare-and-swap of the state word, so it does not matter who dies when. Entries whose client
//! died without collecting are found again when the table is full. Everything in it is an untrusted number: an index
//! is checked, a state that makes no sense is as good as free to nobody.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use rustix::process::{Pid, test_kill_process};
use weft_sys::futex;
use weft_sys::memory_file::{self, MemoryFile};

use crate::error::ProcessError;

/// How many children of one template may be alive, or ended and not collected.
pub const ENTRIES: usize = 1 << 16;
const LENGTH: usize = ENTRIES * size_of::<Entry>();

const FREE: u32 = 0;
const SPARE: u32 = 1;
const RUNNING: u32 = 2;
const ENDED: u32 = 3;
const DETACHED: u32 = 4;

/// One child. All zeros is a free one.
#[repr(C)]
#[derive(Debug)]
pub struct Entry {
    state: AtomicU32,
    /// The exit code, or minus the signal; valid once the state says so.
    status: AtomicI32,
    pid: AtomicU32,
    client: AtomicU32,
    /// When the process began, as `/proc` counts it: tells it from a later one with the same id.
    began: AtomicU64,
    /// What the child itself said its exit code would be, just before it ended; `SAID_NOTHING` before.
    said: AtomicI32,
    _unused: u32,
}

const SAID_NOTHING: i32 = -1;

const _: () = assert!(size_of::<Entry>() == 32);

/// What an entry says to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Seen {
    /// The child has not been reported as ended.
    Running,
    /// It has: its exit code, or minus the signal.
    Ended(i32),
}

/// Whom the template reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Reaped {
    /// A spare that nobody had used; whether it had come so far that it could have been.
    Unused {
        /// It had described itself.
        was_ready: bool,
    },
    /// A child.
    Child,
}

/// The mapped table.
#[derive(Debug)]
pub struct Table {
    file: MemoryFile,
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value and holds atomics only.
unsafe impl Send for Table {}
// SAFETY: as above; all access is by atomic operations.
unsafe impl Sync for Table {}

impl Table {
    /// A new table, empty.
    pub fn create() -> Result<Self, ProcessError> {
        let file = MemoryFile::create("weft-children", LENGTH as u64)
            .map_err(ProcessError::system("making the table of children"))?;
        Self::map(file)
    }

    /// The table behind an inherited descriptor.
    pub fn adopt(file: OwnedFd) -> Result<Self, ProcessError> {
        let file =
            MemoryFile::adopt(file).map_err(ProcessError::system("taking the table of children over"))?;
        if file.len() != LENGTH as u64 {
            return Err(ProcessError::System {
                action: "taking the table of children over",
                source: rustix::io::Errno::INVAL,
            });
        }
        Self::map(file)
    }

    fn map(file: MemoryFile) -> Result<Self, ProcessError> {
        let base = file.map(0, LENGTH).map_err(ProcessError::system("mapping the table of children"))?;
        Ok(Self { file, base })
    }

    /// The entry with this number, if there is one.
    pub fn entry(&self, index: u32) -> Option<&Entry> {
        let index = usize::try_from(index).ok().filter(|&index| index < ENTRIES)?;
        // SAFETY: the mapping has ENTRIES entries, is page-aligned, and lives as long as `self`; all zeros is a valid
        // entry, and so is everything else, since there are only integers.
        Some(unsafe { self.base.cast::<Entry>().add(index).as_ref() })
    }

    /// A free entry, now that of a spare; the search begins at `from`. `None` if all are in use.
    pub fn reserve(&self, from: u32) -> Option<u32> {
        self.next_free(from).or_else(|| {
            self.reclaim();
            self.next_free(from)
        })
    }

    fn next_free(&self, from: u32) -> Option<u32> {
        let count = ENTRIES as u32;
        (0..count)
            .map(|step| (from.wrapping_add(step)) % count)
            .find(|&index| self.entry(index).is_some_and(Entry::reserve))
    }

    /// Frees the entries of ended children whose client is no more.
    fn reclaim(&self) {
        for entry in (0..ENTRIES as u32).filter_map(|index| self.entry(index)) {
            let client = Pid::from_raw(entry.client.load(Ordering::Relaxed).cast_signed());
            let gone = client.is_none_or(|client| test_kill_process(client) == Err(rustix::io::Errno::SRCH));
            if gone && entry.swap(ENDED, FREE) {
                entry.client.store(0, Ordering::Relaxed);
            }
        }
    }
}

impl AsFd for Table {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` with this length, and no entry is borrowed any more.
        unsafe { memory_file::unmap(self.base, LENGTH) };
    }
}

impl Entry {
    fn swap(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn reserve(&self) -> bool {
        let reserved = self.swap(FREE, SPARE);
        if reserved {
            self.pid.store(0, Ordering::Relaxed);
        }
        reserved
    }

    /// The template could not fork the spare this was reserved for.
    pub fn cancel(&self) {
        self.swap(SPARE, FREE);
    }

    /// Notes, in the spare, who it is.
    pub fn describe(&self, pid: u32, began: u64) {
        self.pid.store(pid, Ordering::Relaxed);
        self.began.store(began, Ordering::Relaxed);
    }

    /// The spare becomes a child of `client`. False if the entry is not that of a spare.
    pub fn take(&self, client: u32) -> bool {
        self.client.store(client, Ordering::Relaxed);
        self.said.store(SAID_NOTHING, Ordering::Relaxed);
        self.swap(SPARE, RUNNING)
    }

    /// The child says with which exit code it is about to end. No process but itself may.
    pub fn say(&self, code: u8) {
        if self.pid.load(Ordering::Relaxed) == std::process::id() {
            self.said.store(code.into(), Ordering::Release);
        }
    }

    /// The exit code of a child that is known to have ended, if it said it: nobody has to wait for the template then.
    pub fn said(&self) -> Option<i32> {
        let said = self.said.load(Ordering::Acquire);
        (0..=0xff).contains(&said).then_some(said)
    }

    /// Whether it is that of a spare nobody has used.
    pub fn is_spare(&self) -> bool {
        self.state.load(Ordering::Acquire) == SPARE
    }

    /// When the process began.
    pub fn began(&self) -> u64 {
        self.began.load(Ordering::Relaxed)
    }

    /// What is known about the child.
    pub fn look(&self) -> Seen {
        match self.state.load(Ordering::Acquire) {
            ENDED => Seen::Ended(self.status.load(Ordering::Relaxed)),
            _ => Seen::Running,
        }
    }

    /// The template saw the process end.
    pub fn publish(&self, status: i32) -> Reaped {
        self.status.store(status, Ordering::Relaxed);
        if self.swap(SPARE, FREE) {
            return Reaped::Unused { was_ready: self.pid.load(Ordering::Relaxed) != 0 };
        }
        if self.swap(RUNNING, ENDED) {
            futex::wake(&self.state, u32::MAX);
        } else {
            self.swap(DETACHED, FREE);
        }
        Reaped::Child
    }

    /// The client knows the status, or does not want to.
    pub fn detach(&self) {
        if !self.swap(RUNNING, DETACHED) {
            self.swap(ENDED, FREE);
        }
    }

    /// Sleeps until the child is reported as ended, for at most `patience`, or until a signal handler runs.
    pub fn sleep(&self, patience: std::time::Duration) -> futex::Woken {
        futex::wait(&self.state, RUNNING, Some(patience))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_an_entry() {
        let table = Table::create().unwrap();
        let index = table.reserve(0).unwrap();
        let entry = table.entry(index).unwrap();
        assert!(entry.is_spare());
        assert!(entry.take(std::process::id()));
        assert!(!entry.take(1), "only a spare can be taken");
        assert_eq!(entry.look(), Seen::Running);
        assert_eq!(entry.publish(-9), Reaped::Child);
        assert_eq!(entry.look(), Seen::Ended(-9));
        entry.detach();
        assert_eq!(table.reserve(index), Some(index));
    }

    #[test]
    fn a_child_says_its_code_itself() {
        let table = Table::create().unwrap();
        let entry = table.entry(table.reserve(0).unwrap()).unwrap();
        entry.describe(std::process::id() + 1, 0);
        assert!(entry.take(1));
        entry.say(7);
        assert_eq!(entry.said(), None, "another process's entry");
        entry.describe(std::process::id(), 0);
        entry.say(7);
        assert_eq!((entry.said(), entry.look()), (Some(7), Seen::Running));
    }

    #[test]
    fn given_up_before_and_after_the_end() {
        let table = Table::create().unwrap();
        for early in [true, false] {
            let index = table.reserve(7).unwrap();
            assert_eq!(index, 7);
            let entry = table.entry(index).unwrap();
            assert!(entry.take(std::process::id()));
            if early {
                entry.detach();
                assert_eq!(entry.publish(0), Reaped::Child);
            } else {
                assert_eq!(entry.publish(0), Reaped::Child);
                entry.detach();
            }
        }
    }

    #[test]
    fn a_full_table_takes_back_what_dead_clients_left() {
        let table = Table::create().unwrap();
        for index in 0..ENTRIES as u32 {
            assert_eq!(table.reserve(index), Some(index));
        }
        assert_eq!(table.reserve(0), None);
        let (alive, dead) = (table.entry(3).unwrap(), table.entry(5).unwrap());
        assert!(alive.take(std::process::id()) && dead.take(i32::MAX as u32));
        let _ = (alive.publish(1), dead.publish(2));
        assert_eq!(table.reserve(0), Some(5));
        assert_eq!(alive.look(), Seen::Ended(1));
    }

    #[test]
    fn an_index_from_outside_is_checked() {
        let table = Table::create().unwrap();
        assert!(table.entry(ENTRIES as u32).is_none() && table.entry(u32::MAX).is_none());
    }

    #[test]
    fn adopts_only_what_has_the_length_and_is_sealed() {
        let table = Table::create().unwrap();
        assert!(Table::adopt(table.as_fd().try_clone_to_owned().unwrap()).is_ok());
        let short = MemoryFile::create("short", 4096).unwrap();
        assert!(Table::adopt(short.as_fd().try_clone_to_owned().unwrap()).is_err());
        let loose = rustix::fs::memfd_create("loose", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&loose, LENGTH as u64).unwrap();
        assert!(Table::adopt(loose).is_err());
    }
}
