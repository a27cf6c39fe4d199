//! Where the live part of a stack lies while it is not in its slot.

use std::alloc::{self, Layout};
use std::ptr;

use super::SwitchError;

/// A buffer on the heap; the last `len` bytes of it are a stack's live part.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) data: *mut u8,
    pub(super) capacity: u32,
    pub(super) len: u32,
}

impl Image {
    pub(super) const EMPTY: Self = Self { data: ptr::null_mut(), capacity: 0, len: 0 };

    fn layout(capacity: u32) -> Layout {
        Layout::from_size_align(capacity as usize, 16).expect("a u32 size never overflows a layout")
    }

    /// Whether the buffer holds `size` bytes without wasting much.
    pub(super) const fn fits(&self, size: usize) -> bool {
        let capacity = self.capacity as usize;
        capacity >= size && capacity / 2 <= size && !self.data.is_null()
    }

    /// Where an image of `len` bytes begins.
    pub(super) const fn start(&self, len: usize) -> *mut u8 {
        self.data.wrapping_add(self.capacity as usize - len)
    }

    /// Makes room for `size` bytes; keeps a buffer that already fits well.
    pub(super) fn reserve(&mut self, size: usize) -> Result<(), SwitchError> {
        if self.fits(size) {
            return Ok(());
        }
        let wanted = u32::try_from(size).map_err(|_| SwitchError::Image { size })?;
        let capacity = wanted.next_multiple_of(16).max(16);
        // SAFETY: the layout is not empty.
        let data = unsafe { alloc::alloc(Self::layout(capacity)) };
        if data.is_null() {
            return Err(SwitchError::Image { size });
        }
        self.release();
        self.data = data;
        self.capacity = capacity;
        Ok(())
    }

    pub(super) fn release(&mut self) {
        if !self.data.is_null() {
            // SAFETY: allocated by `reserve` with this very layout, and given up here.
            unsafe { alloc::dealloc(self.data, Self::layout(self.capacity)) };
        }
        *self = Self::EMPTY;
    }
}
