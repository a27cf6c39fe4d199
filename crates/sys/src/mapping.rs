//! Guarded stack mappings.
//!
//! A [`StackMapping`] is a private anonymous mapping that grows down towards an inaccessible guard
//! region, so that running off the end is a fault and never a write into a neighbour. Nothing is
//! charged until a page is touched (`MAP_NORESERVE`).

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

/// Why a stack could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// The kernel refused the mapping: address space, the mapping count (`vm.max_map_count`) or
    /// an address-space limit (`RLIMIT_AS`) is used up.
    #[error(
        "cannot map a coroutine stack of {size} bytes: {source}; \
         raise the address-space limit (ulimit -v) or vm.max_map_count, or use fewer stacks"
    )]
    Map {
        /// The size that was asked for, guard included, in bytes.
        size: usize,
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
    /// The process has as many stacks as it should have; see [`stack_budget`].
    #[error(
        "the process has its {budget} coroutine stacks already; raise vm.max_map_count or the address-space limit"
    )]
    Budget {
        /// How many stacks the process may have.
        budget: usize,
    },
    /// The size is zero, or so large that page rounding overflows.
    #[error("a coroutine stack of {size} bytes is not possible")]
    Size {
        /// The size that was asked for, in bytes.
        size: usize,
    },
}

impl MappingError {
    /// The heap has no room for what must be noted about a stack of `size` bytes.
    pub const fn no_memory(size: usize) -> Self {
        Self::Map { size, source: rustix::io::Errno::NOMEM }
    }
}

/// The size of a page, in bytes.
pub fn page_size() -> usize {
    rustix::param::page_size()
}

/// The soft limit on the main thread's stack, in bytes; `None` if it is unlimited.
pub fn stack_limit() -> Option<usize> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Stack);
    limit.current.and_then(|bytes| usize::try_from(bytes).ok())
}

/// How many bytes of the calling thread's native stack lie above `address`; 0 if it is elsewhere.
pub fn native_stack_above(address: usize) -> usize {
    // SAFETY: an attribute object is plain data that `pthread_getattr_np` fills in for the calling
    // thread; it is read only after the calls succeeded and destroyed once.
    unsafe {
        let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
        if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) != 0 {
            return 0;
        }
        let mut base = ptr::null_mut::<c_void>();
        let mut size = 0;
        let status = libc::pthread_attr_getstack(&raw const attributes, &raw mut base, &raw mut size);
        libc::pthread_attr_destroy(&raw mut attributes);
        let top = base.addr() + size;
        if status == 0 && (base.addr()..top).contains(&address) { top - address } else { 0 }
    }
}

/// How many stacks the process should have at most, so that the rest of the program still gets its mappings.
///
/// Each stack takes two of the kernel's mappings (`vm.max_map_count`), of which stacks get half. Under an
/// address-space limit (`RLIMIT_AS`), they get a quarter of it; where the kernel charges address space like memory
/// (`vm.overcommit_memory` 2), a handful.
pub fn stack_budget(stack_size: usize) -> usize {
    const DEFAULT_MAP_COUNT: usize = 65_530;
    const STRICT_BUDGET: usize = 32;
    let setting = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/vm/{name}")).ok()?;
        text.trim().parse::<usize>().ok()
    };
    if setting("overcommit_memory") == Some(2) {
        return STRICT_BUDGET;
    }
    let by_count = setting("max_map_count").unwrap_or(DEFAULT_MAP_COUNT) / 4;
    let address_space = rustix::process::getrlimit(rustix::process::Resource::As).current;
    let by_space = address_space
        .and_then(|bytes| usize::try_from(bytes).ok())
        .map_or(usize::MAX, |bytes| bytes / 4 / stack_size.max(1));
    by_count.min(by_space)
}

/// One stack: `usable` bytes, below them a guard of one page that faults when touched.
#[derive(Debug)]
pub struct StackMapping {
    base: NonNull<u8>,
    guard: NonZeroUsize,
    len: NonZeroUsize,
}

// SAFETY: the mapping is plain memory that this value owns; nothing in it is tied to a thread.
unsafe impl Send for StackMapping {}
// SAFETY: `&StackMapping` gives out addresses only; every access goes through the caller's unsafe.
unsafe impl Sync for StackMapping {}

impl StackMapping {
    /// Maps a stack with at least `usable` bytes above its guard page.
    ///
    /// # Errors
    ///
    /// [`MappingError::Size`] for an impossible size, [`MappingError::Map`] if the kernel refuses.
    pub fn new(usable: usize) -> Result<Self, MappingError> {
        let page = page_size();
        let len = usable
            .checked_next_multiple_of(page)
            .and_then(|rounded| rounded.checked_add(page))
            .filter(|_| usable > 0)
            .and_then(NonZeroUsize::new)
            .ok_or(MappingError::Size { size: usable })?;
        // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                len.get(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK,
            )
        }
        .map_err(|source| MappingError::Map { size: len.get(), source })?;
        let mapping = Self {
            base: NonNull::new(base.cast()).expect("mmap never returns the null page"),
            guard: NonZeroUsize::new(page).expect("pages are not empty"),
            len,
        };
        // SAFETY: the first page lies inside the mapping made above, which nobody else knows yet.
        unsafe { rustix::mm::mprotect(base, page, MprotectFlags::empty()) }
            .map_err(|source| MappingError::Map { size: len.get(), source })?;
        // A stack whose first page brought in a huge one would cost 2 MiB. Kernels since 6.7 know that a stack
        // is none for huge pages; kernels built without them refuse, which is as good.
        // SAFETY: advice about the mapping made above changes no contents.
        let _ = unsafe { rustix::mm::madvise(base, len.get(), Advice::LinuxNoHugepage) };
        Ok(mapping)
    }

    /// The highest address, one past the end; page aligned. A stack starts here and grows down.
    #[inline]
    pub fn top(&self) -> *mut u8 {
        self.base.as_ptr().wrapping_add(self.len.get())
    }

    /// The lowest address that may be touched.
    #[inline]
    pub fn limit(&self) -> *mut u8 {
        self.base.as_ptr().wrapping_add(self.guard.get())
    }

    /// How many bytes may be used.
    #[inline]
    pub fn usable(&self) -> usize {
        self.len.get() - self.guard.get()
    }

    /// Gives every whole page below `keep` bytes from the top back to the kernel.
    ///
    /// # Safety
    ///
    /// Nothing below `top() - keep` is in use: the pages read as zeroes afterwards.
    pub unsafe fn discard_below(&self, keep: usize) {
        let keep = keep.next_multiple_of(page_size()).min(self.usable());
        let len = self.usable() - keep;
        if len == 0 {
            return;
        }
        // SAFETY: the range lies inside this mapping, and the caller says that it is unused.
        // An error leaves the pages as they were, which costs memory and nothing else.
        let _ = unsafe { rustix::mm::madvise(self.limit().cast::<c_void>(), len, Advice::LinuxDontNeed) };
    }
}

impl StackMapping {
    /// How many bytes of the whole pages below `keep` bytes from the top are in memory.
    pub fn resident_below(&self, keep: usize) -> usize {
        let page = page_size();
        let keep = keep.next_multiple_of(page).min(self.usable());
        let len = self.usable() - keep;
        let mut pages = [0u8; 512];
        let mut resident = 0;
        for offset in (0..len).step_by(pages.len() * page) {
            let part = (len - offset).min(pages.len() * page);
            // SAFETY: the range is page aligned and inside this mapping, and the array has a byte for
            // each of its pages.
            let status =
                unsafe { libc::mincore(self.limit().wrapping_add(offset).cast(), part, pages.as_mut_ptr()) };
            if status == 0 {
                resident += pages[..part / page].iter().filter(|&&flags| flags & 1 != 0).count() * page;
            }
        }
        resident
    }
}

impl Drop for StackMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and by ownership nobody runs on it any more.
        // munmap of a valid range fails only when it would need to split a mapping at the
        // mapping limit, which removing a whole mapping does not.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_rounded_up_and_writable_to_its_limit() {
        let stack = StackMapping::new(10_000).unwrap();
        assert_eq!(stack.usable() % page_size(), 0);
        assert!(stack.usable() >= 10_000);
        // SAFETY: both ends lie in the usable part of a mapping that this test owns.
        unsafe {
            stack.limit().write(1);
            stack.top().sub(1).write(2);
            assert_eq!(stack.limit().read(), 1);
        }
    }

    #[test]
    fn discarded_pages_read_as_zero_and_kept_ones_stay() {
        let stack = StackMapping::new(16 * page_size()).unwrap();
        // SAFETY: all addresses lie in the usable part, and nothing runs on this stack.
        unsafe {
            stack.limit().write(7);
            stack.top().sub(8).write(9);
            assert_eq!(stack.resident_below(page_size()), page_size());
            stack.discard_below(page_size());
            assert_eq!(stack.resident_below(page_size()), 0);
            assert_eq!(stack.limit().read(), 0);
            assert_eq!(stack.top().sub(8).read(), 9);
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert!(matches!(StackMapping::new(0), Err(MappingError::Size { .. })));
        assert!(matches!(StackMapping::new(usize::MAX - 5), Err(MappingError::Size { .. })));
        let error = StackMapping::new(1 << 60).unwrap_err();
        assert!(error.to_string().contains("cannot map a coroutine stack"));
    }
}
