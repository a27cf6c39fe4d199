//! A shared object for other crates that carries large buffers between those who hold it.
//!
//! It is a few words of shared memory that live as long as a living process holds them, and it can own spans: a
//! buffer that was handed over to it belongs to nobody else until somebody takes it over by its number. What was
//! handed over and never taken goes with the object, or when its user says that nobody can ask for it any more.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::arena::Arena;
use crate::error::ShmError;
use crate::object::{Handle, Object, PROLOGUE};
use crate::robust::RobustMutex;
use crate::span::Span;
use crate::windows::View;

/// What lies between the object's own words and the user's.
#[repr(C, align(64))]
struct Header {
    /// Not 0 once a span was handed over: then the end of the object has to look for what is left.
    used: AtomicU32,
}

const START: usize = PROLOGUE + size_of::<Header>();

/// Memory that a carrier owns, as one process sees it.
#[derive(Debug)]
pub struct Look {
    start: NonNull<u8>,
    size: usize,
    /// Keeps it mapped.
    _view: Option<Arc<View>>,
}

// SAFETY: memory shared between processes; those who use it see to their own order.
unsafe impl Send for Look {}

impl Look {
    /// Where it begins.
    pub const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How many bytes it has: the whole of its block.
    pub const fn size(&self) -> usize {
        self.size
    }
}

/// One process's handle of it. Dropping the last one of all processes frees it, and what it carries.
///
/// A forked child has it, too, at the same place.
#[derive(Debug)]
pub struct Carrier {
    object: Arc<Object<RobustMutex>>,
}

impl Carrier {
    /// So many bytes are not the user's. An object takes whole units, a power of two of them.
    pub const OVERHEAD: usize = START;

    /// New memory of `size` bytes, aligned to 64, zero but for what `init` writes before anybody else can see it.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had.
    pub fn create(arena: &Arc<Arena>, size: usize, init: impl FnOnce(NonNull<u8>)) -> Result<Self, ShmError> {
        // SAFETY: the object is at least this long.
        let object = Object::create(arena, START + size, |start, _| init(unsafe { start.add(START) }))?;
        Ok(Self { object })
    }

    /// The one that another process made, with at least `size` bytes.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if it has ended, [`ShmError::Damaged`] if it is smaller, [`ShmError`] if there is no room for
    /// another holder.
    pub fn attach(arena: &Arc<Arena>, handle: Handle, size: usize) -> Result<Self, ShmError> {
        let carrier = Self { object: Object::attach(arena, handle)? };
        let (_, length) = arena.piece(handle.unit)?;
        if length < START + size {
            return Err(ShmError::Damaged { what: "an object is smaller than its kind can be" });
        }
        Ok(carrier)
    }

    /// Where the memory is, in this process and all it forks, for as long as this handle lives.
    #[inline]
    pub fn start(&self) -> NonNull<u8> {
        // SAFETY: the object is longer than this.
        unsafe { self.object.start().add(START) }
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

    fn header(&self) -> &Header {
        // SAFETY: it lies behind the prologue, zeroed at first, all of it atomic, mapped as long as the arena.
        unsafe { self.object.start().add(PROLOGUE).cast::<Header>().as_ref() }
    }

    /// Hands `span` over under the number `ordinal`. The caller then [forgets](Self::forget) it, or
    /// [takes it back](Self::take_back) if nobody was told of it. Returns what [`take_over`](Self::take_over) needs.
    ///
    /// # Errors
    ///
    /// [`ShmError::Damaged`].
    pub fn hand_over(&self, span: &Span, ordinal: u64) -> Result<u32, ShmError> {
        self.header().used.store(1, Ordering::Relaxed);
        span.hand_over(self.handle().unit, ordinal)?;
        Ok(span.unit())
    }

    /// Makes `span`, which was handed over, the caller's again.
    ///
    /// # Errors
    ///
    /// [`ShmError::Damaged`].
    pub fn take_back(&self, span: &Span) -> Result<(), ShmError> {
        span.take_back()
    }

    /// Lets go of a span that is this object's now.
    pub fn forget(&self, span: Span) {
        span.forget();
    }

    /// The span at `unit` with `length` bytes that was handed over under the number `ordinal`: it is the caller's.
    ///
    /// # Errors
    ///
    /// [`ShmError::Damaged`] if there is none such, [`ShmError::System`] if it cannot be mapped.
    pub fn take_over(&self, unit: u32, length: usize, ordinal: u64) -> Result<Span, ShmError> {
        let span = Span::peek(self.arena(), unit, length, self.handle().unit, ordinal)?;
        span.take_over()?;
        Ok(span)
    }

    /// The memory that was handed over under the number `ordinal` and lies at `unit`, for as long as it stays the object's:
    /// whoever shares the object agrees on who takes it over, or discards it, and when nobody looks at it any more.
    ///
    /// # Errors
    ///
    /// [`ShmError::Damaged`] if there is none such, [`ShmError::System`] if it cannot be mapped.
    pub fn look(&self, unit: u32, ordinal: u64) -> Result<Look, ShmError> {
        let (start, size, view) = Span::peek(self.arena(), unit, 0, self.handle().unit, ordinal)
            .and_then(|span| self.arena().block(unit).inspect(|_| span.forget()))?;
        Ok(Look { start, size, _view: view })
    }

    /// Frees what was handed over and can never be taken, by its number.
    ///
    /// # Errors
    ///
    /// [`ShmError::Damaged`], or [`ShmError::System`] if memory that has to be looked at cannot be mapped.
    pub fn discard(&self, is_garbage: impl Fn(u64) -> bool) -> Result<(), ShmError> {
        if self.header().used.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        self.arena().free_garbage(self.handle().unit, |_, ordinal| is_garbage(ordinal))
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        let has_parts = || self.header().used.load(Ordering::Relaxed) != 0 || self.object.has_more_holders();
        // Damage is met, and reported, where it stands in somebody's way.
        let _ = self.object.leave(has_parts);
    }
}
