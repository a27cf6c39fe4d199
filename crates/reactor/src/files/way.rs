//! What may change what a name stands for.
//!
//! A name is looked up directory by directory, and each step may come out otherwise later: a directory is renamed, a
//! link is set to another place, what was missing is made. [`walk`] goes that way as the kernel does, and says at each step
//! what is to be watched, so that whatever changes the outcome is told of.
//!
//! A directory on the way is watched for its own removal and renaming, which costs nothing as long as that does not happen. For
//! what is made and removed *in* it only the last one is watched, and one with a link that was followed. Where
//! something is missing the directory above is watched as well: a removed directory that somebody still has open
//! tells of its end only when that one lets go.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, lstat, readlink, statfs};
use rustix::io::Errno;

/// What is to be watched of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Interest {
    /// Of a directory: that it is removed or renamed.
    Place,
    /// Of a directory: that something of this name comes or goes.
    Entry(OsString),
    /// Whatever changes its status.
    Itself {
        /// Whether it is a directory, of which what happens to its files' contents is none of its own.
        is_directory: bool,
    },
}

/// More links than so many are a circle: the kernel's own limit.
const MOST_LINKS: u32 = 40;

/// Goes from the root to what `path`, which begins there, stands for. `watch` is called for each step, and fails if it cannot be
/// watched. True if the kernel tells of all changes on the filesystem where the way ends.
///
/// # Errors
///
/// [`Errno::AGAIN`] if something changed meanwhile; else what kept it from being watched.
pub(super) fn walk(
    path: &Path,
    mut watch: impl FnMut(&Path, Interest) -> Result<(), Errno>,
) -> Result<bool, Errno> {
    if !path.is_absolute() {
        return Err(Errno::NOENT);
    }
    let mut directory = PathBuf::from("/");
    let mut left = Vec::new();
    push_names(&mut left, path.as_os_str());
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == "." {
            continue;
        }
        if name == ".." {
            directory.pop();
            continue;
        }
        let next = directory.join(&name);
        if left.is_empty() {
            watch(&directory, Interest::Entry(name))?;
            let kind = kind_of(&next)?;
            let Some(kind) = kind else {
                watch_above(&directory, &mut watch)?;
                return Ok(tells(&directory));
            };
            match watch(&next, Interest::Itself { is_directory: kind == FileType::Directory }) {
                Ok(()) => {}
                Err(Errno::NOENT) => return Err(Errno::AGAIN),
                Err(error) => return Err(error),
            }
            return Ok(tells(&directory) && (kind == FileType::Symlink || tells(&next)));
        }
        let mut kind = kind_of(&next)?;
        if kind != Some(FileType::Directory) {
            watch(&directory, Interest::Entry(name))?;
            // What came before it was watched is seen now, what comes after is told.
            kind = kind_of(&next)?;
        }
        match kind {
            Some(FileType::Directory) => match watch(&next, Interest::Place) {
                Ok(()) => directory = next,
                Err(Errno::NOENT | Errno::NOTDIR) => return Err(Errno::AGAIN),
                Err(error) => return Err(error),
            },
            Some(FileType::Symlink) => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = match readlink(&next, Vec::new()) {
                    Ok(target) => OsString::from_vec(target.into_bytes()),
                    Err(Errno::NOENT | Errno::INVAL) => return Err(Errno::AGAIN),
                    Err(error) => return Err(error),
                };
                if Path::new(&target).is_absolute() {
                    directory = PathBuf::from("/");
                }
                push_names(&mut left, &target);
            }
            _ => {
                watch_above(&directory, &mut watch)?;
                return Ok(tells(&directory));
            }
        }
    }
    watch(&directory, Interest::Itself { is_directory: true })?;
    Ok(tells(&directory))
}

/// The names of a path in front of those that are left; what ends with a slash is to be a directory, and a link there is followed.
fn push_names(left: &mut Vec<OsString>, path: &OsStr) {
    let bytes = path.as_bytes();
    if bytes.ends_with(b"/") {
        left.push(".".into());
    }
    let names = bytes.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    left.extend(names.rev().map(|name| OsStr::from_bytes(name).to_owned()));
}

/// Has the removal of a directory told by the one above.
fn watch_above(
    directory: &Path,
    watch: &mut impl FnMut(&Path, Interest) -> Result<(), Errno>,
) -> Result<(), Errno> {
    match (directory.parent(), directory.file_name()) {
        (Some(above), Some(name)) => watch(above, Interest::Entry(name.to_owned())),
        _ => Ok(()), // the root
    }
}

/// `None` if nothing is there.
fn kind_of(path: &Path) -> Result<Option<FileType>, Errno> {
    match lstat(path) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether all changes on the filesystem where that lies go through this kernel, and are told by it: not so in networks,
/// where there are layers below, or where contents are made when they are read.
fn tells(path: &Path) -> bool {
    // ext, XFS, Btrfs, F2FS, ZFS, bcachefs, JFS, ReiserFS, NILFS, FAT, exFAT, NTFS; tmpfs, ramfs; SquashFS, EROFS, ISO 9660.
    const KNOWN: [u32; 18] = [
        0xEF53,
        0x5846_5342,
        0x9123_683E,
        0xF2F5_2010,
        0x2FC1_2FC1,
        0xCA45_1A4E,
        0x3153_464A,
        0x5265_4973,
        0x3434,
        0x4D44,
        0x2011_BAB0,
        0x7366_746E,
        0x0102_1994,
        0x8584_58F6,
        0x7371_7368,
        0xE0F5_E1E2,
        0x9660,
        0x5346_544E,
    ];
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the numbers have 32 bits; how they are given depends on the processor"
    )]
    statfs(path).is_ok_and(|known| KNOWN.contains(&(known.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn way(root: &Path, path: &str) -> Vec<(PathBuf, Interest)> {
        let mut seen = Vec::new();
        walk(&PathBuf::from(format!("{}/{path}", root.display())), |at, interest| {
            if let Ok(at) = at.strip_prefix(root) {
                seen.push((at.to_owned(), interest));
            }
            Ok(())
        })
        .unwrap();
        seen
    }

    fn entry(name: &str) -> Interest {
        Interest::Entry(name.into())
    }

    #[test]
    fn each_step_is_watched_for_what_would_change_it() {
        let scratch = crate::files::tests::Scratch::new();
        let root = scratch.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        symlink("a/b", root.join("link")).unwrap();
        symlink("file", root.join("a/b/last")).unwrap();
        let [place, itself] = [Interest::Place, Interest::Itself { is_directory: false }];
        let at = |path: &str, interest: &Interest| (PathBuf::from(path), interest.clone());

        let plain = [at("", &place), at("a", &place), at("a/b", &place)];
        let ends = [at("a/b", &entry("file")), at("a/b/file", &itself)];
        assert_eq!(way(root, "a/b/file"), [&plain[..], &ends].concat());
        assert_eq!(way(root, "a/./b/../b//file"), [&plain[..], &plain[2..], &ends].concat());

        let through = [at("", &place), at("", &entry("link")), at("a", &place), at("a/b", &place)];
        assert_eq!(way(root, "link/file"), [&through[..], &ends].concat());
        // The last link is not followed, unless a slash says so.
        let last = [at("a/b", &entry("last")), at("a/b/last", &itself)];
        assert_eq!(way(root, "a/b/last"), [&plain[..], &last].concat());
        let whole = [at("a/b", &Interest::Itself { is_directory: true })];
        assert_eq!(way(root, "link/"), [&through[..], &whole].concat());

        let missing = [at("a/b", &entry("no")), at("a", &entry("b"))];
        assert_eq!(way(root, "a/b/no"), [&plain[..], &missing].concat());
        assert_eq!(way(root, "a/b/no/such/file"), [&plain[..], &missing].concat());
        let no_directory = [at("a/b", &entry("file")), at("a", &entry("b"))];
        assert_eq!(way(root, "a/b/file/x"), [&plain[..], &no_directory].concat());
    }

    #[test]
    fn circles_end() {
        let scratch = crate::files::tests::Scratch::new();
        symlink("two", scratch.path().join("one")).unwrap();
        symlink("one", scratch.path().join("two")).unwrap();
        let outcome = walk(&scratch.path().join("one/file"), |_, _| Ok(()));
        assert_eq!(outcome, Err(Errno::LOOP));
    }
}
