//! Who holds a lock, as one word, and what becomes of locks that a process holds when it ends normally.
//!
//! ```text
//! 63             32 31              0
//! ├── time of start ┼── process id ──┤     0: nobody, the lock is free;  all ones: held, by nobody who could die
//! ```
//!
//! A lock that may be released by anybody (the standard library's `Lock`) is sometimes left taken on purpose by a process
//! that ends: another one will release it. That is no orphan, unless the process was killed. So a process that ends
//! normally says so: [`end_normally`] makes the locks that it holds nobody's, and those that it takes from
//! then on. A process that is killed, crashes, or leaves by `_exit` says nothing.
//!
//! For that, the locks that a process knows are listed. The list has a lock of its own, which is taken around a fork,
//! and under which nothing else is called.

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use weft_shm::identity::Identity;

/// How often one that waits looks whether the process that it waits for is still alive.
pub const LOOK: Duration = Duration::from_millis(50);

/// The word of a free lock.
pub(crate) const FREE: u64 = 0;
/// The word of a lock that is held by nobody who could die.
pub(crate) const NOBODY: u64 = u64::MAX;

/// Who holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The lock is free.
    None,
    /// A process that has ended normally and left it taken.
    Ended,
    /// This process, which may have ended meanwhile.
    Process(Identity),
}

impl Owner {
    pub(crate) const fn of(word: u64) -> Self {
        match word {
            FREE => Self::None,
            NOBODY => Self::Ended,
            _ => Self::Process(identity_of(word)),
        }
    }
}

pub(crate) const fn identity_of(word: u64) -> Identity {
    Identity { pid: word as u32, start: (word >> 32) as u32 }
}

/// This process's word; 0 before it was found out.
static ME: AtomicU64 = AtomicU64::new(0);
/// What this process writes into locks that a normal end leaves taken: its word, or [`NOBODY`].
static TENANT: AtomicU64 = AtomicU64::new(0);
static FORKS: AtomicU32 = AtomicU32::new(0);

/// This process's word, which is neither [`FREE`] nor [`NOBODY`].
#[inline]
pub(crate) fn me() -> u64 {
    match ME.load(Ordering::Relaxed) {
        0 => find_out(&ME),
        word => word,
    }
}

/// As [`me`], until this process has said that it ends.
#[inline]
pub(crate) fn tenant() -> u64 {
    match TENANT.load(Ordering::Relaxed) {
        0 => find_out(&TENANT),
        word => word,
    }
}

/// How many forks lie between the first process that made or attached a lock and the calling one. What was noted
/// under another number was noted by a parent.
#[inline]
pub fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

#[cold]
fn find_out(place: &AtomicU64) -> u64 {
    let Identity { pid, start } = Identity::current();
    let word = u64::from(start) << 32 | u64::from(pid);
    // If another thread has said meanwhile that this process ends, that stays.
    match place.compare_exchange(0, word, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => word,
        Err(known) => known,
    }
}

/// Sees to it that a fork is noticed. Whoever makes or attaches a lock calls it.
pub(crate) fn prepare_for_forks() {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(|| {
        // SAFETY: the handlers are functions of this program, which stays loaded.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    });
}

extern "C" fn before_fork() {
    KNOWN.lock();
}

extern "C" fn in_parent() {
    KNOWN.unlock();
}

extern "C" fn in_child() {
    ME.store(0, Ordering::Relaxed);
    TENANT.store(0, Ordering::Relaxed);
    FORKS.fetch_add(1, Ordering::Relaxed);
    // This thread is the one that took it in the parent.
    KNOWN.unlock();
}

/// The words of the locks that this process knows and a normal end leaves taken, each with how many handles it has.
struct Known {
    taken: AtomicBool,
    words: UnsafeCell<BTreeMap<usize, u32>>,
}

// SAFETY: the map is only touched between `lock` and `unlock`.
unsafe impl Sync for Known {}

static KNOWN: Known = Known { taken: AtomicBool::new(false), words: UnsafeCell::new(BTreeMap::new()) };

impl Known {
    fn lock(&self) {
        while self.taken.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    fn unlock(&self) {
        self.taken.store(false, Ordering::Release);
    }

    fn with<T>(&self, visit: impl FnOnce(&mut BTreeMap<usize, u32>) -> T) -> T {
        self.lock();
        // SAFETY: between `lock` and `unlock`.
        let value = visit(unsafe { &mut *self.words.get() });
        self.unlock();
        value
    }
}

/// Lists the word of a lock. It stays where it is until [`forget`] is called as often.
pub(crate) fn remember(word: &AtomicU64) {
    KNOWN.with(|words| *words.entry(std::ptr::from_ref(word).expose_provenance()).or_default() += 1);
}

/// Strikes the word off the list. Who holds the lock without knowing it any more will not release it.
pub(crate) fn forget(word: &AtomicU64) {
    let address = std::ptr::from_ref(word).expose_provenance();
    let is_last = KNOWN.with(|words| match words.get_mut(&address) {
        Some(count) if *count > 1 => {
            *count -= 1;
            false
        }
        _ => words.remove(&address).is_some(),
    });
    if is_last {
        leave(word);
    }
}

fn leave(word: &AtomicU64) {
    let me = ME.load(Ordering::Relaxed);
    let mine = if me == 0 { TENANT.load(Ordering::Relaxed) } else { me };
    if mine != 0 && mine != NOBODY {
        // If it is not this process's, it stays whose it is.
        let _ = word.compare_exchange(mine, NOBODY, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Says that this process is about to end normally: locks that it leaves taken are left so on purpose.
///
/// Only for locks with [`Tenure::UntilNormalEnd`](crate::Tenure). Calling it again is harmless, and so is going on
/// afterwards, except that nobody is told any more if this process is killed with such a lock.
pub fn end_normally() {
    // First this, so that no lock is taken with the process's word after the list was gone through.
    let _ = me();
    TENANT.store(NOBODY, Ordering::SeqCst);
    KNOWN.with(|words| {
        for address in words.keys() {
            // SAFETY: listed words stay where they are, and are atomic.
            leave(unsafe { &*std::ptr::with_exposed_provenance::<AtomicU64>(*address) });
        }
    });
}
