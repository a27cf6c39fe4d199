//! Slotted stacks: many coroutines on a few large stack slots of their thread.
//!
//! # Algorithm
//!
//! A thread reserves up to [`Config::max_slots`] large stacks, one at a time, as they are needed. A
//! coroutine is bound to one slot when it first runs and stays bound to it for life, because its
//! frames hold absolute addresses. As long as nobody else runs on that slot, a switch to it is an
//! exchange of stack pointers. When two coroutines *collide* on a slot, the live part of the one that
//! occupies it (its *image*: some hundred bytes when it is flat) is copied to the heap, and the
//! other's image is copied back. If the coroutine that is being left is itself the one in the way, the
//! copy is made by a helper on a small stack of its own, because nobody can move the ground that
//! he stands on.
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

use std::alloc::{self, Layout};
use std::ops::Range;
use std::ptr;

use weft_sys::mapping::{MappingError, StackMapping};

use crate::arch::{self, Entry};

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
    /// The most slots a thread reserves. More slots mean fewer copies and more page tables.
    pub max_slots: u32,
}

impl Default for Config {
    /// As deep as the main thread's stack (8 MiB where it is unlimited), 64 slots.
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        let slot_size = weft_sys::mapping::stack_limit().unwrap_or(8 * MIB).clamp(MIB, 64 * MIB);
        Self { slot_size, max_slots: 64 }
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

/// A buffer on the heap for a stack's live part.
#[derive(Debug)]
struct Image {
    data: *mut u8,
    capacity: u32,
    len: u32,
}

impl Image {
    const EMPTY: Self = Self { data: ptr::null_mut(), capacity: 0, len: 0 };

    fn layout(capacity: u32) -> Layout {
        Layout::from_size_align(capacity as usize, 16).expect("a u32 size never overflows a layout")
    }

    /// Makes room for `size` bytes; keeps a buffer that already fits well.
    fn reserve(&mut self, size: usize) -> Result<(), SwitchError> {
        let wanted = u32::try_from(size).map_err(|_| SwitchError::Image { size })?;
        let fits = self.capacity >= wanted && self.capacity / 2 <= wanted;
        if fits && !self.data.is_null() {
            return Ok(());
        }
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

    fn release(&mut self) {
        if !self.data.is_null() {
            // SAFETY: allocated by `reserve` with this very layout, and given up here.
            unsafe { alloc::dealloc(self.data, Self::layout(self.capacity)) };
        }
        *self = Self::EMPTY;
    }
}

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

/// How far apart the tops of neighbouring slots lie, in cache lines of 64 bytes, modulo a page.
const COLOUR_STRIDE: usize = 11 * 64;

/// Stack that may stay resident in a slot after a deep coroutine has left it, in bytes.
const KEPT_DEPTH: usize = 128 << 10;

/// How many coroutines die on a thread between two looks for deep slots.
const TRIM_INTERVAL: u32 = 64;

/// Room for the frames between a look at the stack pointer and the switch itself, in bytes.
const SWITCH_FRAMES: usize = 2048;

/// Usable bytes of the helper's stack: it only copies memory and calls [`Host::relocate`].
const HELPER_SIZE: usize = 32 << 10;

/// The slots of one thread.
#[derive(Debug)]
pub struct Slots<H: Host> {
    slots: Vec<Slot<H>>,
    free: Vec<u32>,
    helper: Option<StackMapping>,
    config: Config,
    next_victim: u32,
    deaths: u32,
}

/// What the helper stack is asked to do.
struct Exchange<H: Host> {
    slots: *mut Slots<H>,
    /// The coroutine to move out first, or null.
    evict: *mut Coroutine<H>,
    target: *mut Coroutine<H>,
    entry: Option<Entry>,
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
        Self { slots: Vec::new(), free: Vec::new(), helper: None, config, next_victim: 0, deaths: 0 }
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
        // SAFETY: the caller's promise covers every pointer; a resident target's context and stack are
        // intact because only its slot's occupant changes the slot's memory.
        unsafe {
            if (*to).state == State::Resident {
                (*from).host.suspend(thread);
                (*to).host.resume(thread);
                return Ok(arch::switch(&raw mut (*from).sp, (*to).sp, transfer));
            }
            Self::enter(slots, thread, from, to, None, transfer, Leave::Suspend)
        }
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
        // SAFETY: passed on.
        unsafe { Self::enter(slots, thread, from, to, Some(entry), transfer, Leave::Suspend) }
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
            for index in 0..(&(*slots).slots).len() {
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
    ) -> Result<usize, SwitchError> {
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
            if !resident {
                let occupant = (&(*slots).slots)[(*to).slot as usize].occupant;
                if !occupant.is_null() && !(occupant == from && leave == Leave::Finish) {
                    let prepared = if occupant == from {
                        let slot = &(&(*slots).slots)[(*to).slot as usize];
                        let marker = 0u8;
                        let so_far = slot.top.addr() - (&raw const marker).addr();
                        (*occupant).image.reserve(so_far + SWITCH_FRAMES)
                    } else {
                        let live = (*slots).live_size(occupant);
                        (*occupant).image.reserve(live)
                    };
                    if let Err(error) = prepared {
                        (*slots).unbind(to, old_slot);
                        return Err(error);
                    }
                    evict = occupant;
                }
                if must_stand_aside
                    && let Err(error) = (*slots).ensure_helper()
                {
                    (*slots).unbind(to, old_slot);
                    return Err(error.into());
                }
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
            let mut exchange = Exchange { slots, evict, target: to, entry };
            if must_stand_aside {
                let helper = (*slots).helper.as_ref().map_or(ptr::null_mut(), StackMapping::top);
                // The host's state of `to` is put in place on the helper, after its frames are back.
                let mut request = HelperRequest { exchange, thread };
                return Ok(arch::switch_via(
                    &raw mut (*from).sp,
                    helper,
                    exchange_on_helper::<H>,
                    (&raw mut request).cast(),
                    transfer,
                ));
            }
            if !resident {
                exchange.run();
            }
            (*to).host.resume(thread);
            Ok(arch::switch(&raw mut (*from).sp, (*to).sp, transfer))
        }
    }

    /// Chooses the slot for a new coroutine: a free one, a new one, or one to share.
    ///
    /// # Safety
    ///
    /// `from` is the coroutine that runs.
    unsafe fn bind(&mut self, from: *mut Coroutine<H>, leave: Leave) -> Result<u32, MappingError> {
        while let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.listed = false;
            if slot.occupant.is_null() {
                return Ok(index);
            }
        }
        let count = u32::try_from(self.slots.len()).expect("slots are counted by a u32 limit");
        if count < self.config.max_slots.max(1) {
            match self.reserve_slot() {
                Ok(slot) => return Ok(slot),
                // Out of address space: share what there is, and do not ask again.
                Err(error) if count == 0 => return Err(error),
                Err(_) => self.config.max_slots = count,
            }
        }
        // SAFETY: valid by the caller's promise.
        let own = unsafe { (*from).slot };
        if leave == Leave::Finish && own != NO_SLOT {
            // Its own slot is about to be free; the helper stack makes the exchange.
            return Ok(own);
        }
        let mut victim = self.next_victim % count;
        if victim == own && count > 1 {
            victim = (victim + 1) % count;
        }
        self.next_victim = victim + 1;
        Ok(victim)
    }

    /// Undoes [`Slots::bind`].
    unsafe fn unbind(&mut self, to: *mut Coroutine<H>, old_slot: u32) {
        // SAFETY: valid by the caller's promise.
        unsafe {
            let slot = (*to).slot;
            if slot != old_slot {
                if self.slots[slot as usize].occupant.is_null() {
                    self.list(slot);
                }
                (*to).slot = old_slot;
            }
        }
    }

    fn reserve_slot(&mut self) -> Result<u32, MappingError> {
        let index = self.slots.len();
        let page = weft_sys::mapping::page_size();
        let mapping = StackMapping::new(self.config.slot_size.saturating_add(page))?;
        let colour = (index * COLOUR_STRIDE) % page;
        let top = mapping.top().wrapping_sub(colour);
        self.slots.push(Slot { mapping, top, occupant: ptr::null_mut(), listed: false });
        Ok(u32::try_from(index).expect("slots are counted by a u32 limit"))
    }

    fn ensure_helper(&mut self) -> Result<(), MappingError> {
        if self.helper.is_none() {
            self.helper = Some(StackMapping::new(HELPER_SIZE)?);
        }
        Ok(())
    }

    /// Marks a slot as free, and now and then gives back what a deep coroutine left behind.
    fn vacate(&mut self, slot: u32) {
        self.slots[slot as usize].occupant = ptr::null_mut();
        self.list(slot);
        self.deaths = self.deaths.wrapping_add(1);
        if self.deaths.is_multiple_of(TRIM_INTERVAL) {
            self.trim(slot);
        }
    }

    /// Adds a slot to the free ones.
    fn list(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.slots[slot as usize].listed, true) {
            self.free.push(slot);
        }
    }

    /// Gives back the deep pages of one free slot, taking turns.
    ///
    /// The slot that was just freed may still carry the code that is running, so it is left alone, and so is
    /// one that an evicted coroutine has come back to.
    fn trim(&mut self, just_freed: u32) {
        let turn = (self.deaths / TRIM_INTERVAL) as usize % self.free.len();
        let index = self.free[turn];
        let slot = &self.slots[index as usize];
        if index == just_freed || !slot.occupant.is_null() {
            return;
        }
        if slot.mapping.resident_below(KEPT_DEPTH) > 0 {
            // SAFETY: the slot has no occupant and is not the one that is being left, so nothing lies in it.
            unsafe { slot.mapping.discard_below(KEPT_DEPTH) };
        }
    }

    /// Copies a suspended coroutine's live part to its image, which has room for it.
    ///
    /// # Safety
    ///
    /// `coroutine` is resident in a slot, suspended, and nobody runs on that slot.
    unsafe fn evict(slots: *mut Self, coroutine: *mut Coroutine<H>) {
        // SAFETY: source and image do not overlap, the image has the capacity (made sure before), and
        // the stack between context and top is initialised memory of the coroutine.
        unsafe {
            let slot = &mut (&mut (*slots).slots)[(*coroutine).slot as usize];
            let sp = (*coroutine).sp;
            let live = slot.top.addr() - sp.addr();
            let image = &mut (*coroutine).image;
            debug_assert!(live <= image.capacity as usize);
            ptr::copy_nonoverlapping(sp, image.data, live);
            image.len = u32::try_from(live).expect("checked when the image was reserved");
            let delta = image.data.addr().wrapping_sub(sp.addr()).cast_signed();
            let range = sp.addr()..slot.top.addr();
            slot.occupant = ptr::null_mut();
            if live > KEPT_DEPTH {
                slot.mapping.discard_below(KEPT_DEPTH);
            }
            (*coroutine).state = State::Evicted;
            (*coroutine).host.relocate(range, delta);
        }
    }

    /// Copies an evicted coroutine back to its slot, which is free.
    ///
    /// # Safety
    ///
    /// `coroutine` is evicted, its slot has no occupant, and nobody runs on it.
    unsafe fn restore(slots: *mut Self, coroutine: *mut Coroutine<H>) {
        // SAFETY: as in `evict`, the other way round.
        unsafe {
            let slot = &mut (&mut (*slots).slots)[(*coroutine).slot as usize];
            debug_assert!(slot.occupant.is_null());
            let sp = (*coroutine).sp;
            let image = &mut (*coroutine).image;
            ptr::copy_nonoverlapping(image.data, sp, image.len as usize);
            let start = image.data.addr();
            let range = start..start + image.len as usize;
            let delta = sp.addr().wrapping_sub(start).cast_signed();
            image.len = 0;
            slot.occupant = coroutine;
            (*coroutine).state = State::Resident;
            (*coroutine).host.relocate(range, delta);
            if (*coroutine).image.capacity as usize > KEPT_DEPTH {
                (*coroutine).image.release();
            }
        }
    }
}

impl<H: Host> Exchange<H> {
    /// Moves the one out and the other in.
    ///
    /// # Safety
    ///
    /// Nobody runs on the target's slot; the image of the one to evict has room.
    unsafe fn run(&mut self) {
        // SAFETY: the caller's promise.
        unsafe {
            if !self.evict.is_null() {
                Slots::evict(self.slots, self.evict);
            }
            match self.entry {
                None => Slots::restore(self.slots, self.target),
                Some(entry) => {
                    let index = (*self.target).slot as usize;
                    let slot = &mut (&mut (*self.slots).slots)[index];
                    slot.occupant = self.target;
                    (*self.target).sp = arch::first_context(slot.top, entry);
                    (*self.target).state = State::Resident;
                }
            }
        }
    }
}

/// What [`exchange_on_helper`] gets; it lies on the stack that is left, so it is copied first.
struct HelperRequest<H: Host> {
    exchange: Exchange<H>,
    thread: *mut H::Thread,
}

/// Runs on the helper stack while no coroutine runs.
unsafe extern "C" fn exchange_on_helper<H: Host>(argument: *mut u8) -> *mut u8 {
    // SAFETY: `enter` passes a `HelperRequest` for this `H`. It is moved out before the stack that it lies
    // on is overwritten; nobody else reads it again.
    unsafe {
        let mut request = argument.cast::<HelperRequest<H>>().read();
        request.exchange.run();
        let target = request.exchange.target;
        (*target).host.resume(request.thread);
        (*target).sp
    }
}
