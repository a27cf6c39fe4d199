//! How one process sees an arena: mapped piece by piece, where it looks.
//!
//! A sparse file of many gigabytes mapped whole would use up an address-space limit. So it is mapped in
//! *windows* of 16 MiB, each when it is first looked at and for good, and what is larger than a window by a
//! *view* of its own, shared by those who use it and kept warm for a while.

use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use weft_sys::memory_file::{MemoryFile, unmap};

use crate::error::ShmError;
use crate::layout::{UNIT, UNIT_SHIFT};
use crate::lock::Mutex;

const WINDOW_SHIFT: u32 = 24;
const WINDOW: usize = 1 << WINDOW_SHIFT;

/// Views that are kept though nobody uses them: a few, and not more bytes than this.
const KEPT_VIEWS: usize = 16;
const KEPT_BYTES: usize = 512 << 20;

/// A mapping of its own, for one large block.
#[derive(Debug)]
pub(crate) struct View {
    start: NonNull<u8>,
    length: usize,
    offset: u64,
}

// SAFETY: it is memory shared between processes; those who use it see to their own order.
unsafe impl Send for View {}
// SAFETY: as above; the fields never change.
unsafe impl Sync for View {}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: made by `map`, and whoever holds a pointer into it holds the `Arc` of it, too.
        unsafe { unmap(self.start, self.length) };
    }
}

pub(crate) struct Windows {
    file: MemoryFile,
    windows: Box<[AtomicPtr<u8>]>,
    views: Mutex<Vec<Arc<View>>>,
}

impl fmt::Debug for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Windows").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Windows {
    pub(crate) fn new(file: MemoryFile) -> Self {
        let count = file.len().div_ceil(WINDOW as u64) as usize;
        let windows = (0..count).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        Self { file, windows, views: Mutex::new(Vec::new()) }
    }

    pub(crate) const fn file(&self) -> &MemoryFile {
        &self.file
    }

    /// Where `offset` of the file is mapped. The bytes up to the end of its window are, too.
    #[inline]
    pub(crate) fn at(&self, offset: u64) -> Result<NonNull<u8>, ShmError> {
        let index = (offset >> WINDOW_SHIFT) as usize;
        let Some(slot) = self.windows.get(index) else {
            return Err(ShmError::Damaged { what: "an offset lies outside of the segment" });
        };
        let start = match NonNull::new(slot.load(Ordering::Acquire)) {
            Some(start) => start,
            None => self.open(slot, index)?,
        };
        // SAFETY: the remainder is less than the length of the mapping.
        Ok(unsafe { start.add(offset as usize & (WINDOW - 1)) })
    }

    #[cold]
    fn open(&self, slot: &AtomicPtr<u8>, index: usize) -> Result<NonNull<u8>, ShmError> {
        let offset = (index as u64) << WINDOW_SHIFT;
        let length = WINDOW.min((self.file.len() - offset) as usize);
        let mapped = self.file.map(offset, length).map_err(|source| system("map", length as u64, source))?;
        // No lock, which a fork at a bad moment would leave locked in the child: the first one wins.
        match slot.compare_exchange(ptr::null_mut(), mapped.as_ptr(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(mapped),
            Err(other) => {
                // SAFETY: just mapped, and nobody has seen it.
                unsafe { unmap(mapped, length) };
                NonNull::new(other).ok_or(ShmError::Damaged { what: "a window was closed" })
            }
        }
    }

    /// Where a block is mapped as one piece, and what keeps it mapped, if it needs that.
    ///
    /// `size` is the whole size of the block, a power of two of units, to which `offset` is aligned.
    pub(crate) fn block(
        &self,
        offset: u64,
        size: usize,
    ) -> Result<(NonNull<u8>, Option<Arc<View>>), ShmError> {
        debug_assert!(size.is_power_of_two() && size >= UNIT && offset.is_multiple_of(size as u64));
        if size <= WINDOW {
            return Ok((self.at(offset)?, None));
        }
        if offset.saturating_add(size as u64) > self.file.len() {
            return Err(ShmError::Damaged { what: "a block lies outside of the segment" });
        }
        let mut views = self.views.lock();
        if let Some(found) = views.iter().position(|view| view.offset == offset && view.length >= size) {
            let view = views.remove(found);
            views.push(Arc::clone(&view));
            return Ok((view.start, Some(view)));
        }
        let start = self.file.map(offset, size).map_err(|source| system("map", size as u64, source))?;
        let view = Arc::new(View { start, length: size, offset });
        views.retain(|old| old.offset != offset);
        views.push(Arc::clone(&view));
        while views.len() > 1
            && (views.len() > KEPT_VIEWS || views.iter().map(|view| view.length).sum::<usize>() > KEPT_BYTES)
        {
            views.remove(0);
        }
        Ok((start, Some(view)))
    }

    /// Does not use the mapping of the block `unit` for anything new. It stays for those who point into it.
    pub(crate) fn forget(&self, unit: u32) {
        let offset = u64::from(unit) << UNIT_SHIFT;
        if let Some(slot) = self.windows.get((offset >> WINDOW_SHIFT) as usize) {
            slot.store(ptr::null_mut(), Ordering::Release);
        }
        self.views.lock().retain(|view| view.offset != offset);
    }

    /// For the time of a fork: nobody changes the list of views.
    pub(crate) fn freeze(&self) {
        std::mem::forget(self.views.lock());
    }

    /// # Safety
    ///
    /// The calling thread, or in a new child its parent's, called [`freeze`](Self::freeze) before.
    pub(crate) unsafe fn thaw(&self) {
        // SAFETY: locked by `freeze`, whose guard was forgotten.
        drop(unsafe { self.views.resume() });
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        for (index, slot) in self.windows.iter_mut().enumerate() {
            if let Some(start) = NonNull::new(*slot.get_mut()) {
                let offset = (index as u64) << WINDOW_SHIFT;
                // SAFETY: mapped by `open` with this length; who points into it borrows or shares the arena.
                unsafe { unmap(start, WINDOW.min((self.file.len() - offset) as usize)) };
            }
        }
    }
}

pub(crate) const fn system(what: &'static str, bytes: u64, source: rustix::io::Errno) -> ShmError {
    ShmError::System { what, bytes, source }
}
