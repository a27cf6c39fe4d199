//! x86-64, System V calling convention.
//!
//! A suspended context begins, at its stack pointer, with the address to continue at: a *landing*. What lies above
//! belongs to the place that was left, and its landing restores it. The one who resumes hands over in `rax` the
//! transfer value, and in `ecx` and `r8d` the floating-point control words that are in force.
//!
//! The landings compare the control words before they load them: `ldmxcsr` and `fldcw` cost more than the
//! rest of the switch, and they hardly ever differ. The lower six bits of mxcsr are status flags, which no
//! function has to preserve, so they do not count as a difference.

use std::arch::{asm, naked_asm};

use super::{Entry, Prepare};

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

/// Leaves the running stack: its landing and control words are on top, `rsi` is where to go, `rdx` what to bring.
macro_rules! depart {
    () => {
        "stmxcsr [rsp + 8]
         fnstcw [rsp + 12]
         mov [rsp], r9
         mov [rdi], rsp
         mov ecx, [rsp + 8]
         movzx r8d, word ptr [rsp + 12]
         mov rsp, rsi
         mov rax, rdx
         pop r9
         jmp r9"
    };
}

/// Puts the control words of the context that was resumed in force; `rsp` points to them.
macro_rules! land {
    () => {
        "xor ecx, [rsp]
         and ecx, {control}
         xor r8w, [rsp + 4]
         or ecx, r8d
         je 5f
         ldmxcsr [rsp]
         fldcw [rsp + 4]
         5:
         add rsp, 8"
    };
}

/// Saves what a function must preserve; leaves room for the control words and the landing.
macro_rules! push_all {
    () => {
        "push rbp
         push rbx
         push r12
         push r13
         push r14
         push r15
         sub rsp, 16"
    };
}

macro_rules! pop_all {
    () => {
        "pop r15
         pop r14
         pop r13
         pop r12
         pop rbx
         pop rbp"
    };
}

/// The switch as a function, with the instructions that it ends with.
macro_rules! define_switch {
    ($(#[$attribute:meta])* $name:ident, $($last:literal),+) => {
        $(#[$attribute])*
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(save: *mut *mut u8, to: *mut u8, transfer: usize) -> usize {
            naked_asm!(
                push_all!(),
                "lea r9, [rip + 3f]",
                depart!(),
                "3:",
                land!(),
                pop_all!(),
                $($last,)+
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

/// [`switch`], written into the function that calls it: registers that the compiler does not need are not saved.
///
/// # Safety
///
/// As for [`switch`].
#[inline(always)]
pub unsafe fn switch_here(save: *mut *mut u8, to: *mut u8, transfer: usize) -> usize {
    let back: usize;
    // SAFETY: the caller's promise makes the stacks good. The two registers that the compiler does not let be
    // declared as changed are pushed; all others are, and so is memory. Without `nostack`, nothing of the
    // compiler's lies below the stack pointer.
    unsafe {
        asm!(
            "push rbp",
            "push rbx",
            "sub rsp, 16",
            "lea r9, [rip + 3f]",
            depart!(),
            "3:",
            land!(),
            "pop rbx",
            "pop rbp",
            control = const MXCSR_CONTROL,
            inout("rdi") save => _,
            inout("rsi") to => _,
            inout("rdx") transfer => _,
            lateout("rax") back,
            lateout("r12") _,
            lateout("r13") _,
            lateout("r14") _,
            lateout("r15") _,
            clobber_abi("C"),
        );
    }
    back
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
        push_all!(),
        "stmxcsr [rsp + 8]",
        "fnstcw [rsp + 12]",
        "lea r9, [rip + 3f]",
        "mov [rsp], r9",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "mov rbx, r8",
        "mov rdi, rcx",
        "call rdx",
        "sub rsp, 16",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov ecx, [rsp]",
        "movzx r8d, word ptr [rsp + 4]",
        "mov rsp, rax",
        "mov rax, rbx",
        "pop r9",
        "jmp r9",
        "3:",
        land!(),
        pop_all!(),
        "pop rcx",
        "jmp rcx",
        control = const MXCSR_CONTROL,
    )
}

/// The landing of a coroutine that has not run: calls the entry function, which lies behind the control words.
///
/// The frame has no caller: the unwinder and debuggers stop here.
#[unsafe(naked)]
unsafe extern "C" fn trampoline() {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined rip",
        land!(),
        "xor ebp, ebp",
        "mov rdi, rax",
        "pop rbx",
        "call rbx",
        "ud2",
        ".cfi_endproc",
        control = const MXCSR_CONTROL,
    )
}

/// Writes the context of a coroutine that has not run yet and returns it.
///
/// # Safety
///
/// The [`FIRST_CONTEXT_SIZE`] bytes below `top` are writable and unused.
pub unsafe fn first_context(top: *mut u8, entry: Entry) -> *mut u8 {
    let aligned = top.map_addr(|address| address & !15);
    // The trampoline takes three words off and calls: 16-byte alignment there is what the entry expects.
    let context = aligned.wrapping_sub(40);
    // SAFETY: `context` and the 40 bytes above it lie inside the part that the caller vouches for.
    unsafe {
        context.cast::<usize>().write(trampoline as *const () as usize);
        context.add(8).cast::<u32>().write(MXCSR);
        context.add(12).cast::<u32>().write(u32::from(X87_CONTROL));
        context.add(16).cast::<usize>().write(entry as usize);
        context.add(24).cast::<usize>().write(0);
        context.add(32).cast::<usize>().write(0);
    }
    context
}
