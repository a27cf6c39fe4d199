//! Coroutines that pass values to and from whoever resumes them.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;

use super::cancel::{self, Payload};
use super::core::{self, Core, State};
use super::scope::Registry;
use super::{Error, Invariant, Refused};

/// What [`Coroutine::resume`] brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CoroutineResult<Yield, Return> {
    /// It is suspended in [`Yielder::yield_`], whose argument this is.
    Yield(Yield),
    /// It has ended with this value.
    Return(Return),
}

/// A closure that can be left in the middle and resumed there. Made by
/// [`Scope::coroutine`](super::Scope::coroutine).
///
/// Dropped before its end, it is cancelled: its frames are unwound, so that destructors run.
pub struct Coroutine<'scope, Input, Yield, Return> {
    /// Null once it has ended and its stack was given back.
    core: *const Core,
    started: bool,
    abandon: core::Abandon,
    types: Invariant<(&'scope (), Input, Yield, Return)>,
}

/// Suspends the coroutine that it was given to.
pub struct Yielder<Input, Yield> {
    core: *const Core,
    types: Invariant<(Input, Yield)>,
}

impl<Input, Yield> Yielder<Input, Yield> {
    /// Leaves the coroutine with `value`, and returns what the next resume brings.
    ///
    /// When the coroutine is cancelled meanwhile, this call unwinds instead of returning.
    ///
    /// # Panics
    ///
    /// If it is called on the stack of another coroutine that this one has resumed.
    #[inline]
    pub fn yield_(&self, value: Yield) -> Input {
        self.check();
        let mut value = ManuallyDrop::new(value);
        // SAFETY: the coroutine of this yielder is the one that runs. Its resumer reads a `Yield` when it
        // sees the state `Suspended`, and answers with null or an `Input`, which we move out.
        unsafe {
            let message = core::suspend(self.core, (&raw mut value).cast());
            if message.is_null() {
                cancel::unwind();
            }
            message.cast::<Input>().read()
        }
    }

    #[inline]
    fn check(&self) {
        if core::current() != self.core {
            not_on_its_stack();
        }
        // SAFETY: a yielder is only lent to the body, so its coroutine's record is valid.
        let core = unsafe { &*self.core };
        if core.state.get() != State::Active {
            cancel::unwind_again(core);
        }
    }
}

#[cold]
#[track_caller]
fn not_on_its_stack() -> ! {
    panic!(
        "yield_ was called on the stack of another coroutine than the yielder's own; \
         yield from that coroutine to the yielder's own first"
    )
}

impl<'scope, Input, Yield, Return> Coroutine<'scope, Input, Yield, Return>
where
    Input: 'scope,
    Yield: 'scope,
    Return: 'scope,
{
    pub(super) fn new<F>(registry: &'scope Registry, body: F) -> Result<Self, Error>
    where
        F: FnOnce(&Yielder<Input, Yield>, Input) -> Return + 'scope,
    {
        let abandon = abandon::<F, Return>;
        // SAFETY: entry and abandon are made for this closure, and the registry ends after `'scope`.
        let core = unsafe { core::create(registry, body, entry::<F, Input, Yield, Return>, abandon) }?;
        Ok(Self { core, started: false, abandon, types: PhantomData })
    }

    /// Enters the coroutine with `input`, until it yields or ends.
    ///
    /// # Panics
    ///
    /// With the payload of a panic inside; the coroutine has ended then. If it had ended before; see
    /// [`Coroutine::try_resume`].
    #[inline]
    #[track_caller]
    pub fn resume(&mut self, input: Input) -> CoroutineResult<Yield, Return> {
        match self.try_resume(input) {
            Ok(result) => result,
            Err(refused) => finished(&refused.error),
        }
    }

    /// [`Coroutine::resume`] that gives the input back if the coroutine has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Finished`].
    ///
    /// # Panics
    ///
    /// With the payload of a panic inside; the coroutine has ended then.
    #[inline]
    pub fn try_resume(&mut self, input: Input) -> Result<CoroutineResult<Yield, Return>, Refused<Input>> {
        if self.is_done() {
            return Err(Refused { error: Error::Finished, value: input });
        }
        self.started = true;
        let mut input = ManuallyDrop::new(input);
        // SAFETY: it has not ended, and `&mut self` says that it is not active, so it is fresh or
        // suspended; it moves the input out. The state says what it answers with, which is moved out here.
        unsafe {
            let answer = core::resume(self.core, State::Active, (&raw mut input).cast());
            if (*self.core).state.get() == State::Suspended {
                return Ok(CoroutineResult::Yield(answer.cast::<Yield>().read()));
            }
            self.ended(answer)
        }
    }

    /// Takes the last answer and gives the stack back.
    ///
    /// # Safety
    ///
    /// The coroutine has just ended with `answer`.
    #[inline]
    unsafe fn ended<E>(&mut self, answer: *mut u8) -> Result<CoroutineResult<Yield, Return>, E> {
        // SAFETY: the state says what the answer is, and it is read before its stack is released.
        unsafe {
            if (*self.core).state.get() == State::Returned {
                let value = answer.cast::<Return>().read();
                self.release();
                return Ok(CoroutineResult::Return(value));
            }
            let payload = answer.cast::<Payload>().read();
            self.release();
            panic::resume_unwind(payload)
        }
    }
}

#[cold]
#[track_caller]
fn finished(error: &Error) -> ! {
    panic!("{error}")
}

impl<Input, Yield, Return> Coroutine<'_, Input, Yield, Return> {
    /// Whether it was ever resumed.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Whether it has ended: it returned, panicked or was cancelled.
    #[inline]
    pub fn is_done(&self) -> bool {
        if self.core.is_null() {
            return true;
        }
        // SAFETY: the record is valid until this handle releases it, or the scope is over.
        // At the end of a scope it may have been unwound behind the handle's back.
        unsafe { !matches!((*self.core).state.get(), State::Fresh | State::Suspended) }
    }

    /// Ends it: a suspended one is unwound, so that its destructors run; a fresh one drops its closure.
    /// Does nothing if it has ended.
    ///
    /// # Panics
    ///
    /// If a destructor inside panics, or the body catches the unwinding and panics.
    pub fn cancel(&mut self) {
        cancel::propagate(self.end());
    }

    fn end(&mut self) -> Option<Payload> {
        if self.core.is_null() {
            return None;
        }
        // SAFETY: `&mut self` says that nobody is resuming it: it is fresh, suspended, or its scope has
        // ended it or is doing so. `abandon` was made for its closure. Nobody uses the record after the release.
        unsafe {
            if (*self.core).state.get() == State::Cancelling {
                // The end of the scope is unwinding it, and this handle was among what it owned itself. The
                // scope releases it afterwards.
                self.core = ptr::null();
                return None;
            }
            let payload = (self.abandon)(self.core);
            self.release();
            payload
        }
    }

    /// # Safety
    ///
    /// The coroutine is in a final state.
    unsafe fn release(&mut self) {
        // SAFETY: the caller's promise; the handle forgets the record.
        unsafe { core::release(self.core) };
        self.core = ptr::null();
    }
}

impl<Input, Yield, Return> Drop for Coroutine<'_, Input, Yield, Return> {
    /// Cancels it. A panic inside goes on here, unless the thread is unwinding already.
    fn drop(&mut self) {
        self.cancel();
    }
}

impl<Input, Yield, Return> fmt::Debug for Coroutine<'_, Input, Yield, Return> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coroutine").field("started", &self.started).field("done", &self.is_done()).finish()
    }
}

/// The first frame of a coroutine.
unsafe extern "C" fn entry<F, Input, Yield, Return>(message: usize) -> !
where
    F: FnOnce(&Yielder<Input, Yield>, Input) -> Return,
{
    let core = core::current();
    // SAFETY: `resume` made this coroutine the current one and passes an `Input`, which is moved out at once;
    // the body lies where `create` put it. A fresh coroutine is never sent the null message.
    // All values are moved into `finish`'s message or dropped before it, and no panic gets out.
    unsafe {
        let input = ptr::with_exposed_provenance_mut::<Input>(message).read();
        let body = core::body_of::<F>(core).read();
        let yielder = Yielder { core, types: PhantomData };
        match panic::catch_unwind(AssertUnwindSafe(|| body(&yielder, input))) {
            Ok(value) => {
                let mut value = ManuallyDrop::new(value);
                core::finish(core, State::Returned, (&raw mut value).cast())
            }
            Err(payload) => finish_unwound(core, payload),
        }
    }
}

/// Ends the running coroutine, whose body was unwound by `payload`.
///
/// # Safety
///
/// As for [`core::finish`].
pub(super) unsafe fn finish_unwound(core: *const Core, payload: Payload) -> ! {
    // SAFETY: the running coroutine's record is valid.
    let state = cancel::state_of(unsafe { &*core }, &payload);
    let mut payload = ManuallyDrop::new(payload);
    if state == State::Cancelled {
        // SAFETY: dropped once; it is our own payload, whose destructor does nothing but free memory.
        unsafe { ManuallyDrop::drop(&mut payload) };
    }
    // SAFETY: the caller's promise; a `Payload` is what the state `Panicked` announces.
    unsafe { core::finish(core, state, (&raw mut payload).cast()) }
}

/// See [`core::Abandon`]; `Last` is what the state `Returned` announces.
///
/// # Safety
///
/// `core` has a body of type `B` and is not active.
pub(super) unsafe fn abandon<B, Last>(core: *const Core) -> Option<Payload> {
    // SAFETY: the state says whether there is a body to drop or a context to resume.
    unsafe {
        match (*core).state.get() {
            State::Fresh => {
                // Not final before the closure is gone: it may own the handle of this very coroutine.
                (*core).state.set(State::Cancelling);
                let body = core::body_of::<B>(core);
                let dropped = panic::catch_unwind(AssertUnwindSafe(|| body.drop_in_place()));
                (*core).state.set(State::Cancelled);
                dropped.err()
            }
            State::Suspended => {
                if cfg!(panic = "abort") {
                    cancel::abort(
                        "a suspended coroutine was dropped, and with panic = \"abort\" it cannot be unwound; \
                         run it to its end, or build with panic = \"unwind\"",
                    );
                }
                let answer = core::resume(core, State::Cancelling, ptr::null_mut());
                match (*core).state.get() {
                    State::Returned => {
                        panic::catch_unwind(AssertUnwindSafe(|| answer.cast::<Last>().drop_in_place())).err()
                    }
                    State::Panicked => Some(answer.cast::<Payload>().read()),
                    _ => None,
                }
            }
            State::Active | State::Cancelling => cancel::abort(
                "the scope of a coroutine ended while the coroutine was running; this is a bug in weft",
            ),
            State::Returned | State::Panicked | State::Refused | State::Cancelled => None,
        }
    }
}
