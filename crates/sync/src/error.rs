//! What can go wrong with locks.

use weft_shm::ShmError;
use weft_shm::identity::Identity;

/// Why a lock or semaphore was not acquired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcquireError<I> {
    /// It stayed taken until the deadline.
    TimedOut,
    /// The wait was interrupted.
    Interrupted(I),
    /// The process that held it died with it. Nobody else is told of this death, and the lock is free now.
    OwnerDied(Identity),
    /// Shared memory failed.
    Memory(ShmError),
}

/// Why a wait for an event or a notification came back with nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitError<I> {
    /// Nothing happened until the deadline.
    TimedOut,
    /// The wait was interrupted.
    Interrupted(I),
    /// Shared memory failed.
    Memory(ShmError),
}

impl<I> From<ShmError> for AcquireError<I> {
    fn from(error: ShmError) -> Self {
        Self::Memory(error)
    }
}

impl<I> From<weft_wait::WaitError<I>> for AcquireError<I> {
    fn from(error: weft_wait::WaitError<I>) -> Self {
        match error {
            weft_wait::WaitError::TimedOut => Self::TimedOut,
            weft_wait::WaitError::Interrupted(interrupt) => Self::Interrupted(interrupt),
        }
    }
}

impl<I> From<ShmError> for WaitError<I> {
    fn from(error: ShmError) -> Self {
        Self::Memory(error)
    }
}

impl<I> From<weft_wait::WaitError<I>> for WaitError<I> {
    fn from(error: weft_wait::WaitError<I>) -> Self {
        match error {
            weft_wait::WaitError::TimedOut => Self::TimedOut,
            weft_wait::WaitError::Interrupted(interrupt) => Self::Interrupted(interrupt),
        }
    }
}

/// A release of what was not acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("semaphore or lock released too many times")]
pub struct OverRelease;
