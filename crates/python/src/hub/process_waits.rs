//! How a greenlet waits in code that knows nothing of hubs: queues and locks between processes, connections, pools.
//!
//! That code waits through a parker, in the middle of methods that the bindings made. So what is said of stacks in
//! [`park`](super::park) is only half true here: frames that own something do lie on the stack of a greenlet that waits here. All
//! of it belongs to the wait itself (a buffer, a count of those who wait, the bindings' count of attached frames), so that a greenlet
//! which never goes on, because its thread has ended, leaks it and does no harm. Nothing that others can reach lies there: words
//! are in shared memory, the places of waiters in the hub's table.
//!
//! # Forks
//!
//! A greenlet that waits while another one forks exists twice, and what it had begun outside of the process (an entry in a
//! table of waiters, a call to a server) is its parent's. So its copy never comes back from that wait by itself: it is parked for
//! good as soon as it is woken. An exception thrown into it ends the wait, unless the end would undo what is the parent's.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use weft_hub::{Post, WaiterKey};
use weft_reactor::{Ready, TimerKey, WatchKey};
use weft_sys::clock::monotonic;

use super::core::{Core, Item};
use super::eventloop::{Loop, core_of, to_exception};
use super::here::{self, here_if_exists};
use super::park::{current, raise_invalid_switch, switch_away, withdraw};
use crate::ffi::current_thread_state;
use crate::greenlet::object::{Life, PyGreenlet, body, owned};
use crate::greenlet::thread::current_thread;

/// Whether any thread ever had a hub: without one, waits cost nothing more than a look at this.
static ANY: AtomicBool = AtomicBool::new(false);

/// Says that a thread has a hub.
pub(super) fn note_hub() {
    ANY.store(true, Ordering::Relaxed);
}

/// The calling thread's hub, for a greenlet that can wait in it: the current one.
#[derive(Clone, Copy)]
pub(crate) struct Here<'py> {
    holder: *mut PyObject,
    py: Python<'py>,
}

/// The calling greenlet's place to wait. `None` if the thread has no hub, or this is the hub: then the thread waits.
#[inline]
pub(crate) fn here(py: Python<'_>) -> Option<Here<'_>> {
    if ANY.load(Ordering::Relaxed) { find(py) } else { None }
}

#[cold]
#[inline(never)]
fn find(py: Python<'_>) -> Option<Here<'_>> {
    // SAFETY: with the GIL. The thread's hub is alive, and its loop was not destroyed.
    unsafe {
        let here::Here { holder, core, .. } = here_if_exists()?;
        let thread = current_thread(current_thread_state());
        let hub = (*core).greenlet;
        let able = !hub.is_null()
            && (*body(hub)).life != Life::Dead
            && (*thread).current != hub
            && ((*body(hub)).main.is_null() || (*body(hub)).main == (*thread).main);
        able.then_some(Here { holder, py })
    }
}

/// The loop of the calling thread's hub.
pub(super) fn seated_loop(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    // SAFETY: with the GIL; what a thread keeps is alive.
    unsafe { here_if_exists().map(|here| Bound::from_borrowed_ptr(py, here.holder)) }
}

/// Whether it is the loop of the calling thread's hub. The caller has the GIL.
pub(super) fn is_seated(core: *mut Core) -> bool {
    // SAFETY: with the GIL.
    unsafe { here_if_exists().is_some_and(|here| here.core == core) }
}

/// The coroutine that the calling greenlet steps; borrowed.
pub(super) fn stepping(_py: Python<'_>) -> Option<*mut PyObject> {
    // SAFETY: as above. Code that a step switched to, in another greenlet, is not the coroutine's.
    unsafe {
        let core = here_if_exists()?.core;
        let stepped = (*core).stepping;
        (!stepped.is_null() && current() == (*core).greenlet).then_some(stepped)
    }
}

/// The greenlet that runs, as a number that no other one that lives has; zero in the main greenlet, and in threads without a hub.
#[inline]
pub(crate) fn greenlet_number() -> usize {
    if ANY.load(Ordering::Relaxed) { number_of_current() } else { 0 }
}

#[cold]
#[inline(never)]
fn number_of_current() -> usize {
    // SAFETY: with the GIL, as whoever asks this has it.
    unsafe {
        let thread = current_thread(current_thread_state());
        if thread.is_null() {
            ffi::PyErr_Clear();
            return 0;
        }
        if (*thread).hub.is_null() || (*thread).current == (*thread).main {
            0
        } else {
            (*thread).current.addr()
        }
    }
}

/// The greenlet that runs, in a thread with a hub; None in the thread's first greenlet, and in all other threads.
#[pyfunction]
pub(super) fn own_greenlet(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    if greenlet_number() == 0 {
        return None;
    }
    // SAFETY: with the GIL; what runs is alive.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, current().cast()) }
}

/// What one waits for, beside the time.
pub(crate) enum For<'a> {
    /// That one of these words is not what it is expected to be, or somebody is woken there. Two at most.
    ///
    /// They lie where they stay for as long as the process lives, or as long as a reference that is on the caller's stack.
    Words(&'a [(&'a AtomicU32, u32)]),
    /// That one of these descriptors is ready.
    Descriptors(&'a [(RawFd, Ready)]),
    /// To be woken by whoever is told of the waiter here.
    Told(&'a dyn Fn(WaiterKey)),
    /// Nothing: only the time.
    Time,
}

/// Why a greenlet went on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Woken,
    TimedOut,
}

/// What has been arranged for a wait.
struct Arranged {
    key: WaiterKey,
    timer: Option<TimerKey>,
    posts: [Option<Post>; 2],
    watches: Vec<WatchKey>,
}

impl Here<'_> {
    /// Whether somebody else could run at once: then nobody looks at something again and again.
    pub(crate) fn is_busy(self) -> bool {
        // SAFETY: with the GIL; the core is looked at for this statement.
        unsafe { self.peek().is_some_and(|core| (*core).is_busy()) }
    }

    /// Parks the calling greenlet for at most so long; `None`: until it is woken. With `stays`, the copy that a fork makes of it is not let go on
    /// even by an exception: the end of this wait would undo what is the parent's.
    pub(crate) fn wait(self, what: &For<'_>, patience: Option<Duration>, stays: bool) -> PyResult<Ended> {
        // SAFETY: the GIL is held, and the holder is on its seat; it is held for as long as this takes.
        unsafe {
            owned(self.holder);
            let outcome = self.wait_held(what, patience, stays);
            ffi::Py_DECREF(self.holder);
            outcome.ok_or_else(|| PyErr::fetch(self.py))
        }
    }

    /// `None` with an exception set.
    unsafe fn wait_held(self, what: &For<'_>, patience: Option<Duration>, stays: bool) -> Option<Ended> {
        // SAFETY: the core is borrowed for single statements. It is looked for again after the switch, because it may have been
        // destroyed meanwhile.
        unsafe {
            let core = core_of(self.holder);
            let me = current();
            if core.is_null() || me.is_null() {
                return None;
            }
            if let Err(error) = (*core).check_fork() {
                to_exception(&error).restore(self.py);
                return None;
            }
            let began = weft_reactor::forks();
            let mut arranged = arrange(core, me, patience);
            match *what {
                For::Words(words) => {
                    for (post, (word, expected)) in arranged.posts.iter_mut().zip(words) {
                        *post = Some((*core).hub.post_at(*word, *expected, arranged.key));
                    }
                }
                For::Descriptors(all) => {
                    for &(descriptor, wanted) in all {
                        match (*core).hub.wake_when(descriptor, wanted, arranged.key) {
                            Ok(watch) => arranged.watches.push(watch),
                            // What the caller tries next says why.
                            Err(_) => {
                                undo(core, &arranged);
                                return Some(Ended::Woken);
                            }
                        }
                    }
                }
                For::Told(tell) => tell(arranged.key),
                For::Time => {}
            }
            // What another coroutine does comes from nowhere else.
            let referenced = patience.is_some() || !matches!(what, For::Told(_));
            (*core).references += isize::from(referenced);
            let result = switch_away(self.holder, core);
            // If it was destroyed, so was whatever had been arranged.
            let Some(core) = self.peek() else { return self.left_alone(result) };
            (*core).references -= isize::from(referenced);
            if began != weft_reactor::forks() {
                // Before anything is undone: what was arranged with the parent's threads is theirs, under locks that may be taken.
                let renewed = (*core).check_fork();
                undo(core, &arranged);
                return match renewed {
                    Ok(_) => self.stay(me, result, stays),
                    Err(error) => {
                        to_exception(&error).restore(self.py);
                        None
                    }
                };
            }
            let (fired, was_waiting) = undo(core, &arranged);
            if result.is_null() {
                return None;
            }
            if was_waiting {
                raise_invalid_switch(me, result);
                ffi::Py_DECREF(result);
                return None;
            }
            ffi::Py_DECREF(result);
            Some(if fired { Ended::TimedOut } else { Ended::Woken })
        }
    }

    /// What the loop keeps, unless it was destroyed.
    unsafe fn peek(self) -> Option<*mut Core> {
        // SAFETY: the holder is held, and no reference outlives this.
        unsafe { Borrowed::from_ptr(self.py, self.holder).cast::<Loop>().ok()?.get().core(self.py) }
    }

    /// The loop was destroyed while the greenlet waited.
    unsafe fn left_alone(self, result: *mut PyObject) -> Option<Ended> {
        // SAFETY: the GIL is held; `result` is owned, or an exception is set that was thrown.
        unsafe {
            if !result.is_null() {
                ffi::Py_DECREF(result);
                core_of(self.holder); // sets the exception that says so
            }
            None
        }
    }

    /// In the child of a fork, in the copy of a greenlet that waited: waits for nothing.
    #[cold]
    unsafe fn stay(self, me: *mut PyGreenlet, mut result: *mut PyObject, stays: bool) -> Option<Ended> {
        // SAFETY: as for `wait_held`.
        unsafe {
            if stays {
                // Held for good, so that it is never unwound.
                owned(me);
            }
            loop {
                if result.is_null() {
                    if !stays {
                        return None;
                    }
                    ffi::PyErr_Clear();
                } else {
                    ffi::Py_DECREF(result);
                }
                let core = core_of(self.holder);
                if core.is_null() {
                    return None;
                }
                let key = (*core).hub.waiters.park(Item::Greenlet(owned(me)));
                result = switch_away(self.holder, core);
                let Some(core) = self.peek() else { return self.left_alone(result) };
                withdraw(core, key);
            }
        }
    }
}

unsafe fn arrange(core: *mut Core, me: *mut PyGreenlet, patience: Option<Duration>) -> Arranged {
    // SAFETY: the core is borrowed for single statements.
    unsafe {
        let key = (*core).hub.waiters.park(Item::Greenlet(owned(me)));
        let timer = patience.map(|patience| {
            let nanoseconds = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
            (*core).hub.wake_at(monotonic().saturating_add(nanoseconds), key)
        });
        Arranged { key, timer, posts: [None; 2], watches: Vec::new() }
    }
}

/// Undoes it. Says whether the timer has fired, and whether nobody had woken the waiter.
unsafe fn undo(core: *mut Core, arranged: &Arranged) -> (bool, bool) {
    // SAFETY: the core is borrowed for single statements.
    unsafe {
        let fired = arranged.timer.is_some_and(|timer| !(*core).hub.cancel_timer(timer));
        for post in arranged.posts.into_iter().flatten() {
            (*core).hub.recall(post);
        }
        for &watch in &arranged.watches {
            (*core).hub.unwatch(watch);
        }
        (fired, withdraw(core, arranged.key))
    }
}
