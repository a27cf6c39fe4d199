//! The end of a child process.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::{ReactorError, forks};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// Somebody else took the status.
    Taken,
}

impl ExitStatus {
    /// As `waitpid` has it; `None` if it was taken.
    pub const fn raw(self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some((code & 0xff) << 8),
            Self::Killed(signal) => Some(signal & 0x7f),
            Self::Taken => None,
        }
    }
}

/// A child whose end is waited for. Its descriptor is readable once it has ended, so that it can be watched.
///
/// It names the process, not its number, so it is never taken for another one.
#[derive(Debug)]
pub struct ChildExit {
    pid: i32,
    descriptor: OwnedFd,
    forks: u32,
}

impl ChildExit {
    /// The child with this number.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Child`] if there is no such process, or no descriptor to be had.
    pub fn open(pid: i32) -> Result<Self, ReactorError> {
        let failed = |source| ReactorError::Child { pid, source };
        // Groups of processes have negative numbers, which are none of a process.
        let number = if pid > 0 { pid } else { 0 };
        let process = Pid::from_raw(number).ok_or(failed(Errno::INVAL))?;
        let descriptor = pidfd_open(process, PidfdFlags::NONBLOCK).map_err(failed)?;
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
        self.descriptor.as_raw_fd()
    }

    /// Takes the status if it has ended. No other child's is touched.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Child`], never for a child.
    pub fn try_reap(&self) -> Result<Option<ExitStatus>, ReactorError> {
        loop {
            let id = WaitId::PidFd(self.descriptor.as_fd());
            match waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                Ok(None) | Err(Errno::AGAIN) => return Ok(None),
                Ok(Some(status)) => {
                    let ended = status
                        .exit_status()
                        .map(ExitStatus::Exited)
                        .or_else(|| status.terminating_signal().map(ExitStatus::Killed));
                    return Ok(ended.or(Some(ExitStatus::Taken)));
                }
                Err(Errno::INTR) => {}
                Err(Errno::CHILD) => return Ok(Some(ExitStatus::Taken)),
                Err(source) => return Err(ReactorError::Child { pid: self.pid, source }),
            }
        }
    }
}
