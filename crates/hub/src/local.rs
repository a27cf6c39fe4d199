//! A hub for Rust coroutines with stacks of their own.
//!
//! A coroutine waits by yielding to [`LocalHub::run`], which resumes the next one that is ready. Both are switches
//! of a few nanoseconds, so there is nothing to be gained by handing over directly.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use weft_coroutine::owned::{Coroutine, CoroutineResult, Yielder};
use weft_reactor::{ReactorError, Ready, TimerKey, WatchKey};
use weft_sys::clock::monotonic;
use weft_wait::thread::Slices;
use weft_wait::{Deadline, DescriptorParker, Interest, Parker, Signal, Ticket};

use crate::{Hub, Occurrence, Post, Remote, WaiterKey};

/// A coroutine of a [`LocalHub`].
pub type Task<'scope> = Coroutine<'scope, (), (), ()>;

/// A thread's hub. Coroutines borrow it, so it is made before their scope.
#[derive(Debug)]
pub struct LocalHub {
    hub: RefCell<Hub<usize>>,
    running: Cell<usize>,
}

impl LocalHub {
    /// A hub without coroutines.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Create`].
    pub fn new() -> Result<Self, ReactorError> {
        Ok(Self { hub: RefCell::new(Hub::new()?), running: Cell::new(usize::MAX) })
    }

    /// What other threads wake its coroutines with.
    pub fn remote(&self) -> Remote {
        self.hub.borrow().remote().clone()
    }

    /// Runs coroutines until all have ended.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Wait`]; the coroutines that are left are cancelled.
    ///
    /// # Panics
    ///
    /// With what a coroutine panics with; if it is called in one.
    pub fn run(&self, tasks: Vec<Task<'_>>) -> Result<(), ReactorError> {
        assert_eq!(self.running.get(), usize::MAX, "run() was called in one of the hub's own coroutines");
        let mut tasks: Vec<Option<Task<'_>>> = tasks.into_iter().map(Some).collect();
        for index in 0..tasks.len() {
            self.hub.borrow_mut().waiters.post(index);
        }
        let mut left = tasks.len();
        while left > 0 {
            let ready = self.hub.borrow_mut().waiters.next_ready();
            if let Some(index) = ready {
                self.running.set(index);
                let ended =
                    tasks[index].as_mut().is_none_or(|task| task.resume(()) == CoroutineResult::Return(()));
                self.running.set(usize::MAX);
                if ended {
                    tasks[index] = None;
                    left -= 1;
                }
                if left == 0 || self.hub.borrow_mut().may_hand_over() {
                    continue;
                }
            }
            let mut hub = self.hub.borrow_mut();
            let patience = hub.patience();
            hub.poll(patience, |_: Occurrence| ())?;
        }
        Ok(())
    }

    /// The coroutine that runs, for it to wait.
    pub fn here<'a>(&'a self, yielder: &'a Yielder<(), ()>) -> Here<'a> {
        Here { hub: self, yielder, slices: Slices::default() }
    }
}

/// A coroutine of a [`LocalHub`] as seen by itself: what it waits with.
#[allow(missing_debug_implementations, reason = "there is nothing to be seen")]
pub struct Here<'a> {
    hub: &'a LocalHub,
    yielder: &'a Yielder<(), ()>,
    slices: Slices,
}

/// A wait under way. Whatever ends it, also the unwinding of the coroutine, what was arranged for it is undone.
struct Wait<'a> {
    hub: &'a LocalHub,
    key: WaiterKey,
    timer: Option<TimerKey>,
    post: Option<Post>,
    watch: Option<WatchKey>,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut hub = self.hub.hub.borrow_mut();
        hub.waiters.withdraw(self.key);
        if let Some(timer) = self.timer {
            hub.cancel_timer(timer);
        }
        if let Some(post) = self.post {
            hub.recall(post);
        }
        if let Some(watch) = self.watch {
            hub.unwatch(watch);
        }
    }
}

impl Here<'_> {
    fn wait(&self) -> Wait<'_> {
        let key = self.hub.hub.borrow_mut().waiters.park(self.hub.running.get());
        Wait { hub: self.hub, key, timer: None, post: None, watch: None }
    }

    /// Lets all that are ready run first.
    pub fn give_way(&self) {
        let wait = self.wait();
        self.hub.hub.borrow_mut().waiters.wake(wait.key);
        self.yielder.yield_(());
    }

    /// Sleeps.
    pub fn sleep(&self, patience: Duration) {
        let mut wait = self.wait();
        wait.timer = Some(self.timer(patience, wait.key));
        self.yielder.yield_(());
    }

    /// Waits to be woken by another thread, which `tell` gives what it needs.
    pub fn wait_for_remote(&self, tell: impl FnOnce(Remote, WaiterKey)) {
        let wait = self.wait();
        tell(self.hub.remote(), wait.key);
        self.yielder.yield_(());
    }

    fn timer(&self, patience: Duration, key: WaiterKey) -> TimerKey {
        let nanoseconds = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        self.hub.hub.borrow_mut().wake_at(monotonic().saturating_add(nanoseconds), key)
    }
}

impl Parker for Here<'_> {
    type Interrupt = Infallible;

    fn park(&mut self, signal: &Signal, ticket: Ticket, deadline: Deadline) -> Result<(), Infallible> {
        let slice = self.slices.next(deadline);
        let mut wait = self.wait();
        wait.timer = Some(self.timer(slice, wait.key));
        // SAFETY: the signal is borrowed until this returns or unwinds, and either way the post is recalled before.
        wait.post =
            Some(unsafe { self.hub.hub.borrow_mut().post_at(signal.word(), ticket.value(), wait.key) });
        self.yielder.yield_(());
        Ok(())
    }

    fn linger(&mut self, _ready: &mut dyn FnMut() -> bool) -> bool {
        self.slices = Slices::default(); // this wait is a new one
        false
    }
}

impl DescriptorParker for Here<'_> {
    fn park_at(
        &mut self,
        descriptor: BorrowedFd<'_>,
        interest: Interest,
        deadline: Deadline,
    ) -> Result<(), Infallible> {
        use std::os::fd::AsRawFd;
        let wanted = match interest {
            Interest::Readable => Ready::READ,
            Interest::Writable => Ready::WRITE,
        };
        let slice = self.slices.next(deadline);
        let mut wait = self.wait();
        wait.timer = Some(self.timer(slice, wait.key));
        // If it cannot be watched, what the caller tries next says why.
        wait.watch = self.hub.hub.borrow_mut().wake_when(descriptor.as_raw_fd(), wanted, wait.key).ok();
        if wait.watch.is_some() {
            self.yielder.yield_(());
        }
        Ok(())
    }
}
