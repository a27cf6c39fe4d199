//! What takes the place of [`memory_file`](crate::memory_file) under Miri, which knows neither memory files nor shared
//! mappings.
//!
//! A file is memory of this one process, of which each range that was mapped is an allocation of its own. So
//! Miri sees what the kernel would not: an access beyond the end of a mapping, an access after its end (what was in it is
//! kept elsewhere then), memory that was given back to the system while somebody still uses it.
//!
//! It differs from the kernel's file in this:
//!
//! * whoever maps the same range gets the same address, so a pointer that one process leaves for another goes unnoticed;
//! * ranges that overlap without being the same share no bytes: a block larger than a window, and the smaller ones
//!   that were in its place before. Nobody relies on what is in a new block;
//! * memory that was never taken reads as zeros and may be written, as with the kernel while there is enough;
//! * its calls order the threads that make them one after the other, which the kernel's are not known to do.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::EventfdFlags;
use rustix::io::Errno;

const PAGE: u64 = 4096;

/// What this process has of files and mappings.
static KERNEL: Mutex<Kernel> =
    Mutex::new(Kernel { created: 0, files: BTreeMap::new(), mapped: BTreeMap::new() });

struct Kernel {
    created: u32,
    /// By inode.
    files: BTreeMap<u32, Weak<Contents>>,
    /// By address.
    mapped: BTreeMap<usize, Mapping>,
}

/// A mapping keeps its file.
struct Mapping {
    file: Arc<Contents>,
    times: usize,
}

fn kernel() -> MutexGuard<'static, Kernel> {
    KERNEL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changed with the `KERNEL` locked only.
#[derive(Debug)]
struct Contents {
    length: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    ranges: Vec<Range>,
    /// One bit for each page: whether it takes memory.
    taken: Vec<u64>,
}

impl Contents {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `change` with each word that has a page of `from..to`, and the bits of those that it has.
    fn each_word(&self, from: u64, to: u64, change: impl Fn(&mut u64, u64)) {
        let mut inner = self.inner();
        for (index, word) in inner.taken.iter_mut().enumerate().take(to.div_ceil(64) as usize) {
            let start = index as u64 * 64;
            let (first, end) = (from.clamp(start, start + 64), to.clamp(start, start + 64));
            let bits = |count: u64| if count == 64 { u64::MAX } else { (1 << count) - 1 };
            change(word, bits(end - start) & !bits(first - start));
        }
    }
}

/// Some bytes of a file.
#[derive(Debug)]
struct Range {
    offset: u64,
    length: usize,
    start: NonNull<u8>,
}

// SAFETY: it is memory as it would be shared between processes; those who use it see to their own order.
unsafe impl Send for Range {}

impl Range {
    fn new(offset: u64, length: usize) -> Self {
        let layout = Self::layout(length);
        // SAFETY: nobody maps nothing, `map` refuses it.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { offset, length, start }
    }

    fn layout(length: usize) -> Layout {
        match Layout::from_size_align(length, PAGE as usize) {
            Ok(layout) => layout,
            Err(error) => panic!("a mapping of {length} bytes: {error}"),
        }
    }

    /// The same bytes in another place: what still points to this one points to nothing.
    fn moved(&self) -> Self {
        let other = Self::new(self.offset, self.length);
        // SAFETY: two allocations of this length.
        unsafe { other.start.copy_from_nonoverlapping(self.start, self.length) };
        other
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.length)) };
    }
}

/// An anonymous file of fixed length. It has no name, and vanishes with its last descriptor and mapping.
#[derive(Debug)]
pub struct MemoryFile {
    /// A counter of the kernel's, which Miri knows, that stands at the inode.
    file: OwnedFd,
    inode: u32,
    contents: Arc<Contents>,
}

impl MemoryFile {
    /// A new file of `length` bytes, none of which takes memory yet. It can neither grow nor shrink.
    pub fn create(_name: &str, length: u64) -> Result<Self, Errno> {
        let mut kernel = kernel();
        kernel.created += 1;
        let inode = kernel.created;
        let file = rustix::event::eventfd(inode, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let taken = vec![0; length.div_ceil(64 * PAGE) as usize];
        let contents = Arc::new(Contents { length, inner: Mutex::new(Inner { ranges: Vec::new(), taken }) });
        kernel.files.insert(inode, Arc::downgrade(&contents));
        Ok(Self { file, inode, contents })
    }

    /// The file behind a descriptor that another process handed over.
    pub fn adopt(file: OwnedFd) -> Result<Self, Errno> {
        let kernel = kernel();
        // Reading it takes it out.
        let mut counter = [0; 8];
        rustix::io::read(&file, &mut counter).map_err(|_| Errno::INVAL)?;
        rustix::io::write(&file, &counter)?;
        let inode = u32::try_from(u64::from_ne_bytes(counter)).map_err(|_| Errno::INVAL)?;
        let contents = kernel.files.get(&inode).and_then(Weak::upgrade).ok_or(Errno::INVAL)?;
        Ok(Self { file, inode, contents })
    }

    /// How long it is, in bytes.
    pub fn len(&self) -> u64 {
        self.contents.length
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What tells it from other files.
    pub const fn inode(&self) -> u64 {
        self.inode as u64
    }

    /// `EBADF` if the descriptor is not that of this file any more: nobody closes it here.
    pub fn check(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// How many bytes of memory it takes at present.
    pub fn resident(&self) -> Result<u64, Errno> {
        let _kernel = kernel();
        let inner = self.contents.inner();
        Ok(inner.taken.iter().map(|word| u64::from(word.count_ones())).sum::<u64>() * PAGE)
    }

    /// Takes memory for a range now, so that touching it later cannot fail.
    pub fn populate(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let end = self.end(offset, length)?;
        let _kernel = kernel();
        self.contents.each_word(offset / PAGE, end.div_ceil(PAGE), |word, bits| *word |= bits);
        Ok(())
    }

    /// Gives the memory of a range back to the system; it reads as zeros afterwards.
    pub fn release(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let end = self.end(offset, length)?;
        let _kernel = kernel();
        self.contents.each_word(offset.div_ceil(PAGE), end / PAGE, |word, bits| *word &= !bits);
        for range in &self.contents.inner().ranges {
            let (from, to) = (offset.max(range.offset), end.min(range.offset + range.length as u64));
            if from < to {
                // SAFETY: inside of the range. Whoever uses it at the same time, Miri reports.
                unsafe {
                    range.start.add((from - range.offset) as usize).write_bytes(0, (to - from) as usize)
                };
            }
        }
        Ok(())
    }

    /// Maps a range, shared, to read and write.
    pub fn map(&self, offset: u64, length: usize) -> Result<NonNull<u8>, Errno> {
        self.end(offset, length as u64)?;
        let mut kernel = kernel();
        let mut inner = self.contents.inner();
        let known = inner.ranges.iter().position(|range| (range.offset, range.length) == (offset, length));
        let index = known.unwrap_or_else(|| {
            inner.ranges.push(Range::new(offset, length));
            inner.ranges.len() - 1
        });
        let start = inner.ranges[index].start;
        drop(inner);
        let file = Arc::clone(&self.contents);
        kernel.mapped.entry(start.addr().get()).or_insert(Mapping { file, times: 0 }).times += 1;
        Ok(start)
    }

    /// The end of a range that has bytes, and lies in the file.
    fn end(&self, offset: u64, length: u64) -> Result<u64, Errno> {
        let end = offset.checked_add(length).filter(|end| length > 0 && *end <= self.len());
        end.ok_or(Errno::INVAL)
    }
}

impl AsFd for MemoryFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Ends a mapping made by [`MemoryFile::map`].
///
/// # Safety
///
/// The range is exactly one mapping of `map`, and nothing refers into it any more.
pub unsafe fn unmap(start: NonNull<u8>, length: usize) {
    let mut kernel = kernel();
    let address = start.addr().get();
    let Some(mapping) = kernel.mapped.get_mut(&address) else {
        panic!("nothing is mapped at {address:#x}");
    };
    mapping.times -= 1;
    let is_last = mapping.times == 0;
    let file = Arc::clone(&mapping.file);
    let mut inner = file.inner();
    let Some(range) = inner.ranges.iter_mut().find(|range| range.start == start) else {
        panic!("what is mapped at {address:#x} is no part of its file");
    };
    assert_eq!(range.length, length, "a mapping was ended in part");
    if is_last {
        *range = range.moved();
        kernel.mapped.remove(&address);
    }
}
