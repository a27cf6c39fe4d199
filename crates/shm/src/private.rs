//! A received buffer that stays private to its process, also across a fork.
//!
//! Shared memory stays shared in the child of a fork, so parent and child would write into each other's arrays, and
//! the parent, in freeing its own, would pull the memory away under the child. So each fork copies the buffers that
//! the parent holds (how much that can be is bounded by whoever wraps spans: beyond a budget it
//! copies them out), and the child maps the copies to the very addresses of the originals. Windows with such a patch
//! are of no use for anything else in the child, which opens them anew where it needs them.

use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use rustix::mm::{MapFlags, MremapFlags, ProtFlags};

use crate::fork::{self, Inherited, Rank};
use crate::layout::UNIT;
use crate::robust::{Robust, RobustMutex};
use crate::span::Span;

/// A span whose bytes no other process sees or changes, forked children included.
#[derive(Debug)]
pub struct PrivateSpan<L: Robust = RobustMutex> {
    span: Span<L>,
    /// During a fork: the copy for the child.
    copy: AtomicPtr<u8>,
    /// In a child: the memory is a copy and not the arena's.
    detached: AtomicBool,
}

impl<L: Robust + 'static> PrivateSpan<L> {
    /// Makes a span private.
    pub fn new(span: Span<L>) -> Arc<Self> {
        let private =
            Arc::new(Self { span, copy: AtomicPtr::new(ptr::null_mut()), detached: AtomicBool::new(false) });
        fork::register(Rank::Object, &private);
        private
    }
}

impl<L: Robust> PrivateSpan<L> {
    /// How many bytes it has.
    pub const fn len(&self) -> usize {
        self.span.len()
    }

    /// Whether it has no byte.
    pub const fn is_empty(&self) -> bool {
        self.span.is_empty()
    }

    /// Where it begins, in a child, too.
    pub const fn as_ptr(&self) -> *mut u8 {
        self.span.as_ptr()
    }

    const fn mapped(&self) -> usize {
        self.span.len().next_multiple_of(UNIT)
    }
}

impl<L: Robust> Inherited for PrivateSpan<L> {
    fn before(&self) {
        if self.is_empty() {
            return;
        }
        if self.detached.load(Ordering::Relaxed) {
            return; // an ordinary mapping by now, which forks as such
        }
        // SAFETY: a new mapping changes no memory in use; the copy stays inside of both.
        unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // Without memory for a copy the child shares the buffer: a fork cannot be refused from here.
            if let Ok(copy) = rustix::mm::mmap_anonymous(ptr::null_mut(), self.mapped(), access, flags) {
                copy.cast::<u8>().copy_from_nonoverlapping(self.as_ptr(), self.len());
                self.copy.store(copy.cast(), Ordering::Relaxed);
            }
        }
    }

    fn in_parent(&self) {
        if let Some(copy) = NonNull::new(self.copy.swap(ptr::null_mut(), Ordering::Relaxed)) {
            // SAFETY: mapped by `before` with this length; nobody else knows of it.
            unsafe { weft_sys::memory_file::unmap(copy, self.mapped()) };
        }
    }

    fn in_child(&self, _parent: u32) {
        let copy = self.copy.swap(ptr::null_mut(), Ordering::Relaxed);
        if copy.is_null() {
            return;
        }
        // SAFETY: the target is this span's own range, of whole pages, and stays mapped, with the same bytes.
        let moved = unsafe {
            let flags = MremapFlags::MAYMOVE;
            let target = self.as_ptr().cast();
            rustix::mm::mremap_fixed(copy.cast(), self.mapped(), self.mapped(), flags, target)
        };
        if moved.is_ok() {
            self.detached.store(true, Ordering::Relaxed);
            self.span.leave_window();
        }
    }
}

impl<L: Robust> Drop for PrivateSpan<L> {
    fn drop(&mut self) {
        fork::unregister(Rank::Object, ptr::from_ref(self).addr());
        if *self.detached.get_mut() && !self.span.has_view() {
            // SAFETY: the patch over the window's range, which nobody uses any more. The span's own drop frees
            // nothing, because the block is the parent's.
            unsafe {
                let start = NonNull::new_unchecked(self.as_ptr());
                weft_sys::memory_file::unmap(start, self.mapped());
            }
        }
    }
}
