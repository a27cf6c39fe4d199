//! Whom an object tells that it is ready.
//!
//! A link is a function that the hub calls, as programs make them with `rawlink()`; or a greenlet that waits, by its key in the
//! table of its hub; or a [`gather`], which waits for many; or a thread that has no hub and sleeps in the kernel.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::ffi::{self, PyObject};
use weft_hub::WaiterKey;

use super::class::Visit;
use super::core::{Core, Item};
use super::eventloop::core_of_loop;
use super::gather;
use crate::greenlet::object::{PyGreenlet, SavedError, owned};

/// One of whom an object tells. Pointers are owned.
#[derive(Debug)]
pub(super) enum Link {
    /// A function, called with the object.
    Call(*mut PyObject),
    /// A greenlet that waits, by its loop and its key there; whether it takes what became free.
    Wait { holder: *mut PyObject, key: WaiterKey, takes: bool },
    /// A gather that wants to know of the object.
    Gather(*mut PyObject),
    /// A thread that sleeps, and takes what became free.
    Gate(Arc<Gate>),
}

impl Link {
    /// Drops what it owns; may run Python code.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    pub(super) unsafe fn release(self) {
        match self {
            // SAFETY: owned, says whoever made it.
            Self::Call(object) | Self::Gather(object) | Self::Wait { holder: object, .. } => unsafe {
                ffi::Py_DECREF(object);
            },
            Self::Gate(_) => {}
        }
    }

    /// The object that it owns; null if none.
    pub(super) const fn object(&self) -> *mut PyObject {
        match self {
            Self::Call(object) | Self::Gather(object) | Self::Wait { holder: object, .. } => *object,
            Self::Gate(_) => std::ptr::null_mut(),
        }
    }

    /// Whether it takes what became free.
    pub(super) const fn takes(&self) -> bool {
        matches!(self, Self::Gate(_) | Self::Wait { takes: true, .. })
    }
}

/// What became of telling somebody that is no function.
#[derive(Debug)]
pub(super) enum Told {
    /// This greenlet, owned, goes on.
    Switch(*mut PyGreenlet),
    /// It knows.
    Done,
    /// It does not wait any more.
    Nobody,
}

/// Tells a link that is no function. Takes the link.
///
/// # Safety
///
/// The GIL is held, in the thread of `core`, of which nothing is borrowed; `source` is alive.
pub(super) unsafe fn tell(core: *mut Core, link: Link, source: *mut PyObject) -> Told {
    // SAFETY: cores are borrowed for single statements. The loop's reference is not its last: who waits holds it.
    unsafe {
        match link {
            Link::Wait { holder, key, .. } => {
                let told = wake(core, holder, key);
                ffi::Py_DECREF(holder);
                told
            }
            Link::Gather(gather) => {
                let told = gather::arrive(core, gather, source);
                ffi::Py_DECREF(gather);
                told
            }
            Link::Gate(gate) => {
                gate.open();
                Told::Done
            }
            Link::Call(function) => {
                ffi::Py_DECREF(function);
                Told::Nobody
            }
        }
    }
}

/// Wakes who waits at a loop with that key: this thread's by a switch that the caller does, another one's by its own hub.
///
/// # Safety
///
/// As for [`tell`]; `holder` is a live loop. `core` may be null for a thread without a hub.
pub(super) unsafe fn wake(core: *mut Core, holder: *mut PyObject, key: WaiterKey) -> Told {
    // SAFETY: as the caller says.
    unsafe {
        let whose = core_of_loop(holder);
        if whose.is_null() {
            return Told::Nobody;
        }
        if whose == core {
            return match (*core).hub.waiters.withdraw(key) {
                Some(Item::Greenlet(greenlet)) => Told::Switch(greenlet),
                Some(other) => {
                    other.release();
                    Told::Nobody
                }
                None => Told::Nobody,
            };
        }
        if (*whose).hub.waiters.wake(key) {
            (*whose).hub.remote().nudge();
            Told::Done
        } else {
            Told::Nobody
        }
    }
}

/// Links in the order in which they came. Most objects have one, which needs no memory of its own.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Comes before the rest.
    first: Option<Link>,
    rest: VecDeque<Link>,
}

impl Links {
    /// None.
    pub(super) const fn new() -> Self {
        Self { first: None, rest: VecDeque::new() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    /// The loop of the first one that waits at a loop that still runs; borrowed.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    pub(super) unsafe fn living_loop(&self) -> Option<*mut Core> {
        self.iter().find_map(|link| {
            let holder = match link {
                Link::Wait { holder, .. } => *holder,
                // SAFETY: a live gather, which the link holds.
                Link::Gather(gather) => unsafe { gather::waiting_at(*gather)? },
                Link::Call(_) | Link::Gate(_) => return None,
            };
            // SAFETY: a live loop, which the wait holds.
            let core = unsafe { core_of_loop(holder) };
            (!core.is_null()).then_some(core)
        })
    }

    /// Whether a thread sleeps at one of them.
    pub(super) fn has_gates(&self) -> bool {
        self.iter().any(|link| matches!(link, Link::Gate(_)))
    }

    /// Adds one.
    pub(super) fn push(&mut self, link: Link) {
        if self.is_empty() {
            self.first = Some(link);
        } else {
            self.rest.push_back(link);
        }
    }

    /// Takes the first one.
    pub(super) fn pop(&mut self) -> Option<Link> {
        let link = self.first.take().or_else(|| self.rest.pop_front());
        if self.rest.is_empty() && self.rest.capacity() > 64 {
            self.rest = VecDeque::new();
        }
        link
    }

    /// The first one.
    pub(super) fn first(&self) -> Option<&Link> {
        self.first.as_ref().or_else(|| self.rest.front())
    }

    /// Moves all of another's behind these.
    pub(super) fn append(&mut self, other: &mut Self) {
        while let Some(link) = other.pop() {
            self.push(link);
        }
    }

    /// Takes out the first one that `is`; says where it was.
    pub(super) fn take(&mut self, is: impl Fn(&Link) -> bool) -> Option<(usize, Link)> {
        let before = usize::from(self.first.is_some());
        if self.first.as_ref().is_some_and(&is) {
            return self.first.take().map(|link| (0, link));
        }
        let index = self.rest.iter().position(is)?;
        self.rest.remove(index).map(|link| (before + index, link))
    }

    fn iter(&self) -> impl Iterator<Item = &Link> {
        self.first.iter().chain(&self.rest)
    }

    /// The functions among them, for a comparison that may run Python code; owned.
    unsafe fn functions(&self) -> Vec<*mut PyObject> {
        self.iter()
            .filter_map(|link| match link {
                // SAFETY: the GIL is held, says the caller, and the function alive.
                Link::Call(function) => Some(unsafe { owned(*function) }),
                _ => None,
            })
            .collect()
    }

    /// Shows what they own.
    pub(super) fn traverse(&self, visit: Visit<'_>) -> c_int {
        for link in self.iter() {
            let status = visit(link.object());
            if status != 0 {
                return status;
            }
        }
        0
    }

    /// Drops all.
    ///
    /// # Safety
    ///
    /// The GIL is held, and nothing of it borrowed.
    pub(super) unsafe fn empty(this: *mut Self) {
        // SAFETY: each is out of reach before it is dropped.
        unsafe {
            while let Some(link) = (*this).pop() {
                link.release();
            }
        }
    }
}

/// Whether a link is that wait. Keys are told apart by their loops: every loop counts from the same number.
pub(super) fn is_wait(link: &Link, at: *mut PyObject, of: WaiterKey) -> bool {
    matches!(link, Link::Wait { holder, key, .. } if *key == of && *holder == at)
}

/// Takes out the link to a function that equals this one. Says where it was; `None` with an exception set.
///
/// # Safety
///
/// The GIL is held, and nothing borrowed: comparing may run Python code.
pub(super) unsafe fn unlink(links: *mut Links, function: *mut PyObject) -> Option<Option<usize>> {
    // SAFETY: all functions are held until the end: a comparison may take out those that follow, and drop them.
    unsafe {
        let functions = (*links).functions();
        let mut outcome = Some(None);
        for &known in &functions {
            let equal = known == function || {
                let equal = ffi::PyObject_RichCompareBool(known, function, ffi::Py_EQ);
                if equal < 0 {
                    outcome = None;
                    break;
                }
                equal != 0
            };
            if equal {
                let found = (*links).take(|link| matches!(link, Link::Call(other) if *other == known));
                outcome = Some(found.map(|(index, link)| {
                    link.release();
                    index
                }));
                break;
            }
        }
        let saved = SavedError::take();
        for known in functions {
            ffi::Py_DECREF(known);
        }
        saved.restore();
        outcome
    }
}

/// Where a thread without a hub sleeps until it is let through.
#[derive(Debug, Default)]
pub(super) struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// Lets the thread through.
    pub(super) fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_one();
    }

    /// Sleeps, without the GIL, until it is open, or for at most so long. Says whether it is open.
    pub(super) fn sleep(&self, until: Option<Instant>, slice: Duration) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until.map_or(slice, |until| until.saturating_duration_since(Instant::now()).min(slice));
        let (open, _) =
            self.opened.wait_timeout_while(open, left, |open| !*open).unwrap_or_else(PoisonError::into_inner);
        *open
    }
}
