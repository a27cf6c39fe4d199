//! Files that change, come and go, told by the kernel and, where it does not, found by looking.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use weft_reactor::{Event, FileKey, FileState, Reactor};

const NOW: Option<Duration> = Some(Duration::ZERO);
/// So long that no test ever comes to it: what is told is told by the kernel.
const NEVER: Duration = Duration::from_secs(24 * 3600);
const SOON: Duration = Duration::from_millis(1);

/// A directory that is removed with what is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("weft-reactor-files-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn changed(reactor: &mut Reactor) -> Vec<FileKey> {
    let mut keys = Vec::new();
    let each = |event| {
        if let Event::File(key) = event {
            keys.push(key);
        }
    };
    reactor.poll(NOW, each).unwrap();
    keys
}

/// Polls until something has changed. Without a limit in time: what is not told hangs the test.
fn wait(reactor: &mut Reactor) -> Vec<FileKey> {
    let mut keys = Vec::new();
    while keys.is_empty() {
        let each = |event| {
            if let Event::File(key) = event {
                keys.push(key);
            }
        };
        reactor.poll(None, each).unwrap();
    }
    keys
}

/// Whether the kernel tells of all that happens to the watched files, so that nothing need be looked for.
fn is_told(reactor: &mut Reactor) -> bool {
    reactor.next_look().is_none()
}

fn sizes(state: FileState) -> (Option<i64>, Option<i64>) {
    (state.before.map(|status| status.size), state.now.map(|status| status.size))
}

#[track_caller]
fn expect(reactor: &mut Reactor, key: FileKey, before: Option<i64>, now: Option<i64>) {
    assert_eq!(changed(reactor), [key]);
    assert_eq!(sizes(reactor.file(key).unwrap()), (before, now));
    assert_eq!(changed(reactor), [], "told once");
    assert!(is_told(reactor));
}

#[test]
fn what_happens_to_a_file_is_told_by_the_kernel() {
    let scratch = Scratch::new();
    let path = scratch.at("file");
    let mut reactor = Reactor::new().unwrap();
    let key = reactor.watch_file(&path, NEVER).unwrap();
    assert!(is_told(&mut reactor), "the test's directory has to be on a filesystem of this machine");
    assert_eq!(reactor.file(key), Some(FileState::default()));
    assert_eq!(changed(&mut reactor), []);

    fs::write(&path, "").unwrap();
    expect(&mut reactor, key, None, Some(0));
    fs::write(&path, "four").unwrap();
    expect(&mut reactor, key, Some(0), Some(4));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    expect(&mut reactor, key, Some(4), Some(4));
    let state = reactor.file(key).unwrap();
    assert_eq!(state.now.unwrap().mode & 0o777, 0o400);
    assert_ne!(state.before.unwrap().mode & 0o777, 0o400);
    fs::hard_link(&path, scratch.at("other")).unwrap();
    expect(&mut reactor, key, Some(4), Some(4));
    fs::write(scratch.at("other"), "by another name").unwrap();
    expect(&mut reactor, key, Some(4), Some(15));
    fs::write(scratch.at("new"), "over").unwrap();
    assert_eq!(changed(&mut reactor), [], "what else is in the directory is nobody's");
    fs::rename(scratch.at("new"), &path).unwrap();
    expect(&mut reactor, key, Some(15), Some(4));
    fs::write(&path, "the new one").unwrap();
    expect(&mut reactor, key, Some(4), Some(11));
    fs::rename(&path, scratch.at("away")).unwrap();
    expect(&mut reactor, key, Some(11), None);
    fs::write(scratch.at("away"), "").unwrap();
    assert_eq!(changed(&mut reactor), [], "what was there is not what is under the name");
    fs::rename(scratch.at("away"), &path).unwrap();
    expect(&mut reactor, key, None, Some(0));
    fs::read(&path).unwrap();
    assert_eq!(changed(&mut reactor), [], "being read is no change");
    fs::remove_file(&path).unwrap();
    expect(&mut reactor, key, Some(0), None);

    let last = reactor.unwatch_file(key).unwrap();
    assert_eq!(sizes(last), (Some(0), None));
    fs::write(&path, "").unwrap();
    assert_eq!(changed(&mut reactor), []);
    assert_eq!((reactor.file(key), reactor.unwatch_file(key)), (None, None));
}

#[test]
fn directories_on_the_way_come_and_go() {
    let scratch = Scratch::new();
    let mut reactor = Reactor::new().unwrap();
    let key = reactor.watch_file(&scratch.at("a/b/c/file"), NEVER).unwrap();
    fs::create_dir_all(scratch.at("a/b")).unwrap();
    assert_eq!(changed(&mut reactor), []);
    fs::create_dir(scratch.at("a/b/c")).unwrap();
    fs::write(scratch.at("a/b/c/file"), "x").unwrap();
    expect(&mut reactor, key, None, Some(1));
    // Of the directory's own name, and of what it lies in, the file hears nothing by itself.
    fs::rename(scratch.at("a/b"), scratch.at("a/moved")).unwrap();
    expect(&mut reactor, key, Some(1), None);
    fs::rename(scratch.at("a/moved"), scratch.at("a/b")).unwrap();
    expect(&mut reactor, key, None, Some(1));
    // Removed, and made again, while somebody still has the directories open.
    let held = ["a", "a/b", "a/b/c"].map(|path| fs::File::open(scratch.at(path)).unwrap());
    for round in 2..5 {
        fs::remove_file(scratch.at("a/b/c/file")).unwrap();
        expect(&mut reactor, key, Some(round - 1), None);
        fs::remove_dir(scratch.at("a/b/c")).unwrap();
        changed(&mut reactor);
        fs::remove_dir_all(scratch.at("a")).unwrap();
        assert_eq!(changed(&mut reactor), []);
        fs::create_dir_all(scratch.at("a/b/c")).unwrap();
        fs::write(scratch.at("a/b/c/file"), vec![0; round as usize]).unwrap();
        expect(&mut reactor, key, None, Some(round));
    }
    drop(held);
    fs::remove_dir_all(scratch.at("a")).unwrap();
    expect(&mut reactor, key, Some(4), None);
    fs::write(scratch.at("a"), "no directory").unwrap();
    assert_eq!(changed(&mut reactor), []);
}

#[test]
fn links_on_the_way_are_followed() {
    let scratch = Scratch::new();
    for (name, content) in [("one", "1"), ("two", "22")] {
        fs::create_dir(scratch.at(name)).unwrap();
        fs::write(scratch.at(name).join("file"), content).unwrap();
    }
    symlink("one", scratch.at("now")).unwrap();
    symlink("now/file", scratch.at("file")).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let through = reactor.watch_file(&scratch.at("now/file"), NEVER).unwrap();
    let last = reactor.watch_file(&scratch.at("file"), NEVER).unwrap();
    // As a directory of settings is replaced: in one step, by its link.
    symlink("two", scratch.at("next")).unwrap();
    fs::rename(scratch.at("next"), scratch.at("now")).unwrap();
    expect(&mut reactor, through, Some(1), Some(2));
    fs::write(scratch.at("one/file"), "old").unwrap();
    assert_eq!(changed(&mut reactor), []);
    fs::write(scratch.at("two/file"), "333").unwrap();
    expect(&mut reactor, through, Some(2), Some(3));
    assert_eq!(sizes(reactor.file(last).unwrap()), (None, Some(8)), "the last one is itself");
    fs::remove_file(scratch.at("file")).unwrap();
    expect(&mut reactor, last, Some(8), None);
}

#[test]
fn a_directory_changes_with_its_entries() {
    let scratch = Scratch::new();
    let mut reactor = Reactor::new().unwrap();
    let key = reactor.watch_file(&scratch.0, NEVER).unwrap();
    fs::write(scratch.at("file"), "").unwrap();
    assert_eq!(changed(&mut reactor), [key]);
    fs::write(scratch.at("file"), "content").unwrap();
    assert_eq!(changed(&mut reactor), []);
    fs::remove_file(scratch.at("file")).unwrap();
    assert_eq!(changed(&mut reactor), [key]);
}

#[test]
fn names_with_something_in_common_do_not_disturb_each_other() {
    let scratch = Scratch::new();
    fs::write(scratch.at("shared"), "").unwrap();
    let mut reactor = Reactor::new().unwrap();
    let mut watch = |path: &Path| reactor.watch_file(path, NEVER).unwrap();
    let [first, again, other] = ["shared", "shared", "other"].map(|name| watch(&scratch.at(name)));
    fs::write(scratch.at("shared"), "x").unwrap();
    let mut keys = changed(&mut reactor);
    keys.sort_by_key(|&key| key != first);
    assert_eq!(keys, [first, again]);
    reactor.unwatch_file(first);
    fs::write(scratch.at("other"), "x").unwrap();
    fs::write(scratch.at("shared"), "xx").unwrap();
    assert_eq!(changed(&mut reactor).len(), 2);
    reactor.unwatch_file(again);
    let taken = reactor.watch_file(&scratch.at("shared"), NEVER).unwrap();
    assert!(taken != first && taken != again, "its place is another one's now");
    fs::remove_file(scratch.at("other")).unwrap();
    expect(&mut reactor, other, Some(1), None);
}

#[test]
fn more_than_the_kernel_keeps_is_found_all_the_same() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let scratch = Scratch::new();
    let mut reactor = Reactor::new().unwrap();
    let key = reactor.watch_file(&scratch.at("file"), NEVER).unwrap();
    let _all = reactor.watch_file(&scratch.0, NEVER).unwrap();
    for _ in 0..limit / 2 + 1 {
        fs::write(scratch.at("noise"), "").unwrap();
        fs::remove_file(scratch.at("noise")).unwrap();
    }
    fs::write(scratch.at("file"), "").unwrap();
    while !wait(&mut reactor).contains(&key) {}
}

#[test]
fn where_the_kernel_does_not_tell_it_is_looked() {
    // Its contents are made when they are read: nothing is told of changes there.
    let mut reactor = Reactor::new().unwrap();
    let key = reactor.watch_file(Path::new("/proc/self/task"), SOON).unwrap();
    assert!(!is_told(&mut reactor));
    let threads = |state: FileState| state.now.unwrap().links;
    let before = threads(reactor.file(key).unwrap());
    let (done, ends) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || ends.recv());
    // Other tests' threads come and go as well.
    while threads(reactor.file(key).unwrap()) == before {
        wait(&mut reactor);
    }
    drop(done);
    thread.join().unwrap().unwrap_err();
    reactor.unwatch_file(key);
    assert!(is_told(&mut reactor));
}

/// What a forked child does, which cannot use the harness: its exit code is 0 if `ends_well`.
fn in_child(ends_well: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child uses nothing that another thread may have locked but the allocator, which the C library sees to, and
    // leaves without coming back.
    match unsafe { libc::fork() } {
        0 => {
            let fine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(ends_well)).unwrap_or(false);
            // SAFETY: nothing is to be cleaned up here.
            unsafe { libc::_exit(i32::from(!fine)) }
        }
        child => {
            let mut status = -1;
            // SAFETY: the child is ours.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            status == 0
        }
    }
}

#[test]
fn a_forked_child_is_told_for_itself() {
    let scratch = Scratch::new();
    let (path, other) = (scratch.at("file"), scratch.at("other"));
    let mut reactor = Reactor::new().unwrap();
    let key = reactor.watch_file(&path, NEVER).unwrap();
    let kept = reactor.watch_file(&other, NEVER).unwrap();
    let fine = in_child(|| {
        // Before it is noticed: what changed until then is found.
        fs::write(&path, "child").unwrap();
        reactor.after_fork().unwrap();
        let first = changed(&mut reactor) == [key] && is_told(&mut reactor);
        reactor.unwatch_file(kept);
        fs::remove_file(&path).unwrap();
        first && changed(&mut reactor) == [key]
    });
    assert!(fine);
    // The parent hears of both as one, which is none; and of what the child does not watch any more.
    assert_eq!(changed(&mut reactor), []);
    fs::write(&other, "parent").unwrap();
    expect(&mut reactor, kept, None, Some(6));
}

/// Sets how many descriptors this process may have, and gives the limit of before.
fn limit_descriptors(to: libc::rlim_t) -> libc::rlim_t {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is filled, and passed on changed.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let before = std::mem::replace(&mut limit.rlim_cur, to);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        before
    }
}

#[test]
fn without_descriptors_it_is_looked_until_there_are_some() {
    let scratch = Scratch::new();
    let path = scratch.at("file");
    let fine = in_child(|| {
        let mut reactor = Reactor::new().unwrap();
        let before = limit_descriptors(0);
        let key = reactor.watch_file(&path, SOON).unwrap();
        let looks = !is_told(&mut reactor);
        limit_descriptors(before);
        let other = fs::File::create(&path).unwrap();
        let full = limit_descriptors(0);
        let found = wait(&mut reactor) == [key] && !is_told(&mut reactor);
        limit_descriptors(full);
        drop(other);
        // It tries again each time.
        while !is_told(&mut reactor) {
            reactor.poll(None, |_| ()).unwrap();
        }
        fs::remove_file(&path).unwrap();
        looks && found && changed(&mut reactor) == [key]
    });
    assert!(fine);
}
