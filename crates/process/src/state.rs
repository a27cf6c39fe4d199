//! What a child takes over from the process that asked for it, although another one forked it.
//!
//! The file mode mask, the calling thread's signal mask, the resource limits and the processors it may run on. The
//! client sends all of it, some four hundred bytes; the child sets what differs from its own. Environment and working
//! directory are the interpreter's business.

use std::fs;
use std::mem::MaybeUninit;
use std::ptr;

use rustix::io::Errno;

const LIMITS: usize = 16;
const PROCESSORS: usize = 128;
const FORMAT: u32 = 1;
const NO_MASK: u32 = u32::MAX;

/// How many bytes an encoded state has.
pub const LENGTH: usize = 4 + 4 + 8 + LIMITS * 16 + PROCESSORS;

/// A process's own settings, as the kernel has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// `None` where `/proc` does not say.
    file_mode_mask: Option<u32>,
    signals: u64,
    /// Soft and hard, by number.
    limits: [(u64, u64); LIMITS],
    /// One bit each.
    processors: [u8; PROCESSORS],
}

impl State {
    /// Those of the calling thread and its process.
    pub fn capture() -> Self {
        let mut limits = [(0, 0); LIMITS];
        for (number, limit) in limits.iter_mut().enumerate() {
            *limit = limit_of(number).unwrap_or((0, 0));
        }
        Self { file_mode_mask: file_mode_mask(), signals: signal_mask(), limits, processors: processors() }
    }

    /// As bytes.
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0..4].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.file_mode_mask.unwrap_or(NO_MASK).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.signals.to_le_bytes());
        for (number, (soft, hard)) in self.limits.iter().enumerate() {
            let at = 16 + number * 16;
            bytes[at..at + 8].copy_from_slice(&soft.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&hard.to_le_bytes());
        }
        bytes[LENGTH - PROCESSORS..].copy_from_slice(&self.processors);
        bytes
    }

    /// Reads what [`State::encode`] wrote; `None` if it is something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if word(0) != FORMAT {
            return None;
        }
        let mut limits = [(0, 0); LIMITS];
        for (index, limit) in limits.iter_mut().enumerate() {
            *limit = (number(16 + index * 16), number(24 + index * 16));
        }
        let processors = bytes[LENGTH - PROCESSORS..].try_into().expect("the rest");
        let mask = word(4);
        Some(Self {
            file_mode_mask: (mask != NO_MASK).then_some(mask & 0o777),
            signals: number(8),
            limits,
            processors,
        })
    }

    /// Sets in this process what differs from `own`, its present state. What the system refuses stays as it is: a
    /// limit that needs a privilege to be raised, processors that are not there.
    pub fn adopt(&self, own: &Self) {
        if let Some(mask) = self.file_mode_mask.filter(|_| self.file_mode_mask != own.file_mode_mask) {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
        }
        if self.processors != own.processors {
            set_processors(&self.processors);
        }
        for (number, (wanted, present)) in self.limits.iter().zip(&own.limits).enumerate() {
            if wanted != present {
                set_limit(number, *wanted);
            }
        }
        // Last, and always: a template blocks signals that its children take.
        set_signal_mask(self.signals);
    }
}

fn file_mode_mask() -> Option<u32> {
    // Nothing else tells it without changing it for a moment, under the feet of other threads.
    let status = fs::read("/proc/thread-self/status").ok()?;
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Umask:"))?;
    u32::from_str_radix(std::str::from_utf8(line).ok()?.trim(), 8).ok()
}

fn signal_mask() -> u64 {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is large enough for the kernel's, and is only written to.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), set.as_mut_ptr()) };
    // SAFETY: it was zeroed, so all of it is initialised; the kernel's 64 signals are its first word.
    unsafe { set.as_ptr().cast::<u64>().read_unaligned() }
}

/// Replaces the calling thread's signal mask.
pub(crate) fn set_signal_mask(mask: u64) {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: as in `signal_mask`; the set is initialised before it is read.
    unsafe {
        set.as_mut_ptr().cast::<u64>().write_unaligned(mask);
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
    }
}

fn limit_of(number: usize) -> Result<(u64, u64), Errno> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let number = u32::try_from(number).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel fills in the structure, or refuses the number.
    match unsafe { libc::getrlimit64(number as _, &raw mut limit) } {
        0 => Ok((limit.rlim_cur, limit.rlim_max)),
        _ => Err(Errno::INVAL),
    }
}

fn set_limit(number: usize, (soft, hard): (u64, u64)) {
    let set = |soft, hard| {
        let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
        // SAFETY: the structure is only read.
        unsafe { libc::setrlimit64(number as _, &raw const limit) == 0 }
    };
    if !set(soft, hard)
        && let Ok((_, own)) = limit_of(number)
    {
        set(soft.min(own), own);
    }
}

fn processors() -> [u8; PROCESSORS] {
    let mut bits = [0; PROCESSORS];
    // SAFETY: the kernel writes at most the given number of bytes.
    unsafe { libc::sched_getaffinity(0, PROCESSORS, bits.as_mut_ptr().cast()) };
    bits
}

fn set_processors(bits: &[u8; PROCESSORS]) {
    // SAFETY: the kernel reads the given number of bytes.
    unsafe { libc::sched_setaffinity(0, PROCESSORS, bits.as_ptr().cast()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let state = State::capture();
        assert_eq!(State::decode(&state.encode()), Some(state.clone()));
        assert!(state.file_mode_mask.is_some());
        assert!(state.processors.iter().any(|&byte| byte != 0));
    }

    #[test]
    fn other_bytes_are_no_state() {
        let bytes = State::capture().encode();
        assert_eq!(State::decode(&bytes[1..]), None);
        assert_eq!(State::decode(&[0; LENGTH]), None);
        assert_eq!(State::decode(&[]), None);
    }

    #[test]
    fn adopting_one_s_own_changes_nothing() {
        let state = State::capture();
        state.adopt(&state);
        assert_eq!(State::capture(), state);
    }
}
