//! x86-64, System V calling convention.
//!
//! A suspended context, from its stack pointer upwards (64 bytes):
//!
//! ```text
//!  +0   mxcsr (4 bytes), x87 control word (2 bytes), padding
//!  +8   r15   +16  r14   +24  r13   +32  r12   +40  rbx   +48  rbp
//!  +56  return address
//! ```
//!
//! The control words are compared before they are loaded: `ldmxcsr` and `fldcw` cost more than the
//! rest of the switch, and they hardly ever differ. The lower six bits of mxcsr are status flags, which no
//! function has to preserve, so they do not count as a difference.
//!
//! A switch ends with a jump, not with `ret`: the processor predicts that a return leads to the latest call,
//! and a switch never does. A pair of switches between the same two contexts took 22 ns with `ret`, 6 ns so.

use super::{Entry, Prepare};
use std::arch::naked_asm;

/// Bytes below the stack pointer that a leaf function may use without saying so.
pub const RED_ZONE: usize = 128;

/// How many bytes below `top` [`first_context`] writes, alignment included.
pub const FIRST_CONTEXT_SIZE: usize = 96;

/// What a fresh thread has: all exceptions masked, round to nearest.
const MXCSR: u32 = 0x1f80;
/// The bits of mxcsr that a function must preserve: all but the exception flags.
const MXCSR_CONTROL: i32 = !0x3f;
/// What a fresh thread has: all exceptions masked, 64-bit precision.
const X87_CONTROL: u16 = 0x037f;

/// The switch, with the instructions that it ends with.
macro_rules! define_switch {
    ($(#[$attribute:meta])* $name:ident, $($last:literal),+) => {
        $(#[$attribute])*
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(save: *mut *mut u8, to: *mut u8, transfer: usize) -> usize {
            naked_asm!(
                "push rbp",
                "push rbx",
                "push r12",
                "push r13",
                "push r14",
                "push r15",
                "sub rsp, 8",
                "stmxcsr [rsp]",
                "fnstcw [rsp + 4]",
                "mov [rdi], rsp",
                "mov ecx, [rsp]",
                "movzx r8d, word ptr [rsp + 4]",
                "mov rsp, rsi",
                "mov rax, rdx",
                "xor ecx, [rsp]",
                "and ecx, {control}",
                "xor r8w, [rsp + 4]",
                "or ecx, r8d",
                "jne 2f",
                "3:",
                "add rsp, 8",
                "pop r15",
                "pop r14",
                "pop r13",
                "pop r12",
                "pop rbx",
                "pop rbp",
                $($last,)+
                "2:",
                "ldmxcsr [rsp]",
                "fldcw [rsp + 4]",
                "jmp 3b",
                control = const MXCSR_CONTROL,
            )
        }
    };
}

define_switch! {
    /// Saves the running context in `*save` and resumes `to`, whose own call returns `transfer`.
    ///
    /// # Safety
    ///
    /// `save` is writable. `to` is a context that was saved by this module or made by
    /// [`first_context`], was not resumed since, belongs to this thread, and its stack is intact.
    /// The stack that is left stays untouched until `*save` is resumed.
    switch, "ret"
}

define_switch! {
    /// [`switch`] for places that resume contexts which were left somewhere else in the code.
    ///
    /// A processor predicts where a `ret` goes from the calls that it has seen. If both coroutines stand at
    /// the same place, and so do their callers, it is right, for this return and for those that follow; else it is
    /// wrong each time, and an indirect jump, which is predicted by history, is three times faster.
    ///
    /// # Safety
    ///
    /// As for [`switch`].
    switch_elsewhere, "pop rcx", "jmp rcx"
}

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
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "mov rbx, r8",
        "mov rdi, rcx",
        "call rdx",
        "mov rsp, rax",
        "mov rax, rbx",
        "ldmxcsr [rsp]",
        "fldcw [rsp + 4]",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "pop rcx",
        "jmp rcx",
    )
}

/// Where a fresh context returns to: calls the entry function, which lies in `rbx`.
///
/// The frame has no caller: the unwinder and debuggers stop here.
#[unsafe(naked)]
unsafe extern "C" fn trampoline() {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined rip",
        "xor ebp, ebp",
        "mov rdi, rax",
        "call rbx",
        "ud2",
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
    // `ret` must leave the stack pointer 16-byte aligned, so that the trampoline's call leaves the
    // entry with what every function expects: aligned after its return address is pushed.
    let context = aligned.wrapping_sub(80);
    // SAFETY: `context` and the 80 bytes above it lie inside the part that the caller vouches for.
    unsafe {
        context.cast::<u32>().write(MXCSR);
        context.add(4).cast::<u32>().write(u32::from(X87_CONTROL));
        for register in [8, 16, 24, 32, 48] {
            context.add(register).cast::<usize>().write(0);
        }
        context.add(40).cast::<usize>().write(entry as usize);
        context.add(56).cast::<usize>().write(trampoline as *const () as usize);
        context.add(64).cast::<usize>().write(0);
        context.add(72).cast::<usize>().write(0);
    }
    context
}
