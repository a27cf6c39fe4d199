//! Owned stacks: each coroutine has a stack of its own that never moves, behind a safe API.
//!
//! # Algorithm
//!
//! A coroutine is one guarded mapping. At its top lies its record (`core.rs`), below it
//! the closure, below that the frames. The record has one field for a context: while the
//! coroutine is suspended it is the coroutine's own, while it runs it is its resumer's. So *resume* and *yield*
//! are the same exchange of a stack pointer, and a value is passed as a pointer into the stack that is
//! being left, from which the other side moves it out at once.
//!
//! A symmetric switch ([`Group`]) is the fusion of a yield with the resume that would follow it: the
//! member that leaves hands its resumer's context to the one that enters. Nothing can be observed that
//! the two steps could not have done, so what holds for resume and yield holds for it.
//!
//! # States
//!
//! ```text
//!            resume            yield, switch_to
//!  Fresh ────────────► Active ◄────────────────► Suspended
//!    │                   │                           │ cancel, drop, end of scope
//!    │ cancel, drop      │ return, panic             ▼
//!    │                   │                       Cancelling
//!    ▼                   ▼                           ▼
//!  Cancelled    Returned, Panicked, Refused      Cancelled, Returned, Panicked
//! ```
//!
//! # Why no safe program can go wrong
//!
//! 1. *Frames are never forgotten.* Code relies on destructors for soundness
//!    ([`std::thread::scope`] is one example), so frames that borrow from outside must be unwound before those
//!    borrows end, even if the handle was leaked. Every coroutine therefore belongs to a [`Scope`], and
//!    the end of the scope unwinds what is left, as `std::thread::scope` joins its threads.
//! 2. *Frames never outlive the thread's locals.* [`LocalKey::with`](std::thread::LocalKey::with) lends a
//!    thread-local for the length of a call, and a coroutine may suspend inside that call. If its handle
//!    could be kept in another thread-local, the thread's end would destroy the first and then unwind (or
//!    even resume) a frame that still borrows it. A handle has the lifetime `'scope`, which no
//!    thread-local can hold, and the outermost scope is a frame below which no thread-local dies.
//! 3. *A context is resumed once, by its own thread.* All handles are `!Send` and `!Sync`. A context is in
//!    exactly one place, the record of the coroutine, and leaves it when the state becomes `Active`.
//!    Only the coroutine that runs can suspend itself: a [`Yielder`] or [`Member`] used on the stack of another
//!    coroutine is refused (it is compared with the thread's current coroutine). So the active
//!    coroutines form a chain in which each waits for the next one, exactly like calls.
//! 4. *When a scope ends, none of its coroutines is active.* Only the scope's closure and its
//!    coroutines can name `'scope`; by 3 the stack that the closure runs on cannot be left except
//!    from its own frames, and then no coroutine of the scope is above it. It is checked all the same.
//! 5. *Unwinding never crosses the switch.* A body runs inside `catch_unwind`; a panic travels as a
//!    value to the resumer and goes on there. A cancelled coroutine gets a private payload at the
//!    place where it is suspended, which unwinds its frames up to that same `catch_unwind`.
//! 6. *A stack that is too small faults.* The guard page below it is inaccessible, and rustc probes the stack
//!    in frames larger than a page. The process ends with SIGSEGV; nothing is overwritten.
//!
//! # When a body catches its cancellation
//!
//! It may run on and return; the value is dropped. If it yields or switches again, the unwinding starts again
//! there, and if it goes on catching it, the process is aborted with a message after
//! [`MAX_IGNORED_CANCELS`] times. A *destructor* that yields while its coroutine is being cancelled
//! panics during unwinding, which Rust answers with an abort.
//!
//! With `panic = "abort"` there is no unwinding: dropping a suspended coroutine then aborts, with a
//! message; run coroutines to their end in such programs.

mod cancel;
mod core;
mod coroutine;
mod error;
mod generator;
mod group;
mod scope;
mod stack;

pub use cancel::MAX_IGNORED_CANCELS;
pub use coroutine::{Coroutine, CoroutineResult, Yielder};
pub use error::{Error, Refused};
pub use generator::Generator;
pub use group::{Group, Handoff, Member, MemberId, Members, Target};
pub use scope::{Scope, scope};
pub use stack::{Stack, StackConfig, StackPool};

/// A marker that makes a type invariant in `T` and all lifetimes in it.
type Invariant<T> = std::marker::PhantomData<fn(T) -> T>;
