//! What the tests with real processes share: numbers, memory in which to take notes, children, a watchdog.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A small generator of reproducible numbers (splitmix64).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(crate) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// The seeds of a run: a few fixed ones, or new ones for as many seconds as `WEFT_SOAK_SECONDS` says.
pub(crate) fn seeds(fixed: u64) -> Box<dyn Iterator<Item = u64>> {
    let Some(seconds) = std::env::var("WEFT_SOAK_SECONDS").ok().and_then(|value| value.parse().ok()) else {
        return Box::new(1..=fixed);
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let first = u64::try_from(start & u128::from(u64::MAX >> 1)).unwrap();
    Box::new((first..).take_while(move |_| Instant::now() < end))
}

/// A value that this process and all it forks share: anything made of atomics, zero at first. It is never freed.
pub(crate) fn shared<T: Sync>() -> &'static T {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, zeroed, large enough, and aligned for anything up to a page.
    unsafe {
        let length = size_of::<T>();
        let place =
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(place, libc::MAP_FAILED);
        &*place.cast::<T>()
    }
}

/// Forks. The child runs `work` and ends with status 0, or 101 if it panics; it dies with its parent.
pub(crate) fn fork(work: impl FnOnce()) -> libc::pid_t {
    let parent = std::process::id();
    // SAFETY: the child goes on with copies of everything, and leaves by `_exit`.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            // SAFETY: plain system calls.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::getppid() as u32 != parent {
                    libc::_exit(102);
                }
            }
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(if outcome.is_ok() { 0 } else { 101 }) }
        }
        child => child,
    }
}

pub(crate) fn send(child: libc::pid_t, signal: libc::c_int) {
    // SAFETY: a plain system call; the child is ours and not yet waited for.
    assert_eq!(unsafe { libc::kill(child, signal) }, 0);
}

/// Waits for a child: its exit code, or the signal that killed it as a negative number.
pub(crate) fn wait(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: the status is ours.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } != child {
        assert_eq!(std::io::Error::last_os_error().kind(), std::io::ErrorKind::Interrupted);
    }
    if libc::WIFSIGNALED(status) { -libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Runs `work` in a process group of its own. If `pulse` stands still for a minute, says where everybody is and kills
/// them all. At the end nobody of them may be left.
pub(crate) fn watched(name: &str, pulse: &AtomicU32, work: impl FnOnce()) {
    let runner = fork(|| {
        // SAFETY: plain system calls.
        unsafe { libc::setpgid(0, 0) };
        work();
    });
    // SAFETY: the same in the parent, so that it holds whoever comes first; it may be done already.
    unsafe { libc::setpgid(runner, runner) };
    let (mut last, mut since) = (pulse.load(Ordering::Relaxed), Instant::now());
    let status = loop {
        let mut status = 0;
        // SAFETY: the status is ours.
        if unsafe { libc::waitpid(runner, &raw mut status, libc::WNOHANG) } == runner {
            break status;
        }
        let now = pulse.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > Duration::from_secs(60) {
            eprintln!("{name}: nothing goes on");
            tell_group(runner);
            // SAFETY: kills the group of the runner only.
            unsafe { libc::kill(-runner, libc::SIGKILL) };
            std::process::abort();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    // SAFETY: asks whether the group has a member.
    let left = unsafe { libc::kill(-runner, 0) } == 0;
    if left {
        tell_group(runner);
        // SAFETY: as above.
        unsafe { libc::kill(-runner, libc::SIGKILL) };
    }
    assert!(!left, "{name}: processes are left");
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{name}: status {status:#x}");
    println!("test {name} ... ok");
}

/// Prints what `/proc` says of every thread of every process in the group.
fn tell_group(group: libc::pid_t) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<libc::pid_t>() else { continue };
        // SAFETY: a plain question to the system.
        if unsafe { libc::getpgid(pid) } != group {
            continue;
        }
        for task in std::fs::read_dir(entry.path().join("task")).into_iter().flatten().flatten() {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            eprintln!(
                "{pid} {:?}:\n  stat {}  syscall {}  stack {}",
                task.file_name(),
                read("stat"),
                read("syscall"),
                read("stack").replace('\n', " < ")
            );
        }
    }
}
