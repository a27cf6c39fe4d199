//! What CPython keeps per thread and a switch must keep per coroutine.
//!
//! [`State`] is the coroutine engine's host state for CPython. What all supported versions have in common
//! (the handled exception, the context, the data stack) lies here; how frames, recursion and the
//! trashcan are kept differs and lies in one file per version, chosen below and nowhere else. Offsets come
//! from the interpreter's own headers at build time (`build.rs`).
//!
//! Following the interpreter's `Python/pystate.c`, `Python/ceval.c` and `Include/cpython/pystate.h`.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr;

use pyo3::ffi::{PyFrameObject, PyObject, PyThreadState};
use weft_coroutine::slotted::Host;

mod abandoned;
pub(crate) mod datastack;
pub(crate) mod layout {
    //! Offsets that `build.rs` read off the interpreter's headers.
    include!(concat!(env!("OUT_DIR"), "/layout.rs"));
}

#[cfg_attr(weft_py = "3.11", path = "py_3_11.rs")]
#[cfg_attr(weft_py = "3.12", path = "py_3_12.rs")]
#[cfg_attr(weft_py = "3.13", path = "py_3_13.rs")]
mod version;

use version::Frames;
pub(crate) use version::{
    METHOD_CALLS_WANT_A_DICT, current_thread_state, is_finalizing, trash_delete_nesting,
};

/// How one version of CPython keeps its frames; implemented once in each version's file.
///
/// # Safety
///
/// As for [`Host`]: no method runs Python code.
pub(crate) unsafe trait FrameState {
    /// For a coroutine that has not run, and for a native stack.
    fn new() -> Self;

    /// Makes this the state of a coroutine that starts now: no frames, the starter's recursion depth.
    ///
    /// # Safety
    ///
    /// `thread` is the current thread state, and `self` does not move until the coroutine is dead.
    unsafe fn start(&mut self, thread: *mut PyThreadState);

    /// After [`start`](Self::start): as deep in recursion as if `other`, which is suspended, had started it.
    fn start_as_from(&mut self, other: &Self);

    /// Saves from `thread`.
    ///
    /// # Safety
    ///
    /// `thread` is the current thread state.
    unsafe fn suspend(&mut self, thread: *mut PyThreadState);

    /// Puts into `thread`.
    ///
    /// # Safety
    ///
    /// `thread` is the current thread state, and `self` was started or suspended.
    unsafe fn resume(&mut self, thread: *mut PyThreadState);

    /// The C stack moved: see [`Host::relocate`].
    ///
    /// # Safety
    ///
    /// `self` is suspended.
    unsafe fn relocate(&mut self, range: Range<usize>, delta: isize);

    /// Where the thread state keeps the frame that runs.
    ///
    /// # Safety
    ///
    /// `thread` is the current thread state.
    unsafe fn current_frame(thread: *mut PyThreadState) -> *mut *mut c_void;

    /// The innermost frame, if suspended with one.
    fn suspended_frame(&self) -> *mut c_void;

    /// The same, and it is forgotten.
    fn take_suspended_frame(&mut self) -> *mut c_void;
}

/// A field of a C structure by its offset.
///
/// # Safety
///
/// `base` points to a live structure that has a `T` at `offset`.
#[inline(always)]
pub(crate) unsafe fn field<T>(base: *mut c_void, offset: usize) -> *mut T {
    // SAFETY: inside the structure, says the caller.
    unsafe { base.byte_add(offset).cast() }
}

/// Everything of the interpreter's that belongs to one coroutine.
///
/// While the coroutine runs, the values and the references are in the thread state, and what is here is stale: it
/// is neither used nor dropped, visited nor cleared.
#[derive(Debug)]
pub(crate) struct State {
    frames: Frames,
    /// The exception being handled; null stands for the thread state's own item.
    exc_info: *mut c_void,
    /// Owned, as in the thread state's own item.
    exc_value: *mut PyObject,
    exc_previous: *mut c_void,
    /// Owned; null is the empty context.
    context: *mut PyObject,
    chunk: *mut c_void,
    chunk_top: *mut c_void,
    chunk_limit: *mut c_void,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            frames: Frames::new(),
            exc_info: ptr::null_mut(),
            exc_value: ptr::null_mut(),
            exc_previous: ptr::null_mut(),
            context: ptr::null_mut(),
            chunk: ptr::null_mut(),
            chunk_top: ptr::null_mut(),
            chunk_limit: ptr::null_mut(),
        }
    }

    /// Prepares the first switch into a coroutine; keeps a context that was set beforehand.
    ///
    /// Returns false if there is no memory for its data stack.
    ///
    /// # Safety
    ///
    /// `thread` is the current thread state; `self` does not move until the coroutine is dead.
    pub(crate) unsafe fn start(&mut self, thread: *mut PyThreadState) -> bool {
        let chunk = datastack::new_root();
        if chunk.is_null() {
            return false;
        }
        self.exc_info = ptr::null_mut();
        self.exc_value = ptr::null_mut();
        self.exc_previous = ptr::null_mut();
        self.chunk = chunk;
        // SAFETY: a root chunk was just made; the rest is passed on.
        unsafe {
            (self.chunk_top, self.chunk_limit) = datastack::bounds(chunk);
            self.frames.start(thread);
        }
        true
    }

    /// After [`start`](Self::start): as deep in recursion as if `other`, which is suspended, had started it. Of a chain of
    /// coroutines each of which starts the next one, none is nested in another.
    pub(crate) fn start_as_from(&mut self, other: &Self) {
        self.frames.start_as_from(&other.frames);
    }

    /// Gives the data stack of a coroutine back that has no frames (any more).
    ///
    /// # Safety
    ///
    /// The coroutine is finished or never started, and does not run.
    pub(crate) unsafe fn free_datastack(&mut self) {
        // SAFETY: nobody uses the chunks of a coroutine that is finished.
        unsafe { datastack::free(self.chunk) };
        self.chunk = ptr::null_mut();
        self.chunk_top = ptr::null_mut();
        self.chunk_limit = ptr::null_mut();
    }

    /// Lets go of the frames of a suspended coroutine that will never run again.
    ///
    /// # Safety
    ///
    /// The GIL is held; the coroutine is suspended and nobody will resume it. Its image, if it lies on the
    /// heap, is still there. May run Python code.
    pub(crate) unsafe fn abandon_frames(&mut self) {
        // SAFETY: passed on. The chunks go last: the frames lie in them.
        unsafe {
            abandoned::release(self.frames.take_suspended_frame());
            self.free_datastack();
        }
    }

    /// Whether the innermost frame of a suspended coroutine has `object` on its evaluation stack, at `slot`.
    ///
    /// # Safety
    ///
    /// The GIL is held and the coroutine is suspended.
    pub(crate) unsafe fn stack_holds(&self, slot: *mut *mut PyObject, object: *mut PyObject) -> bool {
        // SAFETY: passed on.
        unsafe { abandoned::stack_holds(self.frames.suspended_frame(), slot, object) }
    }

    /// Where the frames of a coroutine that does not run begin: the outermost of them.
    pub(crate) const fn first_frames(&self) -> *const c_void {
        self.chunk
    }

    /// The context of a coroutine that does not run.
    pub(crate) fn context_slot(&mut self) -> *mut *mut PyObject {
        &raw mut self.context
    }

    /// The exception that a suspended coroutine handles outside any generator.
    pub(crate) fn exc_value_slot(&mut self) -> *mut *mut PyObject {
        &raw mut self.exc_value
    }

    /// The frame object of the innermost Python frame, as a new reference; null if there is none or an
    /// exception is set.
    ///
    /// Frame objects are made here and not at every switch: the suspended frame is put in place
    /// of the running one for the length of one call. That call may allocate, and a collection would run
    /// Python code on top of a frame that does not run; so the collector is off meanwhile.
    ///
    /// # Safety
    ///
    /// The GIL is held, `thread` is the current thread state and the coroutine is suspended.
    pub(crate) unsafe fn frame_object(&self, thread: *mut PyThreadState) -> *mut PyFrameObject {
        let frame = self.frames.suspended_frame();
        if frame.is_null() {
            return ptr::null_mut();
        }
        // SAFETY: the frame and all it links to are valid while the coroutine is suspended, wherever its C stack
        // lies; the running frame is put back before anyone can see it.
        unsafe {
            let collecting = pyo3::ffi::PyGC_Disable();
            let place = Frames::current_frame(thread);
            let running = place.replace(frame);
            let object = pyo3::ffi::PyThreadState_GetFrame(thread);
            place.write(running);
            if collecting != 0 {
                pyo3::ffi::PyGC_Enable();
            }
            object
        }
    }
}

/// The running coroutine's context, in the thread state.
///
/// # Safety
///
/// `thread` is the current thread state.
pub(crate) unsafe fn context_of(thread: *mut PyThreadState) -> *mut *mut PyObject {
    // SAFETY: the layout is that of this interpreter.
    unsafe { field(thread.cast(), layout::TS_CONTEXT) }
}

/// Tells the interpreter's caches of context variables that the context is another one.
///
/// # Safety
///
/// `thread` is the current thread state.
pub(crate) unsafe fn context_changed(thread: *mut PyThreadState) {
    // SAFETY: the layout is that of this interpreter.
    unsafe {
        let version: *mut u64 = field(thread.cast(), layout::TS_CONTEXT_VER);
        version.write(version.read().wrapping_add(1));
    }
}

/// The number that tells thread states at one address apart.
///
/// # Safety
///
/// `thread` is a live thread state.
#[inline(always)]
pub(crate) unsafe fn thread_id(thread: *mut PyThreadState) -> u64 {
    // SAFETY: the layout is that of this interpreter.
    unsafe { field::<u64>(thread.cast(), layout::TS_ID).read() }
}

// SAFETY: only plain loads and stores.
unsafe impl Host for State {
    type Thread = PyThreadState;

    #[inline(always)]
    unsafe fn suspend(&mut self, thread: *mut PyThreadState) {
        let ts: *mut c_void = thread.cast();
        // SAFETY: `thread` is the current thread state, laid out as the headers said. References move
        // from it into `self` as they are.
        unsafe {
            let own_item: *mut c_void = field(ts, layout::TS_EXC_STATE);
            let exc_info: *mut c_void = field::<*mut c_void>(ts, layout::TS_EXC_INFO).read();
            self.exc_info = if exc_info == own_item { ptr::null_mut() } else { exc_info };
            self.exc_value = field::<*mut PyObject>(own_item, layout::EXC_VALUE).read();
            self.exc_previous = field::<*mut c_void>(own_item, layout::EXC_PREVIOUS).read();
            self.context = context_of(thread).read();
            self.chunk = field::<*mut c_void>(ts, layout::TS_DATASTACK_CHUNK).read();
            self.chunk_top = field::<*mut c_void>(ts, layout::TS_DATASTACK_TOP).read();
            self.chunk_limit = field::<*mut c_void>(ts, layout::TS_DATASTACK_LIMIT).read();
            self.frames.suspend(thread);
        }
    }

    #[inline(always)]
    unsafe fn resume(&mut self, thread: *mut PyThreadState) {
        let ts: *mut c_void = thread.cast();
        // SAFETY: as in `suspend`, the other way round.
        unsafe {
            let own_item: *mut c_void = field(ts, layout::TS_EXC_STATE);
            let exc_info = if self.exc_info.is_null() { own_item } else { self.exc_info };
            field::<*mut c_void>(ts, layout::TS_EXC_INFO).write(exc_info);
            field::<*mut PyObject>(own_item, layout::EXC_VALUE).write(self.exc_value);
            field::<*mut c_void>(own_item, layout::EXC_PREVIOUS).write(self.exc_previous);
            context_of(thread).write(self.context);
            context_changed(thread);
            field::<*mut c_void>(ts, layout::TS_DATASTACK_CHUNK).write(self.chunk);
            field::<*mut c_void>(ts, layout::TS_DATASTACK_TOP).write(self.chunk_top);
            field::<*mut c_void>(ts, layout::TS_DATASTACK_LIMIT).write(self.chunk_limit);
            self.frames.resume(thread);
        }
    }

    unsafe fn relocate(&mut self, range: Range<usize>, delta: isize) {
        // SAFETY: passed on.
        unsafe { self.frames.relocate(range, delta) };
    }
}

/// Calls `each` with the code objects of the running Python frames, innermost first, and with how many bytes
/// of instructions lie before the one that runs, until it says that it is enough.
///
/// # Safety
///
/// The GIL is held, `thread` is the current thread state; `each` runs no Python code.
pub(crate) unsafe fn walk_frames(
    thread: *mut PyThreadState,
    mut each: impl FnMut(*mut PyObject, usize) -> bool,
) {
    // SAFETY: laid out as the headers said; the frames that run are valid, and nothing runs meanwhile.
    unsafe {
        let mut frame = Frames::current_frame(thread).read();
        while !frame.is_null() {
            let code = field::<*mut PyObject>(frame, layout::FRAME_CODE).read();
            // Entry frames that lie on the C stack have no code of their own.
            if !code.is_null() && pyo3::ffi::PyCode_Check(code) != 0 && !abandoned::is_entry_frame(frame) {
                let at = field::<*mut c_void>(frame, layout::FRAME_INSTRUCTION).read();
                let first: *mut c_void = field(code.cast(), layout::CODE_INSTRUCTIONS);
                if !each(code, at.addr().saturating_sub(first.addr())) {
                    return;
                }
            }
            frame = field::<*mut c_void>(frame, layout::FRAME_PREVIOUS).read();
        }
    }
}
