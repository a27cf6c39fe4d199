//! Data that the GIL protects.

use std::cell::UnsafeCell;

/// A static that only the holder of the GIL touches.
///
/// Unlike a lock it costs nothing and cannot be held by a thread that a fork left behind.
#[derive(Debug)]
pub(crate) struct GilCell<T>(UnsafeCell<T>);

// SAFETY: every access goes through `get`, whose user holds the GIL, so accesses never overlap.
unsafe impl<T> Sync for GilCell<T> {}

impl<T> GilCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// The place. Whoever reads or writes it holds the GIL and keeps no reference across anything that may
    /// run Python code.
    #[inline(always)]
    pub(crate) const fn get(&self) -> *mut T {
        self.0.get()
    }
}
