//! Cancelling: the payload that unwinds a suspended coroutine, and what cannot be survived.

use std::any::Any;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};

use super::core::{Core, State};

/// How often a body may catch its cancellation and yield again before the process is aborted.
pub const MAX_IGNORED_CANCELS: u8 = 16;

/// What a panic carries.
pub(super) type Payload = Box<dyn Any + Send>;

/// The payload that unwinds a cancelled coroutine.
///
/// It has no power of its own: outside a coroutine whose state is `Cancelling` it is a panic like any other,
/// so a body that stores it and raises it somewhere else does no harm.
struct Cancelled;

/// Unwinds the running coroutine, which is being cancelled.
#[cold]
pub(super) fn unwind() -> ! {
    panic::resume_unwind(Box::new(Cancelled))
}

/// Answers a coroutine that is being cancelled and wants to suspend nevertheless.
#[cold]
pub(super) fn unwind_again(core: &Core) -> ! {
    let ignored = core.ignored.get() + 1;
    core.ignored.set(ignored);
    if ignored > MAX_IGNORED_CANCELS {
        abort(
            "a coroutine that is being cancelled caught its unwinding and yielded again, many times; \
             let the unwinding pass (resume_unwind what catch_unwind returns), or return from the body",
        );
    }
    unwind()
}

/// The state that a body leaves behind which ended by unwinding with `payload`.
pub(super) fn state_of(core: &Core, payload: &Payload) -> State {
    if core.state.get() == State::Cancelling && payload.is::<Cancelled>() {
        State::Cancelled
    } else {
        State::Panicked
    }
}

/// Raises `payload`, unless the thread is unwinding already: a second panic would abort the process.
pub(super) fn propagate(payload: Option<Payload>) {
    if let Some(payload) = payload
        && !std::thread::panicking()
    {
        panic::resume_unwind(payload);
    }
}

/// Drops `payload`, whatever its destructor does.
pub(super) fn discard(payload: Option<Payload>) {
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // A payload whose destructor panics with another one like it would go on for ever.
        std::mem::forget(second);
    }
}

/// Ends the process with a message, where going on would not be sound.
#[cold]
pub(super) fn abort(message: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "weft: fatal: {message}");
    std::process::abort()
}
