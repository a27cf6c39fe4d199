//! A shared object for other crates: a few words of shared memory that live as long as a living process holds them.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::arena::Arena;
use crate::error::ShmError;
use crate::object::{Handle, Object, PROLOGUE};
use crate::robust::RobustMutex;

/// One process's handle of a piece of shared memory. Dropping the last one of all processes frees it.
///
/// A forked child has it, too, at the same place.
#[derive(Debug)]
pub struct Shared {
    object: Arc<Object<RobustMutex>>,
    size: usize,
}

impl Shared {
    /// New memory of `size` bytes, aligned to 256, zero but for what `init` writes before anybody else can see it.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had.
    pub fn create(arena: &Arc<Arena>, size: usize, init: impl FnOnce(NonNull<u8>)) -> Result<Self, ShmError> {
        let bytes = PROLOGUE + size;
        // SAFETY: the object is at least this long.
        let object = Object::create(arena, bytes, |start, _| init(unsafe { start.add(PROLOGUE) }))?;
        Ok(Self { object, size })
    }

    /// The memory that another process made, with at least `size` bytes.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if it has ended, [`ShmError::Damaged`] if it is smaller, [`ShmError`] if there is no room for
    /// another holder.
    pub fn attach(arena: &Arc<Arena>, handle: Handle, size: usize) -> Result<Self, ShmError> {
        let object = Object::attach(arena, handle)?;
        let shared = Self { object, size };
        let (_, length) = arena.piece(handle.unit)?;
        if length < PROLOGUE + size {
            return Err(ShmError::Damaged { what: "an object is smaller than its kind can be" });
        }
        Ok(shared)
    }

    /// Where the memory is, in this process and all it forks, for as long as this handle lives.
    #[inline]
    pub fn start(&self) -> NonNull<u8> {
        // SAFETY: the object is longer than its prologue.
        unsafe { self.object.start().add(PROLOGUE) }
    }

    /// How many bytes were asked for.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// What another process with the same arena needs to attach.
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    /// The arena it lies in.
    pub fn arena(&self) -> &Arc<Arena> {
        self.object.arena()
    }

    /// An error if this process may not use it: it is the child of a fork, and came too late to inherit it.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`].
    #[inline]
    pub fn check(&self) -> Result<(), ShmError> {
        self.object.check()
    }

    /// How many forks lie between the process that made this handle and the calling one.
    #[inline]
    pub fn forks(&self) -> u32 {
        self.object.forks()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Damage is met, and reported, where it stands in somebody's way.
        let _ = self.object.leave(|| self.object.has_more_holders());
    }
}
