//! One child process, forked by this process or by a template.
//!
//! No descriptor is kept for a child unless somebody asks for one to poll. Waiting opens a process descriptor for as
//! long as it takes. For a template's child, whose id may be free for others once it is reaped, a descriptor is good if
//! the entry says *after* it was opened that the child has not ended (see the crate's page).
//!
//! If the template was killed, nobody reports how its children end; the code is then [`UNKNOWN`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::error::ProcessError;
use crate::table::{Entry, Seen, Table};
use crate::wait;

/// The exit code of a child whose template was killed before it ended, as the standard library's forkserver has it.
pub const UNKNOWN: i32 = 255;

/// How long to sleep between two looks at the template, while it has yet to report a child that has ended.
const REPORT_SLICE: Duration = Duration::from_millis(5);
/// After so many, one that only asks goes away: somebody has stopped the template.
const REPORT_SLICES: u32 = 200;

/// What waiting came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    /// The exit code, or minus the signal.
    Ended(i32),
    /// It is no child of this process, or somebody else reaped it: nothing can be known.
    NotOurs,
    /// The time is over.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

#[derive(Debug)]
enum Parent {
    /// This process.
    This,
    /// A template.
    Template { table: Arc<Table>, entry: u32, template: Arc<OwnedFd> },
}

/// A started process.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    parent: Parent,
    creator: u32,
    /// Set once; the mutex makes looking and reaping one step.
    outcome: Mutex<Option<i32>>,
    sentinel: OnceLock<OwnedFd>,
    /// Nobody could know of it yet but the one that holds this value, which ends it if it is dropped.
    unclaimed: AtomicBool,
}

impl Child {
    /// A child that this process forked or spawned. `None` if that is no process id.
    pub fn own(pid: u32) -> Option<Self> {
        Some(Self::new(Pid::from_raw(pid.cast_signed())?, Parent::This))
    }

    /// A child that a template forked for this process. `None` if the numbers make no sense.
    pub(crate) fn of_template(
        pid: u32,
        table: Arc<Table>,
        entry: u32,
        template: Arc<OwnedFd>,
    ) -> Option<Self> {
        table.entry(entry)?;
        let child = Self::new(Pid::from_raw(pid.cast_signed())?, Parent::Template { table, entry, template });
        child.unclaimed.store(true, Ordering::Relaxed);
        Some(child)
    }

    fn new(pid: Pid, parent: Parent) -> Self {
        Self {
            pid,
            parent,
            creator: std::process::id(),
            outcome: Mutex::new(None),
            sentinel: OnceLock::new(),
            unclaimed: AtomicBool::new(false),
        }
    }

    /// Says that a template's child is wanted. Until then dropping this ends it: whoever asked for it was interrupted
    /// before it could be told to anybody.
    pub fn claim(&self) {
        self.unclaimed.store(false, Ordering::Relaxed);
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    fn entry(&self) -> Option<&Entry> {
        match &self.parent {
            Parent::This => None,
            Parent::Template { table, entry, .. } => table.entry(*entry),
        }
    }

    /// Whether it has ended. Never waits, and is `TimedOut` while it runs.
    pub fn poll(&self) -> Waited {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = *outcome {
            return Waited::Ended(status);
        }
        let seen = match &self.parent {
            Parent::This => match wait::reap(self.pid().cast_unsigned()) {
                Ok(Some(ended)) => Some(ended.status),
                Ok(None) => return Waited::TimedOut,
                Err(_) => return Waited::NotOurs,
            },
            Parent::Template { template, .. } => self.look(template),
        };
        match seen {
            None => Waited::TimedOut,
            Some(status) => {
                *outcome = Some(status);
                drop(outcome);
                self.leave_entry();
                Waited::Ended(status)
            }
        }
    }

    /// What is known about a template's child.
    fn look(&self, template: &OwnedFd) -> Option<i32> {
        let entry = self.entry()?;
        if let Seen::Ended(status) = entry.look() {
            return Some(status);
        }
        if let Some(said) = entry.said()
            && self.sentinel.get().is_some_and(is_ready)
        {
            return Some(said);
        }
        // Whoever polls the descriptor may see the end before the template does; it is about to report it then.
        let mut slices = 0;
        while slices < REPORT_SLICES && self.sentinel.get().is_some_and(is_ready) && !is_ready(template) {
            slices += 1;
            if let Seen::Ended(status) = entry.look() {
                return Some(status);
            }
            let _ = entry.sleep(REPORT_SLICE);
        }
        if !is_ready(template) {
            return None;
        }
        // No template will report anything more; it may have done so just before it died.
        match entry.look() {
            Seen::Ended(status) => Some(status),
            Seen::Running if self.still_exists(entry) => None,
            // Unless it said it itself, before it ended.
            Seen::Running => Some(entry.said().unwrap_or(UNKNOWN)),
        }
    }

    /// Whether the process behind the id is still this child, asked when nobody keeps the id from being used again.
    fn still_exists(&self, entry: &Entry) -> bool {
        match self.sentinel.get() {
            Some(descriptor) => !is_ready(descriptor),
            None => match began(self.pid().cast_unsigned()) {
                Some((since, alive)) => since == entry.began() && alive,
                None => false,
            },
        }
    }

    /// Waits until it has ended, for at most `patience`.
    ///
    /// # Errors
    ///
    /// The system's. That no descriptors are left is none: it looks again and again then.
    pub fn wait(&self, patience: Option<Duration>) -> Result<Waited, ProcessError> {
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        let opened;
        let descriptor = match self.sentinel.get() {
            Some(descriptor) => descriptor,
            None => {
                match self.poll() {
                    Waited::TimedOut => {}
                    other => return Ok(other),
                }
                let descriptor = match self.open() {
                    Err(ProcessError::System { source: Errno::MFILE | Errno::NFILE, .. }) => {
                        return Ok(self.wait_in_slices(deadline));
                    }
                    other => other?,
                };
                match descriptor {
                    Some(descriptor) => {
                        opened = descriptor;
                        &opened
                    }
                    None => return Ok(self.after_end(deadline)),
                }
            }
        };
        let left = deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        let mut polled = [PollFd::new(descriptor, PollFlags::IN)];
        match poll(&mut polled, left.as_ref()) {
            Ok(0) => Ok(Waited::TimedOut),
            Ok(_) => Ok(self.after_end(deadline)),
            Err(Errno::INTR) => Ok(Waited::Interrupted),
            Err(source) => Err(ProcessError::System { action: "poll", source }),
        }
    }

    /// Waits without a descriptor, of which there are none left.
    fn wait_in_slices(&self, deadline: Option<Instant>) -> Waited {
        loop {
            match self.poll() {
                Waited::TimedOut => {}
                other => return other,
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Waited::TimedOut;
            }
            let slice = left.map_or(REPORT_SLICE, |left| left.min(REPORT_SLICE));
            let interrupted = match self.entry() {
                Some(entry) => entry.sleep(slice) == weft_sys::futex::Woken::Interrupted,
                None => poll(&mut [], Some(&timespec(slice))) == Err(Errno::INTR),
            };
            if interrupted {
                return Waited::Interrupted;
            }
        }
    }

    /// The process has ended; its status is there, or comes at once.
    fn after_end(&self, deadline: Option<Instant>) -> Waited {
        if let Some(said) = self.entry().and_then(Entry::said) {
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            let status = *outcome.get_or_insert(said);
            drop(outcome);
            self.leave_entry();
            return Waited::Ended(status);
        }
        loop {
            match self.poll() {
                Waited::TimedOut => {}
                other => return other,
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Waited::TimedOut;
            }
            let Some(entry) = self.entry() else {
                // Ended, but there is nothing to reap yet: a thread other than the main one still runs.
                return Waited::Interrupted;
            };
            if entry.sleep(REPORT_SLICE) == weft_sys::futex::Woken::Interrupted {
                return Waited::Interrupted;
            }
        }
    }

    /// A process descriptor; `None` if the process has ended.
    fn open(&self) -> Result<Option<OwnedFd>, ProcessError> {
        let descriptor = match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::SRCH) => return Ok(None),
            Err(source) => {
                return Err(ProcessError::System { action: "opening a process descriptor", source });
            }
        };
        match self.poll() {
            Waited::TimedOut => Ok(Some(descriptor)),
            _ => Ok(None),
        }
    }

    /// Sends it a signal, unless it has ended.
    ///
    /// # Errors
    ///
    /// Not permitted, no such signal, or no descriptors left.
    pub fn signal(&self, signal: i32) -> Result<(), ProcessError> {
        let signal = Signal::from_named_raw(signal)
            .ok_or(ProcessError::System { action: "sending a signal", source: Errno::INVAL })?;
        if self.poll() != Waited::TimedOut {
            return Ok(());
        }
        let sent = match &self.parent {
            // Nobody else reaps it, so the id is its own.
            Parent::This => kill_process(self.pid, signal),
            Parent::Template { .. } => match self.open()? {
                Some(descriptor) => pidfd_send_signal(&descriptor, signal),
                None => Ok(()),
            },
        };
        match sent {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(source) => Err(ProcessError::System { action: "sending a signal", source }),
        }
    }

    /// A descriptor that is readable once the process has ended. It stays open as long as this value.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn sentinel(&self) -> Result<BorrowedFd<'_>, ProcessError> {
        if let Some(descriptor) = self.sentinel.get() {
            return Ok(descriptor.as_fd());
        }
        let opened = match self.poll() {
            Waited::TimedOut => self.open()?,
            _ => None,
        };
        let descriptor = match opened {
            Some(descriptor) => descriptor,
            // The reading end of a pipe without a writer is readable for ever.
            None => pipe_with(PipeFlags::CLOEXEC).map_err(ProcessError::system("pipe"))?.0,
        };
        Ok(self.sentinel.get_or_init(|| descriptor).as_fd())
    }

    fn leave_entry(&self) {
        if self.creator == std::process::id()
            && let Some(entry) = self.entry()
        {
            entry.detach();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if *self.unclaimed.get_mut() && self.creator == std::process::id() {
            // It may have ended by itself.
            let _ = self.signal(Signal::KILL.as_raw());
        }
        let collected = self.outcome.get_mut().unwrap_or_else(PoisonError::into_inner).is_some();
        // A copy that a fork made has no say in it.
        if !collected
            && self.creator == std::process::id()
            && let Some(entry) = self.entry()
        {
            entry.detach();
        }
    }
}

/// When a process began, in the kernel's ticks since it booted, and whether it has not ended.
pub(crate) fn began(pid: u32) -> Option<(u64, bool)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may have anything in it.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X");
    let since = fields.nth(18)?.parse().ok()?;
    Some((since, alive))
}

/// Whether a process descriptor says that the process has ended.
fn is_ready(descriptor: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(descriptor, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut polled, Some(&at_once)), Ok(count) if count > 0)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
