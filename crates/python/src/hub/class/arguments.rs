//! The arguments of a call.

use std::ffi::CStr;
use std::ptr;

use pyo3::ffi::{self, PyObject};

/// The arguments that a method is given, borrowed; null where one was left out.
pub(in super::super) type Given<const N: usize> = [*mut PyObject; N];

/// A method whose arguments have names, of which the first `$least` cannot be left out.
///
/// `$function` is an `unsafe fn(this, Given<N>)` that gives a new reference, or null with an exception set. It is called with
/// the GIL; the call holds `this` and the arguments.
macro_rules! named {
    ($name:literal, [$($argument:literal),+], $least:literal, $function:path, $doc:expr $(,)?) => {{
        unsafe extern "C" fn entry(
            this: *mut ::pyo3::ffi::PyObject,
            given: *const *mut ::pyo3::ffi::PyObject,
            count: isize,
            keyword_names: *mut ::pyo3::ffi::PyObject,
        ) -> *mut ::pyo3::ffi::PyObject {
            // SAFETY: called by the interpreter, with a `this` of the type whose method it is.
            unsafe {
                let names = &[$($argument),+];
                match $crate::hub::class::arguments($name, names, $least, given, count, keyword_names) {
                    Some(found) => $function(this, found),
                    None => ::std::ptr::null_mut(),
                }
            }
        }
        $crate::hub::class::method($name, entry, $doc)
    }};
}
pub(in super::super) use named;

/// The arguments of a call by name, borrowed; null where there is none. `None`, with a TypeError set, for others than
/// these, or fewer than `least`.
///
/// # Safety
///
/// The GIL is held; vectorcall's conventions hold.
#[inline]
pub(in super::super) unsafe fn arguments<const N: usize>(
    function: &CStr,
    names: &[&CStr; N],
    least: usize,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> Option<[*mut PyObject; N]> {
    // SAFETY: `count` positional ones, then one for each name.
    unsafe {
        let mut found = [ptr::null_mut(); N];
        let positional = count.cast_unsigned();
        if positional > N {
            return refuse(function, c"takes at most %zd arguments", N);
        }
        for (index, place) in found.iter_mut().enumerate().take(positional) {
            *place = given.add(index).read();
        }
        if !keyword_names.is_null() {
            for index in 0..ffi::PyTuple_GET_SIZE(keyword_names) {
                let name = ffi::PyTuple_GET_ITEM(keyword_names, index);
                let value = given.offset(count + index).read();
                if !place_keyword(function, names, &mut found, name, value) {
                    return None;
                }
            }
        }
        if found[..least].iter().any(|argument| argument.is_null()) {
            return refuse(function, c"takes at least %zd arguments", least);
        }
        Some(found)
    }
}

/// The same for the tuple and the dictionary that `tp_init` gets.
///
/// # Safety
///
/// The GIL is held; a tuple, and a dictionary or null.
pub(in super::super) unsafe fn init_arguments<const N: usize>(
    function: &CStr,
    names: &[&CStr; N],
    given: *mut PyObject,
    keywords: *mut PyObject,
) -> Option<[*mut PyObject; N]> {
    // SAFETY: as the caller says; the dictionary is not changed meanwhile.
    unsafe {
        let mut found = [ptr::null_mut(); N];
        let count = ffi::PyTuple_GET_SIZE(given);
        if count.cast_unsigned() > N {
            return refuse(function, c"takes at most %zd arguments", N);
        }
        for (place, index) in found.iter_mut().zip(0..count) {
            *place = ffi::PyTuple_GET_ITEM(given, index);
        }
        if !keywords.is_null() {
            let (mut position, mut name, mut value) = (0, ptr::null_mut(), ptr::null_mut());
            while ffi::PyDict_Next(keywords, &raw mut position, &raw mut name, &raw mut value) != 0 {
                if !place_keyword(function, names, &mut found, name, value) {
                    return None;
                }
            }
        }
        Some(found)
    }
}

/// The one argument of a call as a link: what it is a link of. Null with a TypeError set.
///
/// # Safety
///
/// The GIL is held; a tuple, and a dictionary or null.
pub(in super::super) unsafe fn source_argument(
    given: *mut PyObject,
    keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: passed on.
    unsafe {
        let Some([source]) = init_arguments(c"__call__", &[c"source"], given, keywords) else {
            return ptr::null_mut();
        };
        if source.is_null() {
            ffi::PyErr_SetString(ffi::PyExc_TypeError, c"__call__() takes the source".as_ptr());
        }
        source
    }
}

unsafe fn place_keyword<const N: usize>(
    function: &CStr,
    names: &[&CStr; N],
    found: &mut [*mut PyObject; N],
    name: *mut PyObject,
    value: *mut PyObject,
) -> bool {
    // SAFETY: live objects; the names are strings.
    unsafe {
        let known = names.iter().position(|known| {
            !known.is_empty() && ffi::PyUnicode_CompareWithASCIIString(name, known.as_ptr()) == 0
        });
        match known {
            Some(index) if found[index].is_null() => {
                found[index] = value;
                true
            }
            Some(_) => {
                ffi::PyErr_Format(
                    ffi::PyExc_TypeError,
                    c"%s() got multiple values for argument '%U'".as_ptr(),
                    function.as_ptr(),
                    name,
                );
                false
            }
            None => {
                ffi::PyErr_Format(
                    ffi::PyExc_TypeError,
                    c"%s() got an unexpected keyword argument '%U'".as_ptr(),
                    function.as_ptr(),
                    name,
                );
                false
            }
        }
    }
}

#[cold]
unsafe fn refuse<T>(function: &CStr, message: &CStr, count: usize) -> Option<T> {
    // SAFETY: the GIL is held; the message has one number.
    unsafe {
        let text = ffi::PyUnicode_FromFormat(message.as_ptr(), count.cast_signed());
        if !text.is_null() {
            ffi::PyErr_Format(ffi::PyExc_TypeError, c"%s() %U".as_ptr(), function.as_ptr(), text);
            ffi::Py_DECREF(text);
        }
        None
    }
}

/// The truth of an argument that may be missing. `None` with an exception set.
///
/// # Safety
///
/// The GIL is held; a live object or null.
pub(in super::super) unsafe fn truth(object: *mut PyObject, default: bool) -> Option<bool> {
    // SAFETY: the caller's promise.
    unsafe {
        if object.is_null() {
            return Some(default);
        }
        match ffi::PyObject_IsTrue(object) {
            -1 => None,
            truth => Some(truth != 0),
        }
    }
}

/// Whether there are as many arguments as there may be; otherwise with a TypeError set.
pub(in super::super) unsafe fn check_count(name: &CStr, count: isize, least: isize, most: isize) -> bool {
    // SAFETY: the GIL is held.
    unsafe {
        if (least..=most).contains(&count) {
            return true;
        }
        ffi::PyErr_Format(
            ffi::PyExc_TypeError,
            c"%s() takes %zd to %zd arguments (%zd given)".as_ptr(),
            name.as_ptr(),
            least,
            most,
            count,
        );
        false
    }
}
