//! One segment of memory for all shared objects of a program.
//!
//! An arena is a sealed memory file (one descriptor a process, however many queues) cut into blocks by a
//! buddy allocator ([`buddy`](crate::buddy)). Who may free a block is written in its descriptor, so that
//! what a dead process left can be told and taken back ([`sweep`](crate::sweep)).

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use weft_sys::memory_file::MemoryFile;
use weft_sys::memory_limit;

use crate::crash::crash_point;
use crate::error::ShmError;
use crate::fork::{self, Inherited, Rank};
use crate::identity::Identity;
use crate::layout::{Descriptor, Header, Kind, MAGIC, UNIT, UNIT_SHIFT, VERSION, order_for, order_of, state};
use crate::robust::{Held, Robust, RobustMutex};
use crate::windows::{View, Windows, system};

const SMALLEST: u64 = 64 << 20;
const USUAL: u64 = 64 << 30;
const LARGEST: u64 = 1 << 40;

/// Shared memory for many objects.
pub struct Arena<L: Robust = RobustMutex> {
    windows: Windows,
    header: NonNull<Header<L>>,
    units: u32,
    first: u32,
    /// This process: pid and start. Set anew in the child of a fork.
    identity: AtomicU64,
}

// SAFETY: all state behind the pointers is shared between processes, atomic, and guarded by the arena's lock.
unsafe impl<L: Robust> Send for Arena<L> {}
// SAFETY: as above.
unsafe impl<L: Robust> Sync for Arena<L> {}

impl<L: Robust> fmt::Debug for Arena<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("windows", &self.windows)
            .field("units", &self.units)
            .finish_non_exhaustive()
    }
}

/// Where a block is mapped, how large it is, and what keeps it mapped, if it needs that.
pub(crate) type Mapped = (NonNull<u8>, usize, Option<Arc<View>>);

/// The arena's lock, held.
pub(crate) struct Locked<'a, L: Robust> {
    pub(crate) arena: &'a Arena<L>,
}

impl<L: Robust> Drop for Locked<'_, L> {
    fn drop(&mut self) {
        if std::thread::panicking() && !L::PANIC_IS_DEATH {
            // What a panic left half done has to be put in order as after a death.
            self.arena.header().torn.store(1, Ordering::Relaxed);
        }
        // SAFETY: held since this was made, by this thread.
        unsafe { self.arena.header().lock.unlock() };
    }
}

impl<L: Robust + 'static> Arena<L> {
    /// A new arena, as large as the machine and the limits of this process allow; none of it takes memory yet.
    ///
    /// # Errors
    ///
    /// [`ShmError::System`] if there is no descriptor, address space or memory left.
    pub fn create() -> Result<Arc<Self>, ShmError> {
        let size = usual_size();
        if size < SMALLEST {
            return Err(system("create", SMALLEST, Errno::FBIG));
        }
        let file = MemoryFile::create("weft", size).map_err(|source| system("create", size, source))?;
        let units = (size >> UNIT_SHIFT) as u32;
        file.populate(0, UNIT as u64).map_err(|source| system("take", UNIT as u64, source))?;
        let windows = Windows::new(file);
        let header = windows.at(0)?.cast::<Header<L>>();
        let first = first_unit(units);
        // SAFETY: the first unit is ours alone, zeroed, and large enough for a header, as `layout` asserts.
        unsafe {
            L::init(&raw mut (*header.as_ptr()).lock);
            let header = header.as_ref();
            header.units.store(units, Ordering::Relaxed);
            header.first.store(first, Ordering::Relaxed);
            header.high_water.store(first, Ordering::Relaxed);
            header.version.store(VERSION, Ordering::Relaxed);
            header.magic.store(MAGIC, Ordering::Release);
        }
        Ok(Self::with(windows, header, units, first))
    }

    /// The arena behind a descriptor that another process of this program handed over.
    ///
    /// # Errors
    ///
    /// [`ShmError::Foreign`] if it is something else, [`ShmError::System`] if it cannot be mapped.
    pub fn attach(descriptor: OwnedFd) -> Result<Arc<Self>, ShmError> {
        let fd = descriptor.as_raw_fd();
        let foreign = |reason| ShmError::Foreign { fd, reason };
        let file = MemoryFile::adopt(descriptor).map_err(|_| foreign("it is no sealed memory file"))?;
        if !(SMALLEST..=LARGEST).contains(&file.len()) || !file.len().is_power_of_two() {
            return Err(foreign("it has not the length of one"));
        }
        let length = file.len();
        let windows = Windows::new(file);
        let header = windows.at(0)?.cast::<Header<L>>();
        // SAFETY: the first window is mapped and at least as long as a header, whose fields may have any value.
        let seen = unsafe { header.as_ref() };
        if seen.magic.load(Ordering::Acquire) != MAGIC {
            return Err(foreign("it does not begin as one"));
        }
        if seen.version.load(Ordering::Relaxed) != VERSION {
            return Err(foreign("another version of weft made it"));
        }
        let units = seen.units.load(Ordering::Relaxed);
        let first = seen.first.load(Ordering::Relaxed);
        if u64::from(units) << UNIT_SHIFT != length || first != first_unit(units) {
            return Err(foreign("its header contradicts its length"));
        }
        Ok(Self::with(windows, header, units, first))
    }

    fn with(windows: Windows, header: NonNull<Header<L>>, units: u32, first: u32) -> Arc<Self> {
        let arena = Self { windows, header, units, first, identity: AtomicU64::new(0) };
        arena.renew_identity();
        let arena = Arc::new(arena);
        fork::register(Rank::Arena, &arena);
        arena
    }
}

impl<L: Robust> Arena<L> {
    /// What tells this arena from others, in this and other processes.
    pub const fn id(&self) -> u64 {
        self.windows.file().inode()
    }

    /// An error if this process's descriptor of it was closed behind its back. What is mapped stays usable then, but nothing
    /// more can be taken, given back, or handed to another process.
    ///
    /// # Errors
    ///
    /// [`ShmError::System`].
    pub fn check(&self) -> Result<(), ShmError> {
        self.windows.file().check().map_err(|source| system("reach", 0, source))
    }

    /// How many bytes of memory the arena takes at present, in all processes together.
    ///
    /// # Errors
    ///
    /// [`ShmError::System`] if the system does not say.
    pub fn resident(&self) -> Result<u64, ShmError> {
        self.windows.file().resident().map_err(|source| system("ask for", 0, source))
    }

    /// How many blocks are in use, by anybody and for anything.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the segment is damaged, or cannot be mapped.
    pub fn blocks_in_use(&self) -> Result<usize, ShmError> {
        let mut count = 0;
        self.lock().walk(|_, _, _| count += 1)?;
        Ok(count)
    }

    /// Who this process is.
    pub fn identity(&self) -> Identity {
        let word = self.identity.load(Ordering::Relaxed);
        Identity { pid: word as u32, start: (word >> 32) as u32 }
    }

    /// Finds out again who this process is: it is the child of a fork.
    pub(crate) fn renew_identity(&self) {
        let Identity { pid, start } = Identity::current();
        self.identity.store(u64::from(start) << 32 | u64::from(pid), Ordering::Relaxed);
    }

    /// Passes for another process.
    #[cfg(test)]
    pub(crate) fn pretend(&self, Identity { pid, start }: Identity) {
        self.identity.store(u64::from(start) << 32 | u64::from(pid), Ordering::Relaxed);
    }

    pub(crate) const fn windows(&self) -> &Windows {
        &self.windows
    }

    pub(crate) const fn header(&self) -> &Header<L> {
        // SAFETY: mapped for as long as `self`, and all its fields are atomic or locks.
        unsafe { self.header.as_ref() }
    }

    pub(crate) const fn units(&self) -> u32 {
        self.units
    }

    pub(crate) const fn first(&self) -> u32 {
        self.first
    }

    pub(crate) fn descriptor(&self, unit: u32) -> Result<&Descriptor, ShmError> {
        if unit >= self.units {
            return Err(ShmError::Damaged { what: "a block's number is too large" });
        }
        let place = self.windows.at(UNIT as u64 + u64::from(unit) * size_of::<Descriptor>() as u64)?;
        // SAFETY: 64 divides the window's length, so it lies in one piece; mapped as long as `self`; all atomic.
        Ok(unsafe { place.cast::<Descriptor>().as_ref() })
    }

    /// Where a block lies, how large it is, and what keeps it mapped.
    pub(crate) fn block(&self, unit: u32) -> Result<Mapped, ShmError> {
        let order = order_of(self.descriptor(unit)?.state.load(Ordering::Acquire));
        if order >= crate::layout::ORDERS as u32 || !unit.is_multiple_of(1 << order) || unit < self.first {
            return Err(ShmError::Damaged { what: "a block is not where one can be" });
        }
        let size = UNIT << order;
        let (start, view) = self.windows.block(u64::from(unit) << UNIT_SHIFT, size)?;
        Ok((start, size, view))
    }

    /// Where a block lies that is never so large as to need a mapping of its own, and how large it is.
    pub(crate) fn piece(&self, unit: u32) -> Result<(NonNull<u8>, usize), ShmError> {
        match self.block(unit)? {
            (start, size, None) => Ok((start, size)),
            _ => Err(ShmError::Damaged { what: "a block is larger than its kind can be" }),
        }
    }

    /// A new block in the hands of this process, for something smaller than a window, and where it lies.
    pub(crate) fn allocate_piece(&self, bytes: usize) -> Result<(u32, NonNull<u8>), ShmError> {
        let unit = self.allocate(bytes)?;
        match self.piece(unit) {
            Ok((start, _)) => Ok((unit, start)),
            Err(error) => {
                // It could not be mapped; nobody else knows of it.
                let _ = self.free(unit);
                Err(error)
            }
        }
    }

    pub(crate) fn lock(&self) -> Locked<'_, L> {
        let lock = &self.header().lock;
        let held = loop {
            if let Some(held) = lock.try_lock().or_else(|| lock.lock_within(Duration::from_secs(1))) {
                break held;
            }
        };
        if held == Held::AfterDeath {
            // Whoever needs the free lists makes them anew first: that can fail, for want of address space.
            self.header().torn.store(1, Ordering::Relaxed);
            lock.repaired();
        }
        Locked { arena: self }
    }

    /// A block of at least `bytes`, with memory behind them, in the hands of this process.
    ///
    /// # Errors
    ///
    /// [`ShmError::TooLarge`], or [`ShmError::System`] if the memory is not to be had.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<u32, ShmError> {
        let order = order_for(bytes).ok_or(ShmError::TooLarge { bytes: bytes as u64 })?;
        let (unit, crowded) = {
            let locked = self.lock();
            let unit = locked.take(order)?;
            crash_point("allocate: taken");
            let descriptor = self.descriptor(unit)?;
            let Identity { pid, start } = self.identity();
            descriptor.holder_pid.store(pid, Ordering::Relaxed);
            descriptor.holder_start.store(start, Ordering::Relaxed);
            descriptor.state.store(state(Kind::Held, order), Ordering::Release);
            (unit, locked.is_crowded())
        };
        crash_point("allocate: held");
        if let Err(error) = self.populate(unit, bytes) {
            self.free(unit)?;
            return Err(error);
        }
        if crowded {
            self.sweep();
        }
        Ok(unit)
    }

    /// Sees to it that the first `bytes` of a block in our hands have memory.
    fn populate(&self, unit: u32, bytes: usize) -> Result<(), ShmError> {
        let descriptor = self.descriptor(unit)?;
        let have = descriptor.populated.load(Ordering::Relaxed);
        let need = bytes.div_ceil(UNIT).max(1) as u32;
        if need > have {
            let length = u64::from(need - have) << UNIT_SHIFT;
            let offset = u64::from(unit + have) << UNIT_SHIFT;
            memory_limit::take(length).map_err(|shortage| ShmError::Shortage { bytes: length, shortage })?;
            if let Err(source) = self.windows.file().populate(offset, length) {
                // A part of it may have been taken, and nobody would know.
                let _ = self.windows.file().release(offset, length);
                return Err(system("take", length, source));
            }
            crash_point("allocate: has memory");
            let resident = descriptor.resident.load(Ordering::Relaxed);
            descriptor.resident.store(resident.max(need), Ordering::Relaxed);
            crash_point("allocate: populated");
            descriptor.populated.store(need, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Frees a block, and gives memory back to the system if much of it lies idle.
    pub(crate) fn free(&self, unit: u32) -> Result<(), ShmError> {
        let excess = self.lock().give_back(unit)?;
        if excess {
            self.trim()?;
        }
        Ok(())
    }

    /// Gives idle memory back to the system until half of what is worth keeping is left.
    #[cold]
    pub(crate) fn trim(&self) -> Result<(), ShmError> {
        loop {
            let Some(unit) = self.lock().take_idle()? else { return Ok(()) };
            self.release(unit)?;
            let _ = self.lock().give_back(unit)?;
        }
    }

    /// Gives the memory of a block in this process's hands, or taken from the free ones, back to the system.
    pub(crate) fn release(&self, unit: u32) -> Result<(), ShmError> {
        let descriptor = self.descriptor(unit)?;
        let order = order_of(descriptor.state.load(Ordering::Relaxed));
        crash_point("trim: taken");
        descriptor.populated.store(0, Ordering::Relaxed);
        crash_point("trim: noted");
        // A refusal means that the memory stays, which hurts nobody: it is only no longer counted.
        let _ = self.windows.file().release(u64::from(unit) << UNIT_SHIFT, (UNIT as u64) << order);
        crash_point("trim: released");
        descriptor.resident.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Says that a block is in this process's hands.
    pub(crate) fn hold(&self, unit: u32) -> Result<(), ShmError> {
        let descriptor = self.descriptor(unit)?;
        let Identity { pid, start } = self.identity();
        descriptor.holder_pid.store(pid, Ordering::Relaxed);
        descriptor.holder_start.store(start, Ordering::Relaxed);
        crash_point("span: holder written");
        let order = order_of(descriptor.state.load(Ordering::Relaxed));
        descriptor.state.store(state(Kind::Held, order), Ordering::Release);
        Ok(())
    }

    /// A generation no object of this arena had.
    pub(crate) fn next_generation(&self) -> u64 {
        self.header().generation.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl<L: Robust> Inherited for Arena<L> {
    fn before(&self) {
        self.windows.freeze();
    }

    fn in_parent(&self) {
        // SAFETY: this thread froze them in `before`.
        unsafe { self.windows.thaw() };
    }

    fn in_child(&self, _parent: u32) {
        // SAFETY: this thread's original in the parent froze them in `before`.
        unsafe { self.windows.thaw() };
        self.renew_identity();
    }
}

impl<L: Robust> Drop for Arena<L> {
    fn drop(&mut self) {
        fork::unregister(Rank::Arena, std::ptr::from_ref(self).addr());
    }
}

impl<L: Robust> AsFd for Arena<L> {
    /// What another process needs to attach.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.windows.file().as_fd()
    }
}

/// Where blocks begin in an arena of so many units.
const fn first_unit(units: u32) -> u32 {
    let descriptors = (units as usize * size_of::<Descriptor>()).div_ceil(UNIT) as u32;
    (1 + descriptors).next_multiple_of(1 << 12)
}

/// Twice the machine's memory, or 64 GiB if that is more: the file is sparse, so size costs nothing.
///
/// A limit on the size of files counts: exceeding it would not only be an error, but a deadly signal.
fn usual_size() -> u64 {
    if cfg!(miri) {
        return SMALLEST; // it can answer none of the questions that follow
    }
    // SAFETY: plain questions to the system.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let memory = u64::try_from(pages).unwrap_or(0).saturating_mul(u64::try_from(page).unwrap_or(0));
    let size = memory.saturating_mul(2).checked_next_power_of_two().unwrap_or(LARGEST).clamp(USUAL, LARGEST);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current.unwrap_or(u64::MAX);
    if limit >= size { size } else { 1 << limit.max(1).ilog2() }
}
