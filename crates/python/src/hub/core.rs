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
    /// A [`Spawned`](super::spawned) greenlet to be started. Owned.
    Start(*mut PyGreenlet),
    /// A plain greenlet to be started with these arguments. Both owned.
    StartWith(*mut PyGreenlet, *mut PyObject),
    /// A [`Linkable`](super::linkable) object whose links are to be called. Owned.
    Notify(*mut PyObject),
    /// A [`Spawned`](super::spawned) greenlet that has ended, whose links are to be called. Owned.
    Ended(*mut PyGreenlet),
    /// A [`queue`](super::queue) that has something for those that wait at it, and whose turn it is. Owned.
    Unlock(*mut PyObject, Turn),
    /// A [`Timeout`](super::timeout) whose time has come. Owned.
    Timeout(*mut PyObject),
}

/// Whose turn it is at a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Those that wait to put something in, in a new round.
    Putters,
    /// Those that wait to get something out; whether this round has served somebody already.
    Getters(bool),
}

impl Item {
    /// Drops what it owns; may run Python code.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    pub(super) unsafe fn release(self) {
        let object: *mut PyObject = match self {
            Self::Greenlet(greenlet) | Self::Start(greenlet) | Self::Ended(greenlet) => greenlet.cast(),
            Self::Callback(object)
            | Self::Coroutine(object)
            | Self::Notify(object)
            | Self::Unlock(object, _)
            | Self::Timeout(object) => object,
            Self::StartWith(greenlet, arguments) => {
                // SAFETY: owned, says whoever made it.
                unsafe { ffi::Py_DECREF(arguments) };
                greenlet.cast()
            }
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
    /// Active watchers of descriptors: number of descriptor, of watcher, and the events it waits for.
    pub(super) descriptors: HashMap<i32, Vec<(u64, i32)>>,
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
    /// How often in a row it was back so soon that nobody who waits may have had it.
    pub(super) given_in_vain: u32,
    pub(super) turns: u64,
    pub(super) depth: u32,
    pub(super) stop: bool,
    pub(super) forks: u32,
    /// Whether the hub's greenlet stands where it goes on with the next one that is ready, and not in the middle of a callback
    /// that has switched to somebody: only then may it be passed by.
    pub(super) between: bool,
    /// Before how many sleeps it is to be looked for longer, because another thread computes.
    pub(super) contended: u32,
    /// How long it is worth while to look again before a sleep.
    pub(super) patience: weft_wait::thread::Patience,
}

/// What of `events` and `revents` is what, as in libev.
pub(super) const READ: i32 = 1;
pub(super) const WRITE: i32 = 2;

impl Core {
    pub(super) fn new() -> Result<Self, ReactorError> {
        keep_freed_memory();
        let hub = Hub::new()?;
        let gave_up_at = hub.now();
        Ok(Self {
            hub,
            greenlet: ptr::null_mut(),
            stepping: ptr::null_mut(),
            watchers: HashMap::new(),
            phases: Vec::new(),
            signals: Vec::new(),
            descriptors: HashMap::new(),
            sent: Vec::new(),
            listener: None,
            pending: std::collections::VecDeque::new(),
            next_number: 0,
            references: 0,
            gave_up_at,
            given_in_vain: 0,
            turns: 0,
            depth: 0,
            stop: false,
            forks: weft_reactor::forks(),
            between: false,
            contended: 0,
            patience: weft_wait::thread::Patience::new(),
        })
    }

    pub(super) const fn new_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Gives back what is the kernel's; and what was ready or waited, and the watchers, both owned. From then on nothing
    /// comes, and nobody runs it.
    pub(super) fn close(&mut self) -> (Vec<Item>, Vec<*mut PyObject>) {
        self.greenlet = ptr::null_mut();
        self.listener = None;
        self.phases = Vec::new();
        self.signals = Vec::new();
        self.descriptors = HashMap::new();
        self.sent = Vec::new();
        self.pending = std::collections::VecDeque::new();
        (self.hub.close(), std::mem::take(&mut self.watchers).into_values().collect())
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
                Occurrence::File(number) => self.pending.push_back((number, STAT)),
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

    /// Has all watchers of a descriptor told that is about to be closed: the kernel will tell them nothing any more.
    pub(super) fn note_closing(&mut self, descriptor: i32) {
        if let Some(watchers) = self.descriptors.get(&descriptor) {
            self.pending.extend(watchers);
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
        let forks = weft_reactor::forks();
        if self.forks == forks {
            return Ok(false);
        }
        self.hub.after_fork()?;
        self.forks = forks;
        self.note_phase(Phase::Fork);
        Ok(true)
    }
}

/// Has the C library keep memory that is freed: by default it gives 128 KiB back to the kernel, and
/// maps each larger block anew, so that every message of such a size is paid for with as many page faults.
///
/// It learns from what it sees: a block that is freed was worth keeping, and so is twice as much of what lies
/// free at the end of the heap.
fn keep_freed_memory() {
    const WORTH_KEEPING: usize = 4 << 20;
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: a block that nobody uses is allocated and freed.
    ONCE.call_once(|| unsafe { libc::free(std::hint::black_box(libc::malloc(WORTH_KEEPING))) });
}

// What libev calls its events.
pub(super) const TIMER: i32 = 0x100;
pub(super) const SIGNAL: i32 = 0x400;
pub(super) const STAT: i32 = 0x1000;
pub(super) const IDLE: i32 = 0x2000;
pub(super) const PREPARE: i32 = 0x4000;
pub(super) const CHECK: i32 = 0x8000;
pub(super) const FORK: i32 = 0x2_0000;
pub(super) const ASYNC: i32 = 0x8_0000;
