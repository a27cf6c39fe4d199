//! Memory that several processes read and write at once, and that is gone with the last of them.
//!
//! A region is a shared object ([`object`](crate::object)): who has it is in the object's list. Up to some 3.7 KiB lie in the
//! object's own block, more in a second block, which is marked as a part of the object. So whoever frees the object, its
//! last user or a sweep after that one's death, frees both.
//!
//! Its memory is taken when it is made, so that a lack of it is an error then, and not a signal later.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::arena::{Arena, Mapped};
use crate::crash::crash_point;
use crate::error::ShmError;
use crate::layout::{Kind, UNIT, order_of, state};
use crate::object::{Handle, Object, PROLOGUE, Route, Transit};
use crate::robust::{Robust, RobustMutex};
use crate::windows::View;

/// What a region's object holds behind its prologue.
#[repr(C)]
struct Header {
    /// How many bytes the region has.
    length: AtomicU64,
    /// The block that they are in; 0 if they follow this header.
    data: AtomicU32,
}

/// Where bytes begin that lie in the object's own block: aligned for everything that a processor can load.
const INLINE: usize = PROLOGUE + 64;
const MOST_INLINE: usize = UNIT - INLINE;

/// A region has one part; which number it has says nothing.
const ORDINAL: u64 = 1;

/// One process's reference to memory that others may use, too. Dropping the last one of all processes frees it.
///
/// Nothing keeps those who use it from writing at the same time: that is up to them.
pub struct Region<L: Robust = RobustMutex> {
    object: Arc<Object<L>>,
    start: NonNull<u8>,
    length: usize,
    data: Option<u32>,
    /// Keeps it mapped, if it is large.
    _view: Option<Arc<View>>,
}

// SAFETY: it is shared between processes anyway; who uses the memory behind its pointer sees to the order of accesses.
unsafe impl<L: Robust> Send for Region<L> {}
// SAFETY: as above; the fields never change.
unsafe impl<L: Robust> Sync for Region<L> {}

impl<L: Robust> fmt::Debug for Region<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("object", &self.object)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl<L: Robust + 'static> Region<L> {
    /// New memory of `length` bytes, all zero.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had.
    pub fn create(arena: &Arc<Arena<L>>, length: usize) -> Result<Self, ShmError> {
        if length <= MOST_INLINE {
            let object = Object::create(arena, UNIT, |start, _| init(start, length, 0))?;
            // SAFETY: the block has a whole unit.
            let start = unsafe { object.start().add(INLINE) };
            return Ok(Self { object, start, length, data: None, _view: None });
        }
        let data = arena.allocate(length)?;
        let made = Self::with_data(arena, length, data);
        if made.is_err() {
            // Nobody else knows of it, and it is still in this process's hands.
            let _ = arena.free(data);
        }
        made
    }

    fn with_data(arena: &Arc<Arena<L>>, length: usize, data: u32) -> Result<Self, ShmError> {
        let (start, _, view) = arena.block(data)?;
        // SAFETY: the block is ours alone, mapped, and has memory for so many bytes.
        unsafe { start.as_ptr().write_bytes(0, length) };
        let object = Object::create(arena, UNIT, |start, _| init(start, length, data))?;
        crash_point("region: object made");
        let descriptor = arena.descriptor(data)?;
        descriptor.object.store(object.handle().unit, Ordering::Relaxed);
        descriptor.ordinal.store(ORDINAL, Ordering::Relaxed);
        let order = order_of(descriptor.state.load(Ordering::Relaxed));
        descriptor.state.store(state(Kind::Chunk, order), Ordering::Release);
        crash_point("region: part marked");
        Ok(Self { object, start, length, data: Some(data), _view: view })
    }

    /// The memory that another process has, by a reference that it has sent.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if the last one that had it has let go of it, [`ShmError`] if it cannot be mapped.
    pub fn receive(arena: &Arc<Arena<L>>, handle: Handle, transit: Transit) -> Result<Self, ShmError> {
        let object = Object::receive(arena, handle, transit)?;
        match locate(&object) {
            Ok(Place { length, start, data, view }) => Ok(Self { object, start, length, data, _view: view }),
            Err(error) => {
                let _ = object.leave(|| true);
                Err(error)
            }
        }
    }
}

impl<L: Robust> Region<L> {
    /// How many bytes it has.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no byte.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Where it begins, at a multiple of 64; it stays there for as long as `self`, in forked children, too.
    pub const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// What another process needs to receive it.
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    /// Where it lies.
    pub fn arena(&self) -> &Arc<Arena<L>> {
        self.object.arena()
    }

    /// Makes a reference for another process, which holds the memory until it is received, or its carrier has ended.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if too many hold it already, or this process came to it too late.
    pub fn send(&self, route: Route) -> Result<Transit, ShmError> {
        self.object.send(route)
    }

    /// Takes a reference back that was not sent after all.
    pub fn withdraw(&self, transit: Transit) {
        self.object.withdraw(transit);
    }

    /// Whether another living process has it, or a reference to it is under way.
    pub fn is_shared(&self) -> bool {
        self.object.is_shared()
    }

    /// From now on it is not this process's: the test that it belongs to says that it died.
    #[cfg(test)]
    pub(crate) fn disown(&self) {
        self.object.disown();
    }
}

fn init(start: NonNull<u8>, length: usize, data: u32) {
    // SAFETY: the object's block is zeroed, ours alone, and large enough, as `INLINE` shows.
    let header = unsafe { start.add(PROLOGUE).cast::<Header>().as_ref() };
    header.length.store(length as u64, Ordering::Relaxed);
    header.data.store(data, Ordering::Relaxed);
}

/// Where the bytes of a region are in this process.
struct Place {
    length: usize,
    start: NonNull<u8>,
    data: Option<u32>,
    view: Option<Arc<View>>,
}

/// What is untrusted is checked: others can write into the header.
fn locate<L: Robust>(object: &Object<L>) -> Result<Place, ShmError> {
    // SAFETY: an object has at least a unit, and all of the header is atomic.
    let header = unsafe { object.start().add(PROLOGUE).cast::<Header>().as_ref() };
    let length = usize::try_from(header.length.load(Ordering::Acquire)).unwrap_or(usize::MAX);
    let too_long = ShmError::Damaged { what: "a region is longer than its block" };
    match header.data.load(Ordering::Acquire) {
        0 if length <= MOST_INLINE => {
            // SAFETY: the object's block has a whole unit.
            let start = unsafe { object.start().add(INLINE) };
            Ok(Place { length, start, data: None, view: None })
        }
        0 => Err(too_long),
        data => {
            let descriptor = object.arena().descriptor(data)?;
            if Kind::of(descriptor.state.load(Ordering::Acquire)) != Some(Kind::Chunk)
                || descriptor.object.load(Ordering::Relaxed) != object.handle().unit
            {
                return Err(ShmError::Damaged { what: "a region names a block that is not its own" });
            }
            let (start, size, view): Mapped = object.arena().block(data)?;
            if length > size { Err(too_long) } else { Ok(Place { length, start, data: Some(data), view }) }
        }
    }
}

impl<L: Robust> Drop for Region<L> {
    fn drop(&mut self) {
        // Damage means that some memory stays taken until the program ends.
        let _ = self.object.leave_with(self.data);
    }
}
