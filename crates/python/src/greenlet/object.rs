//! The greenlet object: 40 bytes that compiled extensions embed, and the coroutine behind them.

use std::ptr;
use std::sync::atomic::AtomicBool;

use pyo3::ffi::{self, PyObject, PyTypeObject};
use weft_coroutine::slotted::Coroutine;

use super::types;
use crate::ffi::State;

/// The object as extensions see it; its layout is that of greenlet's public header.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct PyGreenlet {
    pub(crate) ob_base: PyObject,
    pub(crate) weakreflist: *mut PyObject,
    pub(crate) dict: *mut PyObject,
    pub(crate) pimpl: *mut Body,
}

const _: () = assert!(size_of::<PyGreenlet>() == 40, "gevent's compiled modules embed a 40-byte greenlet");

/// Where a greenlet is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Life {
    /// Not started: `run` may still be set.
    Pending,
    /// Started and not finished: it runs, or is suspended.
    Active,
    /// Finished, or can never run again.
    Dead,
}

/// What a greenlet is beside its Python-visible fields.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) coroutine: Coroutine<State>,
    /// The main greenlet of the thread that this one was started in, owned; null before the start. A main
    /// greenlet has itself here, not owned.
    pub(crate) main: *mut PyGreenlet,
    /// Owned; null for main greenlets and after a collection.
    pub(crate) parent: *mut PyGreenlet,
    /// What to run, owned; while it runs, kept for the collector to find.
    pub(crate) run: *mut PyObject,
    /// Where the arguments of the `switch()` lie that it is suspended in, if that is what it is suspended in.
    pub(crate) call_arguments: *const *mut PyObject,
    /// What it waits for, if that is an object of the hub's; borrowed, held by whoever called for the wait.
    pub(crate) waits_for: *mut PyObject,
    /// Of a main greenlet: how many abandoned frames had it on their evaluation stacks.
    pub(crate) held_by_abandoned: u32,
    pub(crate) life: Life,
    /// Only of `UnswitchableGreenlet`: pretend that the switch fails before or in the middle.
    pub(crate) broken: Broken,
    pub(crate) is_main: bool,
    /// Whether `run` is what is to be called though the type is a derived one: nothing has to be looked up.
    pub(crate) starts_plainly: bool,
    /// Whether it was running when its thread vanished, in the child of a fork or at the end of a thread.
    pub(crate) lost: AtomicBool,
}

/// Failures to pretend.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Broken {
    pub(crate) switch: bool,
    pub(crate) stack_switch: bool,
}

impl Broken {
    /// Whether there is anything to pretend.
    pub(crate) const fn any(self) -> bool {
        self.switch || self.stack_switch
    }
}

impl Body {
    /// A body on the heap for a new greenlet; null, with `MemoryError` set, if there is no memory.
    pub(crate) fn allocate(is_main: bool) -> *mut Self {
        const _: () = assert!(align_of::<Body>() <= 16, "what the interpreter's allocator gives");
        // SAFETY: the GIL is held; the memory is written whole before it is used.
        unsafe {
            let body: *mut Self = ffi::PyObject_Malloc(size_of::<Self>()).cast();
            if body.is_null() {
                ffi::PyErr_NoMemory();
                return body;
            }
            let state = State::new();
            body.write(Self {
                coroutine: if is_main { Coroutine::native(state) } else { Coroutine::new(state) },
                main: ptr::null_mut(),
                parent: ptr::null_mut(),
                run: ptr::null_mut(),
                call_arguments: ptr::null(),
                waits_for: ptr::null_mut(),
                held_by_abandoned: 0,
                life: if is_main { Life::Active } else { Life::Pending },
                broken: Broken::default(),
                is_main,
                starts_plainly: false,
                lost: AtomicBool::new(false),
            });
            body
        }
    }

    /// Frees a body whose references are gone.
    ///
    /// # Safety
    ///
    /// The GIL is held; from [`Body::allocate`], and its coroutine does not run and is in no slot.
    pub(crate) unsafe fn free(body: *mut Self) {
        // SAFETY: the caller's promise; the memory came from `allocate`.
        unsafe {
            ptr::drop_in_place(body);
            ffi::PyObject_Free(body.cast());
        }
    }
}

/// The body of a greenlet.
///
/// # Safety
///
/// `greenlet` is a live greenlet.
#[inline(always)]
pub(crate) unsafe fn body(greenlet: *mut PyGreenlet) -> *mut Body {
    // SAFETY: the caller's promise.
    unsafe { (*greenlet).pimpl }
}

/// Whether `object` is a greenlet, or of a subclass.
///
/// # Safety
///
/// `object` is a live object, or null.
pub(crate) unsafe fn is_greenlet(object: *mut PyObject) -> bool {
    // SAFETY: the caller's promise.
    unsafe { !object.is_null() && ffi::PyObject_TypeCheck(object, types::greenlet_type()) != 0 }
}

/// The type's name, as C string, for messages.
///
/// # Safety
///
/// `object` is a live object.
pub(crate) unsafe fn type_name(object: *mut PyObject) -> *const std::ffi::c_char {
    // SAFETY: every type has a name.
    unsafe { (*ffi::Py_TYPE(object)).tp_name }
}

/// Takes a new reference and gives the pointer back.
///
/// # Safety
///
/// `object` is a live object.
#[inline(always)]
pub(crate) unsafe fn owned<T>(object: *mut T) -> *mut T {
    // SAFETY: the caller's promise.
    unsafe { ffi::Py_INCREF(object.cast()) };
    object
}

/// Takes a new reference unless null.
///
/// # Safety
///
/// `object` is a live object, or null.
#[inline(always)]
pub(crate) unsafe fn owned_or_null<T>(object: *mut T) -> *mut T {
    // SAFETY: the caller's promise.
    unsafe { ffi::Py_XINCREF(object.cast()) };
    object
}

/// Empties a field and drops the reference; may run arbitrary Python code.
///
/// # Safety
///
/// `place` holds an owned reference or null.
pub(crate) unsafe fn clear<T>(place: *mut *mut T) {
    // SAFETY: the field is empty before the reference goes, so code that runs then sees it so.
    unsafe {
        let old = place.replace(ptr::null_mut());
        ffi::Py_XDECREF(old.cast());
    }
}

/// An exception put aside while code runs that must not see it.
#[derive(Debug)]
#[must_use]
pub(crate) struct SavedError {
    kind: *mut PyObject,
    value: *mut PyObject,
    traceback: *mut PyObject,
}

impl SavedError {
    /// Takes the current exception, if any.
    pub(crate) unsafe fn take() -> Self {
        let mut saved = Self { kind: ptr::null_mut(), value: ptr::null_mut(), traceback: ptr::null_mut() };
        // SAFETY: the GIL is held; the three places are writable.
        #[allow(deprecated, reason = "the one pair of functions that all supported versions have")]
        unsafe {
            ffi::PyErr_Fetch(&raw mut saved.kind, &raw mut saved.value, &raw mut saved.traceback);
        }
        saved
    }

    /// The same as an instance that has its traceback.
    pub(crate) unsafe fn take_whole() -> Self {
        // SAFETY: as above; the three parts are owned here, or null.
        #[allow(deprecated, reason = "the one set of functions that all supported versions have")]
        unsafe {
            let mut saved = Self::take();
            ffi::PyErr_NormalizeException(
                &raw mut saved.kind,
                &raw mut saved.value,
                &raw mut saved.traceback,
            );
            if !saved.traceback.is_null() && !saved.value.is_null() {
                ffi::PyException_SetTraceback(saved.value, saved.traceback);
            }
            saved
        }
    }

    /// The type, the exception and its traceback, borrowed; None for what there is not.
    pub(crate) unsafe fn parts(&self) -> [*mut PyObject; 3] {
        // SAFETY: None lives for ever.
        let none = unsafe { ffi::Py_None() };
        [self.kind, self.value, self.traceback].map(|part| if part.is_null() { none } else { part })
    }

    /// Whether there is none.
    pub(crate) const fn is_nothing(&self) -> bool {
        self.kind.is_null()
    }

    /// Whether it is that exception, which is an instance.
    pub(crate) unsafe fn is(&self, exception: *mut PyObject) -> bool {
        // An instance that was thrown is never a class that waits to be called.
        self.value == exception
    }

    /// Puts it back, in place of whatever is set now.
    pub(crate) unsafe fn restore(self) {
        // SAFETY: the GIL is held; the references move to the interpreter.
        #[allow(deprecated, reason = "the one pair of functions that all supported versions have")]
        unsafe {
            ffi::PyErr_Restore(self.kind, self.value, self.traceback);
        }
    }

    /// Forgets it.
    pub(crate) unsafe fn discard(self) {
        // SAFETY: the references are ours.
        unsafe {
            ffi::Py_XDECREF(self.kind);
            ffi::Py_XDECREF(self.value);
            ffi::Py_XDECREF(self.traceback);
        }
    }
}

/// Allocates an exact or derived greenlet with its body; null with an exception set on failure.
///
/// # Safety
///
/// `kind` is the greenlet type or derived from it.
pub(crate) unsafe fn allocate(kind: *mut PyTypeObject, is_main: bool) -> *mut PyGreenlet {
    // SAFETY: passed on.
    unsafe { allocate_known(kind, is_main, kind == types::greenlet_type()) }
}

/// The same; of a type that is `concrete` nobody has to ask whether it is abstract.
///
/// # Safety
///
/// As for [`allocate`].
pub(crate) unsafe fn allocate_known(
    kind: *mut PyTypeObject,
    is_main: bool,
    concrete: bool,
) -> *mut PyGreenlet {
    // SAFETY: `tp_alloc` gives zeroed memory of the type's size, which begins with a `PyGreenlet`.
    unsafe {
        let object: *mut PyGreenlet = if concrete {
            ffi::PyType_GenericAlloc(kind, 0).cast()
        } else {
            // `object.__new__` refuses abstract classes.
            let no_arguments = types::errors().empty_tuple;
            match ffi::PyBaseObject_Type.tp_new {
                Some(new) => new(kind, no_arguments, ptr::null_mut()).cast(),
                None => ptr::null_mut(),
            }
        };
        if object.is_null() {
            return object;
        }
        let body = Body::allocate(is_main);
        if body.is_null() {
            ffi::Py_DECREF(object.cast());
            return ptr::null_mut();
        }
        (*object).pimpl = body;
        object
    }
}
