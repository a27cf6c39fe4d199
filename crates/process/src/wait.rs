//! Looking at ended processes, and reaping them, by id.

use rustix::io::Errno;

/// An ended child of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) pid: u32,
    /// The exit code, or minus the signal.
    pub(crate) status: i32,
}

/// Some ended child, without reaping it. `ECHILD` if there are no children at all.
pub(crate) fn peek_any() -> Result<Option<Ended>, Errno> {
    wait(libc::P_ALL, 0, libc::WNOWAIT)
}

/// Whether the child `pid` has ended, without reaping it.
pub(crate) fn peek(pid: u32) -> Result<Option<Ended>, Errno> {
    wait(libc::P_PID, pid, libc::WNOWAIT)
}

/// Whether the child `pid` has ended; it is reaped then.
pub(crate) fn reap(pid: u32) -> Result<Option<Ended>, Errno> {
    wait(libc::P_PID, pid, 0)
}

fn wait(which: libc::idtype_t, pid: u32, flags: libc::c_int) -> Result<Option<Ended>, Errno> {
    // SAFETY: all zeros is a valid siginfo_t.
    let mut info = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
    // SAFETY: the call only writes to the structure.
    let result = unsafe { libc::waitid(which, pid, &raw mut info, libc::WEXITED | libc::WNOHANG | flags) };
    if result != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    }
    // SAFETY: waitid fills these in, or leaves the zeros if no child has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let status = if info.si_code == libc::CLD_EXITED { status } else { -status };
    Ok(Some(Ended { pid: pid.cast_unsigned(), status }))
}
