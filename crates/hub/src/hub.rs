//! Whom to run, and when to sleep.
//!
//! # Turns
//!
//! A *turn* begins with a poll and ends when the driver polls again: when nobody is ready, or when the turn has lasted as
//! long as its budget. In between, a coroutine that parks hands over to the next that is ready without going
//! through the hub ([`Hub::may_hand_over`]). The budget is one of time: counting switches would let a hundred busy
//! coroutines starve descriptors and timers for as long as their work takes.
//!
//! The poll of a turn in which somebody is ready does not sleep. "Now" is read once a turn; timers are due by it.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

use weft_reactor::{
    Event, FileKey, FileState, Reactor, ReactorError, Ready, Sleep, SourceKey, TimerKey, Timers, WatchKey,
};
use weft_sys::clock::{monotonic, ticks};

use crate::{Remote, Sentry, WaiterKey, Waiters};

/// How long a turn may last before descriptors and timers are looked at again, in nanoseconds.
const TURN: u64 = 500_000;

/// The clock is not read for its end before so many [`ticks`] have passed: at most a 25th of it.
const HARDLY_ANY: u64 = 20_000;

/// What happened that concerns the driver and no waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occurrence {
    /// A timer of [`Hub::tell_at`] with this number.
    Timer(u64),
    /// A descriptor of [`Hub::tell_when`] with this number is ready for this.
    Ready(u64, Ready),
    /// What is under the name of a [`Hub::tell_of_file`] with this number has changed.
    File(u64),
    /// Another thread, or a signal, woke the hub.
    Woken,
}

/// Somebody waits for that direction of that descriptor already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse;

#[derive(Debug, Clone, Copy)]
enum Whom {
    Waiter(WaiterKey),
    Driver(u64),
}

/// The readers and writers of a registered descriptor.
#[derive(Debug, Clone, Copy)]
struct AtSource {
    /// The registration that they wait for: of another one at its place they know nothing.
    source: Option<SourceKey>,
    reader: WaiterKey,
    writer: WaiterKey,
}

const NOBODY: AtSource = AtSource { source: None, reader: WaiterKey::NOBODY, writer: WaiterKey::NOBODY };

/// A thread's scheduler for coroutines of type `T`.
#[derive(Debug)]
pub struct Hub<T> {
    /// Who waits, and who is ready.
    pub waiters: Waiters<T>,
    /// `None` once it is closed.
    reactor: Option<Reactor>,
    timers: Timers<Whom>,
    /// By the registration's index.
    sources: Vec<AtSource>,
    watches: HashMap<WatchKey, Whom>,
    files: HashMap<FileKey, u64>,
    remote: Remote,
    sentries: Vec<Sentry>,
    /// After how many forks, as the reactor counts them, it has let go of what its parent's threads have in hand: what was posted
    /// before is the parent's.
    forks: u32,
    /// After how many it has all that it needs of the kernel.
    known_forks: u32,
    now: u64,
    turn_ends: u64,
    /// The [`ticks`] when the clock was read last for the end of the turn; it had not come.
    looked_at: u64,
}

impl<T> Hub<T> {
    /// A hub where nobody waits.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Create`].
    pub fn new() -> Result<Self, ReactorError> {
        let reactor = Reactor::new()?;
        let remote = Remote::new(reactor.waker().clone());
        let now = monotonic();
        Ok(Self {
            waiters: Waiters::default(),
            reactor: Some(reactor),
            timers: Timers::new(),
            sources: Vec::new(),
            watches: HashMap::new(),
            files: HashMap::new(),
            remote,
            sentries: Vec::new(),
            forks: weft_reactor::forks(),
            known_forks: weft_reactor::forks(),
            now,
            turn_ends: now + TURN,
            looked_at: ticks(),
        })
    }

    /// What other threads wake coroutines with.
    pub const fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Descriptors and their readiness, unless it is closed.
    pub const fn reactor(&mut self) -> Option<&mut Reactor> {
        self.reactor.as_mut()
    }

    fn open(&mut self) -> Result<&mut Reactor, ReactorError> {
        self.reactor.as_mut().ok_or(ReactorError::Closed)
    }

    /// Gives back what is the kernel's, and everybody out. Whoever has the hub in hand may go on using it: nothing comes any
    /// more, and what would have to be waited for is refused.
    pub fn close(&mut self) -> Vec<T> {
        // Outside of a child of a fork that can have no set of its own, in which the parent's is only closed, it cannot fail.
        let _ = self.after_fork();
        // Another thread may sleep in it.
        self.remote.nudge();
        self.reactor = None;
        self.remote = Remote::to_nobody();
        self.sentries = Vec::new();
        self.forks = self.forks.wrapping_sub(1); // their posts are nobody's
        self.timers = Timers::new();
        self.sources = Vec::new();
        self.watches = HashMap::new();
        self.files = HashMap::new();
        self.waiters.drain()
    }

    // --- time ---------------------------------------------------------------------------------------------------

    /// The monotonic clock, in nanoseconds, as of the beginning of the turn.
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Reads the clock.
    pub fn update_now(&mut self) -> u64 {
        self.now = monotonic();
        self.now
    }

    /// Wakes a waiter at an instant.
    pub fn wake_at(&mut self, at: u64, key: WaiterKey) -> TimerKey {
        self.timers.insert(at, Whom::Waiter(key))
    }

    /// Tells the driver at an instant.
    pub fn tell_at(&mut self, at: u64, number: u64) -> TimerKey {
        self.timers.insert(at, Whom::Driver(number))
    }

    /// Forgets a timer. Says whether it was still to come.
    pub fn cancel_timer(&mut self, key: TimerKey) -> bool {
        self.timers.cancel(key).is_some()
    }

    /// How many timers there are.
    pub fn timers(&self) -> usize {
        self.timers.len()
    }

    // --- descriptors --------------------------------------------------------------------------------------------

    /// Wakes a waiter when a registered descriptor becomes ready for reading, or for writing.
    ///
    /// # Errors
    ///
    /// [`InUse`] if another one waits for the same.
    pub fn wake_when_ready(
        &mut self,
        source: SourceKey,
        direction: Ready,
        key: WaiterKey,
    ) -> Result<(), InUse> {
        // Otherwise the parent's reader, whose copy waits here, would be in the way. That it failed the poll will say.
        let _ = self.after_fork();
        if self.sources.len() <= source.index() {
            self.sources.resize(source.index() + 1, NOBODY);
        }
        let place = &mut self.sources[source.index()];
        if place.source != Some(source) {
            // Its descriptor was closed without our knowing, and the number is another's: who waits for it is to learn of that.
            let AtSource { reader, writer, .. } =
                std::mem::replace(place, AtSource { source: Some(source), ..NOBODY });
            self.waiters.wake(reader);
            self.waiters.wake(writer);
        }
        let place = &mut self.sources[source.index()];
        let whose = if direction.has(Ready::READ) { &mut place.reader } else { &mut place.writer };
        if self.waiters.is_waiting(*whose) {
            return Err(InUse);
        }
        *whose = key;
        Ok(())
    }

    /// Wakes who waits for a registered descriptor, though nothing has come. Says for which directions somebody did.
    pub fn wake_waiting(&mut self, source: SourceKey, directions: Ready) -> Ready {
        let mut woken = Ready::NONE;
        // A key of the past would be another registration's place.
        if self.reactor.as_ref().is_none_or(|reactor| reactor.ready(source).is_none()) {
            return woken;
        }
        let Some(&AtSource { reader, writer, .. }) = self.sources.get(source.index()) else { return woken };
        if directions.has(Ready::READ) && self.waiters.wake(reader) {
            woken |= Ready::READ;
        }
        if directions.has(Ready::WRITE) && self.waiters.wake(writer) {
            woken |= Ready::WRITE;
        }
        woken
    }

    /// Ends a registration and wakes who waits for it: the descriptor is about to be closed.
    pub fn deregister(&mut self, source: SourceKey) {
        if self.reactor.as_mut().is_some_and(|reactor| reactor.deregister(source))
            && let Some(place) = self.sources.get_mut(source.index())
        {
            let AtSource { reader, writer, .. } = std::mem::replace(place, NOBODY);
            self.waiters.wake(reader);
            self.waiters.wake(writer);
        }
    }

    /// Wakes a waiter when a descriptor of any kind is ready, until [`unwatch`](Self::unwatch).
    ///
    /// # Errors
    ///
    /// [`ReactorError::Watch`].
    pub fn wake_when(
        &mut self,
        descriptor: RawFd,
        wanted: Ready,
        key: WaiterKey,
    ) -> Result<WatchKey, ReactorError> {
        self.watch(descriptor, wanted, Whom::Waiter(key))
    }

    /// Tells the driver at every poll at which a descriptor of any kind is ready, until [`unwatch`](Self::unwatch).
    ///
    /// # Errors
    ///
    /// [`ReactorError::Watch`].
    pub fn tell_when(
        &mut self,
        descriptor: RawFd,
        wanted: Ready,
        number: u64,
    ) -> Result<WatchKey, ReactorError> {
        self.watch(descriptor, wanted, Whom::Driver(number))
    }

    fn watch(&mut self, descriptor: RawFd, wanted: Ready, whom: Whom) -> Result<WatchKey, ReactorError> {
        self.after_fork()?;
        let watch = self.open()?.watch(descriptor, wanted)?;
        self.watches.insert(watch, whom);
        Ok(watch)
    }

    /// Ends a watch.
    pub fn unwatch(&mut self, watch: WatchKey) {
        if self.watches.remove(&watch).is_some()
            && let Some(reactor) = &mut self.reactor
        {
            reactor.unwatch(watch);
        }
    }

    // --- files --------------------------------------------------------------------------------------------------

    /// Tells the driver at every poll that finds what is under a name changed, until [`unwatch_file`](Self::unwatch_file).
    ///
    /// # Errors
    ///
    /// As [`Reactor::watch_file`].
    pub fn tell_of_file(
        &mut self,
        path: &Path,
        period: Duration,
        number: u64,
    ) -> Result<FileKey, ReactorError> {
        let key = self.open()?.watch_file(path, period)?;
        self.files.insert(key, number);
        Ok(key)
    }

    /// Ends it, and gives what was known last.
    pub fn unwatch_file(&mut self, key: FileKey) -> Option<FileState> {
        self.files.remove(&key);
        self.reactor.as_mut()?.unwatch_file(key)
    }

    // --- turns --------------------------------------------------------------------------------------------------

    /// Whether a coroutine that parks may hand over to the next one: the turn is not over.
    #[inline]
    pub fn may_hand_over(&mut self) -> bool {
        let now = ticks();
        if now.wrapping_sub(self.looked_at) < HARDLY_ANY {
            return true;
        }
        let may = monotonic() < self.turn_ends;
        if may {
            self.looked_at = now;
        }
        may
    }

    /// Begins to count the turn anew: what the driver was told has taken its time.
    pub fn begin_turn(&mut self) {
        self.set_turn(monotonic());
    }

    fn set_turn(&mut self, now: u64) {
        self.turn_ends = now + TURN;
        self.looked_at = ticks();
    }

    /// How long to sleep at the next poll: not at all if somebody is ready, else until the next timer is due.
    pub fn patience(&mut self) -> Option<Duration> {
        let Some(reactor) = &mut self.reactor else { return Some(Duration::ZERO) };
        if self.waiters.ready_len() > 0 || reactor.is_always_ready() {
            return Some(Duration::ZERO);
        }
        let at = [self.timers.next_at(), reactor.next_look()].into_iter().flatten().min()?;
        Some(Duration::from_nanos(at.saturating_sub(monotonic())))
    }

    /// Begins a turn: sleeps for at most `patience`, makes ready whoever waited for what has come, and tells the driver the
    /// rest.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Wait`].
    pub fn poll(
        &mut self,
        patience: Option<Duration>,
        tell: impl FnMut(Occurrence),
    ) -> Result<(), ReactorError> {
        let mut sleep = self.prepare();
        sleep.sleep(patience);
        self.report(sleep, tell)
    }

    /// The first half of a [`poll`](Self::poll): what to sleep. The hub may be used meanwhile.
    pub fn prepare(&mut self) -> Sleep {
        self.reactor.as_mut().map_or_else(Sleep::none, Reactor::prepare)
    }

    /// The second half of a [`poll`](Self::poll).
    ///
    /// # Errors
    ///
    /// [`ReactorError::Wait`]; [`ReactorError::Closed`].
    pub fn report(&mut self, sleep: Sleep, mut tell: impl FnMut(Occurrence)) -> Result<(), ReactorError> {
        let Self { reactor, waiters, sources, watches, files, remote, .. } = self;
        let reactor = reactor.as_mut().ok_or(ReactorError::Closed)?;
        let outcome = reactor.report(sleep, |event| match event {
            Event::Source(source, became) => {
                let Some(&AtSource { reader, writer, .. }) = sources.get(source.index()) else { return };
                if became.has(Ready::READ) {
                    waiters.wake(reader);
                }
                if became.has(Ready::WRITE) {
                    waiters.wake(writer);
                }
            }
            Event::Watch(watch, ready) => match watches.get(&watch) {
                Some(&Whom::Waiter(key)) => {
                    waiters.wake(key);
                }
                Some(&Whom::Driver(number)) => tell(Occurrence::Ready(number, ready)),
                None => {}
            },
            Event::File(key) => {
                if let Some(&number) = files.get(&key) {
                    tell(Occurrence::File(number));
                }
            }
            Event::Woken => {
                for key in remote.take() {
                    waiters.wake(key);
                }
                tell(Occurrence::Woken);
            }
        });
        let now = self.update_now();
        self.set_turn(now);
        while let Some(whom) = self.timers.pop_due(now) {
            match whom {
                Whom::Waiter(key) => {
                    self.waiters.wake(key);
                }
                Whom::Driver(number) => tell(Occurrence::Timer(number)),
            }
        }
        outcome
    }

    // --- words of shared memory ---------------------------------------------------------------------------------

    /// Posts the waiter at a word of memory: it is woken when the word is no longer `expected`, or somebody is woken there.
    ///
    /// # Safety
    ///
    /// The word stays valid until [`recall`](Self::recall).
    pub unsafe fn post_at(
        &mut self,
        word: *const std::sync::atomic::AtomicU32,
        expected: u32,
        key: WaiterKey,
    ) -> crate::Post {
        if self.reactor.is_none() {
            return crate::Post::nowhere();
        }
        let index = match self.sentries.iter().position(Sentry::has_room) {
            Some(index) => index,
            None => {
                self.sentries.push(Sentry::start(self.remote.clone()));
                self.sentries.len() - 1
            }
        };
        // SAFETY: passed on.
        unsafe { self.sentries[index].post((index, self.forks), word, expected, key) }
    }

    /// Takes a post back. From here on the word is not read any more.
    pub fn recall(&mut self, post: crate::Post) {
        if let Some(index) = post.sentry(self.forks)
            && let Some(sentry) = self.sentries.get(index)
        {
            sentry.recall(post);
        }
    }

    /// In the child of a fork, before anything else; anywhere else it does nothing.
    ///
    /// Who waited waits on, for the time and for others of the hub. For a descriptor nobody waits any more: a waiter of before is
    /// the copy of one of the parent's, and what comes there is the parent's to take. What the driver is told of stays.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Create`]; then the hub must not be used until a further call, which tries again, succeeds.
    pub fn after_fork(&mut self) -> Result<(), ReactorError> {
        let forks = weft_reactor::forks();
        if self.known_forks == forks {
            return Ok(());
        }
        // Once, even if the rest has to be tried again: sentries that are there by then are this process's.
        if self.forks != forks {
            // Their threads do not exist here, and their locks may be taken for ever.
            for sentry in self.sentries.drain(..) {
                sentry.forget();
            }
            // Posts of before are nobody's: the numbers of new sentries begin again.
            self.forks = forks;
        }
        let Some(reactor) = &mut self.reactor else {
            self.known_forks = forks;
            return Ok(());
        };
        reactor.after_fork()?;
        self.known_forks = forks;
        self.sources.fill(NOBODY);
        let copies = self.watches.iter().filter(|(_, whom)| matches!(whom, Whom::Waiter(_)));
        for watch in copies.map(|(&watch, _)| watch).collect::<Vec<_>>() {
            self.unwatch(watch);
        }
        // What had been woken from other threads may be under a lock as well. Everybody looks again instead.
        if let Some(reactor) = &self.reactor {
            self.remote = Remote::new(reactor.waker().clone());
            self.remote.nudge();
        }
        Ok(())
    }
}
