//! Where the lanes of a connection are: in memory that the other end shares, or this process's own.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use weft_shm::{Arena, Carrier, Handle, ShmError};

use crate::forks;
use crate::lane::{Lane, Lanes};

/// The lanes of a connection.
pub(crate) enum Home {
    /// Of a pair. Both ends, and everybody who holds one, see the same.
    Shared(Arc<Carrier>),
    /// Of a lone descriptor.
    Own(Box<Own>),
}

/// Lanes between the threads of a process. A forked child begins with fresh ones.
pub(crate) struct Own {
    lanes: UnsafeCell<Lanes>,
    /// [`forks::now`] when they were made, or `RENEWING`.
    made: AtomicU32,
}

const RENEWING: u32 = u32::MAX;

// SAFETY: the lanes are atomic and locks, and written as a whole by one thread only, before others may use them.
unsafe impl Send for Own {}
// SAFETY: as above.
unsafe impl Sync for Own {}

impl Home {
    /// New lanes for both ends of a pair.
    pub(crate) fn shared(arena: &Arc<Arena>) -> Result<Arc<Carrier>, ShmError> {
        let carrier = Carrier::create(arena, size_of::<Lanes>(), |start| {
            // SAFETY: zeroed, large enough, aligned, not used by anybody yet, and it stays where it is.
            unsafe { init(start.as_ptr().cast()) };
        })?;
        Ok(Arc::new(carrier))
    }

    /// The lanes of a pair that another process made.
    pub(crate) fn attach(arena: &Arc<Arena>, handle: Handle) -> Result<Arc<Carrier>, ShmError> {
        Carrier::attach(arena, handle, size_of::<Lanes>()).map(Arc::new)
    }

    pub(crate) fn own() -> Self {
        // SAFETY: zero is a valid value of everything in it.
        let lanes = unsafe { std::mem::zeroed() };
        let own = Own { lanes: UnsafeCell::new(lanes), made: AtomicU32::new(forks::now()) };
        let own = Box::new(own);
        // SAFETY: zeroed, nobody else's yet, and boxed.
        unsafe { init(own.lanes.get()) };
        Self::Own(own)
    }

    pub(crate) fn carrier(&self) -> Option<&Arc<Carrier>> {
        match self {
            Self::Shared(carrier) => Some(carrier),
            Self::Own(_) => None,
        }
    }

    pub(crate) fn lane(&self, index: usize) -> &Lane {
        match self {
            // SAFETY: made by `shared`, perhaps in another process; mapped as long as the carrier; shareable.
            Self::Shared(carrier) => unsafe { &carrier.start().cast::<Lanes>().as_ref().0[index] },
            Self::Own(own) => {
                own.renew_after_fork();
                // SAFETY: boxed, initialised, and after `renew_after_fork` nobody writes it as a whole.
                unsafe { &(*own.lanes.get()).0[index] }
            }
        }
    }
}

/// # Safety
///
/// As [`Lane::init`].
unsafe fn init(lanes: *mut Lanes) {
    // SAFETY: by the contract.
    unsafe {
        Lane::init(&raw mut (*lanes).0[0]);
        Lane::init(&raw mut (*lanes).0[1]);
    }
}

impl Own {
    /// A thread of the parent may have had the locks, and is not here to give them back.
    fn renew_after_fork(&self) {
        let now = forks::now();
        let mut made = self.made.load(Ordering::Acquire);
        while made != now {
            if made != RENEWING
                && self.made.compare_exchange(made, RENEWING, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                // SAFETY: no other thread of this process uses them: each comes here first, and waits.
                unsafe {
                    self.lanes.get().write_bytes(0, 1);
                    init(self.lanes.get());
                }
                self.made.store(now, Ordering::Release);
                return;
            }
            std::hint::spin_loop();
            made = self.made.load(Ordering::Acquire);
        }
    }
}
