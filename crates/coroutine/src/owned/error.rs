//! What can go wrong without being a panic.

use std::fmt;

use weft_sys::mapping::MappingError;

use super::MemberId;

/// Why a coroutine could not be made or entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no memory for its stack.
    #[error(transparent)]
    Stack(#[from] MappingError),
    /// What the closure captures by value takes too much of the stack that it must lie on.
    #[error(
        "the closure of a coroutine captures {size} bytes by value, too many for its stack of {stack} bytes; \
         box what it captures, or raise StackConfig::size"
    )]
    ClosureTooLarge {
        /// Size of the closure, in bytes.
        size: usize,
        /// Usable size of the stack, in bytes.
        stack: usize,
    },
    /// It returned, panicked or was cancelled before.
    #[error("the coroutine has finished and cannot be resumed; ask is_done() first, or make a new one")]
    Finished,
    /// The group has no such member: it finished, was cancelled, or is of another group.
    #[error("{0} is not in this group any more: it has finished or was cancelled")]
    NoSuchMember(MemberId),
    /// The member runs, or waits for something that it resumed or cancelled itself.
    #[error("{0} is running already; only a member that is suspended or new can be switched to or cancelled")]
    Running(MemberId),
    /// The caller is not the code that would be suspended.
    #[error(
        "{0} can only be suspended from its own stack, not from a coroutine that it resumed; \
         yield from that coroutine first"
    )]
    NotOnItsStack(MemberId),
}

/// An [`Error`] together with the value that could not be delivered because of it.
pub struct Refused<T> {
    /// What went wrong. Nothing has been switched.
    pub error: Error,
    /// The value, unchanged.
    pub value: T,
}

impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<T> std::error::Error for Refused<T> {}
