//! The moves of stacks between slots and heap, and the helper stack that makes them when the running coroutine is
//! itself in the way.

use std::ptr;

use super::{Coroutine, Host, KEPT_DEPTH, Slot, Slots, State};
use crate::arch::{self, Entry};

/// What the helper stack is asked to do.
pub(super) struct Exchange<H: Host> {
    pub(super) slots: *mut Slots<H>,
    /// The coroutine to move out first, or null.
    pub(super) evict: *mut Coroutine<H>,
    pub(super) target: *mut Coroutine<H>,
    pub(super) entry: Option<Entry>,
    /// Whether the one that goes out takes the buffer of the one that comes in.
    pub(super) trade: bool,
}

impl<H: Host> Slots<H> {
    /// Copies a suspended coroutine's live part to its image, which has room for it.
    ///
    /// # Safety
    ///
    /// `coroutine` is resident in a slot, suspended, and nobody runs on that slot.
    pub(super) unsafe fn evict(slots: *mut Self, coroutine: *mut Coroutine<H>) {
        // SAFETY: source and image do not overlap, the image has the capacity (made sure before), and
        // the stack between context and top is initialised memory of the coroutine.
        unsafe {
            let slot = &mut (&mut (*slots).slots)[(*coroutine).slot as usize];
            let live = slot.top.addr() - (*coroutine).sp.addr();
            let start = (*coroutine).image.start(live);
            ptr::copy_nonoverlapping((*coroutine).sp, start, live);
            slot.occupant = ptr::null_mut();
            slot.trim_below(live);
            Self::moved_out(slot.top, coroutine, live);
        }
    }

    /// Copies an evicted coroutine back to its slot, which is free.
    ///
    /// # Safety
    ///
    /// `coroutine` is evicted, its slot has no occupant, and nobody runs on it.
    pub(super) unsafe fn restore(slots: *mut Self, coroutine: *mut Coroutine<H>) {
        // SAFETY: as in `evict`, the other way round.
        unsafe {
            let slot = &mut (&mut (*slots).slots)[(*coroutine).slot as usize];
            debug_assert!(slot.occupant.is_null());
            let len = (*coroutine).image.len as usize;
            ptr::copy_nonoverlapping((*coroutine).image.start(len), (*coroutine).sp, len);
            slot.occupant = coroutine;
            Self::moved_in(coroutine);
            if (*coroutine).image.capacity as usize > KEPT_DEPTH {
                (*coroutine).image.release();
            }
        }
    }

    /// Moves `out` to the heap and `back` from there, in the buffer that `back` had.
    ///
    /// # Safety
    ///
    /// As for `evict` and `restore`: `out` occupies the slot that `back` is bound to. `back`'s buffer has room
    /// for `out`.
    pub(super) unsafe fn trade(slots: *mut Self, out: *mut Coroutine<H>, back: *mut Coroutine<H>) {
        // SAFETY: both images end at the buffer's end as both stacks end at the slot's top, so what they
        // have in common is exchanged word by word, and the longer one's rest is copied. Stack pointers and the
        // top are multiples of eight, so lengths and places are too.
        unsafe {
            let slot = &mut (&mut (*slots).slots)[(*out).slot as usize];
            let leaving = slot.top.addr() - (*out).sp.addr();
            let coming = (*back).image.len as usize;
            let common = leaving.min(coming);
            let buffer = &raw const (*back).image;
            if leaving > common {
                ptr::copy_nonoverlapping((*out).sp, (*buffer).start(leaving), leaving - common);
            } else if coming > common {
                ptr::copy_nonoverlapping((*buffer).start(coming), (*back).sp, coming - common);
            }
            ptr::swap_nonoverlapping(
                slot.top.wrapping_sub(common).cast::<u64>(),
                (*buffer).start(common).cast::<u64>(),
                common / size_of::<u64>(),
            );
            slot.occupant = back;
            // First the one that comes back: its frames lead into the buffer under its old length.
            Self::moved_in(back);
            std::mem::swap(&mut (*out).image, &mut (*back).image);
            (*back).image.release();
            Self::moved_out(slot.top, out, leaving);
        }
    }

    /// What follows when `live` bytes of a stack that ended at `top` have come to lie in the image.
    unsafe fn moved_out(top: *mut u8, coroutine: *mut Coroutine<H>, live: usize) {
        // SAFETY: the coroutine is suspended and its image complete.
        unsafe {
            (*coroutine).image.len = u32::try_from(live).expect("checked when the image was reserved");
            (*coroutine).state = State::Evicted;
            let start = (*coroutine).image.start(live).addr();
            let old = (*coroutine).sp.addr();
            let delta = start.wrapping_sub(old).cast_signed();
            (*coroutine).host.relocate(old..top.addr(), delta);
        }
    }

    /// What follows when an image has come to lie in the slot again.
    unsafe fn moved_in(coroutine: *mut Coroutine<H>) {
        // SAFETY: the coroutine is suspended and its stack complete.
        unsafe {
            let len = (*coroutine).image.len as usize;
            let start = (*coroutine).image.start(len).addr();
            (*coroutine).image.len = 0;
            (*coroutine).state = State::Resident;
            let delta = (*coroutine).sp.addr().wrapping_sub(start).cast_signed();
            (*coroutine).host.relocate(start..start + len, delta);
        }
    }
}

impl<H> Slot<H> {
    /// Gives the deep pages back after a stack of `depth` bytes has left.
    ///
    /// # Safety
    ///
    /// Nothing below [`KEPT_DEPTH`] is in use, unless `depth` is not beyond it.
    unsafe fn trim_below(&self, depth: usize) {
        if depth > KEPT_DEPTH {
            // SAFETY: says the caller.
            unsafe { self.mapping.discard_below(KEPT_DEPTH) };
        }
    }
}

impl<H: Host> Exchange<H> {
    /// Moves the one out and the other in.
    ///
    /// # Safety
    ///
    /// Nobody runs on the target's slot; the image of the one to evict has room.
    pub(super) unsafe fn run(&mut self) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.trade {
                return Slots::trade(self.slots, self.evict, self.target);
            }
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
pub(super) struct HelperRequest<H: Host> {
    pub(super) exchange: Exchange<H>,
    pub(super) thread: *mut H::Thread,
}

/// Runs on the helper stack while no coroutine runs.
pub(super) unsafe extern "C" fn exchange_on_helper<H: Host>(argument: *mut u8) -> *mut u8 {
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
