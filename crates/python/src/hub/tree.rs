//! Who made whom: what a greenlet knows of the one that made it.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyGetSetDef, PyObject, PyTypeObject};

use super::class::{Visit, attribute, or_none};
use super::faces::names;
use super::park;
use super::spawned::{Raw, is_raw};
use crate::ffi::{current_thread_state, walk_frames};
use crate::gil::GilCell;
use crate::greenlet::attributes::parent_of;
use crate::greenlet::object::{PyGreenlet, clear, owned};

static TRACKED: GilCell<bool> = GilCell::new(true);

/// Whether greenlets note who made them.
pub(super) fn is_tracked() -> bool {
    // SAFETY: read with the GIL.
    unsafe { *TRACKED.get() }
}

/// Says whether greenlets note who made them, and where.
pub(super) unsafe extern "C" fn track_tree(_module: *mut PyObject, truth: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter.
    unsafe {
        match ffi::PyObject_IsTrue(truth) {
            -1 => ptr::null_mut(),
            truth => {
                *TRACKED.get() = truth != 0;
                owned(ffi::Py_None())
            }
        }
    }
}

/// The reference that was made last, owned: an object has one that all share, as long as somebody keeps it, and who spawns
/// spawns again.
static LAST: GilCell<*mut PyObject> = GilCell::new(ptr::null_mut());

unsafe fn keep(reference: *mut PyObject) {
    // SAFETY: with the GIL; the old one is dropped when it is out of reach.
    unsafe {
        if *LAST.get() != reference {
            let old = std::mem::replace(&mut *LAST.get(), owned(reference));
            ffi::Py_XDECREF(old);
        }
    }
}

/// Notes that the current greenlet makes this one. `None` with an exception set.
///
/// # Safety
///
/// The GIL is held; a live one.
pub(super) unsafe fn note_spawner(this: *mut Raw) -> Option<()> {
    // SAFETY: live objects; old values are dropped when nothing is borrowed.
    unsafe {
        if !is_tracked() {
            return Some(());
        }
        let spawner = park::current();
        if spawner.is_null() {
            return None;
        }
        let reference = ffi::PyWeakref_NewRef(spawner.cast(), ptr::null_mut());
        if reference.is_null() {
            return None;
        }
        keep(reference);
        let Some(locals) = inherit(spawner) else {
            ffi::Py_DECREF(reference);
            return None;
        };
        let old = (
            std::mem::replace(&mut (*this).spawner, reference),
            std::mem::replace(&mut (*this).tree_locals, locals),
        );
        ffi::Py_XDECREF(old.0);
        ffi::Py_XDECREF(old.1);
        Some(())
    }
}

/// What a greenlet hands down, owned; null if each child gets its own. `None` with an exception set.
unsafe fn inherit(spawner: *mut PyGreenlet) -> Option<*mut PyObject> {
    // SAFETY: a live greenlet, the current one.
    unsafe {
        if is_raw(spawner.cast()) {
            let locals = ensure(spawner.cast());
            return (!locals.is_null()).then(|| owned(locals));
        }
        let name = names().spawn_tree_locals;
        let dict = (*spawner).dict;
        if !dict.is_null() {
            let found = ffi::PyDict_GetItemWithError(dict, name);
            if !found.is_null() {
                return Some(owned(found));
            }
            if !ffi::PyErr_Occurred().is_null() {
                return None;
            }
        }
        if parent_of(spawner).is_null() {
            return Some(ptr::null_mut());
        }
        let made = ffi::PyDict_New();
        if made.is_null() || ffi::PyObject_SetAttr(spawner.cast(), name, made) != 0 {
            ffi::Py_XDECREF(made);
            return None;
        }
        Some(made)
    }
}

/// The dictionary, borrowed, made if there is none; null with an exception set.
unsafe fn ensure(this: *mut Raw) -> *mut PyObject {
    // SAFETY: a live object.
    unsafe {
        if (*this).tree_locals.is_null() {
            (*this).tree_locals = ffi::PyDict_New();
        }
        (*this).tree_locals
    }
}

unsafe extern "C" fn get_locals(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: called by the interpreter with such a greenlet.
    unsafe {
        let this: *mut Raw = this.cast();
        if (*this).spawner.is_null() && (*this).tree_locals.is_null() {
            return owned(ffi::Py_None());
        }
        let locals = ensure(this);
        if locals.is_null() { locals } else { owned(locals) }
    }
}

unsafe extern "C" fn set_locals(this: *mut PyObject, value: *mut PyObject, _closure: *mut c_void) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        let value = if value.is_null() || value == ffi::Py_None() { ptr::null_mut() } else { owned(value) };
        let old = std::mem::replace(&mut (*this.cast::<Raw>()).tree_locals, value);
        ffi::Py_XDECREF(old);
        0
    }
}

unsafe extern "C" fn get_spawner(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*this.cast::<Raw>()).spawner) }
}

unsafe extern "C" fn set_spawner(this: *mut PyObject, value: *mut PyObject, _closure: *mut c_void) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        let value = if value.is_null() || value == ffi::Py_None() { ptr::null_mut() } else { owned(value) };
        let old = std::mem::replace(&mut (*this.cast::<Raw>()).spawner, value);
        ffi::Py_XDECREF(old);
        0
    }
}

pub(super) const ATTRIBUTES: [PyGetSetDef; 2] = [
    attribute(
        c"spawning_greenlet",
        get_spawner,
        Some(set_spawner),
        c"A weak reference to the greenlet that made it; None if that is not noted.",
    ),
    attribute(
        c"spawn_tree_locals",
        get_locals,
        Some(set_locals),
        c"A dictionary that it shares with those that it makes; None if that is not noted.",
    ),
];

/// Where a greenlet was made: code, owned, and bytes of instructions before the one that ran, innermost first.
#[derive(Debug)]
pub(super) struct Frames(Vec<(*mut PyObject, u32)>);

/// As many frames as gevent notes.
const USUAL: usize = 10;

impl Frames {
    /// Nothing noted.
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Notes the frames that run, as many as the class says.
    ///
    /// # Safety
    ///
    /// The GIL is held; `this` is a live object's, of that type.
    pub(super) unsafe fn note(this: *mut Self, kind: *mut PyTypeObject) {
        // SAFETY: nothing of Python's runs while frames are walked; references are taken to code objects.
        unsafe {
            let limit = park::type_lookup(kind, names().spawning_stack_limit);
            let limit = if limit.is_null() {
                USUAL
            } else {
                let limit = ffi::PyLong_AsSsize_t(limit);
                if limit == -1 {
                    ffi::PyErr_Clear();
                }
                usize::try_from(limit).unwrap_or(0)
            };
            if limit == 0 {
                return;
            }
            let mut found = [(ptr::null_mut::<PyObject>(), 0_u32); USUAL];
            let mut count = 0;
            let mut more = Vec::new();
            walk_frames(current_thread_state(), |code, at| {
                let entry = (owned(code), u32::try_from(at).unwrap_or(u32::MAX));
                if count < USUAL {
                    found[count] = entry;
                } else {
                    more.push(entry);
                }
                count += 1;
                count < limit
            });
            let mut all = found[..count.min(USUAL)].to_vec();
            all.append(&mut more);
            let mut old = std::mem::replace(&mut (*this).0, all);
            for (code, _) in old.drain(..) {
                ffi::Py_DECREF(code);
            }
        }
    }

    fn at(&self, index: usize) -> Option<&(*mut PyObject, u32)> {
        self.0.get(index)
    }

    /// A list of pairs of code and line; None if nothing was noted.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    pub(super) unsafe fn to_list(this: *const Self) -> *mut PyObject {
        // SAFETY: code objects are held. Making a list may run the collector, and so anything: nothing is borrowed over it.
        unsafe {
            let list = if (*this).0.is_empty() { owned(ffi::Py_None()) } else { ffi::PyList_New(0) };
            if list.is_null() || list == ffi::Py_None() {
                return list;
            }
            let mut index = 0;
            while let Some(&(code, at)) = (*this).at(index) {
                index += 1;
                owned(code);
                let line = ffi::PyCode_Addr2Line(code.cast(), at.cast_signed());
                let number = ffi::PyLong_FromLong(line.into());
                let pair = if number.is_null() { number } else { ffi::PyTuple_Pack(2, code, number) };
                ffi::Py_XDECREF(number);
                let fine = !pair.is_null() && ffi::PyList_Append(list, pair) == 0;
                ffi::Py_XDECREF(pair);
                ffi::Py_DECREF(code);
                if !fine {
                    ffi::Py_DECREF(list);
                    return ptr::null_mut();
                }
            }
            list
        }
    }

    /// Shows what it owns.
    pub(super) fn traverse(&self, visit: Visit<'_>) -> c_int {
        for &(code, _) in &self.0 {
            let status = visit(code);
            if status != 0 {
                return status;
            }
        }
        0
    }

    /// Drops what it owns.
    ///
    /// # Safety
    ///
    /// The GIL is held, and nothing of it borrowed.
    pub(super) unsafe fn empty(this: *mut Self) {
        // SAFETY: each is out of reach before it is dropped.
        unsafe {
            while let Some((mut code, _)) = (*this).0.pop() {
                clear(&raw mut code);
            }
        }
    }
}
