//! AArch64, AAPCS64.
//!
//! A suspended context, from its stack pointer upwards (176 bytes):
//!
//! ```text
//!  +0    x19 x20   +16  x21 x22   +32  x23 x24   +48  x25 x26   +64  x27 x28
//!  +80   x29 (frame pointer), x30 (where to continue)
//!  +96   d8 d9     +112 d10 d11   +128 d12 d13   +144 d14 d15
//!  +160  fpcr, padding
//! ```

use super::{Entry, Prepare};
use std::arch::naked_asm;

/// AAPCS64 has no red zone on Linux.
pub const RED_ZONE: usize = 0;

/// How many bytes below `top` [`first_context`] writes, alignment included.
pub const FIRST_CONTEXT_SIZE: usize = 208;

/// Saves the running context in `*save` and resumes `to`, whose own call returns `transfer`.
///
/// # Safety
///
/// `save` is writable. `to` is a context that was saved by this module or made by
/// [`first_context`], was not resumed since, belongs to this thread, and its stack is intact.
/// The stack that is left stays untouched until `*save` is resumed.
#[unsafe(naked)]
pub unsafe extern "C" fn switch(save: *mut *mut u8, to: *mut u8, transfer: usize) -> usize {
    naked_asm!(
        "sub sp, sp, #176",
        "stp x19, x20, [sp, #0]",
        "stp x21, x22, [sp, #16]",
        "stp x23, x24, [sp, #32]",
        "stp x25, x26, [sp, #48]",
        "stp x27, x28, [sp, #64]",
        "stp x29, x30, [sp, #80]",
        "stp d8, d9, [sp, #96]",
        "stp d10, d11, [sp, #112]",
        "stp d12, d13, [sp, #128]",
        "stp d14, d15, [sp, #144]",
        "mrs x9, fpcr",
        "str x9, [sp, #160]",
        "mov x10, sp",
        "str x10, [x0]",
        "mov sp, x1",
        "mov x0, x2",
        "ldr x10, [sp, #160]",
        "cmp x9, x10",
        "b.eq 2f",
        "msr fpcr, x10",
        "2:",
        "ldp x19, x20, [sp, #0]",
        "ldp x21, x22, [sp, #16]",
        "ldp x23, x24, [sp, #32]",
        "ldp x25, x26, [sp, #48]",
        "ldp x27, x28, [sp, #64]",
        "ldp x29, x30, [sp, #80]",
        "ldp d8, d9, [sp, #96]",
        "ldp d10, d11, [sp, #112]",
        "ldp d12, d13, [sp, #128]",
        "ldp d14, d15, [sp, #144]",
        "add sp, sp, #176",
        "ret",
    )
}

/// [`switch`] for places that resume contexts which were left somewhere else in the code; here the same.
pub use self::switch as switch_elsewhere;

/// [`switch`], written into its caller; here the same.
pub use self::switch as switch_here;

/// Like [`switch`], but calls `prepare(argument)` on the stack that ends at `helper` in between and
/// resumes the context that it returns.
///
/// # Safety
///
/// As for [`switch`], where `to` is what `prepare` returns. `helper` is 16-byte aligned, the end of a
/// stack that nothing uses and that is large enough for `prepare`, which must not unwind. The
/// memory of the stack that is left may be moved by `prepare` from `*save` upwards, as long as it
/// is back before that context is resumed.
#[unsafe(naked)]
pub unsafe extern "C" fn switch_via(
    save: *mut *mut u8,
    helper: *mut u8,
    prepare: Prepare,
    argument: *mut u8,
    transfer: usize,
) -> usize {
    naked_asm!(
        "sub sp, sp, #176",
        "stp x19, x20, [sp, #0]",
        "stp x21, x22, [sp, #16]",
        "stp x23, x24, [sp, #32]",
        "stp x25, x26, [sp, #48]",
        "stp x27, x28, [sp, #64]",
        "stp x29, x30, [sp, #80]",
        "stp d8, d9, [sp, #96]",
        "stp d10, d11, [sp, #112]",
        "stp d12, d13, [sp, #128]",
        "stp d14, d15, [sp, #144]",
        "mrs x9, fpcr",
        "str x9, [sp, #160]",
        "mov x10, sp",
        "str x10, [x0]",
        "mov sp, x1",
        "mov x19, x4",
        "mov x0, x3",
        "blr x2",
        "mov sp, x0",
        "mov x0, x19",
        "ldr x10, [sp, #160]",
        "msr fpcr, x10",
        "ldp x19, x20, [sp, #0]",
        "ldp x21, x22, [sp, #16]",
        "ldp x23, x24, [sp, #32]",
        "ldp x25, x26, [sp, #48]",
        "ldp x27, x28, [sp, #64]",
        "ldp x29, x30, [sp, #80]",
        "ldp d8, d9, [sp, #96]",
        "ldp d10, d11, [sp, #112]",
        "ldp d12, d13, [sp, #128]",
        "ldp d14, d15, [sp, #144]",
        "add sp, sp, #176",
        "ret",
    )
}

/// Where a fresh context continues: calls the entry function, which lies in `x19`.
///
/// The frame has no caller: the unwinder and debuggers stop here.
#[unsafe(naked)]
unsafe extern "C" fn trampoline() {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined x30",
        "mov x29, #0",
        "mov x30, #0",
        "blr x19",
        "brk #1",
        ".cfi_endproc",
    )
}

/// Writes the context of a coroutine that has not run yet and returns it.
///
/// # Safety
///
/// The [`FIRST_CONTEXT_SIZE`] bytes below `top` are writable and unused.
pub unsafe fn first_context(top: *mut u8, entry: Entry) -> *mut u8 {
    let aligned = top.map_addr(|address| address & !15);
    let context = aligned.wrapping_sub(192);
    // SAFETY: `context` and the 192 bytes above it lie inside the part that the caller vouches for.
    unsafe {
        context.write_bytes(0, 192);
        context.cast::<usize>().write(entry as usize);
        context.add(88).cast::<usize>().write(trampoline as *const () as usize);
    }
    context
}
