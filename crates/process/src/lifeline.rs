//! The lifeline: when the root program dies, the kernel kills every process started below it.
//!
//! The root program is the only writer of a pipe on which nobody ever writes. Each process started below holds a
//! reading end *of its own*: opened anew through `/proc/self/fd`, so that it has its own open file description, whose
//! owner (`F_SETOWN`) is that process and whose signal (`F_SETSIG`, `O_ASYNC`) is SIGKILL. When the last writer goes,
//! however it goes, the kernel sends the signal to all of them. No thread, no handler, and
//! it does not matter which thread forked whom or whether those in between still live.
//!
//! The state is one atomic word, so that it can be read and written in a forked child:
//!
//! | kind | meaning | who gets there |
//! |---|---|---|
//! | none | nothing was started yet | |
//! | root | holds the writer and a reading end to pass on | [`ensure`] |
//! | member | holds an armed reading end, which can be passed on too | [`arm_after_fork`], [`join`] |
//! | forked | forked off a root or member; not armed | every fork, in the child |
//!
//! In every forked child the writer is closed first of all (`pthread_atfork`); an `exec` closes it as well. A child that
//! stays *forked* was forked by the user, who may want it to outlive the program: it is left alone, and if it
//! starts processes itself, it becomes the root of these.
//!
//! Arming looks once, after it is armed, whether the writer is gone already: a root that died before could not signal.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::ProcessError;

const KIND_SHIFT: u32 = 62;
const FD_BITS: u32 = 31;
const FD_MASK: u64 = (1 << FD_BITS) - 1;

/// The packed state: kind, writer, reader. Only this module and its fork handler write it.
static STATE: AtomicU64 = AtomicU64::new(0);
/// Tells lifelines apart; inherited by forks, new for every root. 0 before the first.
static IDENTITY: AtomicU64 = AtomicU64::new(0);
static HANDLER_INSTALLED: AtomicBool = AtomicBool::new(false);

/// What this process is to its lifeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has none yet.
    None,
    /// It is the program on whose life the others hang.
    Root,
    /// It dies with its root.
    Member,
    /// It was forked off a root or member, not by weft, and lives on its own.
    Forked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    role: Role,
    reader: RawFd,
    writer: RawFd,
}

impl State {
    const fn unpack(word: u64) -> Self {
        let role = match word >> KIND_SHIFT {
            0 => Role::None,
            1 => Role::Root,
            2 => Role::Member,
            _ => Role::Forked,
        };
        Self { role, reader: (word & FD_MASK) as RawFd, writer: ((word >> FD_BITS) & FD_MASK) as RawFd }
    }

    const fn pack(self) -> u64 {
        let kind = match self.role {
            Role::None => 0,
            Role::Root => 1,
            Role::Member => 2,
            Role::Forked => 3,
        };
        (kind << KIND_SHIFT) | ((self.writer as u64) << FD_BITS) | self.reader as u64
    }
}

fn current() -> State {
    State::unpack(STATE.load(Ordering::Acquire))
}

/// What this process is at present.
pub fn role() -> Role {
    current().role
}

/// Which lifeline this process hangs on or holds: two processes with the same number die with the same root. A forked
/// process keeps the number until it becomes a root itself. 0 if there is none.
pub fn identity() -> u64 {
    IDENTITY.load(Ordering::Acquire)
}

/// Has every fork of this process close the writer. Call it before any thread can fork; [`ensure`] and [`join`] do it
/// too.
pub fn install_fork_handler() {
    if !HANDLER_INSTALLED.swap(true, Ordering::AcqRel) {
        // SAFETY: the handler may run in any forked child: it makes one system call and touches two atomics.
        unsafe { libc::pthread_atfork(None, None, Some(after_fork_in_child)) };
    }
}

extern "C" fn after_fork_in_child() {
    let state = current();
    if state.role == Role::Root && is_intact(state) {
        // SAFETY: the state says that this descriptor is the writer, which belongs to this module alone.
        drop(unsafe { OwnedFd::from_raw_fd(state.writer) });
    }
    if state.role != Role::None {
        STATE.store(State { role: Role::Forked, reader: state.reader, writer: 0 }.pack(), Ordering::Release);
    }
}

/// Makes this process a root if it hangs on no lifeline, and says which reading end to pass on to a process that is
/// about to be executed. It is closed on `exec` unless the caller sees to it.
///
/// # Errors
///
/// No descriptors left, or no `/proc`: without it, no process can be armed.
pub fn ensure() -> Result<BorrowedFd<'static>, ProcessError> {
    install_fork_handler();
    loop {
        let word = STATE.load(Ordering::Acquire);
        let state = State::unpack(word);
        match state.role {
            Role::Root | Role::Member if is_intact(state) => {
                // SAFETY: the reading end stays open as long as the state names it, and once there it is only ever
                // closed in a forked child, or by the user, and both call this anew.
                return Ok(unsafe { BorrowedFd::borrow_raw(state.reader) });
            }
            _ => {
                let old = identity();
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(ProcessError::system("pipe"))?;
                drop(reopen(reader.as_raw_fd())?);
                let identity = rustix::fs::fstat(&reader).map_err(ProcessError::system("fstat"))?.st_ino;
                let root = State { role: Role::Root, reader: reader.as_raw_fd(), writer: writer.as_raw_fd() };
                // Another thread may have been quicker; then both ends are dropped, and its answer is ours.
                if STATE.compare_exchange(word, root.pack(), Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    IDENTITY.store(identity, Ordering::Release);
                    let _ = (reader.into_raw_fd(), writer.into_raw_fd());
                    close_old(state, old);
                }
            }
        }
    }
}

/// Arms this process, which was just forked off a root or a member: it dies with the root from now on.
///
/// # Errors
///
/// It was not forked off such a process, there are no descriptors left, or no `/proc`.
pub fn arm_after_fork() -> Result<(), ProcessError> {
    let state = current();
    match state.role {
        Role::Forked => become_member(state.reader),
        Role::Member => Ok(()),
        Role::Root | Role::None => {
            Err(ProcessError::System { action: "a lifeline to hang on", source: Errno::BADF })
        }
    }
}

/// Arms this process, which was executed, with the reading end it inherited.
///
/// # Errors
///
/// `inherited` is no such thing, there are no descriptors left, or no `/proc`.
pub fn join(inherited: OwnedFd) -> Result<(), ProcessError> {
    install_fork_handler();
    become_member(inherited.into_raw_fd())
}

/// Arms this process with another lifeline besides its own: it dies with the holder of that one as well.
///
/// # Errors
///
/// As [`join`].
pub fn arm_also(reader: BorrowedFd<'_>) -> Result<OwnedFd, ProcessError> {
    let own = reopen(reader.as_raw_fd())?;
    arm(own)
}

fn become_member(inherited: RawFd) -> Result<(), ProcessError> {
    let (before, old) = (current(), identity());
    let own = arm(reopen(inherited)?)?;
    let identity = rustix::fs::fstat(&own).map_err(ProcessError::system("fstat"))?.st_ino;
    IDENTITY.store(identity, Ordering::Release);
    let member = State { role: Role::Member, reader: own.into_raw_fd(), writer: 0 };
    STATE.store(member.pack(), Ordering::Release);
    close_old(before, old);
    if before.role == Role::None || before.reader != inherited {
        // SAFETY: the descriptor was given to this module, and nothing refers to it any more.
        drop(unsafe { OwnedFd::from_raw_fd(inherited) });
    }
    Ok(())
}

/// Whether a root's or member's descriptors are still what they were. A program that becomes a daemon closes all of them, and
/// the numbers may be those of its own files by now.
fn is_intact(state: State) -> bool {
    match state.role {
        // Its identity is written after the state, so the two ends are compared with each other.
        Role::Root => pipe_of(state.reader).is_some_and(|pipe| pipe_of(state.writer) == Some(pipe)),
        Role::Member => pipe_of(state.reader) == Some(identity()),
        Role::None | Role::Forked => false,
    }
}

/// Which pipe a descriptor is an end of; `None` if it is something else, or closed.
fn pipe_of(descriptor: RawFd) -> Option<u64> {
    // SAFETY: all zeros is a valid value, and the call only writes to it. It may fail: any number may be given.
    let (outcome, status) = unsafe {
        let mut status = std::mem::zeroed::<libc::stat>();
        (libc::fstat(descriptor, &raw mut status), status)
    };
    (outcome == 0 && status.st_mode & libc::S_IFMT == libc::S_IFIFO).then_some(status.st_ino)
}

/// Closes the reading end of a state that is no longer the current one, of the lifeline `identity`.
fn close_old(state: State, identity: u64) {
    if state.role != Role::None && pipe_of(state.reader) == Some(identity) {
        // SAFETY: the descriptor belonged to this module, and the state does not name it any more.
        drop(unsafe { OwnedFd::from_raw_fd(state.reader) });
    }
}

/// The same pipe under a file description of its own.
fn reopen(reader: RawFd) -> Result<OwnedFd, ProcessError> {
    let path = format!("/proc/self/fd/{reader}");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(ProcessError::system("opening the lifeline in /proc"))
}

/// Has the kernel kill this process when the last writer goes.
fn arm(own: OwnedFd) -> Result<OwnedFd, ProcessError> {
    let set = |command: libc::c_int, value: libc::c_int| {
        // SAFETY: these commands take an int and touch no memory of this process.
        match unsafe { libc::fcntl(own.as_raw_fd(), command, value) } {
            -1 => Err(ProcessError::System {
                action: "arming the lifeline",
                source: Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL),
            }),
            _ => Ok(()),
        }
    };
    let this = i32::try_from(std::process::id()).expect("process ids are positive ints");
    set(libc::F_SETOWN, this)?;
    set(F_SETSIG, libc::SIGKILL)?;
    set(libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK)?;
    if is_cut(&own)? {
        // The root died before this process was armed: it would have been killed.
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .map_err(ProcessError::system("kill"))?;
    }
    Ok(own)
}

const F_SETSIG: libc::c_int = 10;

fn is_cut(reader: &OwnedFd) -> Result<bool, ProcessError> {
    let mut polled = [PollFd::new(reader, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&at_once)).map_err(ProcessError::system("poll"))?;
    Ok(polled[0].revents().contains(PollFlags::HUP))
}
