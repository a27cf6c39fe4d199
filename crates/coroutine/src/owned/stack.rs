//! Stacks that never move, and a pool that keeps some of them warm.

use std::cell::{Cell, RefCell};

use weft_sys::mapping::{self, MappingError, StackMapping};

/// How large stacks are, and how many a pool keeps for reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackConfig {
    /// Usable bytes of a stack, rounded up to whole pages and to at least 16 KiB.
    ///
    /// The default is 256 KiB. Only pages that were touched cost memory (4 KiB for a flat
    /// coroutine), but page tables are paid by address: 512 bytes for 256 KiB. It is enough for a panic
    /// with a full backtrace in a debug build; raise it for deep recursion.
    /// Mind that every stack takes two mappings of the process (`vm.max_map_count`, 65,530 by default).
    pub size: usize,
    /// The most unused stacks that a pool keeps; the default is 256.
    pub kept: usize,
}

impl Default for StackConfig {
    fn default() -> Self {
        Self { size: 256 << 10, kept: 256 }
    }
}

/// The smallest stack that is handed out.
const MIN_SIZE: usize = 16 << 10;

/// How far apart the tops of successive stacks lie modulo a page, so that the hot lines of
/// different coroutines do not compete for the same sets of the cache.
const COLOUR_STRIDE: usize = 11 * 64;

/// Stack that may stay resident in an unused stack, in bytes.
const KEPT_DEPTH: usize = 32 << 10;

/// How many stacks come back between two looks for one that a deep coroutine left resident.
const TRIM_INTERVAL: usize = 32;

/// One stack with a guard page below it.
#[derive(Debug)]
pub struct Stack {
    mapping: StackMapping,
    colour: usize,
}

impl Stack {
    /// Maps a stack with at least `size` usable bytes.
    ///
    /// # Errors
    ///
    /// [`MappingError`] if the kernel refuses or the size is impossible.
    pub fn new(size: usize) -> Result<Self, MappingError> {
        Self::coloured(size, 0)
    }

    fn coloured(size: usize, nth: usize) -> Result<Self, MappingError> {
        let page = mapping::page_size();
        let wanted = size.max(MIN_SIZE);
        let mapping = StackMapping::new(wanted.checked_add(page).ok_or(MappingError::Size { size })?)?;
        Ok(Self { mapping, colour: nth.wrapping_mul(COLOUR_STRIDE) % page })
    }

    /// One past the highest usable address.
    #[inline]
    pub fn top(&self) -> *mut u8 {
        self.mapping.top().wrapping_sub(self.colour)
    }

    /// The lowest usable address.
    #[inline]
    pub fn limit(&self) -> *mut u8 {
        self.mapping.limit()
    }

    /// Usable bytes.
    #[inline]
    pub fn usable(&self) -> usize {
        self.mapping.usable() - self.colour
    }

    /// Bytes in memory beyond what an unused stack may keep.
    fn resident_excess(&self) -> usize {
        self.mapping.resident_below(KEPT_DEPTH)
    }

    /// Gives back what lies deeper than an unused stack may keep.
    fn trim(&mut self) {
        if self.resident_excess() > 0 {
            // SAFETY: `&mut self` of a stack that is not handed out: nothing lies on it.
            unsafe { self.mapping.discard_below(KEPT_DEPTH) };
        }
    }
}

/// Unused stacks of one size. The last one that came back is the next one out, because its top is warm.
///
/// A pool can be sent to another thread, but belongs to one at a time.
#[derive(Debug, Default)]
pub struct StackPool {
    config: StackConfig,
    unused: RefCell<Vec<Stack>>,
    mapped: Cell<usize>,
    returned: Cell<usize>,
}

impl StackPool {
    /// An empty pool; stacks are mapped when they are needed.
    pub fn new(config: StackConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// How many unused stacks it holds.
    pub fn unused(&self) -> usize {
        self.unused.borrow().len()
    }

    /// How many stacks it has mapped in its life.
    pub fn mapped(&self) -> usize {
        self.mapped.get()
    }

    /// Takes a warm stack, or maps one.
    ///
    /// # Errors
    ///
    /// [`MappingError`] if the kernel refuses a new one.
    pub fn take(&self) -> Result<Stack, MappingError> {
        if let Some(stack) = self.unused.borrow_mut().pop() {
            return Ok(stack);
        }
        let stack = Stack::coloured(self.config.size, self.mapped.get())?;
        self.mapped.set(self.mapped.get() + 1);
        Ok(stack)
    }

    /// Takes a stack back, or unmaps it if there are enough.
    pub fn give(&self, stack: Stack) {
        let mut unused = self.unused.borrow_mut();
        if unused.len() >= self.config.kept {
            return;
        }
        unused.push(stack);
        let returned = self.returned.get().wrapping_add(1);
        self.returned.set(returned);
        if returned.is_multiple_of(TRIM_INTERVAL) {
            let turn = (returned / TRIM_INTERVAL) % unused.len();
            unused[turn].trim();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_hands_the_warmest_stack_out_again_and_keeps_no_more_than_it_may() {
        let pool = StackPool::new(StackConfig { size: 64 << 10, kept: 2 });
        let stacks: Vec<Stack> = (0..3).map(|_| pool.take().unwrap()).collect();
        assert_eq!((pool.mapped(), pool.unused()), (3, 0));
        assert!(stacks.iter().all(|stack| stack.usable() >= 64 << 10));
        let tops: Vec<usize> = stacks.iter().map(|stack| stack.top().addr()).collect();
        assert_eq!(tops.iter().map(|top| top % 4096).collect::<std::collections::BTreeSet<_>>().len(), 3);
        for stack in stacks {
            pool.give(stack);
        }
        assert_eq!(pool.unused(), 2);
        assert_eq!(pool.take().unwrap().top().addr(), tops[1]);
        assert_eq!(pool.mapped(), 3);
    }

    #[test]
    fn deep_pages_of_unused_stacks_are_given_back() {
        let pool = StackPool::new(StackConfig { size: 1 << 20, kept: 4 });
        let stack = pool.take().unwrap();
        // SAFETY: the page lies in the usable part of a stack that this test holds and nobody runs on.
        unsafe { stack.limit().write(1) };
        assert!(stack.resident_excess() > 0);
        pool.give(stack);
        for _ in 0..2 * TRIM_INTERVAL {
            let stack = pool.take().unwrap();
            pool.give(stack);
        }
        assert_eq!(pool.take().unwrap().resident_excess(), 0);
    }

    #[test]
    fn impossible_sizes_are_errors_and_tiny_ones_are_raised() {
        assert!(matches!(Stack::new(usize::MAX), Err(MappingError::Size { .. })));
        assert!(matches!(Stack::new(1 << 60), Err(MappingError::Map { .. })));
        assert!(Stack::new(1).unwrap().usable() >= MIN_SIZE);
    }
}
