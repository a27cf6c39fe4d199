//! What can go wrong.

use rustix::io::Errno;

use crate::wire::FrameError;

/// Why a process could not be started, waited for or reached.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The system refused a call.
    #[error("{action}: {source}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// The system's answer.
        source: Errno,
    },
    /// The template could not fork, or could not take the request in.
    #[error("the template process cannot start a child: {source}")]
    Refused {
        /// What the template got from the system.
        source: Errno,
    },
    /// The template has ended, with all its spares.
    #[error("the template process has ended")]
    TemplateGone,
    /// Whoever took the request was killed before it answered; nothing was begun.
    #[error("the process that the template had ready was killed before it answered")]
    NoAnswer,
    /// More descriptors than can be handed over.
    #[error("too many descriptors for one process: {count}, at most {most}")]
    TooManyDescriptors {
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// Something else than a message of ours arrived.
    #[error("a message that makes no sense: {0}")]
    Frame(#[from] FrameError),
}

impl ProcessError {
    /// The error of a system call.
    pub(crate) fn system(action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::System { action, source }
    }

    /// The system's error number, if there is one behind this.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } | Self::Refused { source } => Some(source.raw_os_error()),
            _ => None,
        }
    }
}
