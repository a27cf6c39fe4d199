//! Frames that will never run again: a suspended coroutine's after its thread has ended.
//!
//! CPython has no way to leave a frame without running it. What a frame holds is let go of here instead, field by
//! field, as `_PyFrame_Clear` does (`Python/frame.c`); a frame that has a frame object is handed over
//! to that object, as CPython's `take_ownership` does. Values on the frame's evaluation stack are not touched: how many there
//! are is known only to the interpreter loop, whose C stack is lost. They leak.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::{field, layout};

/// Bytes of a frame's header and its first `locals` variables.
fn frame_size(locals: usize) -> usize {
    layout::FRAME_LOCALSPLUS + locals * size_of::<*mut PyObject>()
}

/// How many variables the frame's code has.
///
/// # Safety
///
/// `frame` is a frame of Python code.
unsafe fn local_count(frame: *mut c_void) -> usize {
    // SAFETY: laid out as the headers said; such a frame's code is a code object.
    unsafe {
        let code = field::<*mut c_void>(frame, layout::FRAME_CODE).read();
        usize::try_from(field::<c_int>(code, layout::CODE_NLOCALSPLUS).read()).unwrap_or(0)
    }
}

/// Gives a frame to its frame object, with `back`, an owned reference or null, as its caller. The object
/// then holds what the frame held. The frame's own reference to it remains, for the caller to drop.
///
/// # Safety
///
/// `object` is the frame's frame object; the frame is not used again.
unsafe fn hand_over(frame: *mut c_void, object: *mut PyObject, back: *mut PyObject) {
    // SAFETY: a frame object has room for its code's frame. The evaluation stack is left out, so the copy
    // holds exactly what it says it holds.
    unsafe {
        let locals = local_count(frame);
        let data: *mut c_void = field(object.cast(), layout::FRAMEOBJECT_DATA);
        ptr::copy_nonoverlapping(frame.cast::<u8>(), data.cast::<u8>(), frame_size(locals));
        field::<c_char>(data, layout::FRAME_OWNER).write(layout::OWNED_BY_FRAME_OBJECT as c_char);
        field::<c_int>(data, layout::FRAME_STACKTOP).write(c_int::try_from(locals).unwrap_or(0));
        field::<*mut c_void>(data, layout::FRAME_PREVIOUS).write(ptr::null_mut());
        field::<*mut PyObject>(data, layout::FRAME_OBJECT).write(ptr::null_mut());
        field::<*mut c_void>(object.cast(), layout::FRAMEOBJECT_FRAME).write(data);
        let place: *mut *mut PyObject = field(object.cast(), layout::FRAMEOBJECT_BACK);
        if place.read().is_null() {
            place.write(back);
        } else {
            ffi::Py_XDECREF(back);
        }
        if ffi::PyObject_GC_IsTracked(object) == 0 {
            ffi::PyObject_GC_Track(object.cast());
        }
    }
}

/// The frame object of the caller, as a new reference: for a frame object that somebody keeps, who may ask for it.
///
/// It is made if it does not exist, so the collector must be off.
unsafe fn caller_of(object: *mut PyObject) -> *mut PyObject {
    // SAFETY: a frame object whose chain is still whole.
    unsafe {
        if ffi::Py_REFCNT(object) == 1 {
            return ptr::null_mut();
        }
        let back = ffi::PyFrame_GetBack(object.cast());
        if back.is_null() {
            // The outermost one, or there is no memory; then it has lost its callers.
            ffi::PyErr_Clear();
        }
        back.cast()
    }
}

unsafe fn is_thread_owned(frame: *mut c_void) -> bool {
    // SAFETY: laid out as the headers said.
    unsafe {
        let owner = field::<c_char>(frame, layout::FRAME_OWNER).read();
        usize::try_from(owner).is_ok_and(|owner| owner == layout::OWNED_BY_THREAD)
    }
}

/// Whether `slot` is a place of the frame's evaluation stack, and holds `object`.
///
/// # Safety
///
/// `frame` is null or the innermost frame of a suspended coroutine; `slot` is only read if it lies in that frame.
pub(super) unsafe fn stack_holds(
    frame: *mut c_void,
    slot: *mut *mut PyObject,
    object: *mut PyObject,
) -> bool {
    // SAFETY: laid out as the headers said; a frame has as many places as its code says.
    unsafe {
        if frame.is_null() || !is_thread_owned(frame) {
            return false;
        }
        let first: *mut *mut PyObject = field(frame, frame_size(local_count(frame)));
        let code = field::<*mut c_void>(frame, layout::FRAME_CODE).read();
        let places = usize::try_from(field::<c_int>(code, layout::CODE_STACKSIZE).read()).unwrap_or(0);
        (first..first.add(places)).contains(&slot) && slot.read() == object
    }
}

/// Lets go of all frames from `frame` outwards.
///
/// # Safety
///
/// The GIL is held. The chain is that of a suspended coroutine that is never resumed; all of it can be read. May run Python
/// code, after the chain has been taken apart.
pub(super) unsafe fn release(mut frame: *mut c_void) {
    let mut garbage: Vec<*mut PyObject> = Vec::new();
    // SAFETY: the GIL is held. Nothing in here may run Python code while the chain is half apart.
    let collecting = unsafe { ffi::PyGC_Disable() };
    // SAFETY: every frame is read before it is taken apart, and visited once. Variables of a frame in the chain are set
    // or null: CPython links a frame in after it has initialised them.
    unsafe {
        while !frame.is_null() {
            let previous = field::<*mut c_void>(frame, layout::FRAME_PREVIOUS).read();
            let thread_owned = is_thread_owned(frame);
            let on_c_stack = !thread_owned && is_entry_frame(frame);
            let mut back = ptr::null_mut();
            if thread_owned {
                let object = field::<*mut PyObject>(frame, layout::FRAME_OBJECT).read();
                if !object.is_null() {
                    back = caller_of(object);
                }
            }
            if !on_c_stack {
                // Nobody may walk from here into memory that is about to go.
                field::<*mut c_void>(frame, layout::FRAME_PREVIOUS).write(ptr::null_mut());
            }
            if thread_owned {
                let object = field::<*mut PyObject>(frame, layout::FRAME_OBJECT).read();
                if !object.is_null() {
                    hand_over(frame, object, back);
                    // Dropped with the rest; without memory to note it, leaked.
                    if garbage.try_reserve(1).is_ok() {
                        garbage.push(object);
                    }
                } else {
                    let single = [layout::FRAME_LOCALS, layout::FRAME_FUNCTION, layout::FRAME_CODE];
                    let locals = local_count(frame);
                    let variables = (0..locals)
                        .map(|index| layout::FRAME_LOCALSPLUS + index * size_of::<*mut PyObject>());
                    if garbage.try_reserve(single.len() + locals).is_err() {
                        // No memory to note it all: leak it.
                        frame = previous;
                        continue;
                    }
                    for offset in single.into_iter().chain(variables) {
                        let place: *mut *mut PyObject = field(frame, offset);
                        garbage.push(place.replace(ptr::null_mut()));
                    }
                }
            }
            frame = previous;
        }
        if collecting != 0 {
            ffi::PyGC_Enable();
        }
        for object in garbage {
            ffi::Py_XDECREF(object);
        }
    }
}

/// Whether it is one of the frames that the interpreter loop keeps on the C stack; there are none before 3.12.
///
/// # Safety
///
/// A valid frame.
pub(super) unsafe fn is_entry_frame(frame: *mut c_void) -> bool {
    /// `FRAME_OWNED_BY_CSTACK`, the same in 3.12 and 3.13.
    const OWNED_BY_C_STACK: c_char = 3;
    // SAFETY: laid out as the headers said.
    unsafe { field::<c_char>(frame, layout::FRAME_OWNER).read() == OWNED_BY_C_STACK }
}
