//! What can go wrong with a call.

use weft_shm::ShmError;

use crate::service::Gone;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError<I> {
    /// The server process ended, or its serving thread did, before it answered.
    #[error("the server ended before it answered")]
    Died,
    /// The server was closed in good order.
    #[error("the server was closed")]
    Closed,
    /// The lane is in the middle of another call of the same thread, from which this one was made.
    #[error("the lane is in use by a call that is not finished")]
    Busy,
    /// The lane belongs to the parent of this process.
    #[error("the lane belongs to another process")]
    Foreign,
    /// The wait was interrupted. The call may have been carried out or not; its answer is lost.
    #[error("the call was interrupted")]
    Interrupted(I),
    /// There is no shared memory for the call or the answer, or it is damaged.
    #[error(transparent)]
    Memory(#[from] ShmError),
}

impl<I> From<Gone> for ManagerError<I> {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Closed => Self::Closed,
            Gone::Died => Self::Died,
        }
    }
}
