//! What a descriptor is ready for.

use std::ops::{BitAnd, BitOr, BitOrAssign};

use weft_sys::epoll::EventFlags;

/// A set of readinesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready(u8);

impl Ready {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Something can be read, or the end of it.
    pub const READ: Self = Self(1);
    /// Something can be written, or it fails at once.
    pub const WRITE: Self = Self(2);
    /// The other side writes no more. It stays until a read is refused: a short one says nothing about the end that follows.
    pub const END: Self = Self(4);
    /// There was urgent data at some time. A read ends short at its mark whatever lies behind, so no short read of such a
    /// descriptor says that there is no more.
    pub(crate) const URGENT: Self = Self(8);
    /// Both directions.
    pub const BOTH: Self = Self(3);

    /// Whether any of `other` is in it.
    #[inline]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it is empty.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// What is left without `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What the kernel's flags mean. An error or a hang-up makes both directions ready: whoever tries learns of it.
    pub(crate) fn from_kernel(flags: EventFlags) -> Self {
        let mut ready = Self::NONE;
        if flags.intersects(EventFlags::IN | EventFlags::PRI) {
            ready |= Self::READ;
        }
        if flags.intersects(EventFlags::PRI) {
            ready |= Self::URGENT;
        }
        if flags.intersects(EventFlags::OUT) {
            ready |= Self::WRITE;
        }
        if flags.intersects(EventFlags::RDHUP) {
            ready |= Self::READ | Self::END;
        }
        if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            ready |= Self::BOTH | Self::END;
        }
        ready
    }

    /// The kernel's flags for a level-triggered watch.
    pub(crate) fn to_kernel(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        if self.has(Self::READ) {
            flags |= EventFlags::IN;
        }
        if self.has(Self::WRITE) {
            flags |= EventFlags::OUT;
        }
        flags
    }
}

impl BitOr for Ready {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Ready {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}
