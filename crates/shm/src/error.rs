//! What can go wrong with shared memory.

use rustix::io::Errno;
use weft_sys::memory_limit::Shortage;

/// Why an operation on shared memory failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShmError {
    /// The system gave no memory, address space or descriptor.
    #[error("cannot {what} {bytes} bytes of shared memory: {source}; {}", remedy(*.source))]
    System {
        /// What was tried: "create", "map", "take".
        what: &'static str,
        /// How much it was about.
        bytes: u64,
        /// The kernel's answer.
        source: Errno,
    },
    /// So much memory is in use that the kernel would kill a process rather than refuse it.
    #[error("cannot take {bytes} bytes of shared memory: {shortage}")]
    Shortage {
        /// How much was asked for.
        bytes: u64,
        /// Whose limit it is, and what is left.
        shortage: Shortage,
    },
    /// A single message or object is larger than shared memory can hold.
    #[error("{bytes} bytes are more than shared memory can hold in one piece")]
    TooLarge {
        /// How much was asked for.
        bytes: u64,
    },
    /// A descriptor does not lead to a segment of this version of weft.
    #[error("the descriptor {fd} is no shared memory of this version of weft: {reason}")]
    Foreign {
        /// The descriptor.
        fd: i32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The object behind a handle has ended: everyone who held it has let go of it, or died.
    #[error("the shared object {object} is gone: every process that held it has let go of it or ended")]
    Gone {
        /// Which it was.
        object: String,
    },
    /// The segment holds what no correct program writes.
    #[error("shared memory is damaged: {what}; a process wrote into memory that is not its own")]
    Damaged {
        /// What was found.
        what: &'static str,
    },
}

fn remedy(source: Errno) -> &'static str {
    match source {
        Errno::MFILE => "this process has no descriptor left (ulimit -n)",
        Errno::NFILE => "the system has no descriptor left",
        Errno::FBIG => "raise the limit on the size of files (ulimit -f)",
        Errno::NOMEM => "memory or address space is used up (ulimit -v, or the limit of the control group)",
        Errno::NOSPC => "memory is used up",
        Errno::BADF => "this program has closed the descriptor that weft reaches it by",
        Errno::USERS => "as many take part in it as can",
        _ => "see the system's error",
    }
}
