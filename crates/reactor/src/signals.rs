//! Signals as something to wait for.
//!
//! A signal that is watched has one handler in the process, which counts it and rings the doorbells of the reactors that
//! listen: all of that may be done in a handler. Everything else is done by whoever a reactor wakes, which asks its
//! [`Listener`] what came. `signalfd` would need the signal blocked in every thread there is, those of libraries among them.
//!
//! The table has a fixed size and is never freed, and a listener is entered and removed by single stores: a handler may run at
//! any instant. A listener that is removed keeps its doorbell open until no handler can be ringing it, by the count of
//! handlers that run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;

use crate::{ReactorError, Waker};

/// So many signals there are, 0 among them, which is none.
const SIGNALS: usize = 65;
/// How many threads may listen.
const LISTENERS: usize = 256;

/// How often each signal came.
static COUNTS: [AtomicU64; SIGNALS] = [const { AtomicU64::new(0) }; SIGNALS];
/// Doorbells to ring, by number plus one; 0 is free.
static BELLS: [AtomicI32; LISTENERS] = [const { AtomicI32::new(0) }; LISTENERS];
/// How far into [`BELLS`] to look.
static USED: AtomicU32 = AtomicU32::new(0);
/// Handlers that run at this instant.
static RUNNING: AtomicU32 = AtomicU32::new(0);

/// Who watches which signal, and what it did before. Never taken in a handler.
static WATCHED: Mutex<[Watched; SIGNALS]> =
    Mutex::new([const { Watched { users: 0, before: None } }; SIGNALS]);

struct Watched {
    users: usize,
    before: Option<libc::sigaction>,
}

extern "C" fn handler(signal: libc::c_int) {
    RUNNING.fetch_add(1, Ordering::SeqCst);
    if let Some(count) = usize::try_from(signal).ok().and_then(|signal| COUNTS.get(signal)) {
        count.fetch_add(1, Ordering::SeqCst);
    }
    for bell in BELLS.iter().take(USED.load(Ordering::SeqCst) as usize) {
        let number = bell.load(Ordering::SeqCst);
        if number != 0 {
            weft_sys::doorbell::ring_raw(number - 1);
        }
    }
    RUNNING.fetch_sub(1, Ordering::SeqCst);
}

/// In the child of a fork, before anything else runs there: the handlers that ran in other threads do not exist.
pub(crate) fn after_fork() {
    RUNNING.store(0, Ordering::SeqCst);
}

/// A reactor's ear: while it lives, watched signals wake the reactor. Not `Send`: it belongs to the reactor's thread.
#[derive(Debug)]
pub struct Listener {
    place: usize,
    /// Keeps the doorbell open.
    _waker: Waker,
    watched: Vec<(i32, u64)>,
    not_send: std::marker::PhantomData<*const ()>,
}

impl Listener {
    /// One that watches no signal yet.
    ///
    /// # Errors
    ///
    /// [`ReactorError::SignalListeners`] if there are too many, [`ReactorError::Signal`] never.
    pub fn new(waker: &Waker) -> Result<Self, ReactorError> {
        use std::os::fd::AsRawFd;
        let number = waker.bell().as_raw_fd() + 1;
        let free =
            |bell: &AtomicI32| bell.compare_exchange(0, number, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        let Some(place) = BELLS.iter().position(free) else {
            return Err(ReactorError::SignalListeners { signal: 0, limit: LISTENERS });
        };
        USED.fetch_max(place as u32 + 1, Ordering::SeqCst);
        Ok(Self { place, _waker: waker.clone(), watched: Vec::new(), not_send: std::marker::PhantomData })
    }

    /// Has the signal wake the reactor, in place of whatever it did before.
    ///
    /// # Errors
    ///
    /// [`ReactorError::Signal`] for a number that is no signal's, or one that cannot be handled.
    pub fn watch(&mut self, signal: i32) -> Result<(), ReactorError> {
        if self.watched.iter().any(|&(known, _)| known == signal) {
            return Ok(());
        }
        let failed = |source| ReactorError::Signal { signal, source };
        let number =
            usize::try_from(signal).ok().filter(|n| (1..SIGNALS).contains(n)).ok_or(failed(Errno::INVAL))?;
        let mut table = WATCHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let watched = &mut table[number];
        let seen = COUNTS[number].load(Ordering::SeqCst);
        if watched.users == 0 {
            // SAFETY: zeroed is a valid `sigaction`; the handler does only what a handler may.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let mut before: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
                if libc::sigaction(signal, &raw const action, &raw mut before) != 0 {
                    let error = std::io::Error::last_os_error();
                    return Err(failed(Errno::from_io_error(&error).unwrap_or(Errno::INVAL)));
                }
                watched.before = Some(before);
            }
        }
        watched.users += 1;
        self.watched.push((signal, seen));
        Ok(())
    }

    /// Lets the signal do what it did before, once nobody watches it.
    pub fn unwatch(&mut self, signal: i32) {
        let Some(known) = self.watched.iter().position(|&(known, _)| known == signal) else { return };
        self.watched.swap_remove(known);
        let mut table = WATCHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let watched = &mut table[signal as usize];
        watched.users -= 1;
        if watched.users == 0
            && let Some(before) = watched.before.take()
        {
            // SAFETY: what `sigaction` gave. Somebody who put a handler of his own in our place keeps it.
            unsafe {
                let mut now: libc::sigaction = std::mem::zeroed();
                let asked = libc::sigaction(signal, std::ptr::null(), &raw mut now);
                if asked == 0 && now.sa_sigaction == handler as *const () as usize {
                    libc::sigaction(signal, &raw const before, std::ptr::null_mut());
                }
            }
        }
    }

    /// Hands each watched signal to `each` that came since this was called last, with how often.
    pub fn take(&mut self, mut each: impl FnMut(i32, u64)) {
        for (signal, seen) in &mut self.watched {
            let now = COUNTS[*signal as usize].load(Ordering::SeqCst);
            let came = now.wrapping_sub(std::mem::replace(seen, now));
            if came > 0 {
                each(*signal, came);
            }
        }
    }

    /// Whether it watches none.
    pub fn is_idle(&self) -> bool {
        self.watched.is_empty()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        while let Some(&(signal, _)) = self.watched.last() {
            self.unwatch(signal);
        }
        BELLS[self.place].store(0, Ordering::SeqCst);
        // A handler that read the number before may be about to ring: the doorbell must not be another's by then. It is
        // over in a moment; and one that was interrupted by this very thread cannot be.
        while RUNNING.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }
}
