//! Files, by name: what is under it changes, comes or goes.
//!
//! The kernel is asked to tell (inotify) of whatever may change that, see [`mod@way`]. What it tells says where to look, and no more:
//! a file has changed if its status is another one than when it was looked at last. So changes that follow
//! each other quickly are told as one, and two that leave the same status behind, within one tick of the kernel's clock, as none.
//!
//! A file is looked at from time to time instead, or as well, where the kernel does not tell of everything: on a filesystem in a
//! network, where a directory may not be read, where the process has no more inotify instances or watches. What could not be
//! watched is tried again each time. What is mounted on a directory is told by nobody.
//!
//! One inotify instance serves a reactor, and exists as long as there is a file; a user has not many (128).

mod status;
mod way;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use weft_sys::clock::monotonic;
use weft_sys::epoll::{Epoll, EventFlags};

use crate::{TimerKey, Timers};
pub use status::FileStatus;
use way::{Interest, walk};

/// Names a watched file. Once that is over the key means nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    place: usize,
    generation: u32,
}

/// What is under a name, and what was there before the last change. `None` stands for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileState {
    /// When it was looked at last.
    pub now: Option<FileStatus>,
    /// Before that, when it was another one; nothing as well if there was no change yet.
    pub before: Option<FileStatus>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// How long it may go unseen where the kernel does not tell, in nanoseconds.
    period: u64,
    state: FileState,
    /// What of inotify's this one uses.
    watched: Vec<i32>,
    /// Whether everything is watched that should be.
    is_armed: bool,
    /// The next look; there is none if the kernel tells of everything.
    timer: Option<TimerKey>,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    file: Option<File>,
}

/// Who is to look when something of inotify's is told of.
#[derive(Debug)]
struct User {
    place: usize,
    interest: Interest,
}

/// What an event means to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Concern {
    /// Its status may be another one.
    Look,
    /// The way to it may be.
    Walk,
}

/// All files of a reactor.
#[derive(Debug, Default)]
pub(crate) struct Files {
    inotify: Option<OwnedFd>,
    places: Vec<Place>,
    free: Vec<usize>,
    users: HashMap<i32, Vec<User>>,
    timers: Timers<usize>,
}

/// What the watched thing itself tells of its end.
const GONE: ReadFlags =
    ReadFlags::DELETE_SELF.union(ReadFlags::MOVE_SELF).union(ReadFlags::UNMOUNT).union(ReadFlags::IGNORED);
const CAME_OR_WENT: ReadFlags =
    ReadFlags::CREATE.union(ReadFlags::DELETE).union(ReadFlags::MOVED_FROM).union(ReadFlags::MOVED_TO);

/// So often is inotify read at once: whoever changes files all the time is to be told of other things as well.
const MOST_READS: usize = 16;
const BUFFER: usize = 4096;
/// So often is a way tried that changes while one goes it.
const MOST_WALKS: usize = 4;

impl Files {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    pub(crate) fn add(&mut self, epoll: (&Epoll, u64), path: &Path, period: Duration) -> FileKey {
        // Relative to where the process is now: it may go somewhere else.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let state = FileState::default();
        let file = File { path, period, state, watched: Vec::new(), is_armed: false, timer: None };
        self.places[place].file = Some(file);
        self.arm(epoll, place);
        if let Some(file) = &mut self.places[place].file {
            file.state.now = FileStatus::of(&file.path);
        }
        FileKey { place, generation: self.places[place].generation }
    }

    /// The set of the reactor is given because the last one takes inotify's descriptor with it.
    pub(crate) fn remove(&mut self, epoll: &Epoll, key: FileKey) -> Option<FileState> {
        let place = self.places.get_mut(key.place).filter(|place| place.generation == key.generation)?;
        let file = place.file.take()?;
        // A place whose generations are used up is not used again: a key of old would fit.
        if let Some(next) = place.generation.checked_add(1) {
            place.generation = next;
            self.free.push(key.place);
        }
        if let Some(timer) = file.timer {
            self.timers.cancel(timer);
        }
        let unused = self.leave(key.place, file.watched);
        self.unwatch(&unused);
        if self.is_empty()
            && let Some(inotify) = self.inotify.take()
        {
            // Closing alone would leave it in the set if a child of a fork still has it.
            let _ = epoll.delete(inotify.as_fd());
            self.users.clear();
        }
        Some(file.state)
    }

    pub(crate) fn state(&self, key: FileKey) -> Option<FileState> {
        let place = self.places.get(key.place).filter(|place| place.generation == key.generation)?;
        place.file.as_ref().map(|file| file.state)
    }

    /// When the next file has to be looked at though the kernel tells nothing.
    pub(crate) fn next_at(&mut self) -> Option<u64> {
        self.timers.next_at()
    }

    /// In the child of a fork: what inotify has is the parent's. Everything is looked at with the next poll.
    pub(crate) fn renew(&mut self) {
        self.inotify = None;
        self.users.clear();
        for (place, file) in
            self.places.iter_mut().enumerate().filter_map(|(place, slot)| Some((place, slot.file.as_mut()?)))
        {
            file.watched.clear();
            file.is_armed = false;
            if let Some(timer) = file.timer.take() {
                self.timers.cancel(timer);
            }
            file.timer = Some(self.timers.insert(0, place));
        }
    }

    // --- what is watched --------------------------------------------------------------------------------------

    /// Goes the way to a file anew, and has all of it watched. Says when to look next, too.
    fn arm(&mut self, epoll: (&Epoll, u64), place: usize) {
        let Some(file) = self.places[place].file.as_mut() else { return };
        let before = std::mem::take(&mut file.watched);
        let path = file.path.clone();
        let unused = self.leave(place, before);
        let mut outcome = self.ready(epoll);
        if outcome.is_ok() {
            outcome = Err(Errno::AGAIN);
            for _ in 0..MOST_WALKS {
                if outcome != Err(Errno::AGAIN) {
                    break;
                }
                outcome = walk(&path, |at, interest| self.watch(place, at, interest));
            }
        }
        self.unwatch(&unused);
        let Some(file) = self.places[place].file.as_mut() else { return };
        file.is_armed = outcome.is_ok();
        if outcome == Ok(true) {
            if let Some(timer) = file.timer.take() {
                self.timers.cancel(timer);
            }
        } else if file.timer.is_none() {
            file.timer = Some(self.timers.insert(monotonic().saturating_add(file.period), place));
        }
    }

    /// Sees to it that there is an inotify instance.
    fn ready(&mut self, (epoll, token): (&Epoll, u64)) -> Result<bool, Errno> {
        if self.inotify.is_none() {
            let made = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            epoll.add(made.as_fd(), token, EventFlags::IN)?;
            self.inotify = Some(made);
        }
        Ok(true)
    }

    fn watch(&mut self, place: usize, at: &Path, interest: Interest) -> Result<(), Errno> {
        let Some(inotify) = &self.inotify else { return Err(Errno::BADF) };
        // What others want of the same is added to.
        let mut flags = WatchFlags::MASK_ADD | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        let entries = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
        flags |= match &interest {
            Interest::Place => WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW,
            Interest::Entry(_) => WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW | entries,
            Interest::Itself { is_directory: true } => WatchFlags::DONT_FOLLOW | WatchFlags::ATTRIB | entries,
            Interest::Itself { is_directory: false } => {
                WatchFlags::DONT_FOLLOW | WatchFlags::ATTRIB | WatchFlags::MODIFY
            }
        };
        let number = inotify::add_watch(inotify, at, flags)?;
        self.users.entry(number).or_default().push(User { place, interest });
        if let Some(file) = &mut self.places[place].file {
            file.watched.push(number);
        }
        Ok(())
    }

    /// Has a file use nothing of those any more. Gives those that it used; others may.
    fn leave(&mut self, place: usize, watched: Vec<i32>) -> Vec<i32> {
        for number in &watched {
            if let Some(users) = self.users.get_mut(number) {
                users.retain(|user| user.place != place);
            }
        }
        watched
    }

    /// Ends what nobody uses.
    fn unwatch(&mut self, numbers: &[i32]) {
        for number in numbers {
            if self.users.get(number).is_some_and(Vec::is_empty) {
                self.users.remove(number);
                if let Some(inotify) = &self.inotify {
                    // It fails if what was watched is gone.
                    let _ = inotify::remove_watch(inotify, *number);
                }
            }
        }
    }

    // --- what has come ----------------------------------------------------------------------------------------

    /// Looks at the files that the kernel tells of, if it does, and at those whose time has come, and hands those that
    /// have changed to `each`.
    pub(crate) fn poll(&mut self, epoll: (&Epoll, u64), is_told: bool, mut each: impl FnMut(FileKey)) {
        let mut concerned = if is_told { self.read() } else { HashMap::new() };
        if self.timers.next_at().is_some() {
            let now = monotonic();
            while let Some(place) = self.timers.pop_due(now) {
                let Some(file) = self.places[place].file.as_mut() else { continue };
                file.timer = None;
                let concern = if file.is_armed { Concern::Look } else { Concern::Walk };
                let known = concerned.entry(place).or_insert(concern);
                *known = concern.max(*known);
                if concern == Concern::Look {
                    file.timer = Some(self.timers.insert(now.saturating_add(file.period), place));
                }
            }
        }
        for (place, concern) in concerned {
            if concern == Concern::Walk {
                self.arm(epoll, place);
            }
            if self.look(place) {
                each(FileKey { place, generation: self.places[place].generation });
            }
        }
    }

    /// What the kernel has told, as far as there are files that it concerns.
    fn read(&mut self) -> HashMap<usize, Concern> {
        let mut concerned = HashMap::new();
        let Self { inotify: Some(inotify), users, places, .. } = self else { return concerned };
        let mut note = |place, concern: Concern| {
            let known = concerned.entry(place).or_insert(concern);
            *known = concern.max(*known);
        };
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(inotify.as_fd(), &mut buffer);
        let mut reads = 0;
        loop {
            if reader.is_buffer_empty() {
                reads += 1;
                if reads > MOST_READS {
                    break; // the rest comes with the next poll
                }
            }
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(_) => break, // nothing is left
            };
            let (number, events) = (event.wd(), event.events());
            if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                for place in
                    places.iter().enumerate().filter_map(|(place, slot)| slot.file.as_ref().map(|_| place))
                {
                    note(place, Concern::Walk);
                }
                continue;
            }
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            for User { place, interest } in users.get(&number).into_iter().flatten() {
                if let Some(concern) = concern(interest, name, events) {
                    note(*place, concern);
                }
            }
            if events.contains(ReadFlags::IGNORED) {
                users.remove(&number);
            }
        }
        concerned
    }

    /// Looks at a file. Says whether it has changed.
    fn look(&mut self, place: usize) -> bool {
        let Some(file) = self.places[place].file.as_mut() else { return false };
        let status = FileStatus::of(&file.path);
        let has_changed = match (&file.state.now, &status) {
            (Some(before), Some(now)) => now.differs(before),
            (before, now) => before.is_some() != now.is_some(),
        };
        if has_changed {
            file.state.before = file.state.now;
        }
        file.state.now = status;
        has_changed
    }
}

/// What an event means to who has that interest; `name` is of something in a directory.
fn concern(interest: &Interest, name: Option<&OsStr>, events: ReadFlags) -> Option<Concern> {
    match (interest, name) {
        (_, None) if events.intersects(GONE) => Some(Concern::Walk),
        (Interest::Entry(wanted), Some(name)) if wanted == name => Some(Concern::Walk),
        (Interest::Itself { .. }, None) => Some(Concern::Look),
        (Interest::Itself { .. }, Some(_)) if events.intersects(CAME_OR_WENT) => Some(Concern::Look),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory that is removed with what is in it.
    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("weft-files-{}-{number}", std::process::id());
            let path = std::env::temp_dir().canonicalize().unwrap().join(name);
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
