//! A lock or semaphore, as `_multiprocessing.SemLock` is one.
//!
//! The methods that a program calls most are functions as the interpreter calls them: through the bindings, a call
//! costs half as much again as the lock does. What is not the ordinary case goes on in [`SemLock::obtain`].
//!
//! What only this process knows of the lock (how often it acquired it, and which thread was the last to) is guarded by
//! the GIL. A fork ends it: in the child the lock is its parent's.

mod methods;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};

use pyo3::exceptions::{PyAssertionError, PyNotImplementedError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use weft_shm::identity::Identity;
use weft_sync::{AcquireError, Grant, LARGEST_VALUE, Mutex, OverRelease, Semaphore, Tenure, owner};
use weft_wait::thread::Patience;

use super::{Address, address, find_arena, handle, own_arena, owner_died, shm_error};
use crate::hub::{greenlet_number, here};
use crate::queue::parker::{GilParker, deadline};

pub(super) use methods::{add, add_methods, body, enter, leave};

static PATIENCE: Patience = Patience::new();

/// The standard library's numbers of the kinds.
const RECURSIVE_MUTEX: i32 = 0;
const SEMAPHORE: i32 = 1;

#[derive(Debug)]
enum Shared {
    /// Anybody may release it.
    Lock(Mutex),
    /// The thread that acquired it may acquire it again, and nobody else release it.
    Recursive(Mutex),
    Semaphore(Semaphore),
}

impl Shared {
    #[inline(always)]
    fn try_take(&self) -> bool {
        match self {
            Self::Lock(mutex) | Self::Recursive(mutex) => mutex.try_take(),
            Self::Semaphore(semaphore) => semaphore.try_take(),
        }
    }

    #[inline(always)]
    fn release(&self) -> Result<(), OverRelease> {
        match self {
            Self::Lock(mutex) | Self::Recursive(mutex) => mutex.release(),
            Self::Semaphore(semaphore) => semaphore.release(),
        }
    }

    const fn kind(&self) -> i32 {
        match self {
            Self::Recursive(_) => RECURSIVE_MUTEX,
            Self::Lock(_) | Self::Semaphore(_) => SEMAPHORE,
        }
    }

    fn value(&self) -> u32 {
        match self {
            Self::Lock(mutex) | Self::Recursive(mutex) => u32::from(!mutex.is_taken()),
            Self::Semaphore(semaphore) => semaphore.value(),
        }
    }
}

/// A lock or semaphore that processes share.
///
/// A class that derives from it calls `_create` or `_attach` once.
#[pyclass(frozen, subclass, weakref, name = "SemLock", module = "weft.multiprocessing._sync")]
pub(crate) struct SemLock {
    shared: OnceLock<Shared>,
    /// Acquired by this process, less released.
    count: AtomicI64,
    /// The thread that acquired it last.
    thread: AtomicUsize,
    /// `owner::forks` when these were noted.
    forks: AtomicU32,
    /// Whether the lock of one that died is to be taken over, not only freed.
    recovers: AtomicBool,
    /// The process from which it was taken over the last time that it was acquired; 0 is none.
    recovered: AtomicU32,
}

/// Why a lock was not acquired.
enum Refusal {
    TimedOut,
    OwnerDied(Identity),
    /// By an exception from elsewhere: a signal's handler, whoever ends a greenlet.
    Interrupted(PyErr),
    Other(PyErr),
}

/// Who acquires: the calling thread, as the interpreter numbers them, or in a thread with a hub the greenlet that runs, unless
/// that is the thread's first one. To greenlets a recursive lock is what it is to threads.
#[inline(always)]
fn this_thread() -> usize {
    match greenlet_number() {
        // SAFETY: a plain question to the C library.
        0 => unsafe { libc::pthread_self() as usize },
        number => number,
    }
}

impl SemLock {
    fn set(&self, shared: Shared) -> PyResult<()> {
        self.shared.set(shared).map_err(|_| PyRuntimeError::new_err("the lock was initialised already"))
    }

    fn shared(&self) -> PyResult<&Shared> {
        self.shared
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("the lock was not initialised: call __init__"))
    }

    #[inline(always)]
    fn held(&self) -> i64 {
        if self.forks.load(Ordering::Relaxed) == owner::forks() {
            self.count.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    #[inline(always)]
    fn is_mine(&self) -> bool {
        self.held() > 0 && self.thread.load(Ordering::Relaxed) == this_thread()
    }

    /// Notes that the calling thread has acquired it.
    #[inline(always)]
    fn acquired(&self) {
        self.count.store(self.held() + 1, Ordering::Relaxed);
        self.forks.store(owner::forks(), Ordering::Relaxed);
        self.thread.store(this_thread(), Ordering::Relaxed);
    }

    /// Acquires it if that needs no wait. False says nothing.
    #[inline(always)]
    fn acquire_quickly(&self) -> bool {
        let Some(shared) = self.shared.get() else { return false };
        if matches!(shared, Shared::Recursive(_)) && self.is_mine() {
            self.count.store(self.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return true;
        }
        if !shared.try_take() {
            return false;
        }
        self.acquired();
        self.recovered.store(0, Ordering::Relaxed);
        true
    }

    /// Acquires it, however long that takes.
    #[cold]
    #[inline(never)]
    fn obtain(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> Result<(), Refusal> {
        if self.acquire_quickly() {
            return Ok(());
        }
        let shared = self.shared().map_err(Refusal::Other)?;
        let inherit = self.recovers.load(Ordering::Relaxed);
        let is_try = !block || timeout.is_some_and(|seconds| seconds <= 0.0);
        let mut parker = GilParker::for_lock(py, &PATIENCE);
        let outcome = match shared {
            Shared::Lock(mutex) | Shared::Recursive(mutex) if is_try => mutex.try_acquire(inherit),
            Shared::Lock(mutex) | Shared::Recursive(mutex) => {
                mutex.acquire(inherit, &mut parker, deadline(true, timeout))
            }
            Shared::Semaphore(semaphore) => {
                let patience = if is_try { deadline(false, None) } else { deadline(true, timeout) };
                semaphore.acquire(&mut parker, patience).map(|()| Grant::Clean)
            }
        };
        let died = match outcome {
            Ok(Grant::Clean) => 0,
            Ok(Grant::Inherited(dead)) => dead.pid,
            Err(AcquireError::TimedOut) => return Err(Refusal::TimedOut),
            Err(AcquireError::OwnerDied(dead)) => return Err(Refusal::OwnerDied(dead)),
            Err(AcquireError::Interrupted(error)) => return Err(Refusal::Interrupted(error)),
            Err(AcquireError::Memory(error)) => return Err(Refusal::Other(shm_error(error))),
        };
        self.acquired();
        self.recovered.store(died, Ordering::Relaxed);
        Ok(())
    }

    /// Acquires it, however long that takes. False if the time is over.
    #[cold]
    fn acquire_slowly(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        match self.obtain(py, block, timeout) {
            Ok(()) => Ok(true),
            Err(Refusal::TimedOut) => Ok(false),
            Err(Refusal::OwnerDied(dead)) => Err(owner_died(py, dead)),
            Err(Refusal::Interrupted(error) | Refusal::Other(error)) => Err(error),
        }
    }

    /// Whether the calling thread holds it.
    pub(super) fn is_held(&self) -> bool {
        self.is_mine()
    }

    /// Releases it as often as the calling thread acquired it, and says how often that was.
    pub(super) fn let_go(&self) -> PyResult<i64> {
        let count = self.held();
        if count > 1 {
            self.count.store(1, Ordering::Relaxed);
        }
        if self.release_once() { Ok(count) } else { Err(self.refusal()) }
    }

    /// Acquires it so often again, and only then says if its owner died meanwhile.
    ///
    /// A greenlet that is killed here, or whose time is over, has it nevertheless: its caller is about to give it back.
    pub(super) fn take_back(&self, py: Python<'_>, count: i64) -> PyResult<()> {
        let (mut died, mut interrupted) = (None, None);
        loop {
            match self.obtain(py, true, None) {
                Ok(()) => break,
                Err(Refusal::OwnerDied(dead)) => died = Some(dead),
                Err(Refusal::Interrupted(error)) if here(py).is_some() => {
                    interrupted.get_or_insert(error);
                }
                Err(Refusal::Interrupted(error) | Refusal::Other(error)) => return Err(error),
                Err(Refusal::TimedOut) => {}
            }
        }
        self.count.store(count, Ordering::Relaxed);
        match (interrupted, died) {
            (Some(error), _) => Err(error),
            (None, Some(dead)) => Err(owner_died(py, dead)),
            (None, None) => Ok(()),
        }
    }

    /// Releases it. False if that is not to be done, for which [`refusal`](Self::refusal) has the reason.
    #[inline(always)]
    fn release_once(&self) -> bool {
        let Some(shared) = self.shared.get() else { return false };
        if matches!(shared, Shared::Recursive(_)) {
            if !self.is_mine() {
                return false;
            }
            let count = self.count.load(Ordering::Relaxed);
            if count > 1 {
                self.count.store(count - 1, Ordering::Relaxed);
                return true;
            }
        }
        let held = self.held();
        if shared.release().is_err() {
            return false;
        }
        self.count.store(held - 1, Ordering::Relaxed);
        self.forks.store(owner::forks(), Ordering::Relaxed);
        true
    }

    /// Acquires it for other native code, however long that takes.
    #[inline(always)]
    pub(crate) fn take(&self, py: Python<'_>) -> PyResult<()> {
        if self.acquire_quickly() { Ok(()) } else { self.acquire_slowly(py, true, None).map(|_| ()) }
    }

    /// Whether it is recursive and the calling thread holds it: taking it once more would always succeed.
    #[inline(always)]
    pub(crate) fn is_held_again(&self) -> bool {
        matches!(self.shared.get(), Some(Shared::Recursive(_))) && self.is_mine()
    }

    /// Acquires it for other native code if that needs no wait. False says nothing.
    #[inline(always)]
    pub(crate) fn take_quickly(&self) -> bool {
        self.acquire_quickly()
    }

    /// Releases it for other native code. False if that is not to be done, for which [`refusal`](Self::refusal) has the reason.
    #[inline(always)]
    pub(crate) fn give_back_quickly(&self) -> bool {
        self.release_once()
    }

    /// Releases it for other native code.
    #[inline(always)]
    pub(crate) fn give_back(&self) -> PyResult<()> {
        if self.release_once() { Ok(()) } else { Err(self.refusal()) }
    }

    #[cold]
    pub(crate) fn refusal(&self) -> PyErr {
        match self.shared() {
            Ok(Shared::Recursive(_)) if !self.is_mine() => {
                PyAssertionError::new_err("attempt to release recursive lock not owned by thread")
            }
            Ok(_) => PyValueError::new_err(OverRelease.to_string()),
            Err(error) => error,
        }
    }
}

#[pymethods]
impl SemLock {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            shared: OnceLock::new(),
            count: AtomicI64::new(0),
            thread: AtomicUsize::new(0),
            forks: AtomicU32::new(owner::forks()),
            recovers: AtomicBool::new(false),
            recovered: AtomicU32::new(0),
        }
    }

    #[classattr]
    const SEM_VALUE_MAX: u32 = LARGEST_VALUE;

    /// Make a new one of a kind, RECURSIVE_MUTEX or SEMAPHORE, that is released so often, and may be no oftener
    /// than `maxvalue`. An `owned` one is a lock: it is known who holds it, so a death of that process is noticed.
    fn _create(&self, py: Python<'_>, kind: i32, value: i32, maxvalue: i32, owned: bool) -> PyResult<()> {
        if kind != RECURSIVE_MUTEX && kind != SEMAPHORE {
            return Err(PyValueError::new_err("unrecognized kind"));
        }
        let (Ok(value), Ok(most)) = (u32::try_from(value), u32::try_from(maxvalue)) else {
            // As sem_open's is raised.
            return Err(PyOSError::new_err((libc::EINVAL, "Invalid argument")));
        };
        let arena = own_arena(py)?;
        let shared = if kind == RECURSIVE_MUTEX {
            Mutex::create(&arena, Tenure::Always).map(Shared::Recursive)
        } else if owned {
            Mutex::create(&arena, Tenure::UntilNormalEnd).map(Shared::Lock)
        } else {
            Semaphore::create(&arena, value, most).map(Shared::Semaphore)
        };
        let shared = shared.map_err(shm_error)?;
        if value == 0 && (kind == RECURSIVE_MUTEX || owned) {
            let _ = shared.try_take();
        }
        self.set(shared)
    }

    /// Become a handle of what `_handle` of another process's describes, and `kind` and `_is_owned` say what it is.
    fn _attach(&self, py: Python<'_>, place: Address, kind: i32, owned: bool) -> PyResult<()> {
        let arena = find_arena(py, place.0)?;
        let shared = if kind == RECURSIVE_MUTEX {
            Mutex::attach(&arena, handle(place)).map(Shared::Recursive)
        } else if owned {
            Mutex::attach(&arena, handle(place)).map(Shared::Lock)
        } else {
            Semaphore::attach(&arena, handle(place)).map(Shared::Semaphore)
        };
        self.set(shared.map_err(shm_error)?)
    }

    /// Where it is: its arena's id, its place in it, and its generation.
    fn _handle(&self) -> PyResult<Address> {
        Ok(match self.shared()? {
            Shared::Lock(mutex) | Shared::Recursive(mutex) => address(mutex.arena().id(), mutex.handle()),
            Shared::Semaphore(semaphore) => address(semaphore.arena().id(), semaphore.handle()),
        })
    }

    #[getter]
    fn _is_owned(&self) -> PyResult<bool> {
        Ok(!matches!(self.shared()?, Shared::Semaphore(_)))
    }

    #[getter]
    fn kind(&self) -> PyResult<i32> {
        Ok(self.shared()?.kind())
    }

    #[getter]
    fn maxvalue(&self) -> PyResult<u32> {
        Ok(match self.shared()? {
            Shared::Semaphore(semaphore) => semaphore.most(),
            Shared::Lock(_) | Shared::Recursive(_) => 1,
        })
    }

    /// How often this process acquired it, less how often it released it.
    fn _count(&self) -> i64 {
        self.held()
    }

    /// Whether the calling thread was the last of this process to acquire it, and it was not released since.
    fn _is_mine(&self) -> bool {
        self.is_mine()
    }

    /// How often it can be acquired now without a wait. Other processes go on.
    fn _get_value(&self) -> PyResult<u32> {
        Ok(self.shared()?.value())
    }

    /// Whether it cannot be acquired now without a wait. Other processes go on.
    fn _is_zero(&self) -> PyResult<bool> {
        Ok(self.shared()?.value() == 0)
    }

    /// Forget that this process acquired it: what was acquired was so by the process that forked.
    fn _after_fork(&self) {
        self.count.store(0, Ordering::Relaxed);
        self.forks.store(owner::forks(), Ordering::Relaxed);
    }

    /// Whether `acquire` takes over the lock of a process that died; otherwise it raises.
    #[getter]
    fn get_recovers(&self) -> bool {
        self.recovers.load(Ordering::Relaxed)
    }

    #[setter]
    fn set_recovers(&self, recovers: bool) -> PyResult<()> {
        if recovers && matches!(self.shared()?, Shared::Semaphore(_)) {
            return Err(PyNotImplementedError::new_err("a semaphore has no owner"));
        }
        self.recovers.store(recovers, Ordering::Relaxed);
        Ok(())
    }

    /// The id of the process that died with it, if it was taken over from one the last time that it was acquired here.
    #[getter]
    fn recovered_from(&self) -> Option<u32> {
        Some(self.recovered.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }
}
