//! Whether it pays to look again and again before sleeping.
//!
//! It does where the other side runs on another processor and answers at once. Where both share one, or it takes its
//! time, every such wait is lost. So an end that waited in vain a few times sleeps at once, and tries again ever
//! more seldom. A try is as long as it takes to wake an idle processor: otherwise two ends that both gave up would
//! never find out that it pays again.
//!
//! After a long message it is longer: whoever answers copies the message out, and the answer in, which takes more than that
//! for a MiB.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use weft_wait::DescriptorParker;

const SPIN: Duration = Duration::from_micros(50);
/// Nanoseconds more for so many bytes of a long message: four copies at 20 bytes a nanosecond.
const BYTES_A_NANOSECOND: u32 = 5;
/// What is beyond this pays for its sleep.
const LONGEST: u32 = 1 << 20;
/// So many waits in vain in a row are a bad sign.
const FUTILE: u32 = 4;
/// The most sleeps between two tries.
const SELDOM: u32 = 256;

/// What an end has learned.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    futile: AtomicU32,
    /// How many sleeps there are still to be before the next try.
    skip: AtomicU32,
    /// How long the long message was that was sent or received since the last try.
    length: AtomicU32,
}

impl Patience {
    /// A long message was sent or received.
    pub(crate) fn note(&self, length: u64) {
        let length = u32::try_from(length).unwrap_or(LONGEST).min(LONGEST);
        self.length.store(length, Ordering::Relaxed);
    }

    /// Looks at `ready` for a moment, if that is likely to pay. Says whether it became true.
    pub(crate) fn linger<P: DescriptorParker>(
        &self,
        parker: &mut P,
        ready: &mut dyn FnMut() -> bool,
    ) -> bool {
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
            return false;
        }
        let length = self.length.load(Ordering::Relaxed);
        if length > 0 {
            self.length.store(0, Ordering::Relaxed);
        }
        let more = length / BYTES_A_NANOSECOND;
        let found = parker.linger_for(SPIN + Duration::from_nanos(more.into()), ready);
        let futile = if found { 0 } else { self.futile.load(Ordering::Relaxed) + 1 };
        self.futile.store(futile.min(FUTILE + 8), Ordering::Relaxed);
        if futile > FUTILE {
            self.skip.store((1 << (futile - FUTILE + 2)).min(SELDOM), Ordering::Relaxed);
        }
        found
    }
}
