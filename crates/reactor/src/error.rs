//! What can go wrong.

use std::os::fd::RawFd;

use rustix::io::Errno;

/// Why the reactor could not do what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReactorError {
    /// The set of descriptors, or the doorbell, could not be made.
    #[error("cannot make the descriptors that a hub needs: {0}; raise the limit (ulimit -n) or close some")]
    Create(Errno),
    /// A descriptor could not be watched.
    #[error("cannot watch descriptor {descriptor}: {source}")]
    Watch {
        /// Which.
        descriptor: RawFd,
        /// Why.
        source: Errno,
    },
    /// The hub was closed.
    #[error("the hub was closed")]
    Closed,
    /// The kernel would not wait.
    #[error("cannot wait for descriptors: {0}")]
    Wait(Errno),
    /// A signal's number makes no sense, or its handler may not be replaced.
    #[error("cannot watch signal {signal}: {source}")]
    Signal {
        /// Which.
        signal: i32,
        /// Why.
        source: Errno,
    },
    /// More threads watch signals than there is room for.
    #[error(
        "cannot watch signal {signal}: {limit} threads watch signals already; watch them in fewer threads"
    )]
    SignalListeners {
        /// Which.
        signal: i32,
        /// How many threads may.
        limit: usize,
    },
    /// There is no such child.
    #[error(
        "cannot wait for process {pid}: {source}; only a child of this process can be waited for, and once"
    )]
    Child {
        /// Which.
        pid: i32,
        /// Why.
        source: Errno,
    },
}

impl ReactorError {
    /// What the kernel said, if it was asked.
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Create(source)
            | Self::Wait(source)
            | Self::Watch { source, .. }
            | Self::Signal { source, .. }
            | Self::Child { source, .. } => Some(*source),
            Self::SignalListeners { .. } | Self::Closed => None,
        }
    }
}
