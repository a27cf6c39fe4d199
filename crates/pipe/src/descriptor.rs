//! The system calls, none of which blocks on a socket.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

fn outcome(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| last_error())
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Sends as much of `parts` as there is room for, in one piece if that is not long.
pub(crate) fn send(fd: BorrowedFd<'_>, parts: &[libc::iovec]) -> Result<usize, Errno> {
    // SAFETY: zero is a valid value of every field.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut();
    message.msg_iovlen = parts.len() as _;
    // SAFETY: the parts describe readable memory, as `iovec` sees to; they are only read.
    let result =
        unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    outcome(result)
}

/// Writes as `send` does, to what is no socket. It may block.
pub(crate) fn write(fd: BorrowedFd<'_>, parts: &[libc::iovec]) -> Result<usize, Errno> {
    // SAFETY: as in `send`.
    outcome(unsafe { libc::writev(fd.as_raw_fd(), parts.as_ptr(), parts.len() as _) })
}

/// Receives up to as many bytes as `place` has; zero at the end of the stream.
pub(crate) fn receive(fd: BorrowedFd<'_>, place: &mut [u8]) -> Result<usize, Errno> {
    receive_with(fd, place, libc::MSG_DONTWAIT)
}

/// As `receive`, but leaves the bytes where they are.
pub(crate) fn peek(fd: BorrowedFd<'_>, place: &mut [u8]) -> Result<usize, Errno> {
    receive_with(fd, place, libc::MSG_DONTWAIT | libc::MSG_PEEK)
}

fn receive_with(fd: BorrowedFd<'_>, place: &mut [u8], flags: i32) -> Result<usize, Errno> {
    // SAFETY: the place is writable and this long.
    outcome(unsafe { libc::recv(fd.as_raw_fd(), place.as_mut_ptr().cast(), place.len(), flags) })
}

/// Reads as `receive` does, from what is no socket. It may block.
pub(crate) fn read(fd: BorrowedFd<'_>, place: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: as in `receive_with`.
    outcome(unsafe { libc::read(fd.as_raw_fd(), place.as_mut_ptr().cast(), place.len()) })
}

/// Whether the descriptor is a socket.
pub fn is_socket(fd: BorrowedFd<'_>) -> bool {
    let mut kind: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes an int, and its length.
    let status = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut length,
        )
    };
    status == 0
}

/// How much memory holds what was sent and not yet received by the other end, in bytes; not how many bytes were sent.
pub fn outstanding(fd: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes an int.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } != 0 {
        return Err(last_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// A part of what is to be sent.
pub(crate) fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// Takes the first `count` bytes, which were sent, off `parts`.
pub(crate) fn advance(parts: &mut [libc::iovec], mut count: usize) -> &mut [libc::iovec] {
    let mut done = 0;
    for part in parts.iter_mut() {
        if count < part.iov_len {
            // SAFETY: less than the part's length lies behind its start.
            part.iov_base = unsafe { part.iov_base.cast::<u8>().add(count) }.cast();
            part.iov_len -= count;
            break;
        }
        count -= part.iov_len;
        done += 1;
    }
    &mut parts[done..]
}
