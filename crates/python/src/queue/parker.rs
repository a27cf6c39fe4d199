//! How a thread of the interpreter waits: without the GIL, and open to signals.
//!
//! If the thread has a hub, and its current greenlet is another one than that, the greenlet is parked in the hub instead, and the
//! thread goes on with others. That is decided anew at each park, which is a slow path: programs without a hub pay nothing for it.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use pyo3::exceptions::PyEOFError;
use pyo3::ffi;
use pyo3::prelude::*;
use weft_reactor::Ready;
use weft_shm::Queue;
use weft_wait::thread::{self, Patience, Prospect, Slices};
use weft_wait::{Deadline, DescriptorParker, Interest, Life, Parker, Signal, Ticket, Woken, sleep_at};

use crate::hub::{self, Ended, For, Here};

/// The first of the moments for which a greenlet lets others run that may hold a lock, and the last.
const FIRST_MOMENT: Duration = Duration::from_micros(100);
const LAST_MOMENT: Duration = Duration::from_millis(10);

/// Gives the GIL up until it is dropped.
struct Detached(*mut ffi::PyThreadState);

impl Detached {
    /// # Safety
    ///
    /// The calling thread holds the GIL, and uses nothing that the GIL guards until this is dropped.
    unsafe fn new() -> Self {
        // SAFETY: the GIL is held.
        Self(unsafe { ffi::PyEval_SaveThread() })
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        // SAFETY: the thread state that `new` saved, on the same thread.
        unsafe { ffi::PyEval_RestoreThread(self.0) };
    }
}

/// Runs `work`, which knows nothing of Python, without the GIL.
pub(crate) fn without_gil<T>(_py: Python<'_>, work: impl FnOnce() -> T) -> T {
    // SAFETY: the GIL is held, as `_py` shows; the engine's code that `work` consists of touches no Python object.
    let _detached = unsafe { Detached::new() };
    work()
}

/// The calling thread.
pub(crate) struct GilParker<'py> {
    py: Python<'py>,
    slices: Slices,
    source: Option<&'py Queue>,
    /// The lock whose holder is waited for: its end ends a sleep.
    life: Option<&'py Life>,
    spin: Spin,
    deaf: bool,
    /// Whether the copy that a fork makes of a waiting greenlet must not leave the wait.
    stays: bool,
    /// How often the greenlet gave way.
    gave_way: u8,
}

/// What a thread does before its first sleep.
#[derive(Clone, Copy)]
enum Spin {
    /// Looks for a fixed moment.
    Fixed,
    /// Looks for as long as has shown to be worth while.
    Learnt(&'static Patience),
    /// Looks for a moment if that is likely to pay, first with the GIL: giving it up costs as much as the other side takes.
    Quick(&'static Prospect),
    /// Sleeps at once.
    None,
}

impl<'py> GilParker<'py> {
    pub(crate) fn new(py: Python<'py>) -> Self {
        Self::with(py, Spin::Fixed)
    }

    fn with(py: Python<'py>, spin: Spin) -> Self {
        Self {
            py,
            slices: Slices::default(),
            source: None,
            life: None,
            spin,
            deaf: false,
            stays: false,
            gave_way: 0,
        }
    }

    /// For a wait that spins as long as others for the same kind of thing have shown to be worth while.
    pub(crate) fn for_lock(py: Python<'py>, patience: &'static Patience) -> Self {
        Self::with(py, Spin::Learnt(patience))
    }

    /// For a wait that sleeps at once: who wakes it goes to sleep itself as a rule, and leaves it its own processor.
    pub(crate) fn for_event(py: Python<'py>) -> Self {
        Self::with(py, Spin::None)
    }

    /// For a wait for what the holder of `life` will do; its end ends a sleep at once.
    pub(crate) fn for_answer(py: Python<'py>, prospect: &'static Prospect, life: Option<&'py Life>) -> Self {
        Self { life, stays: true, ..Self::with(py, Spin::Quick(prospect)) }
    }

    /// With something of one's own that others see, such as a place among those that wait, which the copy of a greenlet that a fork
    /// makes must not give up.
    pub(crate) fn staying(self) -> Self {
        Self { stays: true, ..self }
    }

    /// For a short wait that signals do not interrupt.
    pub(crate) fn deaf(py: Python<'py>) -> Self {
        Self { deaf: true, ..Self::new(py) }
    }

    /// For a wait that ends with EOFError when nobody is left who could put something into `source`.
    pub(super) fn for_reader(py: Python<'py>, source: &'py Queue) -> Self {
        Self { source: Some(source), ..Self::new(py) }
    }

    /// Where the calling greenlet can be parked. Nowhere, if it is not to be interrupted.
    fn here(&self) -> Option<Here<'py>> {
        if self.deaf { None } else { hub::here(self.py) }
    }

    #[cold]
    fn park_greenlet(
        &mut self,
        here: Here<'py>,
        (signal, ticket): (&Signal, Ticket),
        deadline: Deadline,
    ) -> PyResult<()> {
        let word = (signal.word(), ticket.value());
        let slice = self.slices.next(deadline);
        let ended = match self.life.map(|life| life.watch()) {
            None => here.wait(&For::Words(&[word]), Some(slice), self.stays)?,
            Some(Some(beside)) => here.wait(&For::Words(&[word, beside]), Some(slice), self.stays)?,
            Some(None) => return Ok(()),
        };
        if ended == Ended::TimedOut { self.check_source() } else { Ok(()) }
    }

    /// At the end of a slice: whether there is still something to wait for.
    fn check_source(&self) -> PyResult<()> {
        match self.source {
            // Emptiness is looked at last: what was put before the writer died is there to be got.
            Some(queue) if !queue.has_writer() && queue.is_empty() => {
                Err(PyEOFError::new_err("every process that could put something into the queue has ended"))
            }
            _ => Ok(()),
        }
    }
}

impl Parker for GilParker<'_> {
    type Interrupt = PyErr;

    fn park(&mut self, signal: &Signal, ticket: Ticket, deadline: Deadline) -> PyResult<()> {
        if let Some(here) = self.here() {
            return self.park_greenlet(here, (signal, ticket), deadline);
        }
        let slices = &mut self.slices;
        let watched = self.life.map(Life::watch);
        let woken = without_gil(self.py, || match watched {
            None => thread::sleep(signal, ticket, slices, deadline),
            Some(Some(beside)) => thread::sleep_beside(signal, ticket, beside, slices, deadline),
            Some(None) => Woken::Changed,
        });
        self.py.check_signals()?;
        if woken == Woken::TimedOut { self.check_source() } else { Ok(()) }
    }

    fn block(&mut self, step: &mut dyn FnMut() -> bool) -> PyResult<()> {
        while !without_gil(self.py, &mut *step) {
            if !self.deaf {
                self.py.check_signals()?;
            }
        }
        Ok(())
    }

    fn give_way(&mut self) -> PyResult<bool> {
        let Some(here) = self.here() else { return Ok(false) };
        let moment = (FIRST_MOMENT * (1 << self.gave_way)).min(LAST_MOMENT);
        self.gave_way = (self.gave_way + 1).min(7);
        here.wait(&For::Time, Some(moment), self.stays)?;
        Ok(true)
    }

    fn linger(&mut self, ready: &mut dyn FnMut() -> bool) -> bool {
        if self.here().is_some_and(Here::is_busy) {
            // Others have something better to do with the time.
            return ready();
        }
        match self.spin {
            Spin::Fixed => without_gil(self.py, || thread::spin(ready)),
            Spin::Learnt(patience) => without_gil(self.py, || patience.spin(ready)),
            Spin::Quick(prospect) => prospect.glance(ready) || without_gil(self.py, || prospect.spin(ready)),
            Spin::None => false,
        }
    }
}

impl DescriptorParker for GilParker<'_> {
    fn park_at(
        &mut self,
        descriptor: BorrowedFd<'_>,
        interest: Interest,
        deadline: Deadline,
    ) -> PyResult<()> {
        if let Some(here) = self.here() {
            let wanted = match interest {
                Interest::Readable => Ready::READ,
                Interest::Writable => Ready::WRITE,
            };
            let slice = self.slices.next(deadline);
            return here
                .wait(&For::Descriptors(&[(descriptor.as_raw_fd(), wanted)]), Some(slice), self.stays)
                .map(|_| ());
        }
        let slices = &mut self.slices;
        without_gil(self.py, || sleep_at(descriptor, interest, slices, deadline));
        self.py.check_signals()
    }

    fn linger_for(&mut self, patience: Duration, ready: &mut dyn FnMut() -> bool) -> bool {
        if self.here().is_some_and(Here::is_busy) {
            return ready();
        }
        without_gil(self.py, || thread::spin_for(patience, ready))
    }
}

/// When to give up, from the arguments `block` and `timeout` of a queue's methods; the timeout is in seconds.
pub(crate) fn deadline(block: bool, timeout: Option<f64>) -> Deadline {
    match (block, timeout) {
        (false, _) => Deadline::after(Duration::ZERO),
        (true, None) => Deadline::NEVER,
        (true, Some(seconds)) => {
            Duration::try_from_secs_f64(seconds.max(0.0)).map_or(Deadline::NEVER, Deadline::after)
        }
    }
}
