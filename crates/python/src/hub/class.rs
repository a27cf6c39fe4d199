//! Types in the interpreter's own terms.
//!
//! A method that parks may never go on, and PyO3's frames keep counts on the stack across it. So the types whose methods
//! park are made by hand: an [`Object`] is a header, a list of weak references and a value of a [`Class`]; methods have the
//! fast calling convention. The types are made at import and never freed.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;
mod arguments;

use pyo3::ffi::{self, PyGetSetDef, PyMethodDef, PyObject, PyTypeObject, visitproc};

use crate::greenlet::object::owned;

/// Visits one reference, which may be null; as the collector's own function, not zero is the end.
pub(super) use crate::definitions::{alias, attribute, fast, method, of_class, one, plain};
pub(super) use arguments::{Given, arguments, check_count, init_arguments, named, source_argument, truth};

pub(super) type Visit<'a> = &'a mut dyn FnMut(*mut PyObject) -> c_int;

/// What an [`Object`] has beside its header.
pub(super) trait Class: Sized + 'static {
    /// A new object's.
    fn initial() -> Self;

    /// Shows each owned reference.
    fn traverse(&self, visit: Visit<'_>) -> c_int;

    /// Drops what it owns, so that code that runs meanwhile sees it gone.
    ///
    /// # Safety
    ///
    /// The GIL is held; nothing of it is borrowed.
    unsafe fn empty(this: *mut Self);
}

/// An object of such a type.
#[repr(C)]
pub(super) struct Object<T> {
    base: PyObject,
    weakreflist: *mut PyObject,
    own: T,
}

/// What an object has of its own.
///
/// # Safety
///
/// `object` is a live [`Object<T>`].
#[inline(always)]
pub(super) const unsafe fn own<T>(object: *mut PyObject) -> *mut T {
    // SAFETY: the caller's promise.
    unsafe { &raw mut (*object.cast::<Object<T>>()).own }
}

unsafe extern "C" fn new<T: Class>(
    kind: *mut PyTypeObject,
    _arguments: *mut PyObject,
    _keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with a type of these, or one derived from it.
    unsafe { instance::<T>(kind) }
}

/// A new object; null with an exception set.
///
/// # Safety
///
/// The GIL is held; a type from [`make`] for `T`, or one derived from it.
pub(super) unsafe fn instance<T: Class>(kind: *mut PyTypeObject) -> *mut PyObject {
    // SAFETY: the memory is of the type's size, which begins with an `Object<T>`, and nothing runs before it is filled in.
    unsafe {
        let object = ffi::PyType_GenericAlloc(kind, 0);
        if !object.is_null() {
            own::<T>(object).write(T::initial());
        }
        object
    }
}

unsafe extern "C" fn dealloc<T: Class>(object: *mut PyObject) {
    // SAFETY: called by the interpreter with an object whose last reference is gone.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        if !(*object.cast::<Object<T>>()).weakreflist.is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        T::empty(own(object));
        ptr::drop_in_place(own::<T>(object));
        if let Some(free) = (*ffi::Py_TYPE(object)).tp_free {
            free(object.cast());
        }
    }
}

unsafe extern "C" fn traverse<T: Class>(
    object: *mut PyObject,
    visit: visitproc,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: called by the collector with a live object; only owned references are visited.
    unsafe {
        let mut each =
            |reference: *mut PyObject| if reference.is_null() { 0 } else { visit(reference, argument) };
        (*own::<T>(object)).traverse(&mut each)
    }
}

unsafe extern "C" fn clear<T: Class>(object: *mut PyObject) -> c_int {
    // SAFETY: called by the collector with a live object.
    unsafe { T::empty(own(object)) };
    0
}

/// What a type is made of.
pub(super) struct Spec<'a> {
    pub(super) name: &'static CStr,
    pub(super) doc: &'static CStr,
    pub(super) base: *mut PyTypeObject,
    pub(super) methods: &'a [PyMethodDef],
    pub(super) attributes: &'a [PyGetSetDef],
}

/// A type whose slots the caller fills in before [`ready`].
///
/// # Safety
///
/// The GIL is held.
pub(super) unsafe fn make<T: Class>(spec: &Spec<'_>) -> *mut PyTypeObject {
    // SAFETY: the tables and the type live for ever.
    unsafe {
        let kind = blank(spec);
        (*kind).tp_basicsize = size_of::<Object<T>>().cast_signed();
        (*kind).tp_weaklistoffset = std::mem::offset_of!(Object<T>, weakreflist).cast_signed();
        (*kind).tp_new = Some(new::<T>);
        (*kind).tp_dealloc = Some(dealloc::<T>);
        (*kind).tp_traverse = Some(traverse::<T>);
        (*kind).tp_clear = Some(clear::<T>);
        kind
    }
}

/// A type with a name, its tables, and nothing else.
///
/// # Safety
///
/// The GIL is held.
pub(super) unsafe fn blank(spec: &Spec<'_>) -> *mut PyTypeObject {
    // SAFETY: a type object is plain data for which all zeroes means "nothing set".
    let mut kind: PyTypeObject = unsafe { std::mem::zeroed() };
    kind.ob_base = ffi::PyVarObject { ob_base: ffi::PyObject_HEAD_INIT, ob_size: 0 };
    kind.tp_name = spec.name.as_ptr();
    kind.tp_doc = spec.doc.as_ptr();
    kind.tp_base = spec.base;
    kind.tp_flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC;
    kind.tp_alloc = Some(ffi::PyType_GenericAlloc);
    kind.tp_free = Some(ffi::PyObject_GC_Del);
    let mut methods = spec.methods.to_vec();
    methods.push(PyMethodDef::zeroed());
    kind.tp_methods = methods.leak().as_mut_ptr();
    let mut attributes = spec.attributes.to_vec();
    attributes.push(PyGetSetDef::default());
    kind.tp_getset = attributes.leak().as_mut_ptr();
    Box::into_raw(Box::new(kind))
}

/// Completes a type, and puts it into the module by its name's last part. False with an exception set.
///
/// # Safety
///
/// The GIL is held; from [`make`].
pub(super) unsafe fn ready(module: *mut PyObject, kind: *mut PyTypeObject) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        if ffi::PyType_Ready(kind) != 0 {
            return false;
        }
        let name = CStr::from_ptr((*kind).tp_name).to_bytes_with_nul();
        let last = name.iter().rposition(|&byte| byte == b'.').map_or(0, |dot| dot + 1);
        ffi::PyModule_AddObjectRef(module, name[last..].as_ptr().cast(), kind.cast()) == 0
    }
}

// --- small things -----------------------------------------------------------------------------------------------

/// A new reference to None.
pub(super) fn none() -> *mut PyObject {
    // SAFETY: None lives for ever.
    unsafe { owned(ffi::Py_None()) }
}

/// A new reference to None, or null, where an exception is set.
pub(super) fn none_if(fine: bool) -> *mut PyObject {
    if fine { none() } else { ptr::null_mut() }
}

/// A new reference to True or False.
pub(super) fn boolean(truth: bool) -> *mut PyObject {
    // SAFETY: both live for ever.
    unsafe { owned(if truth { ffi::Py_True() } else { ffi::Py_False() }) }
}

/// A new reference, to None if it is null.
///
/// # Safety
///
/// The GIL is held; a live object or null.
pub(super) unsafe fn or_none(object: *mut PyObject) -> *mut PyObject {
    // SAFETY: the caller's promise.
    unsafe { owned(if object.is_null() { ffi::Py_None() } else { object }) }
}

/// Sets the exception `kind()`.
///
/// # Safety
///
/// The GIL is held; an exception class.
pub(super) unsafe fn raise_plain(kind: *mut PyObject) {
    // SAFETY: the caller's promise.
    unsafe { ffi::PyErr_SetObject(kind, ptr::null_mut()) };
}
