//! A thread that sleeps at words of shared memory on behalf of coroutines.
//!
//! Queues and locks between processes wake whoever sleeps in the kernel at a word, and know nothing of coroutines; the kernel, in
//! turn, does not tell a descriptor of such a wake-up. So a hub whose coroutines wait at words has one thread that sleeps
//! at up to 127 of them at once, and passes wake-ups on to the hub. It is started by the first such wait, and there is
//! one more for every further 127.
//!
//! The list of words is behind a lock that the thread holds whenever it reads one, so a word may go as soon as its post was
//! recalled. Only the kernel may still have it in hand then. It could be woken for it, and that wake-up was meant for
//! somebody: for one that sleeps at the same word in another thread or process. So the thread wakes the next one there.
//!
//! Where the kernel cannot sleep at several words (before Linux 5.16, or under a filter of system calls that forbids it), the thread looks
//! at them every millisecond.
//!
//! The thread blocks all signals: their handlers belong to others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use weft_sys::futex::{self, MOST_WORDS, Waiter};

use crate::{Remote, WaiterKey};

/// Where a coroutine is posted.
#[derive(Debug, Clone, Copy)]
pub struct Post {
    sentry: usize,
    number: u64,
    /// How many forks the hub had seen: sentries of before are gone.
    forks: u32,
}

impl Post {
    /// At none, as the hub is closed.
    pub(crate) const fn nowhere() -> Self {
        Self { sentry: usize::MAX, number: 0, forks: 0 }
    }

    /// At which of the hub's sentries, if that is still there.
    pub(crate) fn sentry(self, forks: u32) -> Option<usize> {
        (self.forks == forks).then_some(self.sentry)
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    word: *const AtomicU32,
    expected: u32,
    key: WaiterKey,
}

// SAFETY: the word may be read from any thread as long as the entry is in the list.
unsafe impl Send for Entry {}

#[derive(Debug)]
struct Shared {
    /// Changed to have the thread look at the list again.
    bell: AtomicU32,
    /// In the order in which they came: so those that wait at one word are woken in that order.
    entries: Mutex<BTreeMap<u64, Entry>>,
    count: AtomicUsize,
    ended: AtomicBool,
    remote: Remote,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.bell.fetch_add(1, Ordering::SeqCst);
        futex::wake(&self.bell, 1);
    }
}

/// The thread, and what it sleeps at.
#[derive(Debug)]
pub struct Sentry {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    next: AtomicUsize,
}

/// How long the thread sleeps between two looks where the kernel cannot tell it.
const LOOK: Duration = Duration::from_millis(1);

impl Sentry {
    pub(crate) fn start(remote: Remote) -> Self {
        let shared = Arc::new(Shared {
            bell: AtomicU32::new(0),
            entries: Mutex::default(),
            count: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            remote,
        });
        let theirs = Arc::clone(&shared);
        let run = move || stand(&theirs);
        let thread = without_signals(|| std::thread::Builder::new().name("weft-sentry".into()).spawn(run));
        // Without a thread, waits at words end with their slices, as if whoever wakes had died.
        Self { shared, thread: thread.ok(), next: AtomicUsize::new(0) }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.shared.count.load(Ordering::Relaxed) < MOST_WORDS - 1
    }

    /// # Safety
    ///
    /// The word stays valid until [`recall`](Self::recall).
    pub(crate) unsafe fn post(
        &self,
        (sentry, forks): (usize, u32),
        word: *const AtomicU32,
        expected: u32,
        key: WaiterKey,
    ) -> Post {
        let number = self.next.fetch_add(1, Ordering::Relaxed) as u64;
        self.shared.lock().insert(number, Entry { word, expected, key });
        self.shared.count.fetch_add(1, Ordering::Relaxed);
        self.shared.ring();
        Post { sentry, number, forks }
    }

    pub(crate) fn recall(&self, post: Post) {
        self.shared.lock().remove(&post.number);
        self.shared.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// In the child of a fork: the thread does not exist, and what it had locked stays so.
    pub(crate) fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.ring();
        if let Some(thread) = self.thread.take() {
            // It has nothing to do that could fail.
            let _ = thread.join();
        }
    }
}

/// The thread.
fn stand(shared: &Shared) {
    let mut words = Vec::with_capacity(MOST_WORDS);
    let mut numbers = Vec::with_capacity(MOST_WORDS);
    loop {
        words.clear();
        numbers.clear();
        let bell = shared.bell.load(Ordering::SeqCst);
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        words.push(Waiter::new(&raw const shared.bell, bell));
        for (&number, entry) in shared.lock().iter().take(MOST_WORDS - 1) {
            words.push(Waiter::new(entry.word, entry.expected));
            numbers.push(number);
        }
        // SAFETY: the bell is ours; the others are only looked at by the kernel, and what is taken from a stranger is passed on.
        let woken = match unsafe { futex::wait_any(&words, None) } {
            Ok(index) => index.checked_sub(1),
            // A word has changed; and signals are blocked, but a debugger may stop the thread.
            Err(error) if matches!(error.raw_os_error(), libc::EAGAIN | libc::EINTR) => None,
            // It cannot, whyever: then not at every instant.
            Err(_) => {
                let _ = futex::wait(&shared.bell, bell, Some(LOOK));
                None
            }
        };
        let mut entries = shared.lock();
        let woken = woken.map(|index| (numbers[index], words[index + 1].address()));
        if let Some((number, address)) = woken
            && !entries.contains_key(&number)
        {
            futex::wake_one_at(address);
        }
        let is_over = |number: u64, entry: &Entry| {
            // SAFETY: in the list, so valid; recalling it waits for the lock.
            let now = unsafe { &*entry.word }.load(Ordering::Acquire);
            now != entry.expected || woken.is_some_and(|(woken, _)| woken == number)
        };
        entries.retain(|&number, entry| {
            let over = is_over(number, entry);
            if over {
                shared.remote.wake(entry.key);
            }
            !over
        });
    }
}

/// Has threads that `start` starts block all signals.
fn without_signals<R>(start: impl FnOnce() -> R) -> R {
    // SAFETY: valid sets; the mask is put back as it was.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let outcome = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        outcome
    }
}
