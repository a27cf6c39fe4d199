//! Objects that become ready, and tell those that are linked: events, results and semaphores.
//!
//! # Telling
//!
//! What becomes ready posts *one* entry in the queue of its hub, and when its turn comes, those that are linked are told
//! one after the other: a function is called, a greenlet switched to, and the next one is told when that comes back, which it
//! does by parking. So the telling is in the queue again, in front, while somebody runs. The states:
//!
//! ```text
//!  Quiet ──post──► Posted ──► Links(n) ──► Arrived(n) ──► Quiet, and posted again if there are links and it is ready
//! ```
//!
//! `n` are those that were linked when that part began: who comes meanwhile is told in another round. Who waits for an event
//! that is set while it is telling stands behind those that had to wait (`arrived`). A semaphore tells only as long
//! as something is free. Whose turn it is takes it at once, so that nobody comes in between.
//!
//! An object belongs to the hub that first waited for it or was there when it was linked: functions are called
//! there. A greenlet of another thread waits all the same; its own hub is told.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyObject, PyTypeObject};
use weft_hub::WaiterKey;

use super::class::{self, Class, Object, Spec, Visit, attribute, none, one, or_none, own, plain};
use super::core::{Core, Item};
use super::faces::{faces, names};
use super::here::{self, Here, here_if_exists};
use super::limit::{self, Ended, Limit};
use super::links::{self, Link, Links, Told};
use super::ready::{Step, value};
use super::{async_result, event, park, semaphore};
use crate::gil::GilCell;
use crate::greenlet::object::{SavedError, clear, owned};

/// What an object is ready for.
#[derive(Debug)]
pub(super) enum What {
    /// Of a class of somebody's own: its `ready()` says so.
    Other,
    /// An event, and whether it is set.
    Event(bool),
    /// A value and an exception's three parts; both null before they are set.
    Result { value: *mut PyObject, exc_info: *mut PyObject },
    /// How many are free; how many there are if that is known; which threads take them.
    Semaphore { counter: isize, bound: Option<isize>, threads: Threads },
}

/// Which threads use a semaphore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    Nobody,
    One(u64),
    Many,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Quiet,
    Posted(WaiterKey),
    Links(usize),
    Arrived(usize),
}

/// What such an object has.
#[derive(Debug)]
pub(super) struct Linkable {
    pub(super) what: What,
    /// Owned; null if it belongs to nobody yet.
    pub(super) hub: *mut PyObject,
    links: Links,
    arrived: Links,
    phase: Phase,
    /// Functions that were called in this round, owned: each is called once.
    called: Vec<*mut PyObject>,
}

impl Class for Linkable {
    fn initial() -> Self {
        Self {
            what: What::Other,
            hub: ptr::null_mut(),
            links: Links::new(),
            arrived: Links::new(),
            phase: Phase::Quiet,
            called: Vec::new(),
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let mut references = vec![self.hub];
        if let What::Result { value, exc_info } = self.what {
            references.extend([value, exc_info]);
        }
        references.extend(&self.called);
        for object in references {
            let status = visit(object);
            if status != 0 {
                return status;
            }
        }
        match self.links.traverse(&mut *visit) {
            0 => self.arrived.traverse(visit),
            status => status,
        }
    }

    unsafe fn empty(this: *mut Self) {
        // SAFETY: each field is empty before its reference goes.
        unsafe {
            clear(&raw mut (*this).hub);
            if let What::Result { value, exc_info } = &mut (*this).what {
                let (value, exc_info) = (&raw mut *value, &raw mut *exc_info);
                clear(value);
                clear(exc_info);
            }
            Links::empty(&raw mut (*this).links);
            Links::empty(&raw mut (*this).arrived);
            while let Some(function) = (*this).called.pop() {
                ffi::Py_DECREF(function);
            }
        }
    }
}

/// To whom an object belongs, as seen by the calling thread.
#[derive(Clone, Copy)]
pub(super) enum Home {
    /// To this thread's hub.
    Here(Here),
    /// To another thread's.
    Foreign,
    /// To none.
    Nobody,
}

static TYPE: GilCell<*mut PyTypeObject> = GilCell::new(ptr::null_mut());

/// Whether it is one of these objects.
///
/// # Safety
///
/// The GIL is held; a live object.
pub(super) unsafe fn is_linkable(object: *mut PyObject) -> bool {
    // SAFETY: the caller's promise; the type is made at import.
    unsafe { ffi::PyObject_TypeCheck(object, *TYPE.get()) != 0 }
}

/// The base of their types.
pub(super) fn base() -> *mut PyTypeObject {
    // SAFETY: read with the GIL.
    unsafe { *TYPE.get() }
}

/// Says to whom it belongs; if to nobody, that is this thread's hub from now on, if there is one, or it is to be made.
/// `None` with an exception set.
///
/// # Safety
///
/// The GIL is held; `this` is a live object's.
pub(super) unsafe fn home(this: *mut Linkable, create: bool) -> Option<Home> {
    // SAFETY: nothing is borrowed while Python code may run, which making a hub does.
    unsafe {
        if !(*this).hub.is_null() && here::has_ended((*this).hub) {
            // What was posted there is not done any more.
            (*this).phase = Phase::Quiet;
            clear(&raw mut (*this).hub);
        }
        let here = if create { Some(here::here()?) } else { here_if_exists() };
        if (*this).hub.is_null()
            && let Some(here) = here
        {
            (*this).hub = owned(here.hub);
        }
        Some(match here {
            _ if (*this).hub.is_null() => Home::Nobody,
            Some(here) if here.hub == (*this).hub => Home::Here(here),
            _ => Home::Foreign,
        })
    }
}

/// Whether it is ready; `None` with an exception set.
unsafe fn is_ready(object: *mut PyObject) -> Option<bool> {
    // SAFETY: a live object; only a class of somebody's own runs Python code.
    unsafe {
        Some(match (*own::<Linkable>(object)).what {
            What::Event(flag) => flag,
            What::Result { value, exc_info } => !value.is_null() || !exc_info.is_null(),
            What::Semaphore { counter, .. } => counter > 0,
            What::Other => {
                let result = ffi::PyObject_CallMethod(object, c"ready".as_ptr(), ptr::null());
                if result.is_null() {
                    return None;
                }
                let truth = ffi::PyObject_IsTrue(result);
                ffi::Py_DECREF(result);
                if truth < 0 {
                    return None;
                }
                truth != 0
            }
        })
    }
}

/// Has those told that are linked, if it is ready. False with an exception set.
///
/// # Safety
///
/// The GIL is held; a live object.
pub(super) unsafe fn check_and_notify(object: *mut PyObject) -> bool {
    // SAFETY: nothing is borrowed while Python code may run.
    unsafe {
        let this: *mut Linkable = own(object);
        if (*this).links.is_empty() || (*this).phase != Phase::Quiet {
            return true;
        }
        match is_ready(object) {
            Some(true) => {}
            Some(false) => return true,
            None => return false,
        }
        match home(this, false) {
            None => return false,
            Some(Home::Here(here)) => post(here.core, object),
            Some(Home::Foreign) => {
                let Some((holder, core)) = here::loop_of((*this).hub) else {
                    return post_by_call(object);
                };
                if (*this).phase == Phase::Quiet {
                    post(core, object);
                    (*core).hub.remote().nudge();
                }
                ffi::Py_DECREF(holder);
            }
            Some(Home::Nobody) => tell_without_hub(object),
        }
        true
    }
}

/// As [`post`], where the hub's loop is something that only stands for one. False with an exception set.
unsafe fn post_by_call(object: *mut PyObject) -> bool {
    // SAFETY: a live object with a hub; every result is checked and dropped.
    unsafe {
        let this: *mut Linkable = own(object);
        let looped = ffi::PyObject_GetAttr((*this).hub, names().r#loop);
        if looped.is_null() || looped == ffi::Py_None() {
            ffi::Py_XDECREF(looped);
            super::faces::raise(faces().invalid_thread, c"the hub that this belongs to is gone");
            return false;
        }
        (*this).phase = Phase::Posted(WaiterKey::NOBODY);
        let notify = ffi::PyObject_GetAttrString(object, c"_notify_links".as_ptr());
        let result = if notify.is_null() {
            notify
        } else {
            ffi::PyObject_CallMethod(looped, c"run_callback_threadsafe".as_ptr(), c"O".as_ptr(), notify)
        };
        ffi::Py_XDECREF(notify);
        ffi::Py_DECREF(looped);
        if result.is_null() {
            (*this).phase = Phase::Quiet;
            return false;
        }
        ffi::Py_DECREF(result);
        true
    }
}

/// Called by a loop that was asked to by [`post_by_call`]: has those told that are linked.
unsafe extern "C" fn notify_links(object: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with such an object.
    unsafe {
        if let Phase::Posted(WaiterKey::NOBODY) = (*own::<Linkable>(object)).phase
            && let Some(here) = here_if_exists()
        {
            post(here.core, object);
        }
        none()
    }
}

unsafe fn post(core: *mut Core, object: *mut PyObject) {
    // SAFETY: the core is borrowed for this statement.
    unsafe {
        let key = (*core).hub.waiters.post(Item::Notify(owned(object)));
        (*own::<Linkable>(object)).phase = Phase::Posted(key);
    }
}

/// Tells all at once: there is no hub to do it.
unsafe fn tell_without_hub(object: *mut PyObject) {
    // SAFETY: the object is held; nothing is borrowed while functions run.
    unsafe {
        let this: *mut Linkable = own(object);
        (*this).phase = Phase::Links((*this).links.len());
        owned(object);
        while let Some(link) = next_link(object) {
            match link {
                Link::Call(function) => call_link(ptr::null_mut(), function, object),
                other => drop(tell_one(ptr::null_mut(), other, object)),
            }
        }
        (*this).phase = Phase::Quiet;
        ffi::Py_DECREF(object);
    }
}

/// Takes the next link of this round; `None` at its end.
unsafe fn next_link(object: *mut PyObject) -> Option<Link> {
    // SAFETY: a live object; only a class of somebody's own runs Python code, and nothing is borrowed then.
    unsafe {
        let this: *mut Linkable = own(object);
        if matches!((*this).what, What::Semaphore { counter: ..=0, .. }) {
            return None;
        }
        loop {
            match &mut (*this).phase {
                Phase::Links(0) => (*this).phase = Phase::Arrived((*this).arrived.len()),
                Phase::Arrived(0) | Phase::Quiet | Phase::Posted(_) => return None,
                Phase::Links(left) => {
                    *left -= 1;
                    if let Some(link) = (*this).links.pop() {
                        return Some(link);
                    }
                    *left = 0;
                }
                Phase::Arrived(left) => {
                    *left -= 1;
                    if let Some(link) = (*this).arrived.pop() {
                        return Some(link);
                    }
                    *left = 0;
                }
            }
        }
    }
}

/// Tells a link that is no function; what is free goes to who takes it.
unsafe fn tell_one(core: *mut Core, link: Link, object: *mut PyObject) -> Told {
    // SAFETY: as for `links::tell`.
    unsafe {
        let takes = link.takes();
        let told = links::tell(core, link, object);
        if takes
            && !matches!(told, Told::Nobody)
            && let What::Semaphore { counter, .. } = &mut (*own::<Linkable>(object)).what
        {
            *counter -= 1;
        }
        told
    }
}

/// Goes on with telling, of which this is the turn; takes the reference to the object. `None` when it has come to its end.
///
/// # Safety
///
/// As for [`ready::next`](super::ready::next).
pub(super) unsafe fn step(core: *mut Core, object: *mut PyObject, in_hub: bool) -> Option<Step> {
    // SAFETY: as for `next`: functions are called by the hub, and only a class of somebody's own runs Python code, in the hub.
    unsafe {
        let this: *mut Linkable = own(object);
        if let Phase::Posted(_) = (*this).phase {
            (*this).phase = Phase::Links((*this).links.len());
        }
        if !in_hub && needs_hub(this) {
            (*core).hub.waiters.post_first(Item::Notify(object));
            return Some(Step::InHub);
        }
        while let Some(link) = next_link(object) {
            match link {
                Link::Call(function) => {
                    if (*this).called.contains(&function) {
                        ffi::Py_DECREF(function);
                        continue;
                    }
                    (*this).called.push(owned(function));
                    owned(object);
                    (*core).hub.waiters.post_first(Item::Notify(object));
                    return Some(Step::Link(function, object));
                }
                other => {
                    if let Told::Switch(greenlet) = tell_one(core, other, object) {
                        let over = !matches!((*this).what, What::Event(_))
                            && (*this).called.is_empty()
                            && (*this).links.is_empty()
                            && (*this).arrived.is_empty();
                        if over {
                            // Whoever is linked from here on posts by itself.
                            (*this).phase = Phase::Quiet;
                            ffi::Py_DECREF(object);
                        } else {
                            (*core).hub.waiters.post_first(Item::Notify(object));
                        }
                        return Some(Step::Switch(greenlet, value()));
                    }
                }
            }
            if !in_hub && needs_hub(this) {
                (*core).hub.waiters.post_first(Item::Notify(object));
                return Some(Step::InHub);
            }
        }
        let mut arrived = std::mem::take(&mut (*this).arrived);
        (*this).links.append(&mut arrived);
        (*this).phase = Phase::Quiet;
        while let Some(function) = (*this).called.pop() {
            ffi::Py_DECREF(function);
        }
        if !check_and_notify(object) {
            ffi::PyErr_WriteUnraisable(object);
        }
        ffi::Py_DECREF(object);
        None
    }
}

/// Whether the next thing to do, or the end, may run Python code.
unsafe fn needs_hub(this: *mut Linkable) -> bool {
    // SAFETY: a live object's, says the caller.
    unsafe {
        let next = match (*this).phase {
            Phase::Arrived(_) => (*this).arrived.first(),
            Phase::Links(0) => (*this).arrived.first(),
            _ => (*this).links.first(),
        };
        matches!(next, Some(Link::Call(_)))
            || !(*this).called.is_empty()
            || matches!((*this).what, What::Other)
    }
}

/// Calls a link, and tells the loop's `handle_error` of what it raises. Takes the function's reference.
///
/// # Safety
///
/// The GIL is held; live objects, `holder` is a loop or null.
pub(super) unsafe fn call_link(holder: *mut PyObject, function: *mut PyObject, source: *mut PyObject) {
    // SAFETY: everything is raw before anything can switch.
    unsafe {
        let result = ffi::PyObject_CallOneArg(function, source);
        if result.is_null() {
            if belongs_elsewhere(function) {
                post_elsewhere(function, source);
            } else if holder.is_null() {
                ffi::PyErr_WriteUnraisable(function);
            } else {
                let saved = SavedError::take();
                let context = ffi::PyTuple_Pack(2, function, source);
                saved.restore();
                super::turns::handle_error(holder, if context.is_null() { function } else { context });
                ffi::Py_XDECREF(context);
            }
        } else {
            ffi::Py_DECREF(result);
        }
        ffi::Py_DECREF(function);
    }
}

/// Whether a call failed because it was the `switch` of a greenlet that another thread runs.
unsafe fn belongs_elsewhere(function: *mut PyObject) -> bool {
    // SAFETY: an exception is set; a live object.
    unsafe {
        ffi::PyErr_ExceptionMatches(crate::greenlet::types::errors().greenlet_error) != 0
            && !greenlet_of(function).is_null()
    }
}

/// The greenlet that a built-in method is bound to, borrowed; null if it is none.
unsafe fn greenlet_of(function: *mut PyObject) -> *mut PyObject {
    // SAFETY: a live object.
    unsafe {
        if ffi::PyCFunction_Check(function) == 0 {
            return ptr::null_mut();
        }
        let of = ffi::PyCFunction_GetSelf(function);
        if crate::greenlet::object::is_greenlet(of) { of } else { ptr::null_mut() }
    }
}

/// Has the hub of the greenlet's own thread call it.
unsafe fn post_elsewhere(function: *mut PyObject, source: *mut PyObject) {
    // SAFETY: an exception is set, which is dropped if the other hub takes over; live objects.
    unsafe {
        let saved = SavedError::take();
        let hub = crate::greenlet::attributes::parent_of(greenlet_of(function).cast());
        let result = if hub.is_null() {
            ptr::null_mut()
        } else {
            match here::loop_of(hub.cast()) {
                Some((holder, _)) => {
                    let result = ffi::PyObject_CallMethod(
                        holder,
                        c"run_callback_threadsafe".as_ptr(),
                        c"OO".as_ptr(),
                        function,
                        source,
                    );
                    ffi::Py_DECREF(holder);
                    result
                }
                None => ptr::null_mut(),
            }
        };
        if result.is_null() {
            saved.restore();
            ffi::PyErr_WriteUnraisable(function);
        } else {
            saved.discard();
            ffi::Py_DECREF(result);
        }
    }
}

// --- waiting ----------------------------------------------------------------------------------------------------

/// Parks the current greenlet until the object tells it, or the limit is reached. Says also whether it was told:
/// what it `takes` is its own then, however the wait ended.
///
/// # Safety
///
/// The GIL is held; a live object, held by the caller; the arguments that `limit` borrows stay alive.
pub(super) unsafe fn wait(
    object: *mut PyObject,
    limit: Limit,
    takes: bool,
    referenced: bool,
    among_arrived: bool,
) -> (Ended, bool) {
    // SAFETY: only raw pointers are on the stack across the switch.
    unsafe {
        let Some(here) = here::here() else { return (Ended::Failed, false) };
        let Some(key) = park::enter(here.core) else { return (Ended::Failed, false) };
        let this: *mut Linkable = own(object);
        let link = Link::Wait { holder: owned(here.holder), key, takes };
        if among_arrived {
            (*this).arrived.push(link);
        } else {
            (*this).links.push(link);
            if !takes && !check_and_notify(object) {
                park::withdraw(here.core, key);
                unlink_wait(this, key);
                return (Ended::Failed, false);
            }
        }
        park::note_wait(object);
        let ended = limit::park_until(here, key, limit, referenced);
        park::note_wait(std::ptr::null_mut());
        if ended == Ended::Woken {
            return (ended, true);
        }
        let told = !unlink_wait(this, key);
        (ended, told)
    }
}

/// Takes a wait out of the links; says whether it was there.
unsafe fn unlink_wait(this: *mut Linkable, of: WaiterKey) -> bool {
    // SAFETY: the loop's reference is not the last one.
    unsafe {
        let is = |link: &Link| matches!(link, Link::Wait { key, .. } if *key == of);
        if let Some((index, link)) = (*this).links.take(is) {
            note_taken(this, index, false);
            link.release();
            return true;
        }
        if let Some((index, link)) = (*this).arrived.take(is) {
            note_taken(this, index, true);
            link.release();
            return true;
        }
        false
    }
}

/// A link was taken out: this round may be shorter.
unsafe fn note_taken(this: *mut Linkable, index: usize, among_arrived: bool) {
    // SAFETY: a live object's.
    match unsafe { &mut (*this).phase } {
        Phase::Links(left) if !among_arrived && index < *left => *left -= 1,
        Phase::Arrived(left) if among_arrived && index < *left => *left -= 1,
        _ => {}
    }
}

/// Whether it is telling, or is about to.
///
/// # Safety
///
/// The GIL is held; `this` is a live object's.
pub(super) unsafe fn is_telling(this: *mut Linkable) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*this).phase != Phase::Quiet }
}

/// Adds a link that is no function.
///
/// # Safety
///
/// The GIL is held; a live object; the link's reference is taken.
pub(super) unsafe fn link(object: *mut PyObject, link: Link) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        (*own::<Linkable>(object)).links.push(link);
        check_and_notify(object)
    }
}

/// Takes a gather, or a gate, out of the links. Says whether it was there.
///
/// # Safety
///
/// The GIL is held; a live object.
pub(super) unsafe fn unlink(object: *mut PyObject, is: impl Fn(&Link) -> bool) -> bool {
    // SAFETY: the link is released when nothing is borrowed.
    unsafe {
        let this: *mut Linkable = own(object);
        let found = (*this).links.take(is);
        if let Some((index, link)) = found {
            note_taken(this, index, false);
            link.release();
            take_back_if_alone(this);
            return true;
        }
        false
    }
}

/// Takes back what was posted if nobody is linked any more, so that the object is not held for it.
unsafe fn take_back_if_alone(this: *mut Linkable) {
    // SAFETY: the caller holds the object, so that the posted reference is not the last one.
    unsafe {
        if let Phase::Posted(key) = (*this).phase
            && (*this).links.is_empty()
            && (*this).arrived.is_empty()
            && let Some(here) = here_if_exists()
            && here.hub == (*this).hub
        {
            (*this).phase = Phase::Quiet;
            park::withdraw(here.core, key);
        }
    }
}

// --- methods ----------------------------------------------------------------------------------------------------

unsafe extern "C" fn rawlink(object: *mut PyObject, callback: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with such an object.
    unsafe {
        if ffi::PyCallable_Check(callback) == 0 {
            ffi::PyErr_Format(ffi::PyExc_TypeError, c"Expected callable: %R".as_ptr(), callback);
            return ptr::null_mut();
        }
        (*own::<Linkable>(object)).links.push(Link::Call(owned(callback)));
        if check_and_notify(object) { none() } else { ptr::null_mut() }
    }
}

unsafe extern "C" fn unlink_method(object: *mut PyObject, callback: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let this: *mut Linkable = own(object);
        match links::unlink(&raw mut (*this).links, callback) {
            None => ptr::null_mut(),
            Some(found) => {
                if let Some(index) = found {
                    note_taken(this, index, false);
                }
                take_back_if_alone(this);
                none()
            }
        }
    }
}

unsafe extern "C" fn linkcount(object: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { ffi::PyLong_FromSize_t((*own::<Linkable>(object)).links.len()) }
}

unsafe extern "C" fn ready_method(object: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        if matches!((*own::<Linkable>(object)).what, What::Other) {
            ffi::PyErr_SetNone(ffi::PyExc_NotImplementedError);
            return ptr::null_mut();
        }
        match is_ready(object) {
            Some(truth) => class::boolean(truth),
            None => ptr::null_mut(),
        }
    }
}

unsafe extern "C" fn check_and_notify_method(object: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { if check_and_notify(object) { none() } else { ptr::null_mut() } }
}

unsafe extern "C" fn at_fork_reinit(object: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above. What was posted is the loop's, which calls nobody for it: the object is quiet.
    unsafe {
        let this: *mut Linkable = own(object);
        (*this).phase = Phase::Quiet;
        if let What::Semaphore { counter, bound: Some(bound), .. } = &mut (*this).what {
            *counter = *bound;
        }
        clear(&raw mut (*this).hub);
        none()
    }
}

unsafe extern "C" fn get_hub(object: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*own::<Linkable>(object)).hub) }
}

unsafe extern "C" fn set_hub(object: *mut PyObject, hub: *mut PyObject, _closure: *mut c_void) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        let hub = if hub.is_null() || hub == ffi::Py_None() { ptr::null_mut() } else { owned(hub) };
        if !hub.is_null() && !crate::greenlet::object::is_greenlet(hub) {
            ffi::Py_DECREF(hub);
            ffi::PyErr_SetString(ffi::PyExc_TypeError, c"a hub is a greenlet".as_ptr());
            return -1;
        }
        let old = std::mem::replace(&mut (*own::<Linkable>(object)).hub, hub);
        ffi::Py_XDECREF(old);
        0
    }
}

/// Sets up the hub of an object from an argument of its `__init__`. False with an exception set.
///
/// # Safety
///
/// The GIL is held; live objects, `hub` may be null.
pub(super) unsafe fn init_hub(object: *mut PyObject, hub: *mut PyObject) -> bool {
    // SAFETY: the caller's promise.
    unsafe { set_hub(object, hub, ptr::null_mut()) == 0 }
}

unsafe extern "C" fn init(this: *mut PyObject, arguments: *mut PyObject, keywords: *mut PyObject) -> c_int {
    // SAFETY: called by the interpreter with such an object.
    unsafe {
        match class::init_arguments(c"AbstractLinkable", &[c"hub"], arguments, keywords) {
            Some([hub]) if init_hub(this, hub) => 0,
            _ => -1,
        }
    }
}

/// Makes the base of the types, and these. False with an exception set.
///
/// # Safety
///
/// The GIL is held; called once.
pub(super) unsafe fn ready(module: *mut PyObject) -> bool {
    const _: () = assert!(size_of::<Object<Linkable>>() <= 256);
    // SAFETY: as the caller says.
    unsafe {
        let kind = class::make::<Linkable>(&Spec {
            name: c"weft._native._hub.AbstractLinkable",
            doc: c"AbstractLinkable(hub=None)\n\nAn object that becomes ready, and then tells those that are linked.",
            base: ptr::null_mut(),
            methods: &[
                one(c"rawlink", rawlink, c"Have the hub call `callback(self)` when this is ready, or soon if it is."),
                one(c"unlink", unlink_method, c"Do not call it."),
                plain(c"linkcount", linkcount, c"How many links there are."),
                plain(c"ready", ready_method, c"Whether links are called at once."),
                plain(c"_notify_links", notify_links, c"Have the links called that were posted from another thread."),
                plain(c"_check_and_notify", check_and_notify_method, c"Have the links called, if this is ready."),
                plain(c"_at_fork_reinit", at_fork_reinit, c"In the child of a fork: be as new."),
            ],
            attributes: &[attribute(c"hub", get_hub, Some(set_hub), c"The hub that calls the links.")],
        });
        (*kind).tp_init = Some(init);
        *TYPE.get() = kind;
        class::ready(module, kind)
            && event::ready(module)
            && async_result::ready(module)
            && semaphore::ready(module)
    }
}
