//! CPython 3.12: a chain of `_PyCFrame`s on the C stack leads to the frames, entry frames lie on the C stack
//! themselves, and Python and C recursion are counted apart.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::ptr;

use pyo3::ffi::PyThreadState;

#[path = "frame_chain.rs"]
mod frame_chain;

use super::{FrameState, field, layout};

unsafe extern "C" {
    fn _Py_IsFinalizing() -> c_int;
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

/// 3.12 specialises method calls on instances without a dictionary.
pub(crate) const METHOD_CALLS_WANT_A_DICT: bool = false;

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

/// How deep the interpreter lets C code recurse, as the header says.
#[expect(clippy::cast_possible_truncation, reason = "a small constant of the header")]
const C_RECURSION_LIMIT: c_int = layout::C_RECURSION_LIMIT as c_int;

/// The root of a coroutine's chain, in the interpreter's own layout.
#[repr(C, align(8))]
#[derive(Debug)]
struct RootCFrame([u8; layout::CFRAME_SIZE]);

#[derive(Debug)]
pub(crate) struct Frames {
    cframe: *mut c_void,
    current_frame: *mut c_void,
    py_recursion_depth: c_int,
    c_recursion_remaining: c_int,
    trash_nesting: c_int,
    root: RootCFrame,
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
            cframe: ptr::null_mut(),
            current_frame: ptr::null_mut(),
            py_recursion_depth: 0,
            c_recursion_remaining: C_RECURSION_LIMIT,
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
            self.py_recursion_depth = limit - remaining.read();
        }
        self.trash_nesting = 0;
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
            self.cframe = field::<*mut c_void>(ts, layout::TS_CFRAME).read();
            self.current_frame = field::<*mut c_void>(self.cframe, layout::CFRAME_CURRENT_FRAME).read();
            self.trash_nesting = field::<c_int>(ts, layout::TS_TRASH_NESTING).read();
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
            field::<*mut c_void>(ts, layout::TS_CFRAME).write(self.cframe);
            field::<c_int>(ts, layout::TS_TRASH_NESTING).write(self.trash_nesting);
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
