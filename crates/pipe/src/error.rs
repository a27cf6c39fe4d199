//! What can go wrong with a connection.

use rustix::io::Errno;
use weft_shm::ShmError;

/// Why a message was not sent or received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PipeError<I> {
    /// This process closed its handle.
    #[error("handle is closed")]
    Closed,
    /// Nobody is left at the other end, and everything they sent was received.
    #[error("the other end of the connection is closed")]
    Eof,
    /// Nobody is left at the other end, and their last message is not whole.
    #[error("got end of file during message")]
    EofInMessage,
    /// The message is longer than the receiver allows, or its length is none that a message can have.
    #[error("bad message length")]
    BadLength,
    /// A process was killed in the middle of sending a message, which is lost. The connection is in order again.
    #[error("process {pid} died in the middle of sending a message; the message is lost")]
    WriterDied {
        /// Who.
        pid: u32,
    },
    /// A process was interrupted in the middle of sending a message, which is lost. The connection is in order again.
    #[error("process {pid} was interrupted in the middle of sending a message; the message is lost")]
    WriterGaveUp {
        /// Who.
        pid: u32,
    },
    /// A process was killed or interrupted in the middle of receiving a message. The connection is in order again.
    #[error(
        "process {pid} ended or was interrupted in the middle of receiving a message; it is lost, and what was on its \
         way behind it"
    )]
    ReaderDied {
        /// Who.
        pid: u32,
    },
    /// This process was interrupted in the middle of a message, and nobody knows where the next one begins.
    #[error(
        "the connection cannot be used: this process was interrupted in the middle of a message; close it"
    )]
    Unusable,
    /// A signal handler used the connection in the middle of a message of the code that it interrupted.
    #[error("a signal handler may not use a connection in the middle of a message; defer it")]
    Reentered,
    /// The system refused.
    #[error("{0}")]
    System(Errno),
    /// Shared memory failed.
    #[error(transparent)]
    Memory(#[from] ShmError),
    /// The wait was interrupted.
    #[error("interrupted")]
    Interrupted(I),
}
