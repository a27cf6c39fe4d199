//! Asking a template for children.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::child::Child;
use crate::error::ProcessError;
use crate::state::State;
use crate::table::Table;
use crate::transport::{Outgoing, Prepared, Received, pair, receive};
use crate::wire::{ANSWER, Answer, Kind};

/// How long one that was interrupted waits for the answer to a request it has sent, to end the child it would get.
const GRACE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What happens when a signal handler has run: go on, or give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum AfterSignal {
    /// The wait goes on.
    GoOn,
    /// It ends with [`Started::GivenUp`] or nothing.
    GiveUp,
}

/// What a request came to.
#[derive(Debug)]
#[must_use]
pub enum Started {
    /// A child.
    Child(Child),
    /// The host gave up after a signal. There is no child.
    GivenUp,
}

/// One template, as those see it who may ask it.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    table: Arc<Table>,
    template: OnceLock<Arc<OwnedFd>>,
}

/// What a new template has to inherit.
#[derive(Debug)]
pub struct Inheritance {
    /// The template's end of the socket.
    pub socket: OwnedFd,
    /// The table of children.
    pub table: OwnedFd,
}

impl Link {
    /// A link to a template that is about to be executed with what it inherits.
    ///
    /// # Errors
    ///
    /// No descriptors or no memory left.
    pub fn create() -> Result<(Self, Inheritance), ProcessError> {
        let (socket, server) = pair().map_err(ProcessError::system("making the template's socket"))?;
        let table = Table::create()?;
        let inherited = rustix::io::fcntl_dupfd_cloexec(&table, 3)
            .map_err(ProcessError::system("passing the table of children on"))?;
        let link = Self { socket, table: Arc::new(table), template: OnceLock::new() };
        Ok((link, Inheritance { socket: server, table: inherited }))
    }

    /// The link of a template's child, which may ask the same template.
    pub(crate) fn inherited(socket: OwnedFd, table: Arc<Table>, template: Arc<OwnedFd>) -> Self {
        Self { socket, table, template: OnceLock::from(template) }
    }

    /// Tells who the template is, and what it shall prepare. It must be a child of this process.
    ///
    /// # Errors
    ///
    /// It is gone, or there are no descriptors left.
    pub fn prepare(&self, pid: u32, payload: &[u8]) -> Result<(), ProcessError> {
        let pid = Pid::from_raw(pid.cast_signed())
            .ok_or(ProcessError::System { action: "watching the template", source: Errno::SRCH })?;
        let watched =
            pidfd_open(pid, PidfdFlags::empty()).map_err(ProcessError::system("watching the template"))?;
        let _ = self.template.set(Arc::new(watched));
        let outgoing = Outgoing {
            kind: Kind::Prepare,
            client: std::process::id(),
            state: &[],
            payload,
            own: &[],
            users: &[],
        };
        match Prepared::new(&outgoing)?.send(self.socket.as_fd()) {
            Ok(()) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(ProcessError::TemplateGone),
            Err(source) => Err(ProcessError::System { action: "sending to the template", source }),
        }
    }

    /// Waits until the template is ready, and returns what it says then. `None` if the host gave up.
    ///
    /// # Errors
    ///
    /// It ended before, or says nonsense.
    pub fn wait_ready(
        &self,
        after_signal: &mut dyn FnMut() -> AfterSignal,
    ) -> Result<Option<Vec<u8>>, ProcessError> {
        let mut buffer = Vec::new();
        loop {
            match receive(self.socket.as_fd(), &mut buffer, RecvFlags::empty()) {
                Ok(Received::Message(message)) if message.header.kind == Kind::Ready => {
                    return Ok(Some(message.payload));
                }
                Ok(Received::Message(message)) => {
                    return Err(crate::wire::FrameError::Kind(message.header.kind as u16).into());
                }
                Ok(Received::Nonsense(error)) => return Err(error.into()),
                Ok(Received::NoRoom(_)) => {
                    return Err(ProcessError::System { action: "receiving a message", source: Errno::MFILE });
                }
                Ok(Received::End) => return Err(ProcessError::TemplateGone),
                Err(ProcessError::System { source: Errno::CONNRESET, .. }) => {
                    return Err(ProcessError::TemplateGone);
                }
                Err(ProcessError::System { source: Errno::INTR, .. }) => {
                    if after_signal() == AfterSignal::GiveUp {
                        return Ok(None);
                    }
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Whether the template still lives; false before [`Link::prepare`].
    pub fn is_alive(&self) -> bool {
        let Some(template) = self.template.get() else {
            return false;
        };
        let mut polled = [PollFd::new(&**template, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut polled, Some(&at_once)), Ok(0))
    }

    /// The end of the socket that clients hold; when the last one is closed, the template ends.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Has a child started that runs `payload`, holds `descriptors`, and gets `parent` to see this process's end by.
    ///
    /// # Errors
    ///
    /// [`ProcessError::TemplateGone`] if the template and its spares have ended, [`ProcessError::NoAnswer`] if the one that
    /// took the request has; nothing was started then, and the request can be made again. Otherwise what the template refused it for, or what was
    /// missing here.
    pub fn start(
        &self,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
        parent: BorrowedFd<'_>,
        after_signal: &mut dyn FnMut() -> AfterSignal,
    ) -> Result<Started, ProcessError> {
        let template = self.template.get().ok_or(ProcessError::TemplateGone)?;
        let (answer, asked) = pipe_with(PipeFlags::CLOEXEC).map_err(ProcessError::system("pipe"))?;
        let state = State::capture().encode();
        let outgoing = Outgoing {
            kind: Kind::Start,
            client: std::process::id(),
            state: &state,
            payload,
            own: &[asked.as_fd(), parent, self.socket.as_fd()],
            users: descriptors,
        };
        let prepared = Prepared::new(&outgoing)?;
        loop {
            match prepared.send(self.socket.as_fd()) {
                Ok(()) => break,
                Err(Errno::INTR) => {
                    if after_signal() == AfterSignal::GiveUp {
                        return Ok(Started::GivenUp);
                    }
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ProcessError::TemplateGone),
                Err(source) => {
                    return Err(ProcessError::System { action: "sending to the template", source });
                }
            }
        }
        drop(prepared);
        drop(asked);
        loop {
            match self.read_answer(&answer, template) {
                Err(ProcessError::System { source: Errno::INTR, .. }) => {
                    if after_signal() == AfterSignal::GiveUp {
                        self.take_back(&answer, template);
                        return Ok(Started::GivenUp);
                    }
                }
                other => return other.map(Started::Child),
            }
        }
    }

    fn read_answer(&self, answer: &OwnedFd, template: &Arc<OwnedFd>) -> Result<Child, ProcessError> {
        let mut bytes = [0; ANSWER];
        // Asleep, and not spinning: the spare is woken on this very processor.
        let count =
            rustix::io::read(answer, &mut bytes).map_err(ProcessError::system("waiting for the template"))?;
        if count == 0 {
            return Err(ProcessError::NoAnswer);
        }
        match Answer::parse(&bytes[..count])? {
            Answer::Refused(error) => Err(ProcessError::Refused { source: Errno::from_raw_os_error(error) }),
            Answer::Started { pid, entry } => {
                Child::of_template(pid, Arc::clone(&self.table), entry, Arc::clone(template))
                    .ok_or(ProcessError::Frame(crate::wire::FrameError::Magic))
            }
        }
    }

    /// Ends the child that a request may have got, whose maker does not want it any more.
    fn take_back(&self, answer: &OwnedFd, template: &Arc<OwnedFd>) {
        let mut polled = [PollFd::new(answer, PollFlags::IN)];
        if matches!(poll(&mut polled, Some(&GRACE)), Ok(count) if count > 0)
            && let Ok(child) = self.read_answer(answer, template)
        {
            // It may have ended by itself.
            let _ = child.signal(Signal::KILL.as_raw());
            let _ = child.wait(Some(Duration::from_secs(1)));
        }
    }
}
