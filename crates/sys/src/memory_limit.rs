//! How much memory may be taken before the kernel kills a process for want of it.
//!
//! The kernel does not refuse memory to a control group at its limit, it kills one of the group. Shared memory that is
//! taken in large pieces, by a producer that is faster than its consumers, can do better: ask first.
//! The answer is an estimate. Others may take what is left in between, so some is always held in reserve.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How much of a limit, as a fraction, stays untouched: what else the processes of a group need meanwhile.
const RESERVE: u64 = 32;
const LARGEST_RESERVE: u64 = 64 << 20;
/// How much of what is free may be taken before it is asked for again, as a fraction.
const CREDIT: u64 = 8;
const LARGEST_CREDIT: u64 = 64 << 20;

/// What [`take`] allowed in advance.
static ALLOWED: AtomicU64 = AtomicU64::new(0);

/// There is not enough memory left: the kernel would kill a process before it is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{whose} may use {limit} bytes of memory, of which {free} are free")]
pub struct Shortage {
    /// Whose limit it is: "the control group /name", "the system".
    pub whose: String,
    /// The limit, in bytes.
    pub limit: u64,
    /// What is left of it, in bytes, what the kernel can drop at once included.
    pub free: u64,
}

/// Says whether `bytes` of memory may be taken now.
///
/// It reads the limits of the control groups and of the system, some 50 µs; after that it allows a part of what is
/// free without another look. Where no limits can be read there is none.
pub fn take(bytes: u64) -> Result<(), Shortage> {
    if ALLOWED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok() {
        return Ok(());
    }
    let mut credit = LARGEST_CREDIT;
    for (whose, Usage { limit, free }) in limits() {
        let reserve = (limit / RESERVE).min(LARGEST_RESERVE);
        match free.checked_sub(reserve).and_then(|usable| usable.checked_sub(bytes)) {
            None => return Err(Shortage { whose, limit, free }),
            Some(rest) => credit = credit.min(rest / CREDIT),
        }
    }
    ALLOWED.store(credit, Ordering::Relaxed);
    Ok(())
}

/// What a limit is, and what is left of it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    limit: u64,
    free: u64,
}

fn limits() -> Vec<(String, Usage)> {
    if cfg!(miri) {
        return Vec::new(); // it has no files to read them from
    }
    let mut found = Vec::new();
    let swap = match fs::read_to_string("/proc/meminfo") {
        Ok(text) => {
            let (usage, swap) = of_system(&text);
            found.extend(usage.map(|usage| ("the system".to_owned(), usage)));
            swap
        }
        Err(_) => 0,
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (groups, mounts) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo"));
    for version in [&SECOND, &FIRST] {
        let Some((directory, top)) = version.place(&groups, &mounts) else { continue };
        for directory in directory.ancestors().take_while(|path| path.starts_with(&top)) {
            if let Some(usage) = version.usage(directory, swap) {
                let name = directory.strip_prefix(&top).unwrap_or(directory).display();
                found.push((format!("the control group /{name}"), usage));
            }
        }
    }
    found
}

/// Of /proc/meminfo: the memory of the machine, and its free swap space.
fn of_system(text: &str) -> (Option<Usage>, u64) {
    let field = |name| field(text, name).map(|kib| kib * 1024);
    let swap = field("SwapFree:").unwrap_or(0);
    let usage = field("MemTotal:")
        .zip(field("MemAvailable:"))
        .map(|(total, available)| Usage { limit: total, free: available + swap });
    (usage, swap)
}

/// A version of the kernel's control groups: where things are.
struct Version {
    filesystem: &'static str,
    /// The controller as /proc/self/cgroup and the mount options name it; empty if all are in one tree.
    controller: &'static str,
    limit: &'static str,
    used: &'static str,
    swap_limit: Option<(&'static str, &'static str)>,
    /// The fields of memory.stat that the kernel drops rather than kill.
    droppable: [&'static str; 2],
}

static SECOND: Version = Version {
    filesystem: "cgroup2",
    controller: "",
    limit: "memory.max",
    used: "memory.current",
    swap_limit: Some(("memory.swap.max", "memory.swap.current")),
    droppable: ["inactive_file", "active_file"],
};

static FIRST: Version = Version {
    filesystem: "cgroup",
    controller: "memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    swap_limit: None,
    droppable: ["total_inactive_file", "total_active_file"],
};

impl Version {
    /// The directory of this process's group, and the topmost one that can be seen.
    fn place(&self, groups: &str, mounts: &str) -> Option<(PathBuf, PathBuf)> {
        let group = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            controllers.split(',').any(|one| one == self.controller).then_some(path)
        })?;
        mounts.lines().find_map(|line| {
            // ID parent device root mount-point options [tags] - type source super-options
            let (place, kind) = line.split_once(" - ")?;
            let mut kind = kind.split(' ');
            if kind.next()? != self.filesystem
                || !(self.controller.is_empty() || kind.nth(1)?.split(',').any(|one| one == self.controller))
            {
                return None;
            }
            let mut place = place.split(' ').skip(3);
            let (root, top) = (place.next()?, PathBuf::from(place.next()?));
            // In a container the group's own name may lie above what is mounted.
            let below = Path::new(group).strip_prefix(root).unwrap_or(Path::new(""));
            Some((top.join(below), top))
        })
    }

    /// What a group may use, if it has a limit.
    fn usage(&self, directory: &Path, free_swap: u64) -> Option<Usage> {
        let text = |name: &str| fs::read_to_string(directory.join(name)).ok();
        let number = |name: &str| text(name)?.trim().parse::<u64>().ok(); // "max" is none
        let limit = number(self.limit).filter(|limit| *limit < 1 << 62)?;
        let used = number(self.used)?;
        let stat = text("memory.stat")?;
        let droppable: u64 = self.droppable.iter().filter_map(|name| field(&stat, name)).sum();
        let swap = match self.swap_limit.and_then(|(limit, used)| number(limit).zip(number(used))) {
            Some((limit, used)) => limit.saturating_sub(used).min(free_swap),
            None => free_swap,
        };
        Some(Usage { limit, free: limit.saturating_sub(used.saturating_sub(droppable)) + swap })
    }
}

/// The number behind a name, in a text of one of them a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

/// How many bytes of memory this process has in use (resident), as far as the system says.
pub fn in_use() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
41 31 0:38 /box /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn groups_are_found_where_they_are_mounted() {
        let groups = "5:cpu,cpuacct:/\n4:memory:/a/b\n0::/box/c\n";
        let place = |version: &Version, groups: &str| {
            version
                .place(groups, MOUNTS)
                .map(|(path, top)| (path.display().to_string(), top.display().to_string()))
        };
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(place(&FIRST, groups), pair("/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/memory"));
        assert_eq!(place(&SECOND, groups), pair("/sys/fs/cgroup/unified/c", "/sys/fs/cgroup/unified"));
        // A group outside of what is mounted: the topmost that can be seen counts.
        assert_eq!(place(&SECOND, "0::/other\n"), pair("/sys/fs/cgroup/unified/", "/sys/fs/cgroup/unified"));
        assert_eq!(place(&FIRST, "5:cpu:/\n"), None);
        assert_eq!(place(&FIRST, "nonsense\n\n::\n"), None);
    }

    #[test]
    fn a_group_has_what_is_left_and_what_can_be_dropped() {
        let directory = std::env::temp_dir().join(format!("weft-memory-limit-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
        write("memory.max", "max\n");
        write("memory.current", "900\n");
        write("memory.stat", "anon 500\ninactive_file 100\nactive_file 50\nfile 400\n");
        assert_eq!(SECOND.usage(&directory, 0), None);
        write("memory.max", "1000\n");
        assert_eq!(SECOND.usage(&directory, 0), Some(Usage { limit: 1000, free: 250 }));
        assert_eq!(SECOND.usage(&directory, 70), Some(Usage { limit: 1000, free: 320 }));
        write("memory.swap.max", "30\n");
        write("memory.swap.current", "10\n");
        assert_eq!(SECOND.usage(&directory, 70), Some(Usage { limit: 1000, free: 270 }));
        write("memory.current", "2000\n");
        assert_eq!(SECOND.usage(&directory, 0), Some(Usage { limit: 1000, free: 0 }));
        assert_eq!(FIRST.usage(&directory, 0), None);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_system_has_a_limit_and_keeps_some() {
        let text = "MemTotal: 100 kB\nMemFree: 5 kB\nMemAvailable: 40 kB\nSwapFree: 2 kB\n";
        assert_eq!(of_system(text), (Some(Usage { limit: 100 << 10, free: 42 << 10 }), 2 << 10));
        assert_eq!(of_system(""), (None, 0));
        take(1 << 16).unwrap();
        let refused = take(1 << 60).unwrap_err();
        assert!(refused.to_string().contains("bytes of memory, of which"), "{refused}");
    }
}
