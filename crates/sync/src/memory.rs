//! The shared memory of one object, with a type.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::owner;
use weft_shm::{Arena, Carrier, Handle, ShmError};

/// What an object's memory consists of.
///
/// # Safety
///
/// `repr(C)`, valid for all zeroes, made of atomics and locks only, and with nothing in it that depends on the process.
pub(crate) unsafe trait Layout: Sync {
    /// What tells it from other kinds. No two kinds have the same.
    const TAG: u64;
}

#[repr(C)]
struct Tagged<T> {
    tag: AtomicU64,
    value: T,
}

/// A `T` in shared memory, and whatever `extra` bytes lie behind it.
pub(crate) struct Memory<T> {
    place: NonNull<T>,
    shared: Carrier,
    _value: PhantomData<T>,
}

// SAFETY: the value is shared between processes anyway, and `Sync` by the contract of `Layout`.
unsafe impl<T: Layout> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Layout> Sync for Memory<T> {}

impl<T> fmt::Debug for Memory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl<T: Layout> Memory<T> {
    const BYTES: usize = size_of::<Tagged<T>>();

    /// A new one, zeroed before `init` sees it.
    pub(crate) fn create(
        arena: &Arc<Arena>,
        extra: usize,
        init: impl FnOnce(NonNull<T>),
    ) -> Result<Self, ShmError> {
        let shared = Carrier::create(arena, Self::BYTES + extra, |start| {
            let tagged = start.cast::<Tagged<T>>();
            // SAFETY: zeroed, long enough, aligned to 64, and nobody else's yet.
            unsafe {
                init(NonNull::new_unchecked(&raw mut (*tagged.as_ptr()).value));
                (*tagged.as_ptr()).tag.store(T::TAG, Ordering::Release);
            }
        })?;
        Ok(Self::with(shared))
    }

    /// The one that another process made.
    pub(crate) fn attach(arena: &Arc<Arena>, handle: Handle, extra: usize) -> Result<Self, ShmError> {
        let shared = Carrier::attach(arena, handle, Self::BYTES + extra)?;
        // SAFETY: at least as long as a tagged value, mapped, and atomic.
        let tag = unsafe { &(*shared.start().cast::<Tagged<T>>().as_ptr()).tag };
        if tag.load(Ordering::Acquire) != T::TAG {
            return Err(ShmError::Damaged { what: "an object is not of the kind that it was taken for" });
        }
        Ok(Self::with(shared))
    }

    fn with(shared: Carrier) -> Self {
        owner::prepare_for_forks();
        // SAFETY: the memory has at least this size. No reference is made: others use it at the same time.
        let place =
            unsafe { NonNull::new_unchecked(&raw mut (*shared.start().cast::<Tagged<T>>().as_ptr()).value) };
        Self { place, shared, _value: PhantomData }
    }

    /// What lies behind the value.
    pub(crate) fn extra(&self) -> NonNull<u8> {
        // SAFETY: one behind the value, where the extra bytes begin.
        unsafe { self.place.add(1).cast() }
    }

    pub(crate) const fn shared(&self) -> &Carrier {
        &self.shared
    }
}

impl<T: Layout> Deref for Memory<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: mapped as long as `shared` lives, and valid whatever other processes write, by the contract.
        unsafe { self.place.as_ref() }
    }
}
