//! What has to happen around a fork, so that the child is somebody.
//!
//! The first arena registers handlers with `pthread_atfork`, so any fork made through the C library is seen: an
//! interpreter's, a library's, a user's. Before it, each object that this process holds gets a promise for the child
//! ([`object`](crate::object)), and the locks that are this process's own are taken, because a child in which another
//! thread's lock stays taken could never use it. In the child the arenas learn their new identity and the promises
//! are redeemed. Locks in shared memory need nothing: they belong to threads that live on in the parent.
//!
//! Order: the registry's lock, then locks of arenas in shared memory, then each process's own. Nobody registers or
//! unregisters with one of the later ones. What is told of the fork is kept alive until the registry is unlocked again,
//! because the last one to let go of it unregisters.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once, Weak};

use crate::lock::Mutex;

/// Something of which a forked child gets a share.
pub(crate) trait Inherited: Send + Sync {
    /// In the parent, before the fork.
    fn before(&self);
    /// In the parent, after it.
    fn in_parent(&self);
    /// In the child of the process `parent`.
    fn in_child(&self, parent: u32);
}

#[derive(Default)]
struct Registry {
    /// By address. Those of the first rank come first.
    ranks: [HashMap<usize, Weak<dyn Inherited>>; 2],
    /// During a fork: all of them, by rank.
    forking: Vec<Arc<dyn Inherited>>,
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);
static PARENT: AtomicU32 = AtomicU32::new(0);
static HANDLERS: Once = Once::new();

/// What is told of a fork first.
#[derive(Clone, Copy)]
pub(crate) enum Rank {
    /// Arenas.
    Arena = 0,
    /// What lies in them.
    Object = 1,
}

pub(crate) fn register(rank: Rank, what: &Arc<impl Inherited + 'static>) {
    HANDLERS.call_once(|| {
        if cfg!(miri) {
            return; // it has no forks
        }
        // SAFETY: the handlers are functions of this program, which stays loaded.
        unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    });
    let weak: Weak<dyn Inherited> = Arc::downgrade(&(Arc::clone(what) as Arc<dyn Inherited>));
    let mut registry = REGISTRY.lock();
    let registry = registry.get_or_insert_with(Registry::default);
    registry.ranks[rank as usize].insert(Arc::as_ptr(what).cast::<()>().addr(), weak);
}

pub(crate) fn unregister(rank: Rank, address: usize) {
    if let Some(registry) = REGISTRY.lock().as_mut() {
        registry.ranks[rank as usize].remove(&address);
    }
}

extern "C" fn before() {
    let mut guard = REGISTRY.lock();
    PARENT.store(std::process::id(), Ordering::Relaxed);
    if let Some(registry) = guard.as_mut() {
        registry.forking =
            registry.ranks.iter().flat_map(HashMap::values).filter_map(Weak::upgrade).collect();
        // Objects first: a promise may need to map a window or to allocate, for which the arenas must not be frozen.
        registry.forking.iter().rev().for_each(|inherited| inherited.before());
    }
    std::mem::forget(guard);
}

extern "C" fn in_parent() {
    after(|inherited| inherited.in_parent());
}

extern "C" fn in_child() {
    let parent = PARENT.load(Ordering::Relaxed);
    after(|inherited| inherited.in_child(parent));
}

fn after(visit: impl Fn(&dyn Inherited)) {
    // SAFETY: this thread, or the one that it continues in the child, locked it in `before` and forgot the guard.
    let mut guard = unsafe { REGISTRY.resume() };
    let told = guard.as_mut().map(|registry| std::mem::take(&mut registry.forking)).unwrap_or_default();
    told.iter().for_each(|inherited| visit(&**inherited));
    drop(guard);
    // Only now: for some of it this may be the last reference, and then it unregisters.
    drop(told);
}
