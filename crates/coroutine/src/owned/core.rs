//! The record at the top of each stack, and the four untyped switches that everything else is made of.
//!
//! A *message* is a pointer to a value on the stack that is being left. Who receives it moves the
//! value out before it does anything else; the sender never touches it again. A null message tells a
//! coroutine to unwind. The type is agreed between the typed layers above, never stored.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr;

use super::cancel::{self, Payload};
use super::scope::Registry;
use super::{Error, Stack};
use crate::arch::{self, Entry};

/// Where a coroutine is in its life; see the drawing in the parent module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its closure lies on the stack and has not been called.
    Fresh,
    /// It left its context in the record.
    Suspended,
    /// It runs, or waits for a coroutine that it resumed. The record has its resumer's context.
    Active,
    /// Like `Active`, but its frames are being unwound.
    Cancelling,
    /// The last message was a return value.
    Returned,
    /// The last message was a panic's payload.
    Panicked,
    /// The last message was a value that could not be handed on.
    Refused,
    /// Its frames or its closure were dropped; there was no message.
    Cancelled,
}

/// Drops the closure of a fresh coroutine or unwinds a suspended one; the rest is done already.
///
/// Returns what a destructor panicked with. The memory stays; [`release`] gives it back.
pub(super) type Abandon = unsafe fn(*const Core) -> Option<Payload>;

/// One coroutine. It lies at the top of the stack that it owns.
#[repr(C, align(16))]
pub(super) struct Core {
    /// Its own context while it is fresh or suspended, its resumer's while it is active.
    context: Cell<*mut u8>,
    /// Who resumed it; null for the thread's own stack. Meaningful while it is active.
    resumer: Cell<*const Core>,
    pub(super) state: Cell<State>,
    /// How often it suspended while it was being cancelled.
    pub(super) ignored: Cell<u8>,
    pub(super) abandon: Abandon,
    /// The next in the registry's list, and the cell that points here.
    pub(super) next: Cell<*const Core>,
    pub(super) pointed_by: Cell<*const Cell<*const Core>>,
    registry: *const Registry,
    stack: ManuallyDrop<Stack>,
}

thread_local! {
    /// The coroutine that runs on this thread; null on the thread's own stack.
    static CURRENT: Cell<*const Core> = const { Cell::new(ptr::null()) };
}

/// Stack that must be left below the closure, in bytes.
const MIN_FREE: usize = 8 << 10;

/// The coroutine that runs; null on the thread's own stack.
#[inline]
pub(super) fn current() -> *const Core {
    CURRENT.get()
}

/// Where the closure of a coroutine lies.
///
/// # Safety
///
/// `core` was made by [`create`] with a body of type `B`.
#[inline]
pub(super) unsafe fn body_of<B>(core: *const Core) -> *mut B {
    let align = align_of::<B>().max(16);
    core.cast::<u8>()
        .cast_mut()
        .wrapping_sub(size_of::<B>())
        .map_addr(|address| address & !(align - 1))
        .cast()
}

/// Makes a fresh coroutine and links it to the registry. `body` lies on its stack until `entry` reads it.
///
/// # Errors
///
/// [`Error::Stack`] or [`Error::ClosureTooLarge`]; `body` is dropped.
///
/// # Safety
///
/// The registry outlives the coroutine. `entry` and `abandon` are the ones for this `B`; `entry` never
/// unwinds and ends by [`finish`] or [`finish_into`].
pub(super) unsafe fn create<B>(
    registry: &Registry,
    body: B,
    entry: Entry,
    abandon: Abandon,
) -> Result<*const Core, Error> {
    let stack = registry.pool().take()?;
    let usable = stack.usable();
    let room = size_of::<Core>() + 16 + size_of::<B>() + align_of::<B>().max(16);
    if room + arch::FIRST_CONTEXT_SIZE + MIN_FREE > usable || size_of::<B>() > usable / 4 {
        registry.pool().give(stack);
        return Err(Error::ClosureTooLarge { size: size_of::<B>(), stack: usable });
    }
    let core = stack.top().wrapping_sub(size_of::<Core>()).map_addr(|address| address & !15).cast::<Core>();
    // SAFETY: the check above says that record, body and first context lie inside the stack, which is
    // unused memory that we own; the addresses are aligned.
    unsafe {
        let place = body_of::<B>(core);
        place.write(body);
        core.write(Core {
            context: Cell::new(arch::first_context(place.cast(), entry)),
            resumer: Cell::new(ptr::null()),
            state: Cell::new(State::Fresh),
            ignored: Cell::new(0),
            abandon,
            next: Cell::new(ptr::null()),
            pointed_by: Cell::new(ptr::null()),
            registry,
            stack: ManuallyDrop::new(stack),
        });
        registry.link(&*core);
    }
    Ok(core)
}

/// Gives the stack of a coroutine that has ended back to its pool; `core` is gone afterwards.
///
/// # Safety
///
/// The coroutine is in a final state, nobody runs on its stack, and nobody uses `core` again.
pub(super) unsafe fn release(core: *const Core) {
    // SAFETY: the record is valid until here; the stack is moved out of it before its memory can be reused.
    unsafe {
        Registry::unlink(&*core);
        let registry = (*core).registry;
        let stack = ptr::read(&raw const (*core).stack);
        (*registry).pool().give(ManuallyDrop::into_inner(stack));
    }
}

/// Enters a fresh or suspended coroutine; returns the message with which it, or a coroutine that it
/// handed over to, comes back.
///
/// # Safety
///
/// `core` is fresh or suspended and of this thread. `message` is what its typed layer expects.
#[inline]
pub(super) unsafe fn resume(core: *const Core, state: State, message: *mut u8) -> *mut u8 {
    // SAFETY: the record is valid, and stays so until whoever gets the answer releases it. Its context is
    // the coroutine's own, by the state; it is replaced by ours in the same step.
    unsafe {
        (*core).resumer.set(CURRENT.replace(core));
        (*core).state.set(state);
        let to = (*core).context.get();
        let answer = arch::switch_elsewhere((*core).context.as_ptr(), to, message.expose_provenance());
        ptr::with_exposed_provenance_mut(answer)
    }
}

/// Leaves the running coroutine for its resumer; returns the message of the next resume.
///
/// # Safety
///
/// `core` is the coroutine that runs. `message` is what its resumer expects.
#[inline]
pub(super) unsafe fn suspend(core: *const Core, message: *mut u8) -> *mut u8 {
    // SAFETY: the running coroutine's record has its resumer's context, which waits in `resume`.
    unsafe {
        (*core).state.set(State::Suspended);
        CURRENT.set((*core).resumer.get());
        let to = (*core).context.get();
        let answer = arch::switch_elsewhere((*core).context.as_ptr(), to, message.expose_provenance());
        ptr::with_exposed_provenance_mut(answer)
    }
}

/// Suspends `from` and resumes `to` on behalf of `from`'s resumer, in one step.
///
/// # Safety
///
/// `from` is the coroutine that runs; `to` is fresh or suspended, of this thread, and expects `message`.
/// The resumer of `from` accepts what `to` may answer.
#[inline]
pub(super) unsafe fn hand_over(from: *const Core, to: *const Core, message: *mut u8) -> *mut u8 {
    // SAFETY: as in `suspend` and `resume`, with the resumer's context in the other record from here on.
    unsafe {
        let context = take_over(from, to);
        (*from).state.set(State::Suspended);
        let answer = arch::switch_elsewhere((*from).context.as_ptr(), context, message.expose_provenance());
        ptr::with_exposed_provenance_mut(answer)
    }
}

/// Ends the running coroutine. Its resumer gets the message and may release it.
///
/// # Safety
///
/// As for [`suspend`]; `state` is final, and nothing on the stack but the message needs to be dropped.
pub(super) unsafe fn finish(core: *const Core, state: State, message: *mut u8) -> ! {
    // SAFETY: as in `suspend`. The context that is saved is never resumed.
    unsafe {
        (*core).state.set(state);
        CURRENT.set((*core).resumer.get());
        let to = (*core).context.get();
        arch::switch_elsewhere((*core).context.as_ptr(), to, message.expose_provenance());
    }
    cancel::abort("a coroutine that had finished was resumed; this is a bug in weft")
}

/// Ends `from`, which runs, and resumes `to` on behalf of its resumer. `to` releases `from`.
///
/// # Safety
///
/// As for [`hand_over`] and [`finish`].
pub(super) unsafe fn finish_into(from: *const Core, to: *const Core, message: *mut u8) -> ! {
    // SAFETY: the caller's promise covers both steps. The context that is saved is never resumed.
    unsafe {
        let context = take_over(from, to);
        (*from).state.set(State::Returned);
        arch::switch_elsewhere((*from).context.as_ptr(), context, message.expose_provenance());
    }
    cancel::abort("a coroutine that had finished was resumed; this is a bug in weft")
}

/// Makes `to` the running coroutine in `from`'s place, and returns the context to continue with.
///
/// # Safety
///
/// As for [`hand_over`].
#[inline]
unsafe fn take_over(from: *const Core, to: *const Core) -> *mut u8 {
    // SAFETY: both records are valid. The context of the resumer moves from one to the other.
    unsafe {
        (*to).resumer.set((*from).resumer.get());
        (*to).state.set(State::Active);
        CURRENT.set(to);
        (*to).context.replace((*from).context.get())
    }
}
