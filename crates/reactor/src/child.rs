//! The end of a child process.
//!
//! Its status is there to be taken once, by anybody in the process; and where `SIGCHLD` is ignored the kernel keeps none at all.
//! Since Linux 6.15 it still tells it to whoever had a descriptor of the child before. Else all that is known is that it ended.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, waitid};
use weft_sys::doorbell::Doorbell;
use weft_sys::pidfd::reaped_status;

use crate::{ReactorError, forks};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// By this signal, and left a core dump.
    Dumped(i32),
    /// Nobody knows: somebody else took the status, or the kernel kept none, as `SIGCHLD` is ignored.
    Taken,
}

impl ExitStatus {
    /// As `waitpid` has it; `None` if it was taken.
    pub const fn raw(self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some((code & 0xff) << 8),
            Self::Killed(signal) => Some(signal & 0x7f),
            Self::Dumped(signal) => Some(signal & 0x7f | 0x80),
            Self::Taken => None,
        }
    }

    /// What [`raw`](Self::raw) gives.
    const fn from_raw(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Exited(status >> 8 & 0xff),
            signal if status & 0x80 != 0 => Self::Dumped(signal),
            signal => Self::Killed(signal),
        }
    }

    fn from_wait(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, Some(signal)) if status.dumped() => Self::Dumped(signal),
            (None, Some(signal)) => Self::Killed(signal),
            (None, None) => Self::Taken,
        }
    }
}

/// A child whose end is waited for. Its descriptor is readable once it has ended, so that it can be watched.
///
/// It names the process, not its number, so it is never taken for another one.
#[derive(Debug)]
pub struct ChildExit {
    pid: i32,
    descriptor: Descriptor,
    forks: u32,
}

#[derive(Debug)]
enum Descriptor {
    Process(OwnedFd),
    /// Of one that had ended before, without a trace: always readable.
    Gone(Doorbell),
}

impl ChildExit {
    /// The child with this number.
    ///
    /// Where `SIGCHLD` is ignored, a child may be gone before anybody can ask for it. So a process that does not exist counts there
    /// as one that has ended, and nothing more is known of it.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Child`] if there is no such process, or no descriptor to be had.
    pub fn open(pid: i32) -> Result<Self, ReactorError> {
        let failed = |source| ReactorError::Child { pid, source };
        // Groups of processes have negative numbers, which are none of a process.
        let number = if pid > 0 { pid } else { 0 };
        let process = Pid::from_raw(number).ok_or(failed(Errno::INVAL))?;
        let descriptor = match pidfd_open(process, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => Descriptor::Process(descriptor),
            Err(Errno::SRCH) if are_children_forgotten() => {
                let bell = Doorbell::new().map_err(failed)?;
                bell.ring();
                Descriptor::Gone(bell)
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { pid, descriptor, forks: forks() })
    }

    /// Its number.
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it is the child of a process that this one was forked from since, and so none of this one's.
    pub fn is_parents(&self) -> bool {
        self.forks != forks()
    }

    /// What to watch, for reading.
    pub fn descriptor(&self) -> RawFd {
        match &self.descriptor {
            Descriptor::Process(descriptor) => descriptor.as_raw_fd(),
            Descriptor::Gone(bell) => bell.as_raw_fd(),
        }
    }

    /// Takes the status if it has ended. No other child's is touched.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Child`], never for a child.
    pub fn try_reap(&self) -> Result<Option<ExitStatus>, ReactorError> {
        let Descriptor::Process(process) = &self.descriptor else { return Ok(Some(ExitStatus::Taken)) };
        loop {
            let id = WaitId::PidFd(process.as_fd());
            match waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                Ok(None) | Err(Errno::AGAIN) => return Ok(None),
                Ok(Some(status)) => return Ok(Some(ExitStatus::from_wait(&status))),
                Err(Errno::INTR) => {}
                Err(Errno::CHILD) => return Ok(Some(remembered(process.as_fd()))),
                Err(source) => return Err(ReactorError::Child { pid: self.pid, source }),
            }
        }
    }
}

/// How one ended that is nobody's to wait for any more.
fn remembered(process: BorrowedFd<'_>) -> ExitStatus {
    /// How often to look again, for one that is being reaped at this instant, by itself or by another thread.
    const LOOKS: u32 = 100;
    for _ in 0..LOOKS {
        match reaped_status(process) {
            Ok(Some(status)) => return ExitStatus::from_raw(status),
            Ok(None) => std::thread::yield_now(),
            Err(_) => break,
        }
    }
    ExitStatus::Taken
}

/// Whether the kernel keeps no status of children of this process that end now.
fn are_children_forgotten() -> bool {
    // SAFETY: zeroed is a valid `sigaction`; asked for, not changed.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut now) == 0
            && (now.sa_sigaction == libc::SIG_IGN || now.sa_flags & libc::SA_NOCLDWAIT != 0)
    }
}
