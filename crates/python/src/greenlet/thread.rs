//! What each thread keeps, and what happens when it ends.
//!
//! # The end of a thread
//!
//! A greenlet belongs to the thread that started it. When a thread ends, its thread-local handle is dropped
//! *without the GIL*, after Python's own thread state is gone. All that happens there is atomic: the main greenlet's
//! body is cut off from the thread, which makes every greenlet of the thread unable to run, and the [`Thread`] is
//! put on a list. A pending call, which the interpreter runs later under the GIL in some thread, empties the list
//! ([`destroy`]): the stacks of greenlets that are still referenced move to the heap, because frames
//! may still be looked at; then the slots go.
//!
//! A greenlet whose last reference is dropped in another thread than its own is put on its thread's list and is
//! unwound there the next time that thread switches or asks for the current greenlet.
//!
//! # Fork
//!
//! In the child only the forking thread exists. The other threads' handles are never dropped there, so a fork handler
//! cuts their main greenlets off as well: dropping one of their greenlets in the child then frees it instead
//! of waiting for a thread that does not exist.

mod alive;

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicPtr, AtomicUsize, Ordering};

use pyo3::ffi::{self, PyObject, PyThreadState};
use weft_coroutine::slotted::{Config, Coroutine, Slots};

use super::object::{self, Life, PyGreenlet, SavedError, body, clear};
use super::types;
use crate::ffi::{State, is_finalizing, thread_id};
use crate::gil::GilCell;

/// What a thread keeps. Only the thread itself touches it, under the GIL; after its end, [`destroy`].
#[derive(Debug)]
pub(crate) struct Thread {
    /// Owned.
    pub(crate) main: *mut PyGreenlet,
    /// Owned.
    pub(crate) current: *mut PyGreenlet,
    /// What a switch carries over; set last thing before the stacks change, taken first thing after.
    pub(crate) parcel: super::parcel::Parcel,
    /// The reference that a starting greenlet had to `run` before the lookup; the new greenlet drops it.
    pub(crate) replaced_run: *mut PyObject,
    /// Owned; null if nobody traces.
    pub(crate) tracefunc: *mut PyObject,
    /// Greenlets of this thread whose last reference was dropped elsewhere; owned.
    pub(crate) delete_later: Vec<*mut PyGreenlet>,
    pub(crate) slots: Slots<State>,
    /// The thread's hub, owned; null if it has none.
    pub(crate) hub: *mut PyObject,
    /// The hub's loop, owned.
    pub(crate) hub_loop: *mut PyObject,
    /// Hubs and loops that were the thread's before, and that somebody may have in hand; owned.
    pub(crate) retired: Vec<*mut PyObject>,
    /// Whether the hub's class wants to see every switch to it.
    pub(crate) hub_watches: bool,
    /// The child of the hub that has ended with an exception, which is on its way there; owned, or null.
    pub(crate) failed: *mut PyGreenlet,
    /// Says whom a greenlet that has ended hands over to, in the place of its parent.
    pub(crate) successor: Option<Successor>,
    /// Gives back what the hub still has when the thread has ended.
    pub(crate) hub_left: Option<HubLeft>,
    /// Which entry of [`alive`] stands for it.
    serial: usize,
    /// The number of the thread state that its greenlets belong to.
    thread_state_id: u64,
    next_ended: *mut Thread,
}

/// Asked by a greenlet at its end: who goes on, owned, and with what.
///
/// Called with the GIL, as the current greenlet of the thread; runs no Python code.
pub(crate) type Successor =
    unsafe fn(*mut Thread, *mut PyGreenlet) -> Option<(*mut PyGreenlet, super::parcel::Parcel)>;

/// Called with the hub and its loop of a thread that has ended, and whose greenlets cannot run any more.
///
/// Called with the GIL, in another thread; may run Python code.
pub(crate) type HubLeft = unsafe fn(hub: *mut PyObject, hub_loop: *mut PyObject);

/// Main greenlets that exist.
pub(crate) static MAIN_GREENLETS: AtomicIsize = AtomicIsize::new(0);

/// Threads that ended and wait for [`destroy`], linked by [`Thread::next_ended`]. Threads push without the GIL
/// and without a lock, which the child of a fork could find taken; whoever swaps in null owns the whole list.
static ENDED: AtomicPtr<Thread> = AtomicPtr::new(ptr::null_mut());

/// How many are on the list or being destroyed.
static ENDED_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Whether a pending call is under way that will empty the list.
static CLEANUP_SCHEDULED: AtomicBool = AtomicBool::new(false);

/// Processor time spent looking for greenlets that a thread leaked, in `clock()` ticks; -1 if switched off.
pub(crate) static CLEANUP_CLOCKS: AtomicIsize = AtomicIsize::new(0);

/// The thread found last, by thread state; serves as long as the same thread asks.
struct Cache {
    thread_state: *mut PyThreadState,
    id: u64,
    thread: *mut Thread,
}

static CACHE: GilCell<Cache> =
    GilCell::new(Cache { thread_state: ptr::null_mut(), id: 0, thread: ptr::null_mut() });

/// The operating-system thread's own handle; dropped when it ends.
struct Handle(Cell<*mut Thread>);

thread_local! {
    static HANDLE: Handle = const { Handle(Cell::new(ptr::null_mut())) };
}

impl Drop for Handle {
    fn drop(&mut self) {
        let thread = self.0.get();
        if !thread.is_null() {
            // SAFETY: the thread that owns it is ending and does not use it any more.
            unsafe { thread_ended(thread) };
        }
    }
}

/// The place in a main greenlet that leads to its thread. When the thread has ended, the lowest bit is set; when it
/// has been destroyed, or does not exist in the child of a fork, it is null.
///
/// A main greenlet needs no `parent`, so its body keeps this there.
///
/// # Safety
///
/// `main` is a live main greenlet.
pub(crate) unsafe fn main_thread_cell<'a>(main: *mut PyGreenlet) -> &'a AtomicPtr<Thread> {
    // SAFETY: a field of pointer size and alignment that for main greenlets is accessed through this only.
    unsafe { AtomicPtr::from_ptr((&raw mut (*body(main)).parent).cast()) }
}

/// The thread that a greenlet belongs to; null if it was not started or its thread has ended.
///
/// # Safety
///
/// `greenlet` is a live greenlet, and the GIL is held.
pub(crate) unsafe fn thread_of(greenlet: *mut PyGreenlet) -> *mut Thread {
    // SAFETY: a greenlet keeps its main greenlet alive.
    unsafe {
        let main = (*body(greenlet)).main;
        if main.is_null() {
            return ptr::null_mut();
        }
        let thread = main_thread_cell(main).load(Ordering::Acquire);
        if thread.addr() & ENDED_BIT == 0 { thread } else { ptr::null_mut() }
    }
}

/// Set in a main greenlet's cell when its thread has ended.
const ENDED_BIT: usize = 1;

/// Who owns the slots that a greenlet's stack may lie in: its thread, also when that has ended, until it is destroyed.
///
/// # Safety
///
/// `greenlet` is a live greenlet, and the GIL is held. Whatever runs Python code may destroy the thread.
pub(crate) unsafe fn slots_owner(greenlet: *mut PyGreenlet) -> *mut Thread {
    // SAFETY: a greenlet keeps its main greenlet alive.
    unsafe {
        let main = (*body(greenlet)).main;
        if main.is_null() {
            return ptr::null_mut();
        }
        main_thread_cell(main).load(Ordering::Acquire).map_addr(|address| address & !ENDED_BIT)
    }
}

/// Notes that a greenlet was running when its thread vanished: what its body keeps of the interpreter's state
/// is from long ago.
unsafe fn mark_lost(greenlet: *mut PyGreenlet) {
    // SAFETY: a live greenlet, held by its thread; the flag is atomic.
    unsafe { (*body(greenlet)).lost.store(true, Ordering::Release) };
}

/// Whether a greenlet was started in a thread that has ended.
///
/// # Safety
///
/// `greenlet` is a live greenlet, and the GIL is held.
pub(crate) unsafe fn belongs_to_ended_thread(greenlet: *mut PyGreenlet) -> bool {
    // SAFETY: passed on.
    unsafe { !(*body(greenlet)).main.is_null() && thread_of(greenlet).is_null() }
}

/// The calling thread's data, made at the first call; null with an exception set if that fails.
///
/// # Safety
///
/// The GIL is held, and `thread_state` is the current thread state.
#[inline(always)]
pub(crate) unsafe fn current_thread(thread_state: *mut PyThreadState) -> *mut Thread {
    // SAFETY: the cache is read under the GIL. A thread state's number is never used twice in a process, so
    // an entry that fits is the running thread's.
    unsafe {
        let cache = CACHE.get();
        if (*cache).thread_state == thread_state && (*cache).id == thread_id(thread_state) {
            return (*cache).thread;
        }
        find_thread(thread_state)
    }
}

#[cold]
#[inline(never)]
unsafe fn find_thread(thread_state: *mut PyThreadState) -> *mut Thread {
    // SAFETY: the GIL is held, says the caller of `current_thread`.
    unsafe {
        let Ok(mut thread) = HANDLE.try_with(|handle| handle.0.get()) else {
            // Somebody's own clean-up at the thread's end runs Python code, after ours.
            ffi::PyErr_SetString(
                ffi::PyExc_RuntimeError,
                c"greenlets cannot be used any more in this thread: it is ending".as_ptr(),
            );
            return ptr::null_mut();
        };
        if !thread.is_null() && (*thread).thread_state_id != thread_id(thread_state) {
            // A thread of foreign code calls in again with a new thread state. Suspended greenlets hold on to the old
            // one, on their C stacks, so they cannot continue: for them, the thread has ended.
            let _ = HANDLE.try_with(|handle| handle.0.set(ptr::null_mut()));
            thread_ended(thread);
            thread = ptr::null_mut();
        }
        if thread.is_null() && !ENDED.load(Ordering::Relaxed).is_null() && !is_finalizing() {
            // Pending calls wait for the main thread, which may itself wait for threads to end, for a long time. Whoever
            // begins clears away after those that have ended, so that their stacks do not pile up.
            let saved = SavedError::take();
            destroy_ended(ptr::null_mut());
            saved.restore();
            thread = HANDLE.try_with(|handle| handle.0.get()).unwrap_or(ptr::null_mut());
        }
        if thread.is_null() {
            let created = create(thread_state);
            // Making it may have run a finalizer that was here first.
            thread = HANDLE.try_with(|handle| handle.0.get()).unwrap_or(ptr::null_mut());
            if thread.is_null() {
                thread = created;
                if thread.is_null() {
                    return thread;
                }
                let _ = HANDLE.try_with(|handle| handle.0.set(thread));
            } else if !created.is_null() {
                thread_ended(created);
            }
        }
        *CACHE.get() = Cache { thread_state, id: thread_id(thread_state), thread };
        thread
    }
}

unsafe fn create(thread_state: *mut PyThreadState) -> *mut Thread {
    // SAFETY: the GIL is held; the greenlet is new and known to nobody else.
    unsafe {
        let main = object::allocate(types::greenlet_type(), true);
        if main.is_null() {
            return ptr::null_mut();
        }
        MAIN_GREENLETS.fetch_add(1, Ordering::Relaxed);
        let thread = Box::into_raw(Box::new(Thread {
            main,
            current: object::owned(main),
            parcel: super::parcel::Parcel::EMPTY,
            replaced_run: ptr::null_mut(),
            tracefunc: ptr::null_mut(),
            delete_later: Vec::new(),
            slots: Slots::new(config()),
            hub: ptr::null_mut(),
            hub_loop: ptr::null_mut(),
            retired: Vec::new(),
            hub_watches: false,
            failed: ptr::null_mut(),
            successor: None,
            hub_left: None,
            serial: 0,
            thread_state_id: thread_id(thread_state),
            next_ended: ptr::null_mut(),
        }));
        (*body(main)).main = main;
        main_thread_cell(main).store(thread, Ordering::Release);
        (*thread).serial = alive::enter(thread);
        if !ENDED.load(Ordering::Relaxed).is_null() {
            schedule_cleanup();
        }
        thread
    }
}

/// The sizes of slots: the defaults, or what the environment says.
///
/// `WEFT_STACK_SLOTS` is the most slots a thread reserves, `WEFT_STACK_SIZE` the bytes of one.
fn config() -> Config {
    let default = Config::default();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.trim().parse::<usize>().ok());
    Config {
        slot_size: number("WEFT_STACK_SIZE").map_or(default.slot_size, |size| size.max(64 << 10)),
        max_slots: number("WEFT_STACK_SLOTS").map_or(default.max_slots, |count| {
            u32::try_from(count.clamp(1, 4096)).unwrap_or(default.max_slots)
        }),
        process_budget: default.process_budget,
    }
}

/// Runs in the ending thread, without the GIL.
unsafe fn thread_ended(thread: *mut Thread) {
    // SAFETY: the main greenlet is kept alive by `thread`; the store is atomic. The pending call is
    // only asked for while there is an interpreter to run it.
    unsafe {
        if (*thread).current != (*thread).main {
            mark_lost((*thread).current);
        }
        let ended = thread.map_addr(|address| address | ENDED_BIT);
        main_thread_cell((*thread).main).store(ended, Ordering::Release);
        alive::leave((*thread).serial);
        if ffi::PyInterpreterState_Head().is_null() {
            return;
        }
        ENDED_COUNT.fetch_add(1, Ordering::Relaxed);
        let mut head = ENDED.load(Ordering::Relaxed);
        loop {
            (*thread).next_ended = head;
            match ENDED.compare_exchange_weak(head, thread, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        schedule_cleanup();
    }
}

/// Asks the interpreter to call [`destroy_ended`] soon, unless that is under way.
///
/// Its queue of pending calls is short; if it is full, the next thread that begins or ends asks again.
fn schedule_cleanup() {
    if is_finalizing() || CLEANUP_SCHEDULED.swap(true, Ordering::AcqRel) {
        return;
    }
    // SAFETY: may be called without the GIL; the function is never unloaded.
    if unsafe { ffi::Py_AddPendingCall(Some(destroy_ended), ptr::null_mut()) } < 0 {
        CLEANUP_SCHEDULED.store(false, Ordering::Release);
    }
}

/// Destroys the threads that have ended, for who runs no Python code for long and would keep pending calls waiting.
///
/// # Safety
///
/// The GIL is held. Runs Python code, unless there is none.
pub(crate) unsafe fn clear_away_ended() {
    if !ENDED.load(Ordering::Relaxed).is_null() && !is_finalizing() {
        destroy_ended(ptr::null_mut());
    }
}

/// How many ended threads wait to be destroyed.
pub(crate) fn pending_cleanups() -> usize {
    ENDED_COUNT.load(Ordering::Relaxed)
}

extern "C" fn destroy_ended(_argument: *mut c_void) -> c_int {
    // Cleared first: a thread that ends from here on asks for another call.
    CLEANUP_SCHEDULED.store(false, Ordering::Release);
    let mut next = ENDED.swap(ptr::null_mut(), Ordering::AcqRel);
    while !next.is_null() {
        // SAFETY: taken off the list, so ours alone; pending calls run under the GIL.
        unsafe {
            let thread = next;
            next = (*thread).next_ended;
            destroy(thread);
        }
        ENDED_COUNT.fetch_sub(1, Ordering::Relaxed);
    }
    0
}

/// Drops the hubs that were the thread's before; nobody has one in hand.
///
/// # Safety
///
/// The GIL is held. May run Python code.
pub(crate) unsafe fn release_retired(thread: *mut Thread) {
    // SAFETY: each one is out of the list before its reference goes.
    unsafe {
        while let Some(object) = (*thread).retired.pop() {
            ffi::Py_DECREF(object);
        }
    }
}

/// Drops everything an ended thread kept.
unsafe fn destroy(thread: *mut Thread) {
    // SAFETY: under the GIL, in another thread or later than the one that ended. References are cleared
    // field by field because dropping them runs Python code.
    unsafe {
        let cache = CACHE.get();
        if (*cache).thread == thread {
            *cache = Cache { thread_state: ptr::null_mut(), id: 0, thread: ptr::null_mut() };
        }
        // Frames of suspended greenlets may still be looked at, so their stacks outlive the slots.
        let ended_in_greenlet = (*thread).current != (*thread).main;
        if ended_in_greenlet || Slots::evict_all(&raw mut (*thread).slots).is_err() {
            // One that ran when the thread vanished cannot be moved, or there is no memory: leave the slots mapped
            // rather than let frames point nowhere.
            std::mem::forget(std::mem::replace(&mut (*thread).slots, Slots::new(Config::default())));
        }
        main_thread_cell((*thread).main).store(ptr::null_mut(), Ordering::Release);
        clear(&raw mut (*thread).tracefunc);
        clear(&raw mut (*thread).failed);
        if let Some(hub_left) = (*thread).hub_left
            && !(*thread).hub.is_null()
        {
            hub_left((*thread).hub, (*thread).hub_loop);
            report_unraisable();
        }
        clear(&raw mut (*thread).hub);
        clear(&raw mut (*thread).hub_loop);
        release_retired(thread);
        while let Some(greenlet) = (*thread).delete_later.pop() {
            super::lifetime::make_dead(greenlet);
            ffi::Py_DECREF(greenlet.cast());
            report_unraisable();
        }
        if (*thread).current == (*thread).main {
            clear(&raw mut (*thread).current);
            let main = (*thread).main;
            let references = ffi::Py_REFCNT(main.cast());
            if references == 2 {
                (*thread).main = ptr::null_mut();
                ffi::Py_DECREF(main.cast());
                drop_leaked_main(main);
            }
        } else {
            super::lifetime::make_dead((*thread).current);
            clear(&raw mut (*thread).current);
        }
        clear(&raw mut (*thread).main);
        report_unraisable();
        drop(Box::from_raw(thread));
    }
}

unsafe fn report_unraisable() {
    // SAFETY: the GIL is held.
    unsafe {
        if !ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_WriteUnraisable(ptr::null_mut());
        }
    }
}

/// Drops the one reference that is left to the main greenlet of an ended thread, if it is one that nobody will ever drop.
///
/// A greenlet that was suspended for good by calling `parent.switch` holds its main greenlet on its stack, as the
/// receiver of that call. Whether one of those abandoned did has been noted; if there is one reference, and one such place,
/// and no object that the collector knows refers to the main greenlet in its stead, they are the same.
///
/// # Safety
///
/// The GIL is held; `main` is alive with a reference count of one.
pub(crate) unsafe fn drop_leaked_main(main: *mut PyGreenlet) {
    // SAFETY: the object is alive because somebody holds the last reference, and that somebody is found.
    unsafe {
        if (*body(main)).held_by_abandoned != 1
            || CLEANUP_CLOCKS.load(Ordering::Relaxed) < 0
            || is_finalizing()
        {
            return;
        }
        let begin = clock_ticks();
        let saved = SavedError::take();
        let collector = ffi::PyImport_ImportModule(c"gc".as_ptr());
        if !collector.is_null() {
            let name = c"get_referrers".as_ptr();
            let referrers = ffi::PyObject_CallMethod(collector, name, c"O".as_ptr(), main);
            let nobody =
                !referrers.is_null() && ffi::PyList_Check(referrers) != 0 && ffi::PyList_Size(referrers) == 0;
            if nobody && ffi::Py_REFCNT(main.cast()) == 1 {
                ffi::Py_DECREF(main.cast());
            }
            ffi::Py_XDECREF(referrers);
            ffi::Py_DECREF(collector);
        }
        report_unraisable();
        saved.restore();
        CLEANUP_CLOCKS.fetch_add(clock_ticks() - begin, Ordering::Relaxed);
    }
}

fn clock_ticks() -> isize {
    isize::try_from(clock()).unwrap_or(0)
}

unsafe extern "C" {
    /// C's `clock()`: processor time of the process.
    safe fn clock() -> std::ffi::c_long;
}

/// Unwinds the greenlets that other threads dropped; keeps the exception that is set.
///
/// # Safety
///
/// The GIL is held and `thread` is the calling thread's.
#[cold]
#[inline(never)]
pub(crate) unsafe fn delete_dropped_elsewhere(thread: *mut Thread) {
    if is_finalizing() {
        return;
    }
    // SAFETY: one at a time: dropping a greenlet runs Python code, which may add to the list, or never come back.
    unsafe {
        let saved = SavedError::take();
        while let Some(greenlet) = (*thread).delete_later.pop() {
            ffi::Py_DECREF(greenlet.cast());
            report_unraisable();
        }
        saved.restore();
    }
}

/// Bytes of C stack that a suspended greenlet keeps; for a main greenlet what lies on its native stack.
///
/// # Safety
///
/// The GIL is held and `greenlet` is a live greenlet.
pub(crate) unsafe fn suspended_size(greenlet: *mut PyGreenlet) -> usize {
    // SAFETY: a suspended greenlet's coroutine is valid; its own thread is the one that asks, or has ended.
    unsafe {
        let thread = thread_of(greenlet);
        let coroutine: *const Coroutine<State> = &raw const (*body(greenlet)).coroutine;
        if thread.is_null() || (*body(greenlet)).life != Life::Active || (*thread).current == greenlet {
            return 0;
        }
        if (*body(greenlet)).is_main {
            return weft_sys::mapping::native_stack_above((*coroutine).stack_pointer().addr());
        }
        Slots::suspended_size(&raw const (*thread).slots, coroutine)
    }
}

extern "C" fn after_fork_in_child() {
    let survivor = HANDLE.try_with(|handle| handle.0.get()).unwrap_or(ptr::null_mut());
    // A pending call that another thread was about to make is not made here; asking twice does no harm.
    CLEANUP_SCHEDULED.store(false, Ordering::Release);
    // SAFETY: only atomics; the thread that forked is the only one there is.
    unsafe { alive::cut_off_all_but(survivor) };
}

/// Registers the fork handler, once in a process.
pub(crate) fn install_fork_handler() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler touches atomics only.
        // It fails only without memory, and then greenlets of other threads leak in children.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(after_fork_in_child)) };
    });
}
