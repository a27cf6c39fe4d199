//! Who a process is, so that others can tell later whether it still lives.
//!
//! A process id alone can be given to another process after its owner's end; together with the time of start it
//! cannot, for all practical purposes. Both are read from `/proc`. All processes that share an arena
//! must be in one PID namespace.

use std::fs;

/// A process, told from all others that had or will have its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot, cut to 32 bits.
    pub start: u32,
}

impl Identity {
    /// The calling process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self { pid, start: look_up(pid).map_or(UNKNOWN, |found| found.start) }
    }

    /// Whether it still runs. One that ended but was not waited for has ended. In doubt it runs.
    pub fn is_alive(self) -> bool {
        #[cfg(test)]
        if let Some(pretended) = pretended::is_alive(self) {
            return pretended;
        }
        look_up(self.pid).is_some_and(|found| {
            let is_same = found.start == self.start || found.start == UNKNOWN || self.start == UNKNOWN;
            is_same && !found.ended
        })
    }
}

/// The time of start of a process of which only the id could be found out.
const UNKNOWN: u32 = 0;

struct Found {
    start: u32,
    ended: bool,
}

/// What is known of a process; `None` if there is none.
fn look_up(pid: u32) -> Option<Found> {
    if cfg!(miri) {
        // It has one process, and shows nothing of others.
        return (pid == std::process::id()).then_some(Found { start: 1, ended: false });
    }
    read_proc(pid).or_else(|| without_proc(pid))
}

/// What `/proc` says of a process.
fn read_proc(pid: u32) -> Option<Found> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may contain anything.
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // Behind the state, field 3: field 20 is the number of threads, field 22 the time of start.
    let threads: u32 = fields.nth(16)?.parse().ok()?;
    let start: u64 = fields.nth(1)?.parse().ok()?;
    // A first thread that has ended shows as a zombie while others run on.
    let ended = matches!(state, "Z" | "X" | "x") && threads <= 1;
    Some(Found { start: start as u32, ended })
}

/// Where `/proc` says nothing, the id has to do. There may be no such process, but it may also be that this one has no
/// descriptor left to read with, or may not see the other: taking that for a death would free what the living use.
fn without_proc(pid: u32) -> Option<Found> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    let gone = rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
    (!gone).then_some(Found { start: UNKNOWN, ended: false })
}

/// Processes that are none, for tests that let them die.
#[cfg(test)]
pub(crate) mod pretended {
    use super::Identity;
    use crate::lock::Mutex;

    /// No process has an id so large.
    const FIRST: u32 = 1 << 24;
    static ALIVE: Mutex<(u32, Vec<u32>)> = Mutex::new((FIRST, Vec::new()));

    pub(crate) fn start() -> Identity {
        let mut alive = ALIVE.lock();
        alive.0 += 1;
        let pid = alive.0;
        alive.1.push(pid);
        Identity { pid, start: 1 }
    }

    pub(crate) fn end(identity: Identity) {
        ALIVE.lock().1.retain(|pid| *pid != identity.pid);
    }

    pub(super) fn is_alive(identity: Identity) -> Option<bool> {
        (identity.pid >= FIRST).then(|| ALIVE.lock().1.contains(&identity.pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_its_double_does_not() {
        let me = Identity::current();
        assert!(me.is_alive());
        assert!(!Identity { start: me.start.wrapping_add(1), ..me }.is_alive());
    }

    #[test]
    #[cfg_attr(miri, ignore = "it has one process")]
    fn a_child_is_dead_before_it_is_waited_for() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let found = look_up(child.id()).unwrap();
        let identity = Identity { pid: child.id(), start: found.start };
        assert!(identity.is_alive());
        child.kill().unwrap();
        while identity.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!identity.is_alive());
    }
}
