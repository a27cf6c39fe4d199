//! One sleep for everything.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use weft_sys::clock::monotonic;
use weft_sys::epoll::{Epoll, EventFlags, Report, Reports};

use crate::files::Files;
use crate::forks::forks;
use crate::sources::Sources;
use crate::watches::Watches;
use crate::{FileKey, FileState, ReactorError, Ready, SourceKey, Waker, WatchKey};

/// What a poll brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A registered descriptor became ready for this, which is in its flags now.
    Source(SourceKey, Ready),
    /// A watched descriptor is ready for this.
    Watch(WatchKey, Ready),
    /// What is under a watched name has changed, has come or gone.
    File(FileKey),
    /// Somebody called [`Waker::wake`], or a signal came.
    Woken,
}

/// Descriptors, and one sleep for all of them. It belongs to one thread; only its [`Waker`] may be used by others.
#[derive(Debug)]
pub struct Reactor {
    epoll: Arc<Epoll>,
    sources: Sources,
    watches: Option<Watches>,
    files: Option<Box<Files>>,
    waker: Waker,
    reports: Reports,
    /// [`forks()`] when the kernel's set was made: in the child of a later one it is the parent's.
    forks: u32,
}

/// Tokens that are no source's: no record has the last generation.
const BELL: u64 = u64::MAX;
const WATCHES: u64 = u64::MAX - 1;
const FILES: u64 = u64::MAX - 2;

/// A sleep that needs nothing of the reactor's, so that it can be slept without what guards the reactor.
#[derive(Debug)]
pub struct Sleep {
    /// `None` if there is no reactor any more.
    epoll: Option<Arc<Epoll>>,
    reports: Reports,
    outcome: Result<(), Errno>,
}

impl Sleep {
    /// What is over at once.
    pub fn none() -> Self {
        Self { epoll: None, reports: Reports::default(), outcome: Ok(()) }
    }

    /// Sleeps until something is there to be told, or for at most `patience`.
    pub fn sleep(&mut self, patience: Option<Duration>) {
        if let Some(epoll) = &self.epoll {
            self.outcome = epoll.wait(patience, &mut self.reports);
        }
    }
}

impl Reactor {
    /// One that watches nothing.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Create`], when the process has no descriptors left.
    pub fn new() -> Result<Self, ReactorError> {
        let epoll = Epoll::new().map_err(ReactorError::Create)?;
        let waker = Waker::new().map_err(ReactorError::Create)?;
        let reactor = Self {
            epoll: Arc::new(epoll),
            sources: Sources::default(),
            watches: None,
            files: None,
            waker,
            reports: Reports::default(),
            forks: forks(),
        };
        reactor.watch_bell().map_err(ReactorError::Create)?;
        Ok(reactor)
    }

    fn watch_bell(&self) -> Result<(), Errno> {
        self.epoll.add(self.waker.bell().as_fd(), BELL, EventFlags::IN)
    }

    /// The kernel's set, for whoever wants to wait for this reactor as a whole.
    pub fn descriptor(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// What other threads wake it with.
    pub const fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Registers a descriptor until [`deregister`](Self::deregister), which the caller promises to call before it
    /// closes it. A descriptor that is registered twice is one, and has to be deregistered twice.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Watch`]: the descriptor is not open, or cannot be watched, as files.
    pub fn register(&mut self, descriptor: RawFd) -> Result<SourceKey, ReactorError> {
        self.after_fork()?;
        self.sources.register(&self.epoll, descriptor)
    }

    /// Ends a registration. Says whether the descriptor is now free of any.
    ///
    /// False as well in a forked child that has no set of its own yet and cannot make one: the parent's is left as it is.
    pub fn deregister(&mut self, key: SourceKey) -> bool {
        self.after_fork().is_ok() && self.sources.deregister(&self.epoll, key)
    }

    /// What a registered descriptor is ready for as far as is known; `None` once it is no longer registered.
    #[inline]
    pub fn ready(&self, key: SourceKey) -> Option<Ready> {
        self.sources.ready(key)
    }

    /// Notes that a read brought less than it could have: there was no more. Unless the end is near, which such a
    /// read does not show, or there is a mark of urgent data, at which it stops.
    #[inline]
    pub fn was_short(&mut self, key: SourceKey) {
        if let Some(ready) = self.sources.ready_mut(key)
            && !ready.has(Ready::END | Ready::URGENT)
        {
            *ready = ready.without(Ready::READ);
        }
    }

    /// Notes that the kernel refused to read, or to write: there was nothing, or no room.
    pub fn would_block(&mut self, key: SourceKey, direction: Ready) {
        if let Some(ready) = self.sources.ready_mut(key) {
            // That there is no room says nothing of the end of what can be read, which was told once and is not told again.
            let over = if direction.has(Ready::READ) { direction | Ready::END } else { direction };
            *ready = ready.without(over);
        }
    }

    /// How many descriptors are registered.
    pub fn registered(&self) -> usize {
        self.sources.len()
    }

    /// Watches a descriptor, of any kind, until [`unwatch`](Self::unwatch): every poll says whether it is ready.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Watch`]: the descriptor is not open.
    pub fn watch(&mut self, descriptor: RawFd, wanted: Ready) -> Result<WatchKey, ReactorError> {
        self.after_fork()?;
        let watches = match &mut self.watches {
            Some(watches) => watches,
            none => {
                let watches = Watches::new((&self.epoll, WATCHES)).map_err(ReactorError::Create)?;
                none.insert(watches)
            }
        };
        watches.add(descriptor, wanted)
    }

    /// Ends a watch.
    pub fn unwatch(&mut self, key: WatchKey) {
        // In a forked child without a set of its own the parent's is left as it is.
        if self.after_fork().is_ok()
            && let Some(watches) = &mut self.watches
        {
            watches.remove(key);
        }
    }

    /// Watches what is under a name, which need not exist, until [`unwatch_file`](Self::unwatch_file). Links are not followed,
    /// except those on the way to it and, if it ends with a slash, the last one. A relative one begins where the process is now.
    ///
    /// Where the kernel does not tell of all changes it is looked at once in each `period`, by polls.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Create`], only in a forked child.
    pub fn watch_file(&mut self, path: &Path, period: Duration) -> Result<FileKey, ReactorError> {
        self.after_fork()?;
        Ok(self.files.get_or_insert_default().add((&self.epoll, FILES), path, period))
    }

    /// Ends it, and gives what was known last; `None` if it was ended before.
    pub fn unwatch_file(&mut self, key: FileKey) -> Option<FileState> {
        if self.after_fork().is_err() {
            // Without a set of its own: the parent's is left as it is.
            return self.file(key);
        }
        let files = self.files.as_mut()?;
        let state = files.remove(&self.epoll, key);
        if files.is_empty() {
            self.files = None;
        }
        state
    }

    /// What is known of a watched file, as of the last poll.
    pub fn file(&self, key: FileKey) -> Option<FileState> {
        self.files.as_ref()?.state(key)
    }

    /// When a file has to be looked at though the kernel tells nothing: an instant of the monotonic clock, in nanoseconds. Whoever
    /// sleeps by [`prepare`](Self::prepare) should not sleep longer; [`poll`](Self::poll) does not.
    #[inline]
    pub fn next_look(&mut self) -> Option<u64> {
        self.files.as_mut().and_then(|files| files.next_at())
    }

    /// Whether something is ready that the kernel will not tell of, so that there is nothing to sleep for.
    pub fn is_always_ready(&self) -> bool {
        self.watches.as_ref().is_some_and(Watches::is_always_ready)
    }

    /// Looks what is ready, after sleeping for it for at most `patience`, and hands it to `each`. A signal handler
    /// that runs ends the sleep.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Wait`].
    pub fn poll(&mut self, patience: Option<Duration>, each: impl FnMut(Event)) -> Result<(), ReactorError> {
        let patience = if self.is_always_ready() { Some(Duration::ZERO) } else { patience };
        let until_look = self.next_look().map(|at| Duration::from_nanos(at.saturating_sub(monotonic())));
        let mut sleep = self.prepare();
        sleep.sleep(patience.into_iter().chain(until_look).min());
        self.report(sleep, each)
    }

    /// The first half of a [`poll`](Self::poll): what to sleep.
    pub fn prepare(&mut self) -> Sleep {
        Sleep {
            epoll: Some(Arc::clone(&self.epoll)),
            reports: std::mem::take(&mut self.reports),
            outcome: Ok(()),
        }
    }

    /// The second half of a [`poll`](Self::poll): what has come.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Wait`].
    pub fn report(&mut self, sleep: Sleep, mut each: impl FnMut(Event)) -> Result<(), ReactorError> {
        let mut look_at_watches = self.is_always_ready();
        let mut told_of_files = false;
        for Report { token, flags } in sleep.reports.iter() {
            match token {
                BELL => {
                    self.waker.notice();
                    each(Event::Woken);
                }
                WATCHES => look_at_watches = true,
                FILES => told_of_files = true,
                _ => {
                    let key = SourceKey::from_token(token);
                    if let Some(ready) = self.sources.ready_mut(key) {
                        let became = Ready::from_kernel(flags);
                        *ready |= became;
                        each(Event::Source(key, became));
                    }
                }
            }
        }
        self.reports = sleep.reports;
        self.reports.clear();
        if look_at_watches && let Some(watches) = &mut self.watches {
            watches.poll((&self.epoll, WATCHES), |key, ready| each(Event::Watch(key, ready)));
        }
        if let Some(files) = &mut self.files {
            files.poll((&self.epoll, FILES), told_of_files, |key| each(Event::File(key)));
        }
        match sleep.outcome {
            Ok(()) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(ReactorError::Wait(error)),
        }
    }

    /// In the child of a fork the kernel's set is the parent's as well, and a change to it would be one to the parent's. Makes
    /// one of its own, under the same number, and registers everything again. Anywhere else it does nothing.
    ///
    /// What changes the set calls this by itself; whoever polls has to, before.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Create`]; then the reactor must not be used until a further call, which tries all of it again, succeeds.
    pub fn after_fork(&mut self) -> Result<(), ReactorError> {
        let forks = forks();
        if self.forks == forks {
            return Ok(());
        }
        self.epoll.renew().map_err(ReactorError::Create)?;
        self.waker.renew().map_err(ReactorError::Create)?;
        self.watch_bell().map_err(ReactorError::Create)?;
        self.sources.register_again(&self.epoll);
        if let Some(watches) = &mut self.watches {
            watches.renew((&self.epoll, WATCHES)).map_err(ReactorError::Create)?;
        }
        if let Some(files) = &mut self.files {
            files.renew();
        }
        self.forks = forks;
        Ok(())
    }
}
