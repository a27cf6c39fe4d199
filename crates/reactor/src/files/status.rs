//! What is under a name.

use std::path::Path;

use rustix::fs::{Stat, lstat};

/// What the kernel says of what is under a name, links not followed: the fields of `lstat`. Instants are nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are those of the structure that the kernel fills")]
pub struct FileStatus {
    pub device: u64,
    pub inode: u64,
    pub mode: u32,
    pub links: u64,
    pub user: u32,
    pub group: u32,
    pub special_device: u64,
    pub size: i64,
    pub block_size: i64,
    pub blocks: i64,
    pub accessed: i128,
    pub modified: i128,
    pub changed: i128,
}

impl FileStatus {
    /// `None` if nothing is there, or it cannot be reached.
    pub(super) fn of(path: &Path) -> Option<Self> {
        lstat(path).ok().map(|stat| Self::from(&stat))
    }

    /// Whether anything but the instant of the last access differs: being read is no change.
    pub(super) fn differs(&self, other: &Self) -> bool {
        Self { accessed: 0, ..*self } != Self { accessed: 0, ..*other }
    }
}

#[allow(trivial_numeric_casts, clippy::unnecessary_cast, reason = "the types depend on the processor")]
impl From<&Stat> for FileStatus {
    fn from(stat: &Stat) -> Self {
        let instant = |seconds: i128, nanoseconds: i128| seconds * 1_000_000_000 + nanoseconds;
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            mode: stat.st_mode as u32,
            links: stat.st_nlink as u64,
            user: stat.st_uid as u32,
            group: stat.st_gid as u32,
            special_device: stat.st_rdev as u64,
            size: stat.st_size as i64,
            block_size: stat.st_blksize as i64,
            blocks: stat.st_blocks as i64,
            accessed: instant(stat.st_atime as i64 as i128, stat.st_atime_nsec as i128),
            modified: instant(stat.st_mtime as i64 as i128, stat.st_mtime_nsec as i128),
            changed: instant(stat.st_ctime as i64 as i128, stat.st_ctime_nsec as i128),
        }
    }
}
