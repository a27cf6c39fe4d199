//! The template process: it forks children for others, knows which of its own have ended, and says so in the table.
//!
//! One thread, one loop. It sleeps in `poll` on three things: ended children (a signalfd), the doorbell that a spare
//! rings when it is taken (an eventfd), and the socket, whose requests it looks at only when no spare waits for
//! them. It never runs code of the user after it is ready, holds no descriptor per child, and waits for nobody: the
//! table takes every status. It ends when no client is left.
//!
//! A spare is a forked child blocked on the same socket. It dies with the template; one that has taken a request does not.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, set_parent_process_death_signal,
};

use crate::client::Link;
use crate::error::ProcessError;
use crate::lifeline;
use crate::spares::Spares;
use crate::state::State;
use crate::table::{Reaped, Table};
use crate::title;
use crate::transport::{Message, Outgoing, Prepared, Received, receive};
use crate::wait;
use crate::wire::{Answer, FrameError, Kind};

/// How a fork came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// In the template: the child's process id.
    Parent(u32),
    /// In the child.
    Child,
}

/// What the template needs of the program it is part of.
pub trait Host {
    /// Forks this process, which has one thread, by libc's `fork`, with whatever the host does around it.
    ///
    /// # Errors
    ///
    /// The system's.
    fn fork(&mut self) -> io::Result<Forked>;

    /// Called in a spare before it waits for work, while nobody waits for it: a chance to touch the memory that its work
    /// will touch, of which the first touch after a fork is what costs time.
    fn rehearse(&mut self) {}
}

/// How [`Template::run`] came back, and in which process.
#[derive(Debug)]
pub enum Outcome {
    /// In the template, or a spare: there are no clients any more, so the process should end.
    Finished,
    /// In a child: what to run.
    Child(Box<Job>),
}

/// What a child has to do.
#[derive(Debug)]
pub struct Job {
    /// What the client sent.
    pub payload: Vec<u8>,
    /// The descriptors it sent along.
    pub descriptors: Vec<OwnedFd>,
    /// Readable when the client has ended.
    pub parent: OwnedFd,
    /// To ask the same template for children.
    pub link: Link,
    /// Where to say how this process ends.
    pub exit: Exit,
}

/// A child's own entry in the table.
#[derive(Debug)]
pub struct Exit {
    table: Arc<Table>,
    entry: u32,
}

impl Exit {
    /// Tells whoever waits for this process that it is about to end with `code`. Nothing may follow but the exit.
    pub fn say(&self, code: u8) {
        if let Some(entry) = self.table.entry(self.entry) {
            entry.say(code);
        }
    }
}

/// A template process.
#[derive(Debug)]
pub struct Template {
    socket: OwnedFd,
    table: Arc<Table>,
    this: Arc<OwnedFd>,
    buffer: Vec<u8>,
}

impl Template {
    /// Takes over what the process inherited.
    ///
    /// # Errors
    ///
    /// It is not what [`Link::create`] made.
    pub fn adopt(socket: OwnedFd, table: OwnedFd) -> Result<Self, ProcessError> {
        let table = Arc::new(Table::adopt(table)?);
        let this =
            pidfd_open(getpid(), PidfdFlags::empty()).map_err(ProcessError::system("opening oneself"))?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)
            .map_err(ProcessError::system("fcntl"))?;
        Ok(Self { socket, table, this: Arc::new(this), buffer: Vec::new() })
    }

    /// Waits for what to prepare. `None` if there is no client any more.
    ///
    /// # Errors
    ///
    /// Something else came.
    pub fn receive_preparation(&mut self) -> Result<Option<Vec<u8>>, ProcessError> {
        loop {
            match receive(self.socket.as_fd(), &mut self.buffer, RecvFlags::empty()) {
                Ok(Received::Message(message)) if message.header.kind == Kind::Prepare => {
                    return Ok(Some(message.payload));
                }
                Ok(Received::Message(message)) => {
                    return Err(FrameError::Kind(message.header.kind as u16).into());
                }
                Ok(Received::Nonsense(error)) => return Err(error.into()),
                Ok(Received::NoRoom(_)) | Ok(Received::End) => return Ok(None),
                Err(ProcessError::System { source: Errno::INTR, .. }) => {}
                Err(ProcessError::System { source: Errno::CONNRESET, .. }) => return Ok(None),
                Err(other) => return Err(other),
            }
        }
    }

    /// Tells the client that the preparation is done.
    ///
    /// # Errors
    ///
    /// The client is gone.
    pub fn ready(&self, payload: &[u8]) -> Result<(), ProcessError> {
        let outgoing = Outgoing {
            kind: Kind::Ready,
            client: std::process::id(),
            state: &[],
            payload,
            own: &[],
            users: &[],
        };
        Prepared::new(&outgoing)?
            .send(self.socket.as_fd())
            .map_err(ProcessError::system("answering the client"))
    }

    /// Serves clients until there are none. Comes back in every child too.
    ///
    /// # Errors
    ///
    /// In the template: the system refuses what it cannot do without. In a spare: it could not be tied to the lifeline.
    pub fn run(mut self, host: &mut impl Host) -> Result<Outcome, ProcessError> {
        let this = getpid();
        title::take(title::TEMPLATE);
        let own = State::capture();
        let mut children = Children::new(Arc::clone(&self.table));
        let signals = child_signals()?;
        let doorbell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(ProcessError::system("eventfd"))?;
        let mut spares = Spares::default();
        let mut requests_wait = false;
        loop {
            let mut refused = None;
            for _ in 0..spares.missing(children.idle(), requests_wait) {
                let Some(entry) = children.reserve() else {
                    refused = Some(Errno::AGAIN);
                    break;
                };
                match host.fork() {
                    Ok(Forked::Parent(pid)) => children.add(pid, entry),
                    Ok(Forked::Child) => {
                        drop(signals);
                        return self.wait_for_work(host, this, &own, entry, doorbell);
                    }
                    Err(error) => {
                        children.cancel(entry);
                        refused = Some(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN));
                        break;
                    }
                }
            }
            if spares.is_given_up() {
                refused = Some(Errno::AGAIN);
            }
            if children.idle() == 0
                && let Some(error) = refused
            {
                self.refuse(error);
            }
            let wanted = if children.idle() == 0 { PollFlags::IN } else { PollFlags::empty() };
            let mut polled = [
                PollFd::new(&signals, PollFlags::IN),
                PollFd::new(&doorbell, PollFlags::IN),
                PollFd::new(&self.socket, wanted),
            ];
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(source) => return Err(ProcessError::System { action: "poll", source }),
            }
            let [ended, rung, asked] = [0, 1, 2].map(|index| polled[index].revents());
            if rung.contains(PollFlags::IN) {
                drain(&doorbell);
            }
            // Whether or not the bell was heard: a child may have ended before its template came to look.
            let taken = children.forget_taken();
            spares.taken(taken, children.idle());
            if ended.contains(PollFlags::IN) {
                drain(&signals);
                for _ in 0..children.reap() {
                    spares.stillborn();
                }
            }
            requests_wait = asked.contains(PollFlags::IN);
            if asked.contains(PollFlags::HUP) && !requests_wait {
                return Ok(Outcome::Finished);
            }
        }
    }

    /// Answers one waiting request, if there is one, with an error.
    fn refuse(&mut self, error: Errno) {
        if let Ok(Received::Message(message)) =
            receive(self.socket.as_fd(), &mut self.buffer, RecvFlags::DONTWAIT)
            && let Some(answer) = message.descriptors.first()
        {
            // A client that is gone does not care.
            let _ = rustix::io::write(answer, &Answer::Refused(error.raw_os_error()).encode());
        }
    }

    /// The life of a spare.
    fn wait_for_work(
        mut self,
        host: &mut impl Host,
        template: Pid,
        own: &State,
        entry: u32,
        doorbell: OwnedFd,
    ) -> Result<Outcome, ProcessError> {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(ProcessError::system("prctl"))?;
        if getppid() != Some(template) {
            // The template died before this process was tied to it.
            return Ok(Outcome::Finished);
        }
        lifeline::arm_after_fork()?;
        title::take(title::SPARE);
        let pid = std::process::id();
        let began = crate::child::began(pid).map_or(0, |(since, _)| since);
        let place = self.table.entry(entry).expect("the template reserved it");
        place.describe(pid, began);
        host.rehearse();
        loop {
            let message = match receive(self.socket.as_fd(), &mut self.buffer, RecvFlags::empty()) {
                Ok(Received::Message(message)) if message.header.kind == Kind::Start => message,
                Ok(Received::End) => return Ok(Outcome::Finished),
                Ok(Received::NoRoom(received)) => {
                    if let Some(answer) = received.first() {
                        let refused = Answer::Refused(Errno::MFILE.raw_os_error());
                        let _ = rustix::io::write(answer, &refused.encode());
                    }
                    continue;
                }
                // Nothing of ours; its descriptors are closed, and the sender sees the end of its pipe.
                Ok(Received::Message(_) | Received::Nonsense(_)) => continue,
                Err(ProcessError::System { source: Errno::INTR, .. }) => continue,
                Err(ProcessError::System { source: Errno::CONNRESET, .. }) => return Ok(Outcome::Finished),
                Err(other) => return Err(other),
            };
            let Some(job) = self.begin(message, own, entry, &doorbell)? else {
                return Ok(Outcome::Finished);
            };
            return Ok(Outcome::Child(Box::new(job)));
        }
    }

    /// Becomes the child that the message asks for. `None` if nobody waits for the answer.
    fn begin(
        &self,
        message: Message,
        own: &State,
        entry: u32,
        doorbell: &OwnedFd,
    ) -> Result<Option<Job>, ProcessError> {
        let Message { header, state, payload, mut descriptors } = message;
        let place = self.table.entry(entry).expect("the template reserved it");
        place.take(header.client);
        title::give_back();
        set_parent_process_death_signal(None).map_err(ProcessError::system("prctl"))?;
        let users = descriptors.split_off(3);
        let [answer, parent, socket]: [OwnedFd; 3] =
            descriptors.try_into().expect("the header's count was checked");
        let started = Answer::Started { pid: std::process::id(), entry };
        if rustix::io::write(&answer, &started.encode()).is_err() {
            place.detach();
            return Ok(None);
        }
        drop(answer);
        // After the answer, for which somebody waits: the template forks a successor at once. If the bell is full, it
        // has been rung often enough.
        let _ = rustix::io::write(doorbell, &1_u64.to_ne_bytes());
        if let Some(state) = State::decode(&state) {
            state.adopt(own);
        }
        let link = Link::inherited(socket, Arc::clone(&self.table), Arc::clone(&self.this));
        let table = Arc::clone(&self.table);
        Ok(Some(Job { payload, descriptors: users, parent, link, exit: Exit { table, entry } }))
    }
}

/// The template's own children: a number each, and which of them are spares.
#[derive(Debug)]
struct Children {
    table: Arc<Table>,
    entries: HashMap<u32, u32>,
    spares: Vec<(u32, u32)>,
    next: u32,
}

impl Children {
    fn new(table: Arc<Table>) -> Self {
        Self { table, entries: HashMap::new(), spares: Vec::new(), next: 0 }
    }

    fn reserve(&mut self) -> Option<u32> {
        let entry = self.table.reserve(self.next)?;
        self.next = entry.wrapping_add(1);
        Some(entry)
    }

    fn cancel(&self, entry: u32) {
        if let Some(entry) = self.table.entry(entry) {
            entry.cancel();
        }
    }

    fn add(&mut self, pid: u32, entry: u32) {
        self.entries.insert(pid, entry);
        self.spares.push((pid, entry));
    }

    fn idle(&self) -> usize {
        let waits = |entry| self.table.entry(entry).is_some_and(crate::table::Entry::is_spare);
        self.spares.iter().filter(|&&(_, entry)| waits(entry)).count()
    }

    /// Drops those from the list of spares that have become children; says how many.
    fn forget_taken(&mut self) -> usize {
        let before = self.spares.len();
        let table = &self.table;
        self.spares.retain(|&(_, entry)| table.entry(entry).is_some_and(crate::table::Entry::is_spare));
        before - self.spares.len()
    }

    /// Publishes and reaps all that have ended; says how many of them had not even become spares.
    fn reap(&mut self) -> usize {
        let mut stillborn = 0;
        loop {
            match wait::peek_any() {
                Ok(Some(ended)) if self.entries.contains_key(&ended.pid) => stillborn += self.bury(ended),
                // A process that an imported module started: it stays in front of ours until that module reaps it.
                Ok(Some(_)) => return stillborn + self.reap_one_by_one(),
                Ok(None) | Err(_) => return stillborn,
            }
        }
    }

    fn reap_one_by_one(&mut self) -> usize {
        let pids = self.entries.keys().copied().collect::<Vec<_>>();
        let ended = pids.into_iter().filter_map(|pid| wait::peek(pid).ok().flatten()).collect::<Vec<_>>();
        ended.into_iter().map(|ended| self.bury(ended)).sum()
    }

    fn bury(&mut self, ended: wait::Ended) -> usize {
        let mut stillborn = 0;
        if let Some(index) = self.entries.remove(&ended.pid)
            && let Some(entry) = self.table.entry(index)
        {
            self.spares.retain(|&(pid, _)| pid != ended.pid);
            // First the status, then the process id: see the crate's page.
            stillborn = usize::from(entry.publish(ended.status) == Reaped::Unused { was_ready: false });
        }
        let _ = wait::reap(ended.pid);
        stillborn
    }
}

/// A descriptor that is readable when a child has ended; the signal is blocked for it.
fn child_signals() -> Result<OwnedFd, ProcessError> {
    // SAFETY: the set is initialised by sigemptyset before anything else uses it; the calls write to it alone.
    let descriptor = unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        // Ignored, it would reap the children unseen; a handler has nothing to do here.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if descriptor < 0 {
        let source = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL);
        return Err(ProcessError::System { action: "signalfd", source });
    }
    // SAFETY: the descriptor is new and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn drain(descriptor: &OwnedFd) {
    let mut bytes = [0; 1024];
    while matches!(rustix::io::read(descriptor, &mut bytes), Ok(count) if count == bytes.len()) {}
}
