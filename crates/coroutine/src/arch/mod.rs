//! The context switch of each processor, behind a few functions.
//!
//! A *context* is a stack pointer: everything else that the calling convention preserves (the
//! callee-saved registers and the floating-point control words) lies on the stack above it, as the
//! processor's file states. Whoever holds a context may resume it once.
//!
//! * [`switch`]`(save, to, transfer)` saves the running context in `*save` and resumes `to`; there,
//!   the call that suspended it returns `transfer`.
//! * [`switch_elsewhere`] is the same for a target that was suspended by another call in the code.
//! * [`switch_here`] is the same, written into its caller.
//! * [`switch_via`]`(save, helper, prepare, argument, transfer)` does the same, but in between, when
//!   the old stack is no longer in use, it calls `prepare(argument)` on the stack `helper`. What
//!   `prepare` returns is the context to resume. This is how a stack can be moved away from the
//!   very addresses that the running code stands on.
//! * [`first_context`]`(top, entry)` writes the context of a coroutine that has not run yet: resumed, it
//!   calls `entry(transfer)` with `top` as the end of its stack.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::{
    FIRST_CONTEXT_SIZE, RED_ZONE, first_context, switch, switch_elsewhere, switch_here, switch_via,
};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    FIRST_CONTEXT_SIZE, RED_ZONE, first_context, switch, switch_elsewhere, switch_here, switch_via,
};

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "weft-coroutine has no context switch for this processor: add crates/coroutine/src/arch/<name>.rs"
);

/// The first function of a coroutine; it gets the first `transfer` and never returns.
pub type Entry = unsafe extern "C" fn(transfer: usize) -> !;

/// Runs on the helper stack of [`switch_via`] and returns the context to resume.
pub type Prepare = unsafe extern "C" fn(argument: *mut u8) -> *mut u8;
