//! CPython 3.11: a chain of `_PyCFrame`s on the C stack leads to the frames; one recursion counter.
//!
//! Frames themselves never lie on the C stack, so moving it needs no mending.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::ptr;

use pyo3::ffi::PyThreadState;

use super::{FrameState, field, layout};

unsafe extern "C" {
    fn _Py_IsFinalizing() -> c_int;

    /// `_PyRuntime`: all of the interpreter's state. Only its address is used.
    #[link_name = "_PyRuntime"]
    static RUNTIME: c_void;
}

/// The current thread state, read where `PyThreadState_Get` reads it: the call costs as much as a tenth of a switch.
///
/// # Safety
///
/// The GIL is held.
#[inline(always)]
pub(crate) unsafe fn current_thread_state() -> *mut PyThreadState {
    // SAFETY: laid out as the headers said. Who holds the GIL has written the field last, so it does not change.
    unsafe {
        let runtime: *mut c_void = (&raw const RUNTIME).cast_mut();
        field::<*mut PyThreadState>(runtime, layout::RUNTIME_TSTATE_CURRENT).read()
    }
}

/// 3.11 specialises a method call on an instance that could have a dictionary only if it has one.
pub(crate) const METHOD_CALLS_WANT_A_DICT: bool = true;

/// Whether the interpreter is being torn down.
pub(crate) fn is_finalizing() -> bool {
    // SAFETY: may be called at any time.
    unsafe { _Py_IsFinalizing() != 0 }
}

/// How deep the running coroutine is in nested deallocations.
///
/// # Safety
///
/// `thread` is the current thread state.
pub(crate) unsafe fn trash_delete_nesting(thread: *mut PyThreadState) -> Option<c_int> {
    // SAFETY: laid out as the headers said.
    unsafe { Some(field::<c_int>(thread.cast(), layout::TS_TRASH_NESTING).read()) }
}

/// The root of a coroutine's chain, in the interpreter's own layout.
#[repr(C, align(8))]
#[derive(Debug)]
struct RootCFrame([u8; layout::CFRAME_SIZE]);

#[derive(Debug)]
pub(crate) struct Frames {
    cframe: *mut c_void,
    current_frame: *mut c_void,
    recursion_depth: c_int,
    trash_nesting: c_int,
    root: RootCFrame,
}

impl Frames {
    unsafe fn limit_and_remaining(thread: *mut PyThreadState) -> (c_int, *mut c_int) {
        // SAFETY: laid out as the headers said.
        unsafe {
            let limit = field::<c_int>(thread.cast(), layout::TS_RECURSION_LIMIT).read();
            (limit, field(thread.cast(), layout::TS_RECURSION_REMAINING))
        }
    }

    /// What `PyThreadState_LeaveTracing` would set for this thread state.
    ///
    /// The flag lies in the C frame, but it is the thread's: it must follow the thread over a switch.
    unsafe fn use_tracing(thread: *mut PyThreadState) -> u8 {
        let ts: *mut c_void = thread.cast();
        // SAFETY: laid out as the headers said; the functions are only compared with null.
        unsafe {
            let tracing = field::<c_int>(ts, layout::TS_TRACING).read();
            let trace = field::<*mut c_void>(ts, layout::TS_C_TRACEFUNC).read();
            let profile = field::<*mut c_void>(ts, layout::TS_C_PROFILEFUNC).read();
            if tracing == 0 && !(trace.is_null() && profile.is_null()) { 255 } else { 0 }
        }
    }
}

// SAFETY: only plain loads and stores.
unsafe impl FrameState for Frames {
    fn new() -> Self {
        Self {
            cframe: ptr::null_mut(),
            current_frame: ptr::null_mut(),
            recursion_depth: 0,
            trash_nesting: 0,
            root: RootCFrame([0; layout::CFRAME_SIZE]),
        }
    }

    unsafe fn start(&mut self, thread: *mut PyThreadState) {
        // SAFETY: `root` is as large as a C frame and does not move while the interpreter links to it.
        unsafe {
            let root: *mut c_void = (&raw mut self.root).cast();
            let outermost: *mut c_void = field(thread.cast(), layout::TS_ROOT_CFRAME);
            field::<*mut c_void>(root, layout::CFRAME_CURRENT_FRAME).write(ptr::null_mut());
            field::<*mut c_void>(root, layout::CFRAME_PREVIOUS).write(outermost);
            self.cframe = root;
            let (limit, remaining) = Self::limit_and_remaining(thread);
            self.recursion_depth = limit - remaining.read();
        }
        self.current_frame = ptr::null_mut();
        self.trash_nesting = 0;
    }

    fn start_as_from(&mut self, other: &Self) {
        self.recursion_depth = other.recursion_depth;
    }

    #[inline(always)]
    unsafe fn suspend(&mut self, thread: *mut PyThreadState) {
        let ts: *mut c_void = thread.cast();
        // SAFETY: laid out as the headers said.
        unsafe {
            self.cframe = field::<*mut c_void>(ts, layout::TS_CFRAME).read();
            self.current_frame = field::<*mut c_void>(self.cframe, layout::CFRAME_CURRENT_FRAME).read();
            let (limit, remaining) = Self::limit_and_remaining(thread);
            self.recursion_depth = limit - remaining.read();
            self.trash_nesting = field::<c_int>(ts, layout::TS_TRASH_NESTING).read();
        }
    }

    #[inline(always)]
    unsafe fn resume(&mut self, thread: *mut PyThreadState) {
        let ts: *mut c_void = thread.cast();
        // SAFETY: the C frame is this coroutine's, and its C stack is in its place again.
        unsafe {
            field::<*mut c_void>(ts, layout::TS_CFRAME).write(self.cframe);
            field::<u8>(self.cframe, layout::CFRAME_USE_TRACING).write(Self::use_tracing(thread));
            let (limit, remaining) = Self::limit_and_remaining(thread);
            remaining.write(limit - self.recursion_depth);
            field::<c_int>(ts, layout::TS_TRASH_NESTING).write(self.trash_nesting);
        }
    }

    unsafe fn relocate(&mut self, _range: Range<usize>, _delta: isize) {}

    unsafe fn current_frame(thread: *mut PyThreadState) -> *mut *mut c_void {
        // SAFETY: laid out as the headers said; the running C frame is valid.
        unsafe {
            let cframe = field::<*mut c_void>(thread.cast(), layout::TS_CFRAME).read();
            field(cframe, layout::CFRAME_CURRENT_FRAME)
        }
    }

    fn suspended_frame(&self) -> *mut c_void {
        self.current_frame
    }

    fn take_suspended_frame(&mut self) -> *mut c_void {
        std::mem::replace(&mut self.current_frame, ptr::null_mut())
    }
}
