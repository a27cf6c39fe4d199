//! The map as one process has it.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_shm::{Arena, Carrier, Handle, ShmError};

use crate::hash::hash;
use crate::segment::Glance;
use crate::shard::{Open, Seen, Shard};

/// Into how many parts a map is divided, each with a lock of its own.
pub const SHARDS: usize = 64;

const TAG: u64 = u64::from_le_bytes(*b"weftmap2");
/// How long a thread sleeps for a lock before its host is asked whether to go on.
const SLICE: Duration = Duration::from_millis(50);

#[repr(C, align(64))]
struct Layout {
    tag: AtomicU64,
    shards: [Shard; SHARDS],
}

/// A value: what it is, which is its user's business, and its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Value {
    /// What it is.
    pub kind: u8,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Tells it from all values that the key had before or has later.
    pub stamp: u64,
}

/// A key, in the same way, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the key is.
    pub kind: u8,
    /// Its bytes.
    pub key: Vec<u8>,
    /// The value.
    pub value: Value,
}

/// What to do while a lock is not free: called with a step that sleeps for a moment and says whether it is done. An error ends
/// the wait.
pub trait Host {
    /// What ends a wait.
    type Interrupt: From<ShmError>;

    /// Repeats `step` until it is done.
    fn block(&mut self, step: &mut dyn FnMut() -> bool) -> Result<(), Self::Interrupt>;
}

/// A process's handle of a map. Forked children have it, too.
pub struct Map {
    carrier: Carrier,
    seen: Box<[Seen]>,
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("handle", &self.carrier.handle()).finish_non_exhaustive()
    }
}

/// A key, with its hash.
#[derive(Debug, Clone, Copy)]
struct Key<'a> {
    kind: u8,
    bytes: &'a [u8],
    hash: u64,
}

impl Map {
    /// A new, empty map.
    ///
    /// # Errors
    ///
    /// [`ShmError`] if the memory is not to be had.
    pub fn create(arena: &Arc<Arena>) -> Result<Self, ShmError> {
        let carrier = Carrier::create(arena, size_of::<Layout>(), |start| {
            let layout: NonNull<Layout> = start.cast();
            // SAFETY: zeroed, long enough, aligned to 64, nobody else's yet, and it does not move.
            unsafe {
                for number in 0..SHARDS {
                    Shard::init(&raw mut (*layout.as_ptr()).shards[number]);
                }
                (*layout.as_ptr()).tag.store(TAG, Ordering::Release);
            }
        })?;
        Ok(Self::with(carrier))
    }

    /// The map that another process made.
    ///
    /// # Errors
    ///
    /// [`ShmError::Gone`] if it has ended, [`ShmError::Damaged`] if it is something else.
    pub fn attach(arena: &Arc<Arena>, handle: Handle) -> Result<Self, ShmError> {
        let map = Self::with(Carrier::attach(arena, handle, size_of::<Layout>())?);
        if map.layout().tag.load(Ordering::Acquire) != TAG {
            return Err(ShmError::Damaged { what: "an object is not of the kind that it was taken for" });
        }
        Ok(map)
    }

    fn with(carrier: Carrier) -> Self {
        Self { carrier, seen: (0..SHARDS).map(|_| Seen::default()).collect() }
    }

    fn layout(&self) -> &Layout {
        // SAFETY: as long as this, made by `create`, mapped as long as the carrier; all of it atomic or locks.
        unsafe { self.carrier.start().cast::<Layout>().as_ref() }
    }

    /// What another process with the same arena needs to attach.
    pub fn handle(&self) -> Handle {
        self.carrier.handle()
    }

    /// The arena it lies in.
    pub fn arena(&self) -> &Arc<Arena> {
        self.carrier.arena()
    }

    /// How many entries there are. Others may be changing it.
    pub fn len(&self) -> u64 {
        self.layout().shards.iter().map(Shard::len).sum()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn open<H: Host>(&self, number: usize, host: &mut H) -> Result<Open<'_>, H::Interrupt> {
        self.carrier.check()?;
        let (shard, seen) = (&self.layout().shards[number], &self.seen[number]);
        let attempt = |patience| Open::within(&self.carrier, shard, seen, number, patience);
        if let Some(open) = attempt(Duration::ZERO) {
            return Ok(open?);
        }
        let mut opened = None;
        host.block(&mut || {
            opened = attempt(SLICE);
            opened.is_some()
        })?;
        match opened {
            Some(open) => Ok(open?),
            None => Err(ShmError::Damaged { what: "a wait ended without a lock" }.into()),
        }
    }

    fn key<'k>(kind: u8, bytes: &'k [u8]) -> (usize, Key<'k>) {
        let hash = hash(kind, bytes);
        ((hash >> 58) as usize % SHARDS, Key { kind, bytes, hash })
    }

    /// Copies the value of the key into `value`. False if there is none.
    ///
    /// # Errors
    ///
    /// What interrupts the host, and [`ShmError`], here and below.
    pub fn get<H: Host>(
        &self,
        (kind, key): (u8, &[u8]),
        value: &mut Value,
        host: &mut H,
    ) -> Result<bool, H::Interrupt> {
        let found = self.look(
            (kind, key),
            |kind, bytes, stamp| {
                value.kind = kind;
                value.stamp = stamp;
                value.bytes.clear();
                value.bytes.extend_from_slice(bytes);
            },
            host,
        )?;
        Ok(found.is_some())
    }

    /// Shows the value of the key to `look`: what it is, its bytes, its stamp. `None` if there is none.
    ///
    /// The shard is locked meanwhile, so `look` is quick, and calls nothing of the program.
    ///
    /// # Errors
    ///
    /// As above.
    #[inline]
    pub fn look<H: Host, T>(
        &self,
        (kind, key): (u8, &[u8]),
        look: impl FnOnce(u8, &[u8], u64) -> T,
        host: &mut H,
    ) -> Result<Option<T>, H::Interrupt> {
        let (number, key) = Self::key(kind, key);
        let open = self.open(number, host)?;
        let record = open.get(key.hash, key.kind, key.bytes)?;
        Ok(record.map(|record| look(record.value_kind, record.value, record.stamp)))
    }

    /// As [`look`](Self::look), without the lock, if nobody changes the shard meanwhile: then what was seen is what one would have
    /// seen with it. `None`: it has to be looked at with the lock.
    ///
    /// What is copied out is short: a key and a value of at most [`GLANCE`](crate::GLANCE) bytes together.
    ///
    /// # Safety
    ///
    /// No other thread of this process uses the map meanwhile.
    #[inline]
    pub unsafe fn glance(&self, (kind, key): (u8, &[u8])) -> Option<Glance> {
        self.carrier.check().ok()?;
        let (number, key) = Self::key(kind, key);
        let (shard, seen) = (&self.layout().shards[number], &self.seen[number]);
        // SAFETY: by the contract, nobody changes what this process knows of the shard.
        unsafe { shard.glance(seen, key.hash, key.kind, key.bytes) }
    }

    /// Sets the value of the key.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn set<H: Host>(
        &self,
        (kind, key): (u8, &[u8]),
        value: (u8, &[u8]),
        host: &mut H,
    ) -> Result<(), H::Interrupt> {
        let (number, key) = Self::key(kind, key);
        Ok(self.open(number, host)?.set(key.hash, (key.kind, key.bytes), value)?)
    }

    /// Changes the value of the key in one step. `change` is given what is there, and says what is to be there: `None` leaves it.
    ///
    /// The shard is locked meanwhile, so `change` is quick, and calls nothing of the program.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn change<H: Host>(
        &self,
        (kind, key): (u8, &[u8]),
        change: impl FnOnce(Option<(u8, &[u8], u64)>) -> Option<(u8, Vec<u8>)>,
        host: &mut H,
    ) -> Result<(), H::Interrupt> {
        let (number, key) = Self::key(kind, key);
        let open = self.open(number, host)?;
        let before = open.get(key.hash, key.kind, key.bytes)?;
        let after = change(before.map(|record| (record.value_kind, record.value, record.stamp)));
        if let Some((value_kind, value)) = after {
            open.set(key.hash, (key.kind, key.bytes), (value_kind, &value))?;
        }
        Ok(())
    }

    /// Removes the key, and copies its value into `value`. False if there is none.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn remove<H: Host>(
        &self,
        (kind, key): (u8, &[u8]),
        value: &mut Value,
        host: &mut H,
    ) -> Result<bool, H::Interrupt> {
        let (number, key) = Self::key(kind, key);
        let open = self.open(number, host)?;
        Ok(open.remove(key.hash, key.kind, key.bytes, |record| {
            value.kind = record.value_kind;
            value.bytes.clear();
            value.bytes.extend_from_slice(record.value);
        })?)
    }

    /// The entries of one of the [`SHARDS`] parts, as they are at one moment; at most `most` of them.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn part<H: Host>(
        &self,
        number: usize,
        most: usize,
        host: &mut H,
    ) -> Result<Vec<Entry>, H::Interrupt> {
        let mut entries = Vec::new();
        self.open(number, host)?.each(|record| {
            if entries.len() < most {
                entries.push(Entry {
                    kind: record.key_kind,
                    key: record.key.to_vec(),
                    value: Value {
                        kind: record.value_kind,
                        bytes: record.value.to_vec(),
                        stamp: record.stamp,
                    },
                });
            }
            entries.len() < most
        })?;
        Ok(entries)
    }

    /// Removes everything, part by part.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn clear<H: Host>(&self, host: &mut H) -> Result<(), H::Interrupt> {
        for number in 0..SHARDS {
            self.open(number, host)?.clear()?;
        }
        Ok(())
    }
}
