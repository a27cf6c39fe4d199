//! Creation, garbage collection and the end of a greenlet object.
//!
//! # Collection
//!
//! What a suspended greenlet refers to from its stack, the collector cannot see. So an active greenlet is no candidate for it
//! (`tp_is_gc`); it ends when its last reference goes: then `GreenletExit` is thrown into it, so that its
//! frames are left by the usual way. If its thread is another one, that is put off until the thread runs; if that thread
//! has ended, the frames can never be left, and what they refer to stays.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyObject, PyTypeObject, visitproc};
use weft_coroutine::slotted::Slots;

use super::attributes;
use super::object::{self, Body, Life, PyGreenlet, SavedError, body, clear, owned};
use super::thread::{self, MAIN_GREENLETS, belongs_to_ended_thread, current_thread, slots_owner, thread_of};
use super::types::errors;
use crate::ffi::{current_thread_state, is_finalizing};
use std::sync::atomic::Ordering;

/// `tp_new`.
pub(crate) unsafe extern "C" fn new(
    kind: *mut PyTypeObject,
    _arguments: *mut PyObject,
    _keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with the greenlet type or one derived from it.
    unsafe { create(kind).cast() }
}

/// A new greenlet whose parent is the current one; null with an exception set on failure.
unsafe fn create(kind: *mut PyTypeObject) -> *mut PyGreenlet {
    // SAFETY: the GIL is held; the new object is known to nobody else yet.
    unsafe {
        let thread = current_thread(current_thread_state());
        if thread.is_null() {
            return ptr::null_mut();
        }
        if !(*thread).delete_later.is_empty() {
            thread::delete_dropped_elsewhere(thread);
        }
        let greenlet = object::allocate(kind, false);
        if !greenlet.is_null() {
            (*body(greenlet)).parent = owned((*thread).current);
        }
        greenlet
    }
}

/// `tp_init`: `greenlet(run=None, parent=None)`.
pub(crate) unsafe extern "C" fn init(
    this: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> c_int {
    let mut run: *mut PyObject = ptr::null_mut();
    let mut parent: *mut PyObject = ptr::null_mut();
    let mut names: [*const c_char; 3] = [c"run".as_ptr(), c"parent".as_ptr(), ptr::null()];
    // SAFETY: called by the interpreter; the format has two objects, and the names end with null.
    unsafe {
        let parsed = ffi::PyArg_ParseTupleAndKeywords(
            arguments,
            keywords,
            c"|OO:green".as_ptr(),
            names.as_mut_ptr().cast(),
            &raw mut run,
            &raw mut parent,
        );
        if parsed == 0 {
            return -1;
        }
        set_up(this.cast(), run, parent)
    }
}

/// Sets `run` and `parent` where they were given; both are borrowed.
unsafe fn set_up(greenlet: *mut PyGreenlet, run: *mut PyObject, parent: *mut PyObject) -> c_int {
    // SAFETY: live objects or null; the GIL is held.
    unsafe {
        if !run.is_null() && attributes::set_run(greenlet.cast(), run, ptr::null_mut()) != 0 {
            return -1;
        }
        if !parent.is_null() && parent != ffi::Py_None() {
            return attributes::set_parent(greenlet.cast(), parent, ptr::null_mut());
        }
        0
    }
}

/// `tp_vectorcall` of the type: makes an exact greenlet without a tuple and a dictionary in between.
pub(crate) unsafe extern "C" fn vectorcall(
    kind: *mut PyObject,
    arguments: *const *mut PyObject,
    count: usize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: vectorcall's conventions.
    unsafe {
        let positional = ffi::PyVectorcall_NARGS(count);
        let greenlet = create(kind.cast());
        if greenlet.is_null() {
            return ptr::null_mut();
        }
        let status = if keyword_names.is_null() && positional <= 2 {
            let argument =
                |index| if positional > index { arguments.offset(index).read() } else { ptr::null_mut() };
            set_up(greenlet, argument(0), argument(1))
        } else {
            match super::parcel::pack(arguments, positional, keyword_names) {
                Some(super::parcel::Parcel::Arguments(tuple, keywords)) => {
                    let status = init(greenlet.cast(), tuple, keywords);
                    ffi::Py_DECREF(tuple);
                    ffi::Py_XDECREF(keywords);
                    status
                }
                _ => -1,
            }
        };
        if status != 0 {
            ffi::Py_DECREF(greenlet.cast());
            return ptr::null_mut();
        }
        greenlet.cast()
    }
}

/// `tp_traverse`.
pub(crate) unsafe extern "C" fn traverse(
    this: *mut PyObject,
    visit: visitproc,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: called by the collector with a live greenlet; only owned references are visited.
    unsafe {
        let greenlet: *mut PyGreenlet = this.cast();
        let this = (*greenlet).pimpl;
        let visit = |object: *mut PyObject| if object.is_null() { 0 } else { visit(object, argument) };
        let mut status = visit((*greenlet).dict);
        if this.is_null() {
            return status;
        }
        let state = &raw mut (*this).coroutine.host;
        let mut also = |object: *mut PyObject| {
            if status == 0 {
                status = visit(object);
            }
        };
        also((*this).run);
        if !holds_stale_state(greenlet) {
            also((*state).exc_value_slot().read());
            also((*state).context_slot().read());
        }
        if (*this).is_main {
            let thread = thread_of(greenlet);
            if !thread.is_null() {
                if (*thread).current != greenlet {
                    also((*thread).current.cast());
                }
                also((*thread).tracefunc);
            }
        } else {
            also((*this).parent.cast());
            also((*this).main.cast());
        }
        status
    }
}

/// `tp_clear`.
pub(crate) unsafe extern "C" fn tp_clear(this: *mut PyObject) -> c_int {
    // SAFETY: called by the collector with a live greenlet that is not active.
    unsafe {
        let greenlet: *mut PyGreenlet = this.cast();
        clear(&raw mut (*greenlet).dict);
        clear_body(greenlet);
    }
    0
}

/// Whether the interpreter state that the body keeps is what the thread state had long ago: it runs, or it is the
/// main greenlet of a thread that has ended, which ran last.
///
/// # Safety
///
/// The GIL is held; a live greenlet with its body.
pub(super) unsafe fn holds_stale_state(greenlet: *mut PyGreenlet) -> bool {
    // SAFETY: a live greenlet with its body.
    unsafe {
        let thread = thread_of(greenlet);
        if thread.is_null() {
            (*body(greenlet)).is_main || (*body(greenlet)).lost.load(Ordering::Acquire)
        } else {
            (*thread).current == greenlet
        }
    }
}

unsafe fn clear_body(greenlet: *mut PyGreenlet) {
    // SAFETY: fields hold owned references; a main greenlet's `main` and `parent` are none.
    unsafe {
        let this = body(greenlet);
        if !holds_stale_state(greenlet) {
            clear((*this).coroutine.host.exc_value_slot());
            clear((*this).coroutine.host.context_slot());
        }
        clear(&raw mut (*this).run);
        if !(*this).is_main {
            clear(&raw mut (*this).parent);
            if (*this).life != Life::Active {
                clear(&raw mut (*this).main);
            }
        }
    }
}

/// `tp_is_gc`: active greenlets are no candidates.
pub(crate) unsafe extern "C" fn is_gc(this: *mut PyObject) -> c_int {
    // SAFETY: called with a live greenlet; it may have lost its body in `tp_dealloc` already.
    unsafe {
        let greenlet: *mut PyGreenlet = this.cast();
        let this = (*greenlet).pimpl;
        if this.is_null() {
            return 1;
        }
        let candidate = (*this).is_main || (*this).life != Life::Active || belongs_to_ended_thread(greenlet);
        c_int::from(candidate)
    }
}

/// Makes a suspended greenlet that can never run again dead, without leaving its frames by the usual way.
///
/// What its frames hold in variables is let go of; temporary values of unfinished expressions are leaked, because only
/// the interpreter loop that stands still on the lost stack knows where they are.
///
/// # Safety
///
/// The GIL is held; the greenlet does not run. May run Python code.
pub(crate) unsafe fn make_dead(greenlet: *mut PyGreenlet) {
    // SAFETY: suspended, says the caller, and from here on nobody can switch to it. The stack stays until the frames
    // are let go of, because entry frames lie on it.
    unsafe {
        let this = body(greenlet);
        if (*this).life != Life::Active || ((*this).is_main && !thread_of(greenlet).is_null()) {
            return;
        }
        (*this).life = Life::Dead;
        if (*this).is_main {
            return;
        }
        if is_finalizing() || (*this).lost.load(Ordering::Acquire) {
            return;
        }
        let saved = SavedError::take();
        if !(*this).call_arguments.is_null() {
            // `parent.switch()` was the last that it did: the receiver lies just before the arguments, on a stack that
            // nobody will ever take it from.
            let receiver = (*this).call_arguments.sub(1).cast_mut();
            let main = (*this).main;
            if (*this).coroutine.host.stack_holds(receiver, main.cast()) {
                (*body(main)).held_by_abandoned += 1;
            }
        }
        (*this).coroutine.host.abandon_frames();
        // Asked for only now: that may have run Python code, and the thread may be gone.
        let owner = slots_owner(greenlet);
        if !owner.is_null() {
            Slots::discard(&raw mut (*owner).slots, &raw mut (*this).coroutine);
        }
        clear((*this).coroutine.host.context_slot());
        clear((*this).coroutine.host.exc_value_slot());
        saved.restore();
    }
}

/// `tp_dealloc`.
pub(crate) unsafe extern "C" fn dealloc(this: *mut PyObject) {
    // SAFETY: called by the interpreter with a greenlet whose last reference is gone.
    unsafe { dealloc_with(this, |_| ()) };
}

/// The same for a type with more fields, which `clear_more` empties once nothing runs in the greenlet any more.
///
/// # Safety
///
/// Called by the interpreter with a greenlet whose last reference is gone.
pub(crate) unsafe fn dealloc_with(this: *mut PyObject, clear_more: unsafe fn(*mut PyObject)) {
    // SAFETY: as the caller says.
    unsafe {
        let greenlet: *mut PyGreenlet = this.cast();
        ffi::PyObject_GC_UnTrack(this.cast());
        let has_body = !(*greenlet).pimpl.is_null();
        let was_active = has_body && (*body(greenlet)).life == Life::Active;
        if has_body
            && (*body(greenlet)).life == Life::Active
            && !(*body(greenlet)).is_main
            && !unwind(greenlet)
        {
            return;
        }
        if !(*greenlet).weakreflist.is_null() {
            ffi::PyObject_ClearWeakRefs(this);
        }
        clear_more(this);
        clear(&raw mut (*greenlet).dict);
        if has_body {
            let this = body(greenlet);
            clear_body(greenlet);
            if !(*this).is_main {
                let main = (*this).main;
                let last =
                    !main.is_null() && slots_owner(greenlet).is_null() && ffi::Py_REFCNT(main.cast()) == 2;
                clear(&raw mut (*this).main);
                if last {
                    thread::drop_leaked_main(main);
                }
            } else {
                MAIN_GREENLETS.fetch_sub(1, Ordering::Relaxed);
            }
            (*greenlet).pimpl = ptr::null_mut();
            // While the interpreter goes down, a suspended stack stays in its slot, for frames that lead there, and
            // so does its owner. At the end of the process, that is no leak.
            if !(was_active && is_finalizing()) {
                Body::free(this);
            }
        }
        let kind = ffi::Py_TYPE(this);
        if let Some(free) = (*kind).tp_free {
            free(this.cast());
        }
    }
}

/// Ends a suspended greenlet whose last reference is gone; false if that brought it back to life.
unsafe fn unwind(greenlet: *mut PyGreenlet) -> bool {
    // SAFETY: called from `dealloc`. The object gets one reference for the time in between, and it is looked whether
    // more came; what the interpreter does for a finalizer is done here because `GreenletExit` may switch.
    unsafe {
        if is_finalizing() {
            make_dead(greenlet);
            return true;
        }
        let object: *mut PyObject = greenlet.cast();
        set_references(object, 1);
        let saved = SavedError::take();
        // First, because making it may run Python code.
        let here = current_thread(current_thread_state());
        let thread = thread_of(greenlet);
        if thread.is_null() {
            make_dead(greenlet);
        } else if thread == here {
            throw_exit(greenlet, (*thread).current);
        } else {
            // Its thread unwinds it when it runs next; without memory for the list, never.
            owned(greenlet);
            if (*thread).delete_later.try_reserve(1).is_ok() {
                (*thread).delete_later.push(greenlet);
            }
        }
        if ffi::Py_REFCNT(object) == 1 && (*body(greenlet)).life == Life::Active {
            complain(object);
        }
        saved.restore();
        let references = ffi::Py_REFCNT(object) - 1;
        if references == 0 {
            set_references(object, 0);
            return true;
        }
        // Resurrected: as the interpreter does after a finalizer (`PyObject_CallFinalizerFromDealloc`).
        set_references(object, references);
        let kind = ffi::Py_TYPE(object);
        if ffi::PyType_HasFeature(kind, ffi::Py_TPFLAGS_HEAPTYPE) != 0 {
            // `subtype_dealloc` drops a reference to the type when this returns.
            ffi::Py_INCREF(kind.cast());
        }
        ffi::PyObject_GC_Track(object.cast());
        false
    }
}

/// Sets an object's reference count, as the interpreter does around a finalizer.
unsafe fn set_references(object: *mut PyObject, count: isize) {
    // SAFETY: in builds with the GIL and without reference tracing, the count is the object's first word.
    unsafe { object.cast::<isize>().write(count) };
}

/// Throws `GreenletExit`; what the greenlet returns or raises comes back here.
unsafe fn throw_exit(greenlet: *mut PyGreenlet, current: *mut PyGreenlet) {
    // SAFETY: the greenlet is suspended and of this thread. It is no ancestor of the current one, which would hold a
    // reference to it, so the current one may be its parent.
    unsafe {
        let this = body(greenlet);
        let old_parent = std::mem::replace(&mut (*this).parent, owned(current));
        ffi::PyErr_SetString(
            errors().greenlet_exit,
            c"Killing the greenlet because all references have vanished.".as_ptr(),
        );
        let result = super::switch::switch(greenlet, super::parcel::Parcel::Exception);
        if result.is_null() {
            ffi::PyErr_WriteUnraisable(greenlet.cast());
        }
        ffi::Py_XDECREF(result);
        let mut lent = std::mem::replace(&mut (*this).parent, old_parent);
        clear(&raw mut lent);
    }
}

/// Says on standard error that a greenlet does not end, and leaks it.
unsafe fn complain(object: *mut PyObject) {
    // SAFETY: the GIL is held; `stderr` is held while it is written to.
    unsafe {
        let stderr = ffi::PySys_GetObject(c"stderr".as_ptr());
        ffi::Py_INCREF(object);
        if stderr.is_null() {
            return;
        }
        ffi::Py_INCREF(stderr);
        ffi::PyFile_WriteString(c"GreenletExit did not kill ".as_ptr(), stderr);
        ffi::PyFile_WriteObject(object, stderr, 0);
        ffi::PyFile_WriteString(c"\n".as_ptr(), stderr);
        ffi::Py_DECREF(stderr);
    }
}
