//! CPython 3.13: the thread state points to the frame directly, entry frames lie on the C stack, and objects whose
//! deallocation was put off hang on the thread state.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::ptr;

use pyo3::ffi::PyThreadState;

#[path = "frame_chain.rs"]
mod frame_chain;

use super::{FrameState, field, layout};

unsafe extern "C" {
    fn Py_IsFinalizing() -> c_int;
}

/// The current thread state.
///
/// # Safety
///
/// The GIL is held.
#[inline(always)]
pub(crate) unsafe fn current_thread_state() -> *mut PyThreadState {
    // SAFETY: the GIL is held, says the caller, so there is one.
    unsafe { pyo3::ffi::PyThreadState_Get() }
}

/// 3.13 specialises method calls on instances without a dictionary.
pub(crate) const METHOD_CALLS_WANT_A_DICT: bool = false;

/// Whether the interpreter is being torn down.
pub(crate) fn is_finalizing() -> bool {
    // SAFETY: may be called at any time.
    unsafe { Py_IsFinalizing() != 0 }
}

/// How deep the running coroutine is in nested deallocations; 3.13 does not count it.
///
/// # Safety
///
/// `thread` is the current thread state.
pub(crate) unsafe fn trash_delete_nesting(thread: *mut PyThreadState) -> Option<c_int> {
    let _ = thread;
    None
}

/// How deep the interpreter lets C code recurse, as the header says.
#[expect(clippy::cast_possible_truncation, reason = "a small constant of the header")]
const C_RECURSION_LIMIT: c_int = layout::C_RECURSION_LIMIT as c_int;

#[derive(Debug)]
pub(crate) struct Frames {
    current_frame: *mut c_void,
    py_recursion_depth: c_int,
    c_recursion_remaining: c_int,
    /// A list of objects without references that wait for their deallocation.
    delete_later: *mut c_void,
}

impl Frames {
    unsafe fn limit_and_remaining(thread: *mut PyThreadState) -> (c_int, *mut c_int) {
        // SAFETY: laid out as the headers said.
        unsafe {
            let limit = field::<c_int>(thread.cast(), layout::TS_PY_RECURSION_LIMIT).read();
            (limit, field(thread.cast(), layout::TS_PY_RECURSION_REMAINING))
        }
    }
}

// SAFETY: only plain loads and stores.
unsafe impl FrameState for Frames {
    fn new() -> Self {
        Self {
            current_frame: ptr::null_mut(),
            py_recursion_depth: 0,
            c_recursion_remaining: C_RECURSION_LIMIT,
            delete_later: ptr::null_mut(),
        }
    }

    unsafe fn start(&mut self, thread: *mut PyThreadState) {
        // SAFETY: laid out as the headers said.
        unsafe {
            let (limit, remaining) = Self::limit_and_remaining(thread);
            self.py_recursion_depth = limit - remaining.read();
        }
        self.delete_later = ptr::null_mut();
        // A whole C stack of its own, so the whole allowance.
        self.c_recursion_remaining = C_RECURSION_LIMIT;
        self.current_frame = ptr::null_mut();
    }

    fn start_as_from(&mut self, other: &Self) {
        self.py_recursion_depth = other.py_recursion_depth;
    }

    #[inline(always)]
    unsafe fn suspend(&mut self, thread: *mut PyThreadState) {
        let ts: *mut c_void = thread.cast();
        // SAFETY: laid out as the headers said.
        unsafe {
            self.current_frame = field::<*mut c_void>(ts, layout::TS_CURRENT_FRAME).read();
            self.delete_later = field::<*mut c_void>(ts, layout::TS_DELETE_LATER).read();
            let (limit, remaining) = Self::limit_and_remaining(thread);
            self.py_recursion_depth = limit - remaining.read();
            self.c_recursion_remaining = field::<c_int>(ts, layout::TS_C_RECURSION_REMAINING).read();
        }
    }

    #[inline(always)]
    unsafe fn resume(&mut self, thread: *mut PyThreadState) {
        let ts: *mut c_void = thread.cast();
        // SAFETY: the frames are this coroutine's, and its C stack is in its place again.
        unsafe {
            field::<*mut c_void>(ts, layout::TS_CURRENT_FRAME).write(self.current_frame);
            field::<*mut c_void>(ts, layout::TS_DELETE_LATER).write(self.delete_later);
            let (limit, remaining) = Self::limit_and_remaining(thread);
            remaining.write(limit - self.py_recursion_depth);
            field::<c_int>(ts, layout::TS_C_RECURSION_REMAINING).write(self.c_recursion_remaining);
        }
    }

    unsafe fn relocate(&mut self, range: Range<usize>, delta: isize) {
        // SAFETY: suspended, says the caller, and both places are readable.
        unsafe { frame_chain::relocate(&raw mut self.current_frame, &range, delta) };
    }

    unsafe fn current_frame(thread: *mut PyThreadState) -> *mut *mut c_void {
        // SAFETY: laid out as the headers said.
        unsafe { field(thread.cast(), layout::TS_CURRENT_FRAME) }
    }

    fn suspended_frame(&self) -> *mut c_void {
        self.current_frame
    }

    fn take_suspended_frame(&mut self) -> *mut c_void {
        std::mem::replace(&mut self.current_frame, ptr::null_mut())
    }
}
