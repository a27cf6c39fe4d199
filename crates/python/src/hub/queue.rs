//! Queues between greenlets.
//!
//! Who waits at a queue is served in a turn of its own, an entry in the hub's queue: those that have something to put in and
//! those that want something out, one of each kind in turns, as long as there is room and there are items. Who is served goes on at
//! once, and takes its item itself. The entry is in the queue again, in front, while that one runs.
//!
//! The items of the face's own classes lie here. A class with methods of its own (`_put`, `_get`, ...) has its items in its
//! attribute `queue`, and those methods are called, by the hub while somebody waits. So has a queue whose `queue` somebody
//! asked for: from then on it is a deque.

use std::collections::VecDeque;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyObject};
use weft_hub::WaiterKey;

use super::class::{self, Class, Spec, Visit, attribute, boolean, method, none, or_none, own, plain, truth};
use super::core::{Core, Item, Turn};
use super::faces::{faces, names};
use super::here::{self, Here, here, here_if_exists};
use super::limit::{self, Ended, Limit, limit};
use super::linkable::{self, Linkable, What};
use super::links::{self, Told};
use super::park;
use super::ready::{Step, value};
use crate::greenlet::object::{SavedError, clear, owned};
use crate::greenlet::switch;

/// One that waits: its loop and its item, owned, and its key there. Who wants something out has no item.
#[derive(Debug)]
struct Wait {
    holder: *mut PyObject,
    key: WaiterKey,
    item: *mut PyObject,
}

/// Where the items are. References are owned.
#[derive(Debug)]
enum Store {
    Here(VecDeque<*mut PyObject>),
    Object(*mut PyObject),
}

#[derive(Debug)]
struct Queue {
    store: Store,
    /// How many there is room for; negative for any number.
    room: isize,
    getters: VecDeque<Wait>,
    putters: VecDeque<Wait>,
    hub: *mut PyObject,
    /// The event that nothing is left to be done; null if nobody counts that.
    idle: *mut PyObject,
    unfinished: isize,
    /// Whether those that wait are to be served, and nobody has begun to.
    posted: bool,
    shut_down: bool,
}

impl Class for Queue {
    fn initial() -> Self {
        Self {
            store: Store::Here(VecDeque::new()),
            room: -1,
            getters: VecDeque::new(),
            putters: VecDeque::new(),
            hub: ptr::null_mut(),
            idle: ptr::null_mut(),
            unfinished: 0,
            posted: false,
            shut_down: false,
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let mut status = visit(self.hub);
        let mut also = |object: *mut PyObject| {
            if status == 0 {
                status = visit(object);
            }
        };
        also(self.idle);
        match &self.store {
            Store::Here(items) => items.iter().for_each(|&item| also(item)),
            Store::Object(object) => also(*object),
        }
        for wait in self.getters.iter().chain(&self.putters) {
            also(wait.holder);
            also(wait.item);
        }
        status
    }

    unsafe fn empty(this: *mut Self) {
        // SAFETY: each is out of reach before it is dropped.
        unsafe {
            clear(&raw mut (*this).hub);
            clear(&raw mut (*this).idle);
            let mut store = std::mem::replace(&mut (*this).store, Store::Here(VecDeque::new()));
            match &mut store {
                Store::Here(items) => items.drain(..).for_each(|item| ffi::Py_DECREF(item)),
                Store::Object(object) => ffi::Py_XDECREF(*object),
            }
            while let Some(wait) = (*this).getters.pop_front().or_else(|| (*this).putters.pop_front()) {
                release(wait);
            }
        }
    }
}

unsafe fn release(wait: Wait) {
    // SAFETY: owned references, or null.
    unsafe {
        ffi::Py_DECREF(wait.holder);
        ffi::Py_XDECREF(wait.item);
    }
}

// --- items ------------------------------------------------------------------------------------------------------

/// The items, if they are here and the class has no methods of its own.
#[inline(always)]
unsafe fn items<'a>(object: *mut PyObject) -> Option<&'a mut VecDeque<*mut PyObject>> {
    // SAFETY: a live queue; the caller keeps the reference over nothing that runs Python code.
    unsafe {
        match &mut (*own::<Queue>(object)).store {
            Store::Here(items) => Some(items),
            Store::Object(_) => None,
        }
    }
}

/// How many there are; `None` with an exception set.
#[inline(always)]
unsafe fn size(object: *mut PyObject) -> Option<isize> {
    // SAFETY: a live queue.
    unsafe {
        if let Some(items) = items(object) {
            return Some(items.len().cast_signed());
        }
        let result = ffi::PyObject_CallMethodNoArgs(object, names()._qsize);
        if result.is_null() {
            return None;
        }
        let size = ffi::PyLong_AsSsize_t(result);
        ffi::Py_DECREF(result);
        (size != -1 || ffi::PyErr_Occurred().is_null()).then_some(size)
    }
}

/// Puts one in. False with an exception set.
unsafe fn put_in(object: *mut PyObject, item: *mut PyObject) -> bool {
    // SAFETY: a live queue and item.
    unsafe {
        if let Some(items) = items(object) {
            items.push_back(owned(item));
            count_put(object);
            return true;
        }
        let result = ffi::PyObject_CallMethodOneArg(object, names()._put, item);
        ffi::Py_XDECREF(result);
        !result.is_null()
    }
}

/// Counts one more that is to be done.
unsafe fn count_put(object: *mut PyObject) {
    // SAFETY: a live queue; its event is one.
    unsafe {
        let this: *mut Queue = own(object);
        if !(*this).idle.is_null() {
            (*this).unfinished += 1;
            (*own::<Linkable>((*this).idle)).what = What::Event(false);
        }
    }
}

/// What to do with the first item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    Out,
    Peek,
}

/// The first item, which is there. Null with an exception set.
unsafe fn take(object: *mut PyObject, how: Take) -> *mut PyObject {
    // SAFETY: a live queue.
    unsafe {
        if let Some(items) = items(object) {
            let item = match how {
                Take::Out => items.pop_front(),
                Take::Peek => items.front().map(|&item| owned(item)),
            };
            if let Some(item) = item {
                return item;
            }
            class::raise_plain(faces().empty);
            return ptr::null_mut();
        }
        let name = if how == Take::Out { names()._get } else { names()._peek };
        ffi::PyObject_CallMethodNoArgs(object, name)
    }
}

/// Whether there is room for one more, with so many in it.
const unsafe fn has_room(this: *mut Queue, size: isize) -> bool {
    // SAFETY: a live queue's.
    unsafe { (*this).room < 0 || size < (*this).room }
}

// --- serving those that wait ------------------------------------------------------------------------------------

/// Has those served that wait. False with an exception set.
unsafe fn schedule(object: *mut PyObject) -> bool {
    // SAFETY: the core is borrowed for single statements.
    unsafe {
        let this: *mut Queue = own(object);
        if (*this).posted {
            return true;
        }
        if let Some(here) = here_if_exists()
            && here.hub == (*this).hub
        {
            (*here.core).hub.waiters.post(Item::Unlock(owned(object), Turn::Putters));
            (*this).posted = true;
            return true;
        }
        let home = if (*this).hub.is_null() { None } else { here::loop_of((*this).hub) };
        match home {
            Some((holder, core)) => {
                (*core).hub.waiters.post(Item::Unlock(owned(object), Turn::Putters));
                (*core).hub.remote().nudge();
                (*this).posted = true;
                ffi::Py_DECREF(holder);
                true
            }
            None => {
                // The hub that it was made in is gone: it belongs to this thread's.
                let Some(here) = here() else { return false };
                let old = std::mem::replace(&mut (*this).hub, owned(here.hub));
                ffi::Py_XDECREF(old);
                (*here.core).hub.waiters.post(Item::Unlock(owned(object), Turn::Putters));
                (*this).posted = true;
                true
            }
        }
    }
}

/// The first one, if it may be served.
unsafe fn pop_if(waits: *mut VecDeque<Wait>, may: bool) -> Option<Wait> {
    // SAFETY: a live queue's.
    unsafe { if may { (*waits).pop_front() } else { None } }
}

/// Whether anybody waits.
unsafe fn is_waited_for(this: *mut Queue) -> bool {
    // SAFETY: a live queue's.
    unsafe { !(*this).getters.is_empty() || !(*this).putters.is_empty() }
}

/// Goes on with serving, of which this is the turn; takes the reference to the queue. `None` when it has come to its end.
///
/// # Safety
///
/// As for [`ready::next`](super::ready::next).
pub(super) unsafe fn step(core: *mut Core, object: *mut PyObject, turn: Turn, in_hub: bool) -> Option<Step> {
    // SAFETY: as for `next`: where the items are here nothing of Python's runs. Who waits holds the queue.
    unsafe {
        let this: *mut Queue = own(object);
        if items(object).is_none() {
            if in_hub {
                (*this).posted = false;
                return Some(Step::Serve(object));
            }
            (*core).hub.waiters.post_first(Item::Unlock(object, turn));
            return Some(Step::InHub);
        }
        (*this).posted = false;
        let mut turn = turn;
        loop {
            let size = items(object).map_or(0, |items| items.len().cast_signed());
            let (told, next) = match turn {
                Turn::Putters => match pop_if(&raw mut (*this).putters, has_room(this, size)) {
                    Some(wait) => {
                        if let Some(items) = items(object) {
                            items.push_back(wait.item);
                        }
                        count_put(object);
                        (links::wake(core, wait.holder, wait.key), Some((wait.holder, Turn::Getters(true))))
                    }
                    None => (Told::Nobody, None),
                },
                Turn::Getters(_) => match pop_if(&raw mut (*this).getters, size > 0) {
                    Some(wait) => {
                        (links::wake(core, wait.holder, wait.key), Some((wait.holder, Turn::Putters)))
                    }
                    None => (Told::Nobody, None),
                },
            };
            match (next, turn) {
                (Some((holder, next)), _) => {
                    ffi::Py_DECREF(holder);
                    turn = next;
                }
                (None, Turn::Putters) => turn = Turn::Getters(false),
                (None, Turn::Getters(true)) => turn = Turn::Putters,
                (None, Turn::Getters(false)) => {
                    ffi::Py_DECREF(object);
                    return None;
                }
            }
            if let Told::Switch(greenlet) = told {
                if is_waited_for(this) || ffi::Py_REFCNT(object) == 1 {
                    (*core).hub.waiters.post_first(Item::Unlock(object, turn));
                } else {
                    // Who waits from here on has this posted anew.
                    ffi::Py_DECREF(object);
                }
                return Some(Step::Switch(greenlet, value()));
            }
        }
    }
}

/// Serves those that wait at a queue with methods of its own. False with an exception set.
///
/// # Safety
///
/// The GIL is held, in the hub's greenlet; a live queue, held by the caller.
pub(super) unsafe fn serve(object: *mut PyObject) -> bool {
    // SAFETY: what waits is taken out before anything runs; only raw pointers are on the stack across a switch.
    unsafe {
        let this: *mut Queue = own(object);
        loop {
            let mut served = false;
            if !(*this).putters.is_empty() {
                let Some(count) = size(object) else { return false };
                if has_room(this, count)
                    && let Some(wait) = (*this).putters.pop_front()
                {
                    served = true;
                    let fine = put_in(object, wait.item);
                    let error = SavedError::take();
                    if fine {
                        error.discard();
                        go_on(&wait, None);
                    } else {
                        go_on(&wait, Some(error));
                    }
                    release(wait);
                }
            }
            if !(*this).getters.is_empty() {
                let Some(count) = size(object) else { return false };
                if count > 0
                    && let Some(wait) = (*this).getters.pop_front()
                {
                    served = true;
                    go_on(&wait, None);
                    release(wait);
                }
            }
            if !served {
                return true;
            }
        }
    }
}

/// Switches to who waits, from the hub's greenlet, with an exception if there is one.
unsafe fn go_on(wait: &Wait, error: Option<SavedError>) {
    // SAFETY: the wait's references are the caller's, over the switch.
    unsafe {
        let here = here_if_exists();
        let core = here.map_or(ptr::null_mut(), |here: Here| here.core);
        let told = links::wake(core, wait.holder, wait.key);
        match told {
            Told::Switch(greenlet) => {
                let result = match error {
                    Some(error) => {
                        error.restore();
                        let result = switch::throw(greenlet);
                        ffi::Py_DECREF(greenlet.cast::<PyObject>());
                        result
                    }
                    None => switch::switch_giving(greenlet, value()),
                };
                if result.is_null() {
                    super::turns::handle_error(wait.holder, wait.holder);
                } else {
                    ffi::Py_DECREF(result);
                }
            }
            Told::Done | Told::Nobody => {
                if let Some(error) = error {
                    error.restore();
                    super::turns::handle_error(wait.holder, wait.holder);
                }
            }
        }
    }
}

/// Whether the current greenlet is the queue's hub, which cannot wait.
unsafe fn is_in_hub(this: *mut Queue) -> bool {
    // SAFETY: the GIL is held; a live queue's.
    unsafe { !(*this).hub.is_null() && park::current().cast::<PyObject>() == (*this).hub }
}

/// Takes a wait out. Says whether it was there.
unsafe fn unlink(waits: *mut VecDeque<Wait>, key: WaiterKey) -> bool {
    // SAFETY: a live queue's; it is released when nothing is borrowed.
    unsafe {
        let found = (*waits).iter().position(|wait| wait.key == key);
        match found.and_then(|index| (*waits).remove(index)) {
            Some(wait) => {
                release(wait);
                true
            }
            None => false,
        }
    }
}

// --- put and get ------------------------------------------------------------------------------------------------

unsafe fn refuse_negative(block: bool, timeout: *mut PyObject) -> bool {
    // SAFETY: a live object or null.
    unsafe {
        if !block || timeout.is_null() || timeout == ffi::Py_None() || super::timeout::is_timeout(timeout) {
            return false;
        }
        let seconds = ffi::PyFloat_AsDouble(timeout);
        if seconds == -1.0 && !ffi::PyErr_Occurred().is_null() {
            return true;
        }
        if seconds < 0.0 {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"'timeout' must be a non-negative number".as_ptr());
            return true;
        }
        false
    }
}

/// False with an exception set.
unsafe fn put_within(
    object: *mut PyObject,
    item: *mut PyObject,
    block: bool,
    timeout: *mut PyObject,
) -> bool {
    // SAFETY: a live queue and live arguments, held by the call; only raw pointers are on the stack across a switch.
    unsafe {
        let this: *mut Queue = own(object);
        if (*this).shut_down {
            class::raise_plain(faces().shut_down);
            return false;
        }
        let room = if (*this).room < 0 {
            true
        } else {
            let Some(count) = size(object) else { return false };
            has_room(this, count)
        };
        if room {
            if refuse_negative(block, timeout) {
                return false;
            }
            return put_in(object, item) && ((*this).getters.is_empty() || schedule(object));
        }
        if is_in_hub(this) {
            return put_in_hub(object, item);
        }
        if !block {
            class::raise_plain(faces().full);
            return false;
        }
        let Some(limit) = limit(timeout) else { return false };
        let Some(here) = here() else { return false };
        let Some(key) = park::enter(here.core) else { return false };
        (*this).putters.push_back(Wait { holder: owned(here.holder), key, item: owned(item) });
        if !(*this).getters.is_empty() && !schedule(object) {
            park::withdraw(here.core, key);
            unlink(&raw mut (*this).putters, key);
            return false;
        }
        let foreign = here.hub != (*this).hub;
        let ended = limit::park_until(here, key, limit, foreign);
        let served = !unlink_keeping_error(&raw mut (*this).putters, key);
        match ended {
            Ended::Failed => false,
            _ if served => true,
            Ended::Expired => {
                limit::raise(limit, faces().full);
                false
            }
            Ended::Woken => {
                class::raise_plain(faces().shut_down);
                false
            }
        }
    }
}

unsafe fn unlink_keeping_error(waits: *mut VecDeque<Wait>, key: WaiterKey) -> bool {
    // SAFETY: as for `unlink`.
    unsafe {
        let saved = SavedError::take();
        let found = unlink(waits, key);
        saved.restore();
        found
    }
}

/// In the hub nobody can wait; but who waits to get something out can be served, which makes room.
unsafe fn put_in_hub(object: *mut PyObject, item: *mut PyObject) -> bool {
    // SAFETY: as for `put_within`.
    unsafe {
        let this: *mut Queue = own(object);
        loop {
            let Some(count) = size(object) else { return false };
            if has_room(this, count) {
                return put_in(object, item);
            }
            let Some(wait) = pop_if(&raw mut (*this).getters, count > 0) else {
                class::raise_plain(faces().full);
                return false;
            };
            go_on(&wait, None);
            release(wait);
        }
    }
}

/// The first item; null with an exception set.
unsafe fn get_within(object: *mut PyObject, block: bool, timeout: *mut PyObject, how: Take) -> *mut PyObject {
    // SAFETY: as for `put_within`.
    unsafe {
        let this: *mut Queue = own(object);
        let Some(count) = size(object) else { return ptr::null_mut() };
        if count > 0 {
            // Who peeks makes no room.
            if how == Take::Out && !(*this).putters.is_empty() && !schedule(object) {
                return ptr::null_mut();
            }
            return take(object, how);
        }
        if (*this).shut_down {
            class::raise_plain(faces().shut_down);
            return ptr::null_mut();
        }
        if refuse_negative(block, timeout) {
            return ptr::null_mut();
        }
        if is_in_hub(this) {
            while let Some(wait) = (*this).putters.pop_front() {
                if !put_in(object, wait.item) {
                    release(wait);
                    return ptr::null_mut();
                }
                go_on(&wait, None);
                release(wait);
                match size(object) {
                    None => return ptr::null_mut(),
                    Some(0) => {}
                    Some(_) => return take(object, how),
                }
            }
            class::raise_plain(faces().empty);
            return ptr::null_mut();
        }
        if !block {
            class::raise_plain(faces().empty);
            return ptr::null_mut();
        }
        let Some(limit) = limit(timeout) else { return ptr::null_mut() };
        wait_for_item(object, limit, how)
    }
}

unsafe fn wait_for_item(object: *mut PyObject, limit: Limit, how: Take) -> *mut PyObject {
    // SAFETY: as for `put_within`.
    unsafe {
        let this: *mut Queue = own(object);
        loop {
            let Some(here) = here() else { return ptr::null_mut() };
            let Some(key) = park::enter(here.core) else { return ptr::null_mut() };
            (*this).getters.push_back(Wait { holder: owned(here.holder), key, item: ptr::null_mut() });
            if !(*this).putters.is_empty() && !schedule(object) {
                park::withdraw(here.core, key);
                unlink_keeping_error(&raw mut (*this).getters, key);
                return ptr::null_mut();
            }
            let ended = limit::park_until(here, key, limit, here.hub != (*this).hub);
            let served = !unlink_keeping_error(&raw mut (*this).getters, key);
            match ended {
                Ended::Failed => {
                    if served {
                        serve_another(object);
                    }
                    return ptr::null_mut();
                }
                _ if served => match size(object) {
                    None => return ptr::null_mut(),
                    // Somebody else was quicker, who is of another thread than the hub.
                    Some(0) => {}
                    Some(_) => return take(object, how),
                },
                Ended::Expired => return limit::raise(limit, faces().empty),
                Ended::Woken => {
                    class::raise_plain(faces().shut_down);
                    return ptr::null_mut();
                }
            }
        }
    }
}

/// Who was served cannot take the item: another one may. An exception that is set stays set.
unsafe fn serve_another(object: *mut PyObject) {
    // SAFETY: as for `put_within`.
    unsafe {
        if (*own::<Queue>(object)).getters.is_empty() {
            return;
        }
        let saved = SavedError::take();
        if !schedule(object) {
            ffi::PyErr_WriteUnraisable(object);
        }
        saved.restore();
    }
}

// --- methods ----------------------------------------------------------------------------------------------------

unsafe extern "C" fn put(
    this: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with a queue.
    unsafe {
        if count == 1 && keyword_names.is_null() {
            return if put_within(this, given.read(), true, ptr::null_mut()) {
                none()
            } else {
                ptr::null_mut()
            };
        }
        const NAMES: [&CStr; 3] = [c"item", c"block", c"timeout"];
        let found = class::arguments(c"put", &NAMES, 1, given, count, keyword_names);
        let Some([item, block, timeout]) = found else { return ptr::null_mut() };
        let Some(block) = truth(block, true) else { return ptr::null_mut() };
        if put_within(this, item, block, timeout) { none() } else { ptr::null_mut() }
    }
}

unsafe extern "C" fn put_nowait(
    this: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let found = class::arguments(c"put_nowait", &[c"item"], 1, given, count, keyword_names);
        let Some([item]) = found else { return ptr::null_mut() };
        if put_within(this, item, false, ptr::null_mut()) { none() } else { ptr::null_mut() }
    }
}

unsafe fn get_or_peek(
    this: *mut PyObject,
    name: &CStr,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
    how: Take,
) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let found = class::arguments(name, &[c"block", c"timeout"], 0, given, count, keyword_names);
        let Some([block, timeout]) = found else { return ptr::null_mut() };
        let Some(block) = truth(block, true) else { return ptr::null_mut() };
        get_within(this, block, timeout, how)
    }
}

unsafe extern "C" fn get(
    this: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { get_or_peek(this, c"get", given, count, keyword_names, Take::Out) }
}

unsafe extern "C" fn peek(
    this: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { get_or_peek(this, c"peek", given, count, keyword_names, Take::Peek) }
}

unsafe extern "C" fn get_nowait(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { get_within(this, false, ptr::null_mut(), Take::Out) }
}

unsafe extern "C" fn peek_nowait(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { get_within(this, false, ptr::null_mut(), Take::Peek) }
}

unsafe extern "C" fn qsize(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { size(this).map_or(ptr::null_mut(), |size| ffi::PyLong_FromSsize_t(size)) }
}

unsafe extern "C" fn length(this: *mut PyObject) -> isize {
    // SAFETY: as above. A subclass may say how many there are.
    unsafe {
        if items(this).is_some() {
            return size(this).unwrap_or(-1);
        }
        let result = ffi::PyObject_CallMethod(this, c"qsize".as_ptr(), ptr::null());
        if result.is_null() {
            return -1;
        }
        let size = ffi::PyLong_AsSsize_t(result);
        ffi::Py_DECREF(result);
        size
    }
}

unsafe extern "C" fn always(_this: *mut PyObject) -> c_int {
    1
}

unsafe extern "C" fn empty(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        match length(this) {
            -1 => ptr::null_mut(),
            size => boolean(size == 0),
        }
    }
}

unsafe extern "C" fn full(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let room = (*own::<Queue>(this)).room;
        if room <= 0 {
            return boolean(false);
        }
        match length(this) {
            -1 => ptr::null_mut(),
            size => boolean(size >= room),
        }
    }
}

unsafe extern "C" fn this_one(this: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { owned(this) }
}

/// Gets items until one is the class `StopIteration`.
unsafe extern "C" fn next(this: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let item = ffi::PyObject_CallMethod(this, c"get".as_ptr(), ptr::null());
        if item == ffi::PyExc_StopIteration {
            ffi::Py_DECREF(item);
            return ptr::null_mut();
        }
        item
    }
}

unsafe extern "C" fn task_done(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above; the event is one.
    unsafe {
        let queue: *mut Queue = own(this);
        if (*queue).unfinished <= 0 {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"task_done() called too many times".as_ptr());
            return ptr::null_mut();
        }
        (*queue).unfinished -= 1;
        if (*queue).unfinished == 0 && !(*queue).idle.is_null() {
            let idle = (*queue).idle;
            (*own::<Linkable>(idle)).what = What::Event(true);
            if !linkable::check_and_notify(idle) {
                return ptr::null_mut();
            }
        }
        none()
    }
}

unsafe extern "C" fn did_put_task(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { count_put(this) };
    none()
}

/// Sets up the hub, the room, and the event that nothing is left to be done: `_set_up(maxsize, idle)`.
unsafe extern "C" fn set_up(
    this: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as above; old values are dropped when nothing is borrowed.
    unsafe {
        let found = class::arguments(c"_set_up", &[c"maxsize", c"idle"], 2, given, count, keyword_names);
        let Some([maxsize, idle]) = found else { return ptr::null_mut() };
        let Some(here) = here() else { return ptr::null_mut() };
        let idle = if idle == ffi::Py_None() { ptr::null_mut() } else { idle };
        if !idle.is_null() && !linkable::is_linkable(idle) {
            ffi::PyErr_SetString(ffi::PyExc_TypeError, c"idle is an Event".as_ptr());
            return ptr::null_mut();
        }
        let queue: *mut Queue = own(this);
        if set_maxsize(this, maxsize, ptr::null_mut()) != 0 {
            return ptr::null_mut();
        }
        let old = (
            std::mem::replace(&mut (*queue).hub, owned(here.hub)),
            std::mem::replace(&mut (*queue).idle, crate::greenlet::object::owned_or_null(idle)),
        );
        // Until `_fill` says otherwise.
        drop_store(std::mem::replace(&mut (*queue).store, Store::Object(ptr::null_mut())));
        ffi::Py_XDECREF(old.0);
        ffi::Py_XDECREF(old.1);
        none()
    }
}

/// Has the items lie here: `_fill(items)`.
unsafe extern "C" fn fill(this: *mut PyObject, given: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let list = ffi::PySequence_List(given);
        if list.is_null() {
            return list;
        }
        let items = (0..ffi::PyList_GET_SIZE(list)).map(|index| owned(ffi::PyList_GET_ITEM(list, index)));
        let new = Store::Here(items.collect());
        ffi::Py_DECREF(list);
        drop_store(std::mem::replace(&mut (*own::<Queue>(this)).store, new));
        none()
    }
}

unsafe fn drop_store(store: Store) {
    // SAFETY: out of reach; its references are owned.
    unsafe {
        match store {
            Store::Here(items) => items.into_iter().for_each(|item| ffi::Py_DECREF(item)),
            Store::Object(object) => ffi::Py_XDECREF(object),
        }
    }
}

unsafe extern "C" fn get_queue(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above. Nothing runs between the look at the items and their move.
    unsafe {
        if let Store::Object(object) = (*own::<Queue>(this)).store {
            return or_none(object);
        }
        let module = ffi::PyImport_ImportModule(c"collections".as_ptr());
        if module.is_null() {
            return module;
        }
        let deque = ffi::PyObject_CallMethod(module, c"deque".as_ptr(), ptr::null());
        ffi::Py_DECREF(module);
        if deque.is_null() {
            return deque;
        }
        let append = ffi::PyObject_GetAttr(deque, names().append);
        let mut fine = !append.is_null();
        let mut index = 0;
        while fine && let Some(&item) = items(this).and_then(|items| items.get(index)) {
            ffi::Py_INCREF(item);
            let result = ffi::PyObject_CallOneArg(append, item);
            ffi::Py_DECREF(item);
            ffi::Py_XDECREF(result);
            fine = !result.is_null();
            index += 1;
        }
        ffi::Py_XDECREF(append);
        if !fine {
            ffi::Py_DECREF(deque);
            return ptr::null_mut();
        }
        drop_store(std::mem::replace(&mut (*own::<Queue>(this)).store, Store::Object(owned(deque))));
        deque
    }
}

unsafe extern "C" fn set_queue(this: *mut PyObject, value: *mut PyObject, _closure: *mut c_void) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        ffi::Py_XINCREF(value);
        drop_store(std::mem::replace(&mut (*own::<Queue>(this)).store, Store::Object(value)));
        0
    }
}

unsafe extern "C" fn get_maxsize(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let room = (*own::<Queue>(this)).room;
        if room > 0 { ffi::PyLong_FromSsize_t(room) } else { none() }
    }
}

unsafe extern "C" fn set_maxsize(this: *mut PyObject, value: *mut PyObject, _closure: *mut c_void) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        let mut room = -1;
        if !value.is_null() && value != ffi::Py_None() {
            room = ffi::PyNumber_AsSsize_t(value, ffi::PyExc_OverflowError);
            if room == -1 && !ffi::PyErr_Occurred().is_null() {
                return -1;
            }
        }
        (*own::<Queue>(this)).room = if room > 0 { room } else { -1 };
        0
    }
}

unsafe extern "C" fn get_hub(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*own::<Queue>(this)).hub) }
}

unsafe extern "C" fn get_idle(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*own::<Queue>(this)).idle) }
}

unsafe extern "C" fn get_unfinished(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { ffi::PyLong_FromSsize_t((*own::<Queue>(this)).unfinished) }
}

unsafe extern "C" fn set_unfinished(
    this: *mut PyObject,
    value: *mut PyObject,
    _closure: *mut c_void,
) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        let count = if value.is_null() { 0 } else { ffi::PyLong_AsSsize_t(value) };
        if count == -1 && !ffi::PyErr_Occurred().is_null() {
            return -1;
        }
        (*own::<Queue>(this)).unfinished = count;
        0
    }
}

unsafe extern "C" fn get_shut_down(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    boolean(unsafe { (*own::<Queue>(this)).shut_down })
}

unsafe extern "C" fn set_shut_down(
    this: *mut PyObject,
    value: *mut PyObject,
    _closure: *mut c_void,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        match truth(value, false) {
            Some(truth) => {
                (*own::<Queue>(this)).shut_down = truth;
                0
            }
            None => -1,
        }
    }
}

/// How many wait to get something out, and to put something in.
unsafe extern "C" fn waiting(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let queue: *mut Queue = own(this);
        ffi::Py_BuildValue(
            c"(nn)".as_ptr(),
            (*queue).getters.len().cast_signed(),
            (*queue).putters.len().cast_signed(),
        )
    }
}

/// Wakes all who wait, which find that it is shut down.
unsafe extern "C" fn wake_all(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above; cores are borrowed for single statements. They stay in the lists: that tells them.
    unsafe {
        let queue: *mut Queue = own(this);
        for wait in (*queue).getters.iter().chain(&(*queue).putters) {
            let core = super::eventloop::core_of_loop(wait.holder);
            if !core.is_null() && (*core).hub.waiters.wake(wait.key) {
                (*core).hub.remote().nudge();
            }
        }
        none()
    }
}

/// Makes the type. False with an exception set.
///
/// # Safety
///
/// The GIL is held; called once.
pub(super) unsafe fn ready(module: *mut PyObject) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let kind = class::make::<Queue>(&Spec {
            name: c"weft._native._hub.QueueBase",
            doc: c"What queues between greenlets are made of.",
            base: ptr::null_mut(),
            methods: &[
                method(
                    c"put",
                    put,
                    c"put(item, block=True, timeout=None)\n\nPut an item in; Full if there was no room in time.",
                ),
                method(c"put_nowait", put_nowait, c"put_nowait(item)\n\nPut an item in; Full if there is no room."),
                method(
                    c"get",
                    get,
                    c"get(block=True, timeout=None)\n\nTake an item out; Empty if there was none in time.",
                ),
                plain(c"get_nowait", get_nowait, c"Take an item out; Empty if there is none."),
                method(
                    c"peek",
                    peek,
                    c"peek(block=True, timeout=None)\n\nThe next item, which stays; Empty if there was none in time.",
                ),
                plain(c"peek_nowait", peek_nowait, c"The next item, which stays; Empty if there is none."),
                plain(c"qsize", qsize, c"How many items there are."),
                plain(c"empty", empty, c"Whether there is none."),
                plain(c"full", full, c"Whether there is no room."),
                plain(c"task_done", task_done, c"Report an item as done."),
                plain(c"_did_put_task", did_put_task, c"Count one more that is to be done."),
                method(c"_set_up", set_up, c"Set up the hub, the room, and what is counted."),
                class::one(c"_fill", fill, c"Have these items, and keep them."),
                plain(c"_waiting", waiting, c"How many wait to get something out, and to put something in."),
                plain(c"_wake_all", wake_all, c"Wake all who wait, which find that it is shut down."),
            ],
            attributes: &[
                attribute(c"queue", get_queue, Some(set_queue), c"The items."),
                attribute(
                    c"maxsize",
                    get_maxsize,
                    Some(set_maxsize),
                    c"How many there is room for; None for any number.",
                ),
                attribute(c"hub", get_hub, None, c"The hub that serves those that wait."),
                attribute(c"_cond", get_idle, None, c"The event that nothing is left to be done, or None."),
                attribute(
                    c"unfinished_tasks",
                    get_unfinished,
                    Some(set_unfinished),
                    c"How many were put in and not reported as done.",
                ),
                attribute(c"is_shutdown", get_shut_down, Some(set_shut_down), c"Whether it was shut down."),
            ],
        });
        (*kind).tp_iter = Some(this_one);
        (*kind).tp_iternext = Some(next);
        let mut number: ffi::PyNumberMethods = std::mem::zeroed();
        number.nb_bool = Some(always);
        (*kind).tp_as_number = Box::into_raw(Box::new(number));
        let mut sequence: ffi::PySequenceMethods = std::mem::zeroed();
        sequence.sq_length = Some(length);
        (*kind).tp_as_sequence = Box::into_raw(Box::new(sequence));
        class::ready(module, kind)
    }
}
