//! The lifeline, with real forks and real kills. No test sleeps: pipes say when everybody is ready and gone.
//!
//! Every process here is forked off this one, which has threads. A forked child therefore only makes system calls, and
//! allocates: glibc's allocator is prepared for forks.

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use weft_process::lifeline::{self, Role};

/// Both ends of a pipe.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    fn new() -> Self {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        Self { reader, writer }
    }

    /// Says one thing to the test.
    fn say(&self, byte: u8) {
        rustix::io::write(&self.writer, &[byte]).unwrap();
    }

    /// What was said next; `None` when every process that has the writer is gone.
    fn hear(&self) -> Option<u8> {
        let mut byte = [0];
        match rustix::io::read(&self.reader, &mut byte) {
            Ok(1) => Some(byte[0]),
            Ok(_) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn only_reader(self) -> OwnedFd {
        self.reader
    }
}

fn fork(run: impl FnOnce()) -> Pid {
    // SAFETY: see the page's comment; the child leaves by `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            run();
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) }
        }
        pid => Pid::from_raw(pid).expect("fork failed"),
    }
}

fn for_ever() {
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

fn kill(pid: Pid) {
    kill_process(pid, Signal::KILL).unwrap();
    waitpid(Some(pid), WaitOptions::empty()).unwrap();
}

/// Waits until all have gone that hold the writer of the pipe, which this process lets go of first.
fn all_gone(pipe: Pipe) -> bool {
    let reader = pipe.only_reader();
    let mut byte = [0];
    matches!(rustix::io::read(&reader, &mut byte), Ok(0))
}

#[test]
fn the_root_s_death_reaches_children_and_grandchildren() {
    let pipe = Pipe::new();
    let root = fork(|| {
        lifeline::ensure().unwrap();
        assert_eq!(lifeline::role(), Role::Root);
        fork(|| {
            lifeline::arm_after_fork().unwrap();
            assert_eq!(lifeline::role(), Role::Member);
            lifeline::ensure().unwrap();
            fork(|| {
                lifeline::arm_after_fork().unwrap();
                pipe.say(1);
                for_ever();
            });
            // The one in the middle may go.
        });
        for_ever();
    });
    assert_eq!(pipe.hear(), Some(1));
    kill(root);
    assert!(all_gone(pipe));
}

#[test]
fn a_child_forked_by_a_thread_that_has_ended_is_reached() {
    let pipe = Pipe::new();
    let root = fork(|| {
        lifeline::ensure().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                fork(|| {
                    lifeline::arm_after_fork().unwrap();
                    pipe.say(1);
                    for_ever();
                });
            });
        });
        pipe.say(2);
        for_ever();
    });
    let mut heard = [pipe.hear(), pipe.hear()];
    heard.sort_unstable();
    assert_eq!(heard, [Some(1), Some(2)]);
    kill(root);
    assert!(all_gone(pipe));
}

#[test]
fn a_child_armed_after_the_root_s_death_ends_at_once() {
    let (go, pipe) = (Pipe::new(), Pipe::new());
    let root = fork(|| {
        lifeline::ensure().unwrap();
        fork(|| {
            assert_eq!(go.hear(), Some(7));
            lifeline::arm_after_fork().unwrap();
            // Not reached.
            pipe.say(1);
        });
        pipe.say(2);
        for_ever();
    });
    assert_eq!(pipe.hear(), Some(2));
    kill(root);
    go.say(7);
    assert!(all_gone(pipe));
}

#[test]
fn a_user_s_own_fork_is_left_alone_and_becomes_a_root() {
    let (go, pipe) = (Pipe::new(), Pipe::new());
    let root = fork(|| {
        lifeline::ensure().unwrap();
        let identity = lifeline::identity();
        fork(|| {
            assert_eq!((lifeline::role(), lifeline::identity()), (Role::Forked, identity));
            pipe.say(1);
            assert_eq!(go.hear(), Some(7));
            lifeline::ensure().unwrap();
            assert_eq!(lifeline::role(), Role::Root);
            assert_ne!(lifeline::identity(), identity);
            fork(|| {
                lifeline::arm_after_fork().unwrap();
                pipe.say(3);
                for_ever();
            });
            assert_eq!(go.hear(), Some(8));
        });
        for_ever();
    });
    assert_eq!(pipe.hear(), Some(1));
    kill(root);
    go.say(7);
    assert_eq!(pipe.hear(), Some(3), "it lived on, and so did what it started");
    go.say(8);
    assert!(all_gone(pipe), "and its own end reached that");
}

#[test]
fn a_process_that_inherits_the_reader_joins() {
    let pipe = Pipe::new();
    let root = fork(|| {
        let reader = lifeline::ensure().unwrap().try_clone_to_owned().unwrap();
        fork(|| {
            lifeline::join(reader.as_fd().try_clone_to_owned().unwrap()).unwrap();
            assert_eq!(lifeline::role(), Role::Member);
            pipe.say(1);
            for_ever();
        });
        for_ever();
    });
    assert_eq!(pipe.hear(), Some(1));
    kill(root);
    assert!(all_gone(pipe));
}

#[test]
fn arming_twice_reaches_by_either() {
    let pipe = Pipe::new();
    let (first, second) = (rustix::pipe::pipe().unwrap(), rustix::pipe::pipe().unwrap());
    let root = fork(|| {
        let _one = lifeline::arm_also(first.0.as_fd()).unwrap();
        let _other = lifeline::arm_also(second.0.as_fd()).unwrap();
        // SAFETY: this process's copies of the writers, which nothing here uses.
        unsafe {
            libc::close(std::os::fd::AsRawFd::as_raw_fd(&first.1));
            libc::close(std::os::fd::AsRawFd::as_raw_fd(&second.1));
        }
        pipe.say(1);
        for_ever();
    });
    assert_eq!(pipe.hear(), Some(1));
    drop(second.1);
    let (_, status) = waitpid(Some(root), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.terminating_signal(), Some(libc::SIGKILL));
}
