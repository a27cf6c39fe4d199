//! Descriptors that are watched for a while, level-triggered: as long as one is ready, every poll says so.
//!
//! For whoever cannot say when a descriptor is used up, because others read from it. They have a set of their own, which
//! is itself watched by the reactor's. A watch is a matter of the number, as it is for `select`: when the descriptor is closed and the number
//! taken again, the watch is of the new one from the next change on.
//!
//! The kernel, though, watches what a number stood for, and goes on when that is closed but lives on under another number or in another
//! process. It cannot be told to stop, as that needs the number. So each change of a registration gives it a new
//! generation, as in libev; when something with an old one is reported, the set is given up for a new one.

use std::collections::HashMap;
use std::os::fd::{AsFd, RawFd};

use rustix::io::Errno;
use weft_sys::epoll::{Epoll, EventFlags, Report, Reports};

use crate::sources::borrow;
use crate::{ReactorError, Ready};

/// Names a watch. Once that is over the key means nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WatchKey {
    place: u32,
    generation: u32,
}

#[derive(Debug)]
struct Watch {
    generation: u32,
    descriptor: RawFd,
    wanted: Ready,
}

/// The watches of one descriptor.
#[derive(Debug, Default)]
struct Group {
    members: Vec<u32>,
    /// Of what the kernel was told last.
    generation: u32,
    /// Its kind cannot be watched, because it is always ready: a file, say.
    is_always_ready: bool,
}

/// All watches of a reactor.
#[derive(Debug)]
pub(crate) struct Watches {
    epoll: Epoll,
    watches: Vec<Watch>,
    free: Vec<u32>,
    groups: HashMap<RawFd, Group>,
    /// The last one that was given out.
    generation: u32,
    always_ready: usize,
    /// The outer set tells of this one only when something happens here, not as long as something is ready.
    is_muted: bool,
    reports: Reports,
}

fn token(descriptor: RawFd, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(descriptor.cast_unsigned())
}

/// An empty set, watched by the reactor's.
fn inside((outer, token): (&Epoll, u64)) -> Result<Epoll, Errno> {
    let epoll = Epoll::new()?;
    outer.add(epoll.as_fd(), token, EventFlags::IN)?;
    Ok(epoll)
}

impl Watches {
    /// None yet. `outer` is the reactor's set, and what it is to say of this one.
    pub(crate) fn new(outer: (&Epoll, u64)) -> Result<Self, Errno> {
        Ok(Self {
            epoll: inside(outer)?,
            watches: Vec::new(),
            free: Vec::new(),
            groups: HashMap::new(),
            generation: 0,
            always_ready: 0,
            is_muted: false,
            reports: Reports::default(),
        })
    }

    /// Whether there is one that is ready without the kernel's saying so.
    pub(crate) const fn is_always_ready(&self) -> bool {
        self.always_ready > 0
    }

    pub(crate) fn add(&mut self, descriptor: RawFd, wanted: Ready) -> Result<WatchKey, ReactorError> {
        let place = self.free.pop().unwrap_or_else(|| {
            self.watches.push(Watch { generation: 0, descriptor: -1, wanted: Ready::NONE });
            (self.watches.len() - 1) as u32
        });
        let watch = &mut self.watches[place as usize];
        (watch.descriptor, watch.wanted) = (descriptor, wanted);
        let key = WatchKey { place, generation: watch.generation };
        self.groups.entry(descriptor).or_default().members.push(place);
        match self.sync(descriptor) {
            Ok(()) => Ok(key),
            Err(source) => {
                self.remove(key);
                Err(ReactorError::Watch { descriptor, source })
            }
        }
    }

    pub(crate) fn remove(&mut self, key: WatchKey) {
        let Some(watch) = self.watches.get_mut(key.place as usize) else { return };
        if watch.generation != key.generation || watch.descriptor < 0 {
            return;
        }
        let descriptor = std::mem::replace(&mut watch.descriptor, -1);
        watch.generation = watch.generation.wrapping_add(1);
        self.free.push(key.place);
        let Some(group) = self.groups.get_mut(&descriptor) else { return };
        group.members.retain(|&member| member != key.place);
        if !group.members.is_empty() {
            // It fails if the descriptor was closed: then nothing comes from it any more.
            let _ = self.sync(descriptor);
            return;
        }
        if group.is_always_ready {
            self.always_ready -= 1;
        } else {
            // SAFETY: for this call; as above.
            let _ = unsafe { borrow(descriptor) }.and_then(|borrowed| self.epoll.delete(borrowed));
        }
        self.groups.remove(&descriptor);
    }

    /// Has the kernel watch a descriptor for what all its watches want.
    fn sync(&mut self, descriptor: RawFd) -> Result<(), Errno> {
        let Some(group) = self.groups.get_mut(&descriptor) else { return Ok(()) };
        let wanted = group
            .members
            .iter()
            .fold(Ready::NONE, |wanted, &member| wanted | self.watches[member as usize].wanted);
        // SAFETY: for the calls in this function.
        let borrowed = unsafe { borrow(descriptor) }?;
        self.generation = self.generation.wrapping_add(1);
        group.generation = self.generation;
        let (token, flags) = (token(descriptor, group.generation), wanted.to_kernel());
        let outcome = match self.epoll.modify(borrowed, token, flags) {
            Err(Errno::NOENT) => self.epoll.add(borrowed, token, flags),
            other => other,
        };
        let refused = outcome == Err(Errno::PERM);
        if refused != group.is_always_ready {
            group.is_always_ready = refused;
            self.always_ready = if refused { self.always_ready + 1 } else { self.always_ready - 1 };
        }
        if refused { Ok(()) } else { outcome }
    }

    /// Says of every watch whose descriptor is ready now.
    pub(crate) fn poll(&mut self, outer: (&Epoll, u64), mut each: impl FnMut(WatchKey, Ready)) {
        let mut reports = std::mem::take(&mut self.reports);
        // It does not sleep, so nothing can interrupt it.
        let _ = self.epoll.wait(Some(std::time::Duration::ZERO), &mut reports);
        let (mut stray, mut told) = (false, false);
        for Report { token, flags } in reports.iter() {
            let ready = Ready::from_kernel(flags);
            match self.groups.get(&(token as u32).cast_signed()) {
                Some(group) if group.generation == (token >> 32) as u32 => {
                    told = true;
                    self.tell(group, ready, &mut each);
                }
                _ => stray = true,
            }
        }
        for group in self.groups.values().filter(|group| group.is_always_ready) {
            self.tell(group, Ready::BOTH, &mut each);
        }
        reports.clear();
        self.reports = reports;
        if stray {
            // What a closed descriptor stood for lives on, and would be reported for ever.
            if self.renew(outer).is_err() && (told || !self.is_muted) {
                self.mute(outer);
            }
        }
    }

    /// No descriptor is to be had for another set, so this one serves on, though it is always ready. The outer one is to tell of it
    /// once more, and then when something happens in it. This is repeated as long as somebody is told of
    /// something, which has to be told with every poll.
    fn mute(&mut self, (outer, token): (&Epoll, u64)) {
        self.is_muted = outer.modify(self.epoll.as_fd(), token, EventFlags::IN | EventFlags::ET).is_ok();
    }

    fn tell(&self, group: &Group, ready: Ready, each: &mut impl FnMut(WatchKey, Ready)) {
        for &member in &group.members {
            let watch = &self.watches[member as usize];
            // Who wants neither hears of the end, which the kernel tells in any case.
            let ready = ready & if watch.wanted.is_none() { Ready::END } else { watch.wanted };
            if !ready.is_none() {
                each(WatchKey { place: member, generation: watch.generation }, ready);
            }
        }
    }

    /// Starts afresh with an empty set, and has all watched again. If it fails nothing has changed.
    pub(crate) fn renew(&mut self, outer: (&Epoll, u64)) -> Result<(), Errno> {
        let fresh = inside(outer)?;
        // Closing the old one is not enough: a child of a fork may have it as well. In such a child it fails, as it is its parent's.
        let _ = outer.0.delete(self.epoll.as_fd());
        self.epoll = fresh;
        self.is_muted = false;
        for descriptor in self.groups.keys().copied().collect::<Vec<_>>() {
            // It fails if the descriptor was closed.
            let _ = self.sync(descriptor);
        }
        Ok(())
    }
}
