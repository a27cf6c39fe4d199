//! What the kernel remembers of a process that has ended, for whoever has a descriptor of it.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// The kernel's `pidfd_info`, as long as it was in the beginning.
#[derive(Debug, Default)]
#[repr(C)]
struct Info {
    /// What is asked for, and then what is there.
    mask: u64,
    cgroup: u64,
    /// Of the process, of its parent, and whose it is.
    numbers: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<Info>() == 64 && std::mem::offset_of!(Info, exit_code) == 60);

/// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`.
const GET_INFO: u64 = 3 << 30 | (size_of::<Info>() as u64) << 16 | 0xff << 8 | 11;
const EXIT: u64 = 1 << 3;

/// The status of a process that has ended and was reaped, by whomever, in the form of `waitpid`; `None` if it was not reaped yet.
///
/// # Errors
///
/// What the kernel says if it does not tell: it does since Linux 6.15.
pub fn reaped_status(process: BorrowedFd<'_>) -> Result<Option<i32>, Errno> {
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the structure has the size that is part of the request, and is ours. Other descriptors refuse the request.
    let done = unsafe { libc::ioctl(process.as_raw_fd(), GET_INFO as _, &raw mut info) };
    if done < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok((info.mask & EXIT != 0).then_some(info.exit_code))
}
