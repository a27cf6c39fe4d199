//! Taking a lane's locks.

use std::hint;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use weft_shm::robust::{Held, Robust, RobustMutex};
use weft_wait::Parker;

use crate::error::PipeError;
use crate::lane::{Lane, WHOLE};

/// How long a thread waits for a lock before it looks up: its holder may be stopped.
const SLICE: Duration = Duration::from_millis(50);
/// How often a lock is tried before the kernel is asked.
const TRIES: u32 = 100;

/// A lock of a lane, held.
pub(crate) struct Guard<'a>(&'a RobustMutex);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // SAFETY: held since this was made, by this thread.
        unsafe { self.0.unlock() };
    }
}

/// The calling thread's id.
pub(crate) fn this_thread() -> u32 {
    thread_local!(static ID: std::cell::Cell<(u32, u32)> = const { std::cell::Cell::new((u32::MAX, 0)) });
    let forks = crate::forks::now();
    let (noted, id) = ID.get();
    if noted == forks {
        return id;
    }
    let id = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    ID.set((forks, id));
    id
}

fn lock<'a, P: Parker>(
    mutex: &'a RobustMutex,
    stage: &AtomicU32,
    thread: &AtomicU32,
    parker: &mut P,
) -> Result<(Guard<'a>, Held), PipeError<P::Interrupt>> {
    let mut held = mutex.try_lock();
    let mut tries = 0;
    while held.is_none() && tries < TRIES {
        hint::spin_loop();
        tries += 1;
        held = mutex.try_lock();
    }
    // Another coroutine of this thread may hold it, and wait. To block the thread would have it wait for ever.
    while held.is_none() && parker.give_way().map_err(PipeError::Interrupted)? {
        held = mutex.try_lock();
    }
    if held.is_none()
        && stage.load(Ordering::Relaxed) != WHOLE
        && thread.load(Ordering::Relaxed) == this_thread()
    {
        // This thread holds it, below a signal handler.
        return Err(PipeError::Reentered);
    }
    while held.is_none() {
        parker
            .block(&mut || {
                held = mutex.lock_within(SLICE);
                held.is_some()
            })
            .map_err(PipeError::Interrupted)?;
    }
    // The loops end with a value only.
    held.map_or_else(|| unreachable!("the lock is held"), |held| Ok((Guard(mutex), held)))
}

impl Lane {
    /// Takes the writers' lock, and repairs what its last holder left if it died.
    pub(crate) fn lock_writing<P: Parker>(
        &self,
        parker: &mut P,
    ) -> Result<Guard<'_>, PipeError<P::Interrupt>> {
        let (guard, held) = lock(&self.writing, &self.stage, &self.writer_thread, parker)?;
        if held == Held::AfterDeath {
            self.repair_writing();
        }
        Ok(guard)
    }

    /// The writers' lock, if nobody has it.
    pub(crate) fn try_lock_writing(&self) -> Option<Guard<'_>> {
        let held = self.writing.try_lock()?;
        if held == Held::AfterDeath {
            self.repair_writing();
        }
        Some(Guard(&self.writing))
    }

    /// Takes the readers' lock, likewise.
    pub(crate) fn lock_reading<P: Parker>(
        &self,
        parker: &mut P,
    ) -> Result<Guard<'_>, PipeError<P::Interrupt>> {
        let (guard, held) = lock(&self.reading, &self.taking, &self.reader_thread, parker)?;
        if held == Held::AfterDeath {
            self.repair_reading();
        }
        Ok(guard)
    }

    /// The readers' lock, if nobody has it.
    pub(crate) fn try_lock_reading(&self) -> Option<Guard<'_>> {
        let held = self.reading.try_lock()?;
        if held == Held::AfterDeath {
            self.repair_reading();
        }
        Some(Guard(&self.reading))
    }
}
