//! Memory that processes share through a descriptor: a sealed, anonymous file.

use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// So much memory is taken with one call of the kernel, unless signals keep interrupting it.
const LARGEST_PIECE: u64 = 16 << 20;
const SMALLEST_PIECE: u64 = 64 << 10;

/// An anonymous file of fixed length. It has no name, and vanishes with its last descriptor and mapping.
#[derive(Debug)]
pub struct MemoryFile {
    file: OwnedFd,
    length: u64,
    device: u64,
    inode: u64,
}

impl MemoryFile {
    /// A new file of `length` bytes, none of which takes memory yet. It can neither grow nor shrink.
    pub fn create(name: &str, length: u64) -> Result<Self, Errno> {
        let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, length)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::adopt(file)
    }

    /// The file behind a descriptor that another process handed over.
    ///
    /// `EINVAL` if it is no file whose length is fixed: such a one could be cut under the mapping.
    pub fn adopt(file: OwnedFd) -> Result<Self, Errno> {
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|_| Errno::INVAL)?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(Errno::INVAL);
        }
        let status = rustix::fs::fstat(&file)?;
        let length = u64::try_from(status.st_size).map_err(|_| Errno::INVAL)?;
        Ok(Self { file, length, device: status.st_dev, inode: status.st_ino })
    }

    /// How long it is, in bytes.
    pub const fn len(&self) -> u64 {
        self.length
    }

    /// Whether it has no byte.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What tells it from other files.
    pub const fn inode(&self) -> u64 {
        self.inode
    }

    /// `EBADF` if the descriptor is not that of this file any more.
    ///
    /// Programs close descriptors that they did not open, all of them when they become daemons, and the number may
    /// be that of one of their own files since: what is meant for this one would grow, overwrite or clear it.
    pub fn check(&self) -> Result<(), Errno> {
        let status = rustix::fs::fstat(&self.file)?;
        if (status.st_dev, status.st_ino) == (self.device, self.inode) { Ok(()) } else { Err(Errno::BADF) }
    }

    /// How many bytes of memory it takes at present.
    pub fn resident(&self) -> Result<u64, Errno> {
        self.check()?;
        let blocks = rustix::fs::fstat(&self.file)?.st_blocks;
        Ok(u64::try_from(blocks).unwrap_or(0) * 512)
    }

    /// Takes memory for a range now, so that touching it later cannot fail.
    pub fn populate(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.check()?;
        // Piece by piece: a signal undoes the whole call, so a large one might never come to its end.
        let (mut done, mut piece) = (0, LARGEST_PIECE);
        while done < length {
            let size = piece.min(length - done);
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset + done, size) {
                Ok(()) => done += size,
                Err(Errno::INTR) => piece = (piece / 2).max(SMALLEST_PIECE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives the memory of a range back to the system; it reads as zeros afterwards.
    pub fn release(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.check()?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, offset, length)
    }

    /// Maps a range, shared, to read and write.
    pub fn map(&self, offset: u64, length: usize) -> Result<NonNull<u8>, Errno> {
        self.check()?;
        // SAFETY: a new mapping at an address of the kernel's choice changes no memory in use.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &self.file,
                offset,
            )?
        };
        NonNull::new(start.cast()).ok_or(Errno::FAULT)
    }
}

impl AsFd for MemoryFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Ends a mapping made by [`MemoryFile::map`].
///
/// # Safety
///
/// The range is exactly one mapping of `map`, and nothing refers into it any more.
pub unsafe fn unmap(start: NonNull<u8>, length: usize) {
    // SAFETY: by this function's contract the range is ours and unused. It cannot fail then.
    let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast::<c_void>(), length) };
}
