//! A large buffer in shared memory, in the hands of one process.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::arena::Arena;
use crate::error::ShmError;
use crate::identity::Identity;
use crate::layout::{Kind, order_of, state};
use crate::robust::{Robust, RobustMutex};
use crate::windows::View;

/// A buffer that its holder alone may use, until it goes with a message into a queue, or is dropped.
///
/// Its memory begins at a page. If the process dies, a sweep frees it.
pub struct Span<L: Robust = RobustMutex> {
    arena: Arc<Arena<L>>,
    unit: u32,
    start: NonNull<u8>,
    length: usize,
    view: Option<Arc<View>>,
}

// SAFETY: the span is its holder's alone, like a boxed slice.
unsafe impl<L: Robust> Send for Span<L> {}
// SAFETY: as above: shared references only read.
unsafe impl<L: Robust> Sync for Span<L> {}

impl<L: Robust> fmt::Debug for Span<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Span").field("unit", &self.unit).field("length", &self.length).finish_non_exhaustive()
    }
}

impl<L: Robust> Span<L> {
    /// A new buffer of `length` bytes, which hold anything.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had.
    pub fn new(arena: &Arc<Arena<L>>, length: usize) -> Result<Self, ShmError> {
        let unit = arena.allocate(length)?;
        Self::of(arena, unit, length).inspect_err(|_| {
            // It could not be mapped; nobody else knows of it.
            let _ = arena.free(unit);
        })
    }

    fn of(arena: &Arc<Arena<L>>, unit: u32, length: usize) -> Result<Self, ShmError> {
        let (start, size, view) = arena.block(unit)?;
        if length > size {
            return Err(ShmError::Damaged { what: "a buffer is longer than its block" });
        }
        Ok(Self { arena: Arc::clone(arena), unit, start, length, view })
    }

    /// How many bytes it has.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// How many bytes of memory it takes, which are all there to be used.
    ///
    /// # Errors
    ///
    /// [`ShmError::Damaged`].
    pub fn capacity(&self) -> Result<usize, ShmError> {
        Ok(self.arena.block(self.unit)?.1)
    }

    /// Whether it has no byte.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Where it begins; it stays there for as long as the span.
    pub const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Whether it lies in `arena`: its number means something else in another one.
    pub(crate) fn is_of(&self, arena: &Arc<Arena<L>>) -> bool {
        Arc::ptr_eq(&self.arena, arena)
    }

    /// Whether it is mapped on its own.
    pub(crate) const fn has_view(&self) -> bool {
        self.view.is_some()
    }

    /// Lets this process map anew what else lies where this span is mapped: it was patched.
    pub(crate) fn leave_window(&self) {
        self.arena.windows().forget(self.unit);
    }

    /// Its number, for the message that carries it.
    pub(crate) const fn unit(&self) -> u32 {
        self.unit
    }

    /// Marks it as belonging to a message that is about to be committed. The queue's put side is locked.
    pub(crate) fn hand_over(&self, object: u32, ordinal: u64) -> Result<(), ShmError> {
        let descriptor = self.arena.descriptor(self.unit)?;
        descriptor.object.store(object, Ordering::Relaxed);
        descriptor.ordinal.store(ordinal, Ordering::Relaxed);
        let order = order_of(descriptor.state.load(Ordering::Relaxed));
        descriptor.state.store(state(Kind::Queued, order), Ordering::Release);
        Ok(())
    }

    /// Takes it back: the message was not committed.
    pub(crate) fn take_back(&self) -> Result<(), ShmError> {
        self.arena.hold(self.unit)
    }

    /// Forgets it: the queue has it now.
    pub(crate) fn forget(self) {
        let mut span = std::mem::ManuallyDrop::new(self);
        // SAFETY: `span` is not used again; its own drop, which would free the block, does not run.
        unsafe {
            std::ptr::drop_in_place(&raw mut span.view);
            std::ptr::drop_in_place(&raw mut span.arena);
        }
    }

    /// The buffer of a message that is about to be got. The queue's get side is locked.
    ///
    /// It is still the queue's, and dropping it frees nothing, until it was [taken over](Self::take_over).
    pub(crate) fn peek(
        arena: &Arc<Arena<L>>,
        unit: u32,
        length: usize,
        object: u32,
        ordinal: u64,
    ) -> Result<Self, ShmError> {
        let descriptor = arena.descriptor(unit)?;
        let kind = Kind::of(descriptor.state.load(Ordering::Acquire));
        if kind != Some(Kind::Queued)
            || descriptor.object.load(Ordering::Relaxed) != object
            || descriptor.ordinal.load(Ordering::Relaxed) != ordinal
        {
            return Err(ShmError::Damaged { what: "a message names a buffer that is not its own" });
        }
        Self::of(arena, unit, length)
    }

    /// Makes it this process's: the message was committed as got.
    pub(crate) fn take_over(&self) -> Result<(), ShmError> {
        self.arena.hold(self.unit)
    }
}

impl<L: Robust> Drop for Span<L> {
    fn drop(&mut self) {
        let Ok(descriptor) = self.arena.descriptor(self.unit) else { return };
        let Identity { pid, start } = self.arena.identity();
        let kind = Kind::of(descriptor.state.load(Ordering::Acquire));
        // In the child of a fork this is a copy of its parent's, whose memory it is.
        if kind == Some(Kind::Held)
            && descriptor.holder_pid.load(Ordering::Relaxed) == pid
            && descriptor.holder_start.load(Ordering::Relaxed) == start
        {
            // A block that cannot be freed is damaged; the memory is lost, nothing else.
            let _ = self.arena.free(self.unit);
        }
    }
}
