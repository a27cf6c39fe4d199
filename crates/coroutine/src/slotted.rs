//! Slotted stacks: many coroutines on a few large stack slots of their thread.
//!
//! # Algorithm
//!
//! A thread reserves up to [`Config::max_slots`] large stacks, one at a time, as they are needed. A
//! coroutine is bound to one slot when it first runs and stays bound to it for life, because its
//! frames hold absolute addresses. As long as there are slots, each has one to itself, and a switch is an
//! exchange of stack pointers. The coroutines beyond that share the last few slots: when two of them
//! *collide* on a slot, the live part of the one that occupies it (its *image*: some hundred bytes when it is
//! flat) goes to the heap, and the other's image comes back. Those slots are few on purpose: their
//! memory stays in the processor's first cache. If the coroutine that is being left is itself the one in
//! the way, the exchange is made on a small helper stack, because nobody can move the ground that he
//! stands on.
//!
//! An image lies at the end of its buffer, so that for every slot address there is one place, whoever's
//! image it is. So the one that goes out and the one that comes in can trade places in the same buffer:
//! one pass over memory that is not in the cache instead of two.
//!
//! Compared with one stack each, a suspended coroutine costs its image instead of whole pages and page
//! tables; compared with copying at every switch (as the greenlet package does), nothing is copied as
//! long as the number of coroutines that are really in use stays below the number of slots.
//!
//! # States
//!
//! ```text
//!          start                  collision
//!  Fresh ────────► Resident ◄────────────────► Evicted
//!                     │  finish                   │ discard
//!                     ▼                           ▼
//!                   Dead ◄──────────────────────Dead
//! ```
//!
//! `Resident` covers both the coroutine that runs and those suspended in place. A coroutine on the
//! thread's native stack ([`Coroutine::native`]) is always `Resident` and has no slot.
//!
//! # Who may touch what
//!
//! All of it belongs to one thread and has no interior locking: a slot's memory is written by the
//! coroutine that occupies it and by nobody else, and moving a stack that another thread runs on would
//! corrupt it. A host may inspect suspended coroutines from other threads only under a lock that also
//! excludes switching (CPython's GIL).
//!
//! # Pointers into a stack
//!
//! While a coroutine is evicted, an address inside its stack means somebody else's data. Nothing that
//! another coroutine, another thread or the kernel follows may point there. Chains that the host itself
//! follows are mended by [`Host::relocate`], which is told of every move.

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use weft_sys::mapping::{MappingError, StackMapping};

use crate::arch::{self, Entry};

mod image;
mod moves;
mod places;

use image::Image;
use moves::{Exchange, HelperRequest, exchange_on_helper};

/// The part of the host that must follow a switch: for an interpreter, its thread state.
///
/// # Safety
///
/// No method may unwind, switch coroutines, or run code that could.
pub unsafe trait Host {
    /// The place that the running coroutine's state lives in, one a thread.
    type Thread;

    /// Saves the running coroutine's state from `thread` into `self`.
    ///
    /// # Safety
    ///
    /// `thread` is the place for the running thread, and `self` belongs to the running coroutine.
    unsafe fn suspend(&mut self, thread: *mut Self::Thread);

    /// Puts the state of the coroutine that is about to run from `self` into `thread`.
    ///
    /// # Safety
    ///
    /// `thread` is the place for the running thread; what was in it has been saved or is not needed.
    unsafe fn resume(&mut self, thread: *mut Self::Thread);

    /// The stack memory that had the addresses in `range` is now `delta` bytes further on, and what the
    /// host follows into it must be changed.
    ///
    /// # Safety
    ///
    /// The coroutine is suspended; both places are readable, and the new one is writable.
    unsafe fn relocate(&mut self, range: Range<usize>, delta: isize);
}

/// How large the slots of a thread are, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Usable bytes of one slot.
    pub slot_size: usize,
    /// The most slots a thread reserves. More slots mean fewer copies; each costs two to three pages.
    pub max_slots: u32,
    /// The most slots that all threads reserve together, beyond one each.
    pub process_budget: usize,
}

impl Default for Config {
    /// As deep as the main thread's stack (8 MiB where it is unlimited), 1,032 slots, and as many in the
    /// process as [`weft_sys::mapping::stack_budget`] says.
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        let slot_size = weft_sys::mapping::stack_limit().unwrap_or(8 * MIB).clamp(MIB, 64 * MIB);
        Self {
            slot_size,
            max_slots: 1024 + SHARED_SLOTS,
            process_budget: weft_sys::mapping::stack_budget(slot_size),
        }
    }
}

/// Why a coroutine could not be entered. Nothing has changed when this is returned.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// There is no stack for a new coroutine, not even one to share.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// The heap has no room for the image of the coroutine that must make way.
    #[error("no memory to move a coroutine stack of {size} bytes out of its slot")]
    Image {
        /// Bytes that could not be allocated.
        size: usize,
    },
}

/// Where a coroutine is in its life; see the module's drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Fresh,
    Resident,
    Evicted,
    Dead,
}

/// Marks a coroutine that has no slot: a thread's native stack, or one that never ran.
const NO_SLOT: u32 = u32::MAX;

/// How many of a thread's slots are shared, if there are enough of them.
const SHARED_SLOTS: u32 = 8;

/// How many slots all threads have reserved.
static RESERVED: AtomicUsize = AtomicUsize::new(0);

/// One coroutine. It must not move in memory from its first switch until it is dead.
#[derive(Debug)]
pub struct Coroutine<H> {
    /// The context to resume; meaningless while it runs.
    sp: *mut u8,
    image: Image,
    slot: u32,
    state: State,
    /// The host's own state of this coroutine.
    pub host: H,
}

impl<H> Coroutine<H> {
    /// A coroutine that has not run yet.
    pub const fn new(host: H) -> Self {
        Self { sp: ptr::null_mut(), image: Image::EMPTY, slot: NO_SLOT, state: State::Fresh, host }
    }

    /// The coroutine that a thread's native stack is.
    pub const fn native(host: H) -> Self {
        Self { sp: ptr::null_mut(), image: Image::EMPTY, slot: NO_SLOT, state: State::Resident, host }
    }

    /// Whether its stack is in its place: it can be switched to at once.
    #[inline(always)]
    pub const fn is_resident(&self) -> bool {
        matches!(self.state, State::Resident)
    }

    /// Whether its stack is on the heap at the moment.
    pub const fn is_evicted(&self) -> bool {
        matches!(self.state, State::Evicted)
    }

    /// The context that it was left with; only meaningful while it is suspended.
    pub const fn stack_pointer(&self) -> *mut u8 {
        self.sp
    }
}

impl<H> Drop for Coroutine<H> {
    fn drop(&mut self) {
        self.image.release();
    }
}

/// One stack that coroutines share.
#[derive(Debug)]
struct Slot<H> {
    mapping: StackMapping,
    /// Where stacks begin: a little below the mapping's end, different for each slot, so that the hot
    /// lines of neighbouring slots do not compete for the same sets of the cache.
    top: *mut u8,
    /// Whose frames the memory holds; null if nobody's.
    occupant: *mut Coroutine<H>,
    /// Whether it is in the list of free slots. A coroutine that was evicted may come back to a slot that
    /// is in there; such an entry is passed over when it is met.
    listed: bool,
}

/// Stack that may stay resident in a slot after a deep coroutine has left it, in bytes.
const KEPT_DEPTH: usize = 128 << 10;

/// Room for the frames between a look at the stack pointer and the switch itself, in bytes.
const SWITCH_FRAMES: usize = 2048;

/// The slots of one thread.
#[derive(Debug)]
pub struct Slots<H: Host> {
    slots: Vec<Slot<H>>,
    free: Vec<u32>,
    helper: Option<StackMapping>,
    config: Config,
    /// The shared slot that the next coroutine without one of its own is bound to.
    next_shared: u32,
    deaths: u32,
}

/// What [`Slots::enter`] has done.
enum Entered {
    /// The switch, and somebody has switched back with this.
    AndBack(usize),
    /// All but the switch: the target's stack is in its place.
    NotYet,
}

/// How the running coroutine leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    Suspend,
    Finish,
}

impl<H: Host> Slots<H> {
    /// No slots yet; they are reserved as coroutines need them.
    pub const fn new(config: Config) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), helper: None, config, next_shared: 0, deaths: 0 }
    }

    /// How many slots are reserved.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no slot is reserved yet.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Suspends `from`, which runs, and resumes `to`; returns what the switch back brings.
    ///
    /// # Errors
    ///
    /// [`SwitchError::Image`] if `to`'s slot is taken and there is no memory to move its occupant.
    ///
    /// # Safety
    ///
    /// `slots`, `from` and `to` belong to the calling thread, `from` is the coroutine that runs, `to` is another
    /// one that was started and is not dead, and `thread` is the host's place for this thread. No borrow
    /// of any of them is alive.
    #[inline]
    pub unsafe fn switch(
        slots: *mut Self,
        thread: *mut H::Thread,
        from: *mut Coroutine<H>,
        to: *mut Coroutine<H>,
        transfer: usize,
    ) -> Result<usize, SwitchError> {
        // SAFETY: passed on.
        unsafe {
            if !(*to).is_resident() {
                let moved = Self::enter(slots, thread, from, to, None, transfer, Leave::Suspend)?;
                if let Entered::AndBack(transfer) = moved {
                    return Ok(transfer);
                }
            }
            Ok(Self::switch_resident(thread, from, to, transfer))
        }
    }

    /// The same for a target that [`Coroutine::is_resident`]; cannot fail.
    ///
    /// A processor predicts a return by the call that it belongs to, and after a switch it is another coroutine's.
    /// If most switches go out from one place in the code, most are predicted right.
    ///
    /// # Safety
    ///
    /// As for [`Slots::switch`], and `to` is resident.
    #[inline(always)]
    pub unsafe fn switch_resident(
        thread: *mut H::Thread,
        from: *mut Coroutine<H>,
        to: *mut Coroutine<H>,
        transfer: usize,
    ) -> usize {
        // SAFETY: the caller's promise covers every pointer; a resident target's context and stack are
        // intact because only its slot's occupant changes the slot's memory.
        unsafe {
            (*from).host.suspend(thread);
            (*to).host.resume(thread);
            arch::switch_here(&raw mut (*from).sp, (*to).sp, transfer)
        }
    }

    /// Brings a suspended coroutine's stack back to its slot, if that can be done from here: not if `from`, which
    /// runs, is itself in the way. Afterwards, ask [`Coroutine::is_resident`].
    ///
    /// # Errors
    ///
    /// As for [`Slots::switch`].
    ///
    /// # Safety
    ///
    /// As for [`Slots::switch`], and `to` is not resident.
    pub unsafe fn bring_in(
        slots: *mut Self,
        thread: *mut H::Thread,
        from: *mut Coroutine<H>,
        to: *mut Coroutine<H>,
    ) -> Result<(), SwitchError> {
        // SAFETY: passed on; `enter` only moves stacks if `from` is not in the way.
        unsafe {
            if (*to).slot != (*from).slot {
                Self::enter(slots, thread, from, to, None, 0, Leave::Suspend)?;
            }
        }
        Ok(())
    }

    /// Suspends `from`, which runs, and starts `to`, which has not run: `entry(transfer)` on its stack.
    ///
    /// # Errors
    ///
    /// [`SwitchError`] if there is neither a new slot nor memory to share one.
    ///
    /// # Safety
    ///
    /// As for [`Slots::switch`], where `to` is new. `entry` ends by [`Slots::finish`] or [`Slots::finish_into`],
    /// and with nothing on its stack that must be dropped.
    pub unsafe fn start(
        slots: *mut Self,
        thread: *mut H::Thread,
        from: *mut Coroutine<H>,
        to: *mut Coroutine<H>,
        entry: Entry,
        transfer: usize,
    ) -> Result<usize, SwitchError> {
        // SAFETY: passed on; with an entry, `enter` makes the switch itself.
        unsafe {
            match Self::enter(slots, thread, from, to, Some(entry), transfer, Leave::Suspend)? {
                Entered::AndBack(transfer) => Ok(transfer),
                Entered::NotYet => unreachable!("a start was left to the caller"),
            }
        }
    }

    /// Ends `from`, which runs, and resumes `to`. Returns only if that fails; `from` then still runs.
    ///
    /// # Safety
    ///
    /// As for [`Slots::switch`]; `from` is not a native stack, and nothing on its stack is needed again.
    pub unsafe fn finish(
        slots: *mut Self,
        thread: *mut H::Thread,
        from: *mut Coroutine<H>,
        to: *mut Coroutine<H>,
        transfer: usize,
    ) -> SwitchError {
        // SAFETY: passed on.
        match unsafe { Self::enter(slots, thread, from, to, None, transfer, Leave::Finish) } {
            Err(error) => error,
            Ok(_) => unreachable!("a finished coroutine was resumed"),
        }
    }

    /// Ends `from`, which runs, and starts `to`. Returns only if that fails; `from` then still runs.
    ///
    /// # Safety
    ///
    /// As for [`Slots::finish`] and [`Slots::start`].
    pub unsafe fn finish_into(
        slots: *mut Self,
        thread: *mut H::Thread,
        from: *mut Coroutine<H>,
        to: *mut Coroutine<H>,
        entry: Entry,
        transfer: usize,
    ) -> SwitchError {
        // SAFETY: passed on.
        match unsafe { Self::enter(slots, thread, from, to, Some(entry), transfer, Leave::Finish) } {
            Err(error) => error,
            Ok(_) => unreachable!("a finished coroutine was resumed"),
        }
    }

    /// Forgets a suspended or fresh coroutine that will never run again. Its frames are not unwound.
    ///
    /// # Safety
    ///
    /// `slots` and `coroutine` belong together, and the coroutine does not run.
    pub unsafe fn discard(slots: *mut Self, coroutine: *mut Coroutine<H>) {
        // SAFETY: the caller's promise; short borrows, no switch in between.
        unsafe {
            if (*coroutine).state == State::Resident && (*coroutine).slot != NO_SLOT {
                (*slots).vacate((*coroutine).slot);
            }
            (*coroutine).image.release();
            (*coroutine).state = State::Dead;
        }
    }

    /// Moves every suspended coroutine to the heap, so that the slots can be dropped while the host
    /// still follows pointers into those stacks.
    ///
    /// # Errors
    ///
    /// [`SwitchError::Image`] if there is no memory; those moved so far stay moved.
    ///
    /// # Safety
    ///
    /// No coroutine of these slots runs, and none will run again.
    pub unsafe fn evict_all(slots: *mut Self) -> Result<(), SwitchError> {
        // SAFETY: the caller's promise; nothing switches in here.
        unsafe {
            for index in 0..(*slots).slots.len() {
                let occupant = (&(*slots).slots)[index].occupant;
                if occupant.is_null() {
                    continue;
                }
                let live = (*slots).live_size(occupant);
                (*occupant).image.reserve(live)?;
                Self::evict(slots, occupant);
            }
        }
        Ok(())
    }

    /// Bytes of stack that a suspended coroutine of these slots keeps; 0 for one without a slot.
    ///
    /// # Safety
    ///
    /// `coroutine` is a valid coroutine of these slots, and is not the one that runs.
    pub unsafe fn suspended_size(slots: *const Self, coroutine: *const Coroutine<H>) -> usize {
        // SAFETY: the caller's promise.
        unsafe {
            match (*coroutine).state {
                State::Evicted => (*coroutine).image.len as usize,
                State::Resident if (*coroutine).slot != NO_SLOT => (*slots).live_size(coroutine),
                _ => 0,
            }
        }
    }

    /// From the context up to the slot's top.
    ///
    /// # Safety
    ///
    /// `coroutine` is resident in a slot and suspended.
    unsafe fn live_size(&self, coroutine: *const Coroutine<H>) -> usize {
        // SAFETY: the caller's promise.
        unsafe { self.slots[(*coroutine).slot as usize].top.addr() - (*coroutine).sp.addr() }
    }

    /// Everything that is not the fast path of [`Slots::switch`].
    ///
    /// All that can fail comes first; from the host's `suspend` on, nothing does.
    #[inline(never)]
    unsafe fn enter(
        slots: *mut Self,
        thread: *mut H::Thread,
        from: *mut Coroutine<H>,
        to: *mut Coroutine<H>,
        entry: Option<Entry>,
        transfer: usize,
        leave: Leave,
    ) -> Result<Entered, SwitchError> {
        // SAFETY: all pointers are valid and of this thread by the caller's promise. Borrows of
        // `*slots` end before the switch. The copies below touch the slot's memory only while nobody runs on it:
        // either the occupant is suspended, or it is `from`, and then the helper stack runs.
        unsafe {
            let old_slot = (*to).slot;
            if entry.is_some() {
                (*to).slot = (*slots).bind(from, leave)?;
            }
            let resident = (*to).state == State::Resident;
            let must_stand_aside = !resident && (*to).slot == (*from).slot;
            let mut evict = ptr::null_mut();
            let mut trade = false;
            if !resident {
                let occupant = (&(*slots).slots)[(*to).slot as usize].occupant;
                let stays = !occupant.is_null() && (occupant != from || leave == Leave::Suspend);
                if stays {
                    let size = if occupant == from {
                        let slot = &(&(*slots).slots)[(*to).slot as usize];
                        let marker = 0u8;
                        slot.top.addr() - (&raw const marker).addr() + SWITCH_FRAMES
                    } else {
                        (*slots).live_size(occupant)
                    };
                    trade = (*to).state == State::Evicted
                        && size <= KEPT_DEPTH
                        && (*to).image.len as usize <= KEPT_DEPTH
                        && (*to).image.fits(size);
                    if !trade && let Err(error) = (*occupant).image.reserve(size) {
                        (*slots).unbind(to, old_slot);
                        return Err(error);
                    }
                    evict = occupant;
                }
                if must_stand_aside && let Err(error) = (*slots).ensure_helper() {
                    (*slots).unbind(to, old_slot);
                    return Err(error.into());
                }
            }

            let mut exchange = Exchange { slots, evict, target: to, entry, trade };
            if entry.is_none() && leave == Leave::Suspend && !must_stand_aside {
                exchange.run();
                return Ok(Entered::NotYet);
            }

            // A host's state may own things, so it is saved from a coroutine that ends, too.
            (*from).host.suspend(thread);
            if leave == Leave::Finish {
                (*from).state = State::Dead;
                let slot = (*from).slot;
                // The memory is still in use until the switch below, and nothing starts before it.
                if must_stand_aside {
                    (&mut (*slots).slots)[slot as usize].occupant = ptr::null_mut();
                } else {
                    (*slots).vacate(slot);
                }
            }
            if must_stand_aside {
                let helper = (*slots).helper.as_ref().map_or(ptr::null_mut(), StackMapping::top);
                // The host's state of `to` is put in place on the helper, after its frames are back.
                let mut request = HelperRequest { exchange, thread };
                return Ok(Entered::AndBack(arch::switch_via(
                    &raw mut (*from).sp,
                    helper,
                    exchange_on_helper::<H>,
                    (&raw mut request).cast(),
                    transfer,
                )));
            }
            if !resident {
                exchange.run();
            }
            (*to).host.resume(thread);
            Ok(Entered::AndBack(arch::switch_elsewhere(&raw mut (*from).sp, (*to).sp, transfer)))
        }
    }
}

impl<H: Host> Drop for Slots<H> {
    fn drop(&mut self) {
        RESERVED.fetch_sub(self.slots.len(), Ordering::Relaxed);
    }
}
