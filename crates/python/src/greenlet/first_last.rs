//! A greenlet's first and last moments: what runs on its stack before and after `run`.

use std::ptr;

use pyo3::ffi::{self, PyObject};
use weft_coroutine::arch::Entry;

use super::object::{PyGreenlet, body, owned};
use super::parcel::{Parcel, handle_exit};
use super::switch::{Leave, deliver, discard_keeping_error, discard_object, drop_origin, next_parent};
use super::thread::{Thread, current_thread};
use super::tracing;
use crate::ffi::current_thread_state;

/// [`first_moments`] as the engine takes it.
pub(super) const ENTRY: Entry = {
    // SAFETY: the two types differ only in what the compiler may assume about unwinding. A C++ exception that leaves an
    // extension's function must find the end of the stack above this function, so that the C++ runtime
    // reports it, and no frame of ours that aborts before.
    unsafe { std::mem::transmute::<unsafe extern "C-unwind" fn(usize) -> !, Entry>(first_moments) }
};

/// The first function on a greenlet's stack.
unsafe extern "C-unwind" fn first_moments(transfer: usize) -> ! {
    // SAFETY: entered by `swap` with the origin and its reference, under the GIL, as the current greenlet.
    unsafe {
        let origin: *mut PyGreenlet = ptr::with_exposed_provenance_mut(transfer);
        let thread = current_thread(current_thread_state());
        let result = run_to_end(thread, origin);
        last_moments(thread, result)
    }
}

/// Calls `run`; returns its result, or null with an exception set.
///
/// Few locals, because they stay on the stack for as long as the greenlet lives.
#[inline(never)]
unsafe fn run_to_end(thread: *mut Thread, origin: *mut PyGreenlet) -> *mut PyObject {
    // SAFETY: as for `first_moments`.
    unsafe {
        let parcel = begin(thread, origin);
        match parcel {
            Parcel::Arguments(arguments, keywords) => {
                let run = (*body((*thread).current)).run;
                let result = call(run, arguments, keywords);
                release_arguments(arguments, keywords);
                result
            }
            _ => ptr::null_mut(),
        }
    }
}

/// Takes the parcel, tells the tracer, and lets go of what was only needed to get here.
#[inline(never)]
unsafe fn begin(thread: *mut Thread, origin: *mut PyGreenlet) -> Parcel {
    // SAFETY: as for `first_moments`.
    unsafe {
        let mut parcel = std::mem::replace(&mut (*thread).parcel, Parcel::Empty);
        let old_run = std::mem::replace(&mut (*thread).replaced_run, ptr::null_mut());
        if !(*thread).tracefunc.is_null() {
            let event = match parcel {
                Parcel::Arguments(..) | Parcel::Value(_) => tracing::Event::Switch,
                _ => tracing::Event::Throw,
            };
            if !tracing::call(thread, event, origin, (*thread).current) {
                discard_keeping_error(std::mem::replace(&mut parcel, Parcel::Exception));
            }
        }
        if let Parcel::Value(value) = parcel {
            // A finished greenlet's result for a parent that was not started: its one argument.
            let arguments = ffi::PyTuple_Pack(1, value);
            ffi::Py_DECREF(value);
            parcel = if arguments.is_null() {
                Parcel::Exception
            } else {
                Parcel::Arguments(arguments, ptr::null_mut())
            };
        }
        drop_origin(origin);
        discard_object(old_run);
        parcel
    }
}

#[inline(always)]
unsafe fn call(run: *mut PyObject, arguments: *mut PyObject, keywords: *mut PyObject) -> *mut PyObject {
    // SAFETY: live objects; the greenlet's body holds `run` while it runs.
    unsafe {
        if keywords.is_null() && ffi::PyTuple_GET_SIZE(arguments) == 0 {
            ffi::PyObject_CallNoArgs(run)
        } else {
            ffi::PyObject_Call(run, arguments, keywords)
        }
    }
}

#[inline(never)]
unsafe fn release_arguments(arguments: *mut PyObject, keywords: *mut PyObject) {
    // SAFETY: owned references; an exception that is set stays set.
    unsafe {
        discard_object(arguments);
        discard_object(keywords);
    }
}

/// Ends the current greenlet and passes its result on to the first parent that takes it.
unsafe fn last_moments(thread: *mut Thread, result: *mut PyObject) -> ! {
    // SAFETY: as for `first_moments`; after the last switch nothing of this stack is used again.
    unsafe {
        let greenlet = (*thread).current;
        let this = body(greenlet);
        discard_object(std::mem::replace(&mut (*this).run, ptr::null_mut()));
        let mut parcel = handle_exit(result);
        let mut parent = (*this).parent;
        if matches!(parcel, Parcel::Exception) && !parent.is_null() && parent.cast() == (*thread).hub {
            let old = std::mem::replace(&mut (*thread).failed, owned(greenlet));
            discard_object(old.cast());
        }
        if let Parcel::Value(value) = parcel
            && !parent.is_null()
            && parent.cast() == (*thread).hub
            && let Some(successor) = (*thread).successor
        {
            // The hub has no use for it. What is dropped may run Python code, so nobody is asked before.
            ffi::Py_DECREF(value);
            parcel = Parcel::Value(owned(ffi::Py_None()));
            if let Some((next, brought)) = successor(thread, greenlet) {
                ffi::Py_DECREF(ffi::Py_None());
                // As with a parent, below.
                let old = std::mem::replace(&mut (*this).run, next.cast());
                discard_object(old);
                let failed = deliver(next, brought, ptr::null(), Leave::ForEver);
                debug_assert!(failed.is_null());
                parcel = Parcel::Exception;
            }
            parent = (*this).parent;
        }
        while !parent.is_null() {
            // `run`, which is empty now, holds the parent: looking up the parent's own `run` may run Python code that
            // takes it away, and nothing that needs dropping may lie on this stack.
            let old = std::mem::replace(&mut (*this).run, owned(parent).cast());
            discard_object(old);
            let failed = deliver(parent, parcel, ptr::null(), Leave::ForEver);
            debug_assert!(failed.is_null());
            // The switch failed: its exception goes to the next parent.
            parcel = Parcel::Exception;
            parent = next_parent(parent);
        }
        ffi::PyErr_WriteUnraisable(greenlet.cast());
        ffi::Py_FatalError(
            c"greenlet: ran out of parent greenlets while propagating exception; cannot continue".as_ptr(),
        );
    }
}
