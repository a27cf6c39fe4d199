//! What every shared object begins with: a generation, and the list of processes that hold it.
//!
//! The list is the truth, there is no count that could drift: an object lives as long as a living process is in
//! it. Processes enter when they create, attach or inherit the object, and leave when they let go of it; those
//! that died are struck off by a sweep.
//!
//! A reference on its way from one process to another is nobody's, but the object must not go. So it has an entry of its
//! own, a *transit*, which the receiver exchanges for its own. One that is in a queue ends with that queue; one that was
//! sent by other ways lasts as long as its sender, and a minute longer.
//!
//! A fork needs a third kind of entry. Between the fork and the child's first instruction the child is nobody, but
//! the object must not go. So the parent enters a *promise* before it forks, which the child takes over. One that
//! nobody took (the fork failed, the child died at once) lapses after a minute.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;

use crate::arena::{Arena, Locked};
use crate::crash::crash_point;
use crate::error::ShmError;
use crate::fork::{self, Inherited, Rank};
use crate::identity::Identity;
use crate::layout::{Kind, UNIT, order_of, state};
use crate::robust::Robust;
use crate::windows::system;

/// The generation of an object that is about to go.
pub(crate) const NO_GENERATION: u64 = 0;

/// Bytes at the start of an object that belong to this module.
pub(crate) const PROLOGUE: usize = 256;
const INLINE: usize = 30;
/// The list goes on in a block of this size when it is longer.
const MORE_BYTES: usize = 8 * UNIT;
const MORE: usize = MORE_BYTES / 8;

const PROMISE: u32 = 1 << 31;
const PROMISE_SECONDS: u32 = 60;
/// Set in an entry's pid: this holder changes nothing that others wait for.
const READER: u32 = 1 << 30;
/// Set in an entry: the process has sent a reference that nobody has received so far.
const SENT: u32 = 1 << 29;
/// Set in an entry: a reference is in a queue. The rest is that one's unit and the lower half of its generation.
const QUEUED: u32 = 1 << 28;

/// What an entry of the list says.
enum Entry {
    Holder(Identity),
    Promise { seconds: u32 },
    Sent(Identity),
    Queued { unit: u32, generation: u32 },
}

impl Entry {
    const fn of(word: u64) -> Self {
        let (low, high) = (word as u32, (word >> 32) as u32);
        if low & PROMISE != 0 {
            Self::Promise { seconds: high }
        } else if low & SENT != 0 {
            Self::Sent(Identity { pid: low & !SENT, start: high })
        } else if low & QUEUED != 0 {
            Self::Queued { unit: low & !QUEUED, generation: high }
        } else {
            Self::Holder(Identity { pid: low & !READER, start: high })
        }
    }
}

/// A reference on its way to another process, which makes it its own by [`Object::attach`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transit(u64);

impl Transit {
    /// It travels with what a process is started with: whoever sends it keeps the object until the receiver has it.
    pub const KEPT: Self = Self(0);

    /// The word to send.
    pub const fn to_word(self) -> u64 {
        self.0
    }

    /// The word that was received.
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }
}

/// How a reference travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// In a queue of the same arena: the reference ends with it.
    Queue(Handle),
    /// Otherwise: it ends with this process, unless it is received within a minute from then on.
    Other,
}

#[repr(C)]
struct Prologue {
    generation: AtomicU64,
    /// The block with more holders, 0 if there is none.
    more: AtomicU32,
    _unused: u32,
    holders: [AtomicU64; INLINE],
}

const _: () = assert!(size_of::<Prologue>() == PROLOGUE);

/// What one process needs to attach an object of an arena that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    /// Where the object is.
    pub unit: u32,
    /// Which of the objects that were ever there it is.
    pub generation: u64,
}

/// An object that this process holds.
pub(crate) struct Object<L: Robust> {
    arena: Arc<Arena<L>>,
    start: NonNull<u8>,
    handle: Handle,
    /// This process is the child of a fork, and came too late to inherit it.
    lapsed: AtomicBool,
    /// How many forks lie between the process that made this and the one that looks at it.
    forks: AtomicU32,
}

// SAFETY: the memory behind it is shared between processes anyway, and everything in it atomic or locked.
unsafe impl<L: Robust> Send for Object<L> {}
// SAFETY: as above.
unsafe impl<L: Robust> Sync for Object<L> {}

impl<L: Robust> fmt::Debug for Object<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl<L: Robust + 'static> Object<L> {
    /// A new object of up to `bytes`, all zero but for the prologue, which `init` makes ready.
    pub(crate) fn create(
        arena: &Arc<Arena<L>>,
        bytes: usize,
        init: impl FnOnce(NonNull<u8>, u32),
    ) -> Result<Arc<Self>, ShmError> {
        let (unit, start) = arena.allocate_piece(bytes)?;
        // SAFETY: the block is ours alone, mapped, and has at least `bytes`.
        unsafe { start.as_ptr().write_bytes(0, bytes) };
        let generation = arena.next_generation();
        let object = Self::at(arena, start, Handle { unit, generation });
        object.prologue().generation.store(generation, Ordering::Relaxed);
        object.prologue().holders[0].store(word(arena.identity()), Ordering::Relaxed);
        crash_point("create: entered");
        init(start, unit);
        crash_point("create: ready");
        let descriptor = arena.descriptor(unit)?;
        let order = order_of(descriptor.state.load(Ordering::Relaxed));
        descriptor.ordinal.store(generation, Ordering::Relaxed);
        descriptor.state.store(state(Kind::Object, order), Ordering::Release);
        crash_point("create: made");
        Ok(object.known())
    }

    /// The object of another process, which this one holds from now on, too.
    pub(crate) fn attach(arena: &Arc<Arena<L>>, handle: Handle) -> Result<Arc<Self>, ShmError> {
        Self::receive(arena, handle, Transit::KEPT)
    }

    /// As [`attach`](Self::attach), by a reference that was sent.
    pub(crate) fn receive(
        arena: &Arc<Arena<L>>,
        handle: Handle,
        transit: Transit,
    ) -> Result<Arc<Self>, ShmError> {
        if handle.unit >= arena.header().high_water.load(Ordering::Acquire) {
            return Err(gone(handle));
        }
        let descriptor = arena.descriptor(handle.unit)?;
        let mut tries = 0;
        loop {
            let locked = arena.lock();
            let now = descriptor.state.load(Ordering::Acquire);
            if Kind::of(now) != Some(Kind::Object)
                || descriptor.ordinal.load(Ordering::Relaxed) != handle.generation
                || handle.generation == NO_GENERATION
            {
                return Err(gone(handle));
            }
            let (start, _) = arena.piece(handle.unit)?;
            let object = Self::at(arena, start, handle);
            let mine = word(arena.identity());
            // A pickle that is loaded twice finds its transit once.
            let entered = transit != Transit::KEPT && replace(&locked, object.prologue(), transit.0, mine)
                || enter(&locked, object.prologue(), mine);
            // In this order: the end of an object takes a lock that comes before the arena's.
            drop(locked);
            if entered {
                return Ok(object.known());
            }
            object.make_room(&mut tries)?;
        }
    }

    fn at(arena: &Arc<Arena<L>>, start: NonNull<u8>, handle: Handle) -> Self {
        let (lapsed, forks) = (AtomicBool::new(false), AtomicU32::new(0));
        Self { arena: Arc::clone(arena), start, handle, lapsed, forks }
    }

    fn known(self) -> Arc<Self> {
        let object = Arc::new(self);
        fork::register(Rank::Object, &object);
        object
    }
}

impl<L: Robust> Object<L> {
    /// Makes room for more holders, if there can be.
    fn make_room(&self, tries: &mut u32) -> Result<(), ShmError> {
        *tries += 1;
        match *tries {
            1 => self.lengthen(),
            2 => {
                self.arena.sweep();
                Ok(())
            }
            _ => Err(system("hold", 0, Errno::USERS)),
        }
    }

    fn lengthen(&self) -> Result<(), ShmError> {
        if self.has_more_holders() {
            return Ok(());
        }
        let (unit, start) = self.arena.allocate_piece(MORE_BYTES)?;
        // SAFETY: ours alone, mapped, and of this length.
        unsafe { start.as_ptr().write_bytes(0, MORE_BYTES) };
        let locked = self.arena.lock();
        if self.prologue().more.load(Ordering::Relaxed) != 0 {
            let _ = locked.give_back(unit)?;
            return Ok(());
        }
        let descriptor = self.arena.descriptor(unit)?;
        descriptor.object.store(self.handle.unit, Ordering::Relaxed);
        let order = order_of(descriptor.state.load(Ordering::Relaxed));
        descriptor.state.store(state(Kind::Holders, order), Ordering::Release);
        crash_point("lengthen: marked");
        self.prologue().more.store(unit, Ordering::Release);
        Ok(())
    }

    pub(crate) const fn arena(&self) -> &Arc<Arena<L>> {
        &self.arena
    }

    pub(crate) const fn handle(&self) -> Handle {
        self.handle
    }

    /// Where it begins.
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// An error if this process may not use it.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), ShmError> {
        if self.lapsed.load(Ordering::Relaxed) { Err(gone(self.handle)) } else { Ok(()) }
    }

    /// From now on it is not this process's: the test that it belongs to says that it died.
    #[cfg(test)]
    pub(crate) fn disown(&self) {
        self.lapsed.store(true, Ordering::Relaxed);
    }

    fn prologue(&self) -> &Prologue {
        // SAFETY: an object begins with one, all of it atomic, mapped as long as the arena.
        unsafe { self.start.cast::<Prologue>().as_ref() }
    }

    /// Enters a promise for the child of the fork that is about to happen.
    fn promise(&self) -> Result<(), ShmError> {
        self.enter(promise_of(self.arena.identity().pid))
    }

    fn enter(&self, word: u64) -> Result<(), ShmError> {
        let mut tries = 0;
        loop {
            let entered = enter(&self.arena.lock(), self.prologue(), word);
            if entered {
                return Ok(());
            }
            self.make_room(&mut tries)?;
        }
    }

    /// Makes a reference for another process, which holds the object until it is received or its carrier has ended.
    pub(crate) fn send(&self, route: Route) -> Result<Transit, ShmError> {
        self.check()?;
        let word = match route {
            Route::Queue(queue) => {
                (queue.generation & u64::from(u32::MAX)) << 32 | u64::from(queue.unit | QUEUED)
            }
            Route::Other => word(self.arena.identity()) | u64::from(SENT),
        };
        self.enter(word)?;
        if matches!(route, Route::Queue(_)) {
            self.arena.header().has_sent.store(1, Ordering::Relaxed);
        }
        Ok(Transit(word))
    }

    /// Takes a reference back that was not sent after all. This process holds the object, so that it stays.
    pub(crate) fn withdraw(&self, transit: Transit) {
        if transit != Transit::KEPT {
            replace(&self.arena.lock(), self.prologue(), transit.0, 0);
        }
    }

    /// Whether another living process has it, or a reference is on its way to one.
    pub(crate) fn is_shared(&self) -> bool {
        let me = self.arena.identity();
        let others: Vec<_> = {
            let locked = self.arena.lock();
            let words = entries(&locked, self.prologue()).map(|entry| entry.load(Ordering::Acquire));
            words.filter(|word| *word != 0).map(Entry::of).collect()
        };
        others.into_iter().any(|entry| match entry {
            Entry::Holder(identity) => identity != me && identity.is_alive(),
            Entry::Promise { seconds } => !has_lapsed(seconds),
            Entry::Sent(_) => true,
            Entry::Queued { unit, generation } => !is_gone(&self.arena, unit, generation),
        })
    }

    /// In the child of the process `parent`: takes the promise over. False if it has lapsed.
    fn redeem(&self, parent: u32) -> bool {
        let locked = self.arena.lock();
        let mine = word(self.arena.identity());
        let found = find(&locked, self.prologue(), |entry| entry as u32 == parent | PROMISE);
        found.is_some_and(|entry| {
            entry.store(mine, Ordering::Release);
            true
        })
    }

    /// Says in the list that this process changes nothing any more that others wait for.
    pub(crate) fn become_reader(&self) {
        let locked = self.arena.lock();
        let mine = word(self.arena.identity());
        if let Some(entry) = find(&locked, self.prologue(), |entry| entry == mine) {
            entry.store(mine | u64::from(READER), Ordering::Release);
        }
    }

    /// Whether anyone is left, of those that live or are about to, who is no mere reader.
    pub(crate) fn has_writer(&self) -> bool {
        let writers: Vec<_> = {
            let locked = self.arena.lock();
            let words = entries(&locked, self.prologue()).map(|entry| entry.load(Ordering::Acquire));
            words.filter(|word| *word != 0 && *word as u32 & READER == 0).collect()
        };
        writers.into_iter().any(|word| holder_of(word).is_none_or(Identity::is_alive))
    }

    /// Whether its list of holders goes on in a block of its own.
    pub(crate) fn has_more_holders(&self) -> bool {
        self.prologue().more.load(Ordering::Acquire) != 0
    }

    /// Changes with every fork: what was noted under another number may be half written, by a thread of the parent.
    #[inline]
    pub(crate) fn forks(&self) -> u32 {
        self.forks.load(Ordering::Relaxed)
    }

    /// Leaves the list. If nobody is in it any more, the object and its parts are freed, unless it has none, which
    /// is asked then, under the arena's lock. True if it was freed.
    pub(crate) fn leave(&self, has_parts: impl FnOnce() -> bool) -> Result<bool, ShmError> {
        self.leave_then(|locked| self.arena.destroy(locked, self.handle.unit, has_parts()))
    }

    /// As [`leave`](Self::leave), of an object that has just this one part, and none if it is `None`.
    pub(crate) fn leave_with(&self, part: Option<u32>) -> Result<bool, ShmError> {
        self.leave_then(|locked| match (part, self.has_more_holders()) {
            (Some(part), false) => self.arena.destroy_two(locked, part, self.handle.unit),
            (_, has_parts) => self.arena.destroy(locked, self.handle.unit, has_parts),
        })
    }

    fn leave_then(
        &self,
        destroy: impl FnOnce(Locked<'_, L>) -> Result<(), ShmError>,
    ) -> Result<bool, ShmError> {
        if self.check().is_err() {
            return Ok(false);
        }
        let locked = self.arena.lock();
        let mine = word(self.arena.identity());
        if let Some(entry) = find(&locked, self.prologue(), |entry| plain(entry) == mine) {
            entry.store(0, Ordering::Release);
        }
        crash_point("leave: left");
        if find(&locked, self.prologue(), |entry| entry != 0).is_some() {
            return Ok(false);
        }
        // Under the same lock: in between, somebody could attach what is about to go.
        destroy(locked)?;
        Ok(true)
    }
}

fn gone(handle: Handle) -> ShmError {
    ShmError::Gone { object: format!("{}.{}", handle.unit, handle.generation) }
}

impl<L: Robust> Inherited for Object<L> {
    fn before(&self) {
        // Without room for it the child finds no promise, and says so when it uses the object.
        let _ = self.promise();
    }

    fn in_parent(&self) {}

    fn in_child(&self, parent: u32) {
        self.forks.fetch_add(1, Ordering::Relaxed);
        if !self.redeem(parent) {
            self.lapsed.store(true, Ordering::Relaxed);
        }
    }
}

impl<L: Robust> Drop for Object<L> {
    fn drop(&mut self) {
        fork::unregister(Rank::Object, std::ptr::from_ref(self).addr());
    }
}

fn word(identity: Identity) -> u64 {
    u64::from(identity.start) << 32 | u64::from(identity.pid)
}

/// An entry without what it says beside whose it is.
const fn plain(entry: u64) -> u64 {
    entry & !(READER as u64)
}

fn promise_of(parent: u32) -> u64 {
    u64::from(seconds()) << 32 | u64::from(parent | PROMISE)
}

fn seconds() -> u32 {
    rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse).tv_sec as u32
}

/// Enters `word` into the list. False if there is no room.
fn enter<L: Robust>(locked: &Locked<'_, L>, prologue: &Prologue, word: u64) -> bool {
    find(locked, prologue, |entry| entry == 0).is_some_and(|entry| {
        entry.store(word, Ordering::Release);
        true
    })
}

/// Replaces one entry that says `old`. False if there is none.
fn replace<L: Robust>(locked: &Locked<'_, L>, prologue: &Prologue, old: u64, new: u64) -> bool {
    find(locked, prologue, |entry| entry == old).is_some_and(|entry| {
        entry.store(new, Ordering::Release);
        true
    })
}

/// Whether the object that such an entry speaks of has ended.
fn is_gone<L: Robust>(arena: &Arena<L>, unit: u32, generation: u32) -> bool {
    arena.descriptor(unit).is_ok_and(|descriptor| {
        Kind::of(descriptor.state.load(Ordering::Acquire)) != Some(Kind::Object)
            || descriptor.ordinal.load(Ordering::Relaxed) as u32 != generation
    })
}

fn has_lapsed(seconds_then: u32) -> bool {
    seconds().wrapping_sub(seconds_then) > PROMISE_SECONDS
}

/// All entries of the list.
fn entries<'a, L: Robust>(
    locked: &Locked<'a, L>,
    prologue: &'a Prologue,
) -> impl Iterator<Item = &'a AtomicU64> + use<'a, L> {
    let more = prologue.more.load(Ordering::Acquire);
    let rest: &[AtomicU64] = match (more != 0).then(|| locked.arena.piece(more)) {
        // SAFETY: a block of holders is an array of atomic words of at least this length, mapped as long as the arena.
        Some(Ok((start, size))) if size >= MORE_BYTES => unsafe {
            std::slice::from_raw_parts(start.cast::<AtomicU64>().as_ptr(), MORE)
        },
        _ => &[],
    };
    prologue.holders.iter().chain(rest)
}

/// The first entry with such a word.
fn find<'a, L: Robust>(
    locked: &Locked<'a, L>,
    prologue: &'a Prologue,
    wanted: impl Fn(u64) -> bool,
) -> Option<&'a AtomicU64> {
    entries(locked, prologue).find(|entry| wanted(entry.load(Ordering::Acquire)))
}

/// Whose entry it is; `None` if it is no process's.
fn holder_of(entry: u64) -> Option<Identity> {
    match Entry::of(entry) {
        Entry::Holder(identity) => Some(identity),
        _ => None,
    }
}

/// Strikes off the holders that `is_dead`, promises that lapsed, and references in queues that have ended, or of which
/// `is_ending` says so by their units. True if nobody is left.
pub(crate) fn strike_off<L: Robust>(
    locked: &Locked<'_, L>,
    unit: u32,
    mut is_dead: impl FnMut(Identity) -> bool,
    is_ending: impl Fn(u32) -> bool,
) -> Result<bool, ShmError> {
    let (start, _) = locked.arena.piece(unit)?;
    // SAFETY: as in `Object::prologue`.
    let prologue = unsafe { start.cast::<Prologue>().as_ref() };
    let mut nobody = true;
    for entry in entries(locked, prologue) {
        let word = entry.load(Ordering::Acquire);
        let over = match Entry::of(word) {
            _ if word == 0 => continue,
            Entry::Holder(identity) => is_dead(identity),
            Entry::Promise { seconds } => has_lapsed(seconds),
            Entry::Queued { unit, generation } => is_ending(unit) || is_gone(locked.arena, unit, generation),
            Entry::Sent(sender) => {
                if is_dead(sender) {
                    // What it sent may still lie in a pipe: it gets as long as a promise.
                    entry.store(promise_of(sender.pid), Ordering::Release);
                }
                false
            }
        };
        if over {
            entry.store(0, Ordering::Release);
        } else {
            nobody = false;
        }
    }
    Ok(nobody)
}

/// Calls `visit` with every holder of the object at `unit`, and everyone who sent a reference to it.
pub(crate) fn holders<L: Robust>(
    locked: &Locked<'_, L>,
    unit: u32,
    mut visit: impl FnMut(Identity),
) -> Result<(), ShmError> {
    let (start, _) = locked.arena.piece(unit)?;
    // SAFETY: as in `Object::prologue`.
    let prologue = unsafe { start.cast::<Prologue>().as_ref() };
    for entry in entries(locked, prologue) {
        let word = entry.load(Ordering::Acquire);
        if let (true, Entry::Holder(identity) | Entry::Sent(identity)) = (word != 0, Entry::of(word)) {
            visit(identity);
        }
    }
    Ok(())
}
