//! What a loop keeps.
//!
//! Everything here is guarded by the GIL: a thread that holds it may post callbacks to another thread's loop, and then
//! nudges it. So nothing of a [`Core`] may be borrowed while Python code can run, or while the GIL is given up.

use std::collections::HashMap;
use std::ptr;

use pyo3::ffi::{self, PyObject};
use weft_hub::{Hub, Occurrence, WaiterKey};
use weft_reactor::ReactorError;
use weft_reactor::signals::Listener;

use crate::greenlet::object::PyGreenlet;

/// What stands in the queue of those that are ready.
#[derive(Debug)]
pub(super) enum Item {
    /// A greenlet to be switched to. Owned.
    Greenlet(*mut PyGreenlet),
    /// A [`Callback`](super::callback::Callback) to be called. Owned.
    Callback(*mut PyObject),
    /// A [`Coroutine`](super::coroutine::Coroutine) to be stepped. Owned.
    Coroutine(*mut PyObject),
}

impl Item {
    /// Drops what it owns; may run Python code.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    pub(super) unsafe fn release(self) {
        let object: *mut PyObject = match self {
            Self::Greenlet(greenlet) => greenlet.cast(),
            Self::Callback(object) | Self::Coroutine(object) => object,
        };
        // SAFETY: owned, says whoever made it.
        unsafe { ffi::Py_DECREF(object) };
    }
}

/// The kinds of watchers that are told at a point of every turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before the callbacks.
    Prepare,
    /// After the poll.
    Check,
    /// If nothing else is to be done.
    Idle,
    /// After a fork, in the child.
    Fork,
}

/// A loop.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) hub: Hub<Item>,
    /// The greenlet that runs it; held by the loop object.
    pub(super) greenlet: *mut PyGreenlet,
    /// The coroutine that is being stepped; borrowed, null if there is none.
    pub(super) stepping: *mut PyObject,
    /// Active watchers by number, owned.
    pub(super) watchers: HashMap<u64, *mut PyObject>,
    pub(super) phases: Vec<(Phase, u64)>,
    pub(super) signals: Vec<(i32, u64)>,
    /// Asynchronous watchers that were sent to.
    pub(super) sent: Vec<u64>,
    pub(super) listener: Option<Listener>,
    /// Watchers to be told, with what.
    pub(super) pending: std::collections::VecDeque<(u64, i32)>,
    next_number: u64,
    /// How many things that may come keep the loop from ending.
    pub(super) references: isize,
    /// When the GIL was given up last.
    pub(super) gave_up_at: u64,
    pub(super) turns: u64,
    pub(super) depth: u32,
    pub(super) stop: bool,
    pub(super) forks: u32,
}

/// What of `events` and `revents` is what, as in libev.
pub(super) const READ: i32 = 1;
pub(super) const WRITE: i32 = 2;

impl Core {
    pub(super) fn new() -> Result<Self, ReactorError> {
        let hub = Hub::new()?;
        let gave_up_at = hub.now();
        Ok(Self {
            hub,
            greenlet: ptr::null_mut(),
            stepping: ptr::null_mut(),
            watchers: HashMap::new(),
            phases: Vec::new(),
            signals: Vec::new(),
            sent: Vec::new(),
            listener: None,
            pending: std::collections::VecDeque::new(),
            next_number: 0,
            references: 0,
            gave_up_at,
            turns: 0,
            depth: 0,
            stop: false,
            forks: forks(),
        })
    }

    pub(super) const fn new_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Posts a callback, whose reference is taken.
    pub(super) fn post(&mut self, callback: *mut PyObject) -> WaiterKey {
        self.hub.waiters.post(Item::Callback(callback))
    }

    /// Notes what a poll brought.
    pub(super) fn note(&mut self, occurrences: &[Occurrence]) {
        for &what in occurrences {
            match what {
                Occurrence::Timer(number) => self.pending.push_back((number, TIMER)),
                Occurrence::Ready(number, ready) => {
                    let mut bits = 0;
                    if ready.has(weft_reactor::Ready::READ) {
                        bits |= READ;
                    }
                    if ready.has(weft_reactor::Ready::WRITE) {
                        bits |= WRITE;
                    }
                    self.pending.push_back((number, bits));
                }
                Occurrence::Woken => self.note_woken(),
            }
        }
    }

    fn note_woken(&mut self) {
        for number in std::mem::take(&mut self.sent) {
            self.pending.push_back((number, ASYNC));
        }
        if let Some(listener) = &mut self.listener {
            let (signals, pending) = (&self.signals, &mut self.pending);
            listener.take(|signal, _| {
                for &(_, number) in signals.iter().filter(|(known, _)| *known == signal) {
                    pending.push_back((number, SIGNAL));
                }
            });
        }
    }

    /// Has all watchers of a phase told. Says whether there is one.
    pub(super) fn note_phase(&mut self, phase: Phase) -> bool {
        let before = self.pending.len();
        let bits = match phase {
            Phase::Prepare => PREPARE,
            Phase::Check => CHECK,
            Phase::Idle => IDLE,
            Phase::Fork => FORK,
        };
        self.pending.extend(
            self.phases.iter().filter(|(known, _)| *known == phase).map(|&(_, number)| (number, bits)),
        );
        self.pending.len() > before
    }

    /// Whether there is something that nobody has to wait for.
    pub(super) fn is_busy(&self) -> bool {
        self.hub.waiters.ready_len() > 0 || !self.pending.is_empty() || !self.sent.is_empty()
    }

    /// In the child of a fork, if that was not seen to yet.
    pub(super) fn check_fork(&mut self) -> Result<bool, ReactorError> {
        let forks = forks();
        if self.forks == forks {
            return Ok(false);
        }
        self.forks = forks;
        self.hub.after_fork()?;
        self.note_phase(Phase::Fork);
        Ok(true)
    }
}

// What libev calls its events.
pub(super) const TIMER: i32 = 0x100;
pub(super) const SIGNAL: i32 = 0x400;
pub(super) const IDLE: i32 = 0x2000;
pub(super) const PREPARE: i32 = 0x4000;
pub(super) const CHECK: i32 = 0x8000;
pub(super) const FORK: i32 = 0x2_0000;
pub(super) const ASYNC: i32 = 0x8_0000;

/// How many forks lie between the first process and this one.
pub(super) fn forks() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static FORKS: AtomicU32 = AtomicU32::new(0);
    static ONCE: std::sync::Once = std::sync::Once::new();
    extern "C" fn count() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    ONCE.call_once(|| {
        // SAFETY: the handler adds to a number. It fails only without memory.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(count)) };
    });
    FORKS.load(Ordering::Relaxed)
}
