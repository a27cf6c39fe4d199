//! How calls and answers lie in a lane.
//!
//! A message is a `what` (a number for its reader), bytes, and buffers, which are spans that the desk owns while they are
//! on their way. Bytes and the table of buffers lie in the lane if they fit; otherwise in a span of their own, in the same
//! order, and the lane has one entry of the table, for that.
//!
//! ```text
//! in the lane       bytes, table
//! short             a few words beside the lane's state, or those of the answer, and nothing else
//! in a span         table of one entry     (in the lane)
//!                   bytes, table           (in the span)
//! entry             unit (4 bytes), nothing (4 bytes), length (8 bytes)
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use weft_shm::{Carrier, ShmError, Span};

use crate::lane::{ROOM, SHORT, Short, Slot};

/// The buffers of a message.
pub type Buffers = Vec<Span>;

/// Set in the number of buffers if the message lies in a span.
const SPILLED: u32 = 1 << 31;
/// The number of buffers of a short message.
const IS_SHORT: u32 = 1 << 30;
const ENTRY: usize = 16;
/// Above this many buffers a message is damaged.
const MOST: usize = 4096;

/// Which buffers are a message's: those of another one have another number.
const fn ordinal(lane: usize, turn: u64) -> u64 {
    (lane as u64 + 1) << 48 | (turn & ((1 << 48) - 1))
}

/// Whether the buffer with this number was on its way through the lane.
pub(crate) const fn is_of_lane(ordinal: u64, lane: usize) -> bool {
    ordinal >> 48 == lane as u64 + 1
}

/// Puts a message into the lane, which is the caller's to write.
///
/// The buffers are the desk's afterwards. After an error they are the caller's again, and the lane holds nothing.
pub(crate) fn write(
    desk: &Carrier,
    lane: usize,
    slot: &Slot,
    what: u32,
    parts: &[&[u8]],
    buffers: &mut Buffers,
) -> Result<(), ShmError> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let turn = slot.turn.load(Ordering::Relaxed).wrapping_add(1);
    slot.turn.store(turn, Ordering::Relaxed);
    let ordinal = ordinal(lane, turn);
    let size = length + buffers.len() * ENTRY;
    let spill = if size > ROOM { Some(Span::new(desk.arena(), size)?) } else { None };
    let mut entries = Vec::new();
    for (handed, span) in buffers.iter().chain(&spill).enumerate() {
        match desk.hand_over(span, ordinal) {
            Ok(unit) => entries.push((unit, span.len())),
            Err(error) => {
                for span in &buffers[..handed] {
                    desk.take_back(span)?;
                }
                return Err(error);
            }
        }
    }
    let place = spill.as_ref().map_or(slot.bytes(), Span::as_ptr);
    // SAFETY: the lane, or the span, is the caller's alone and has room for `size` bytes; the lane has it for an entry.
    unsafe {
        let mut end = place;
        for part in parts {
            end.copy_from_nonoverlapping(part.as_ptr(), part.len());
            end = end.add(part.len());
        }
        if spill.is_some() {
            let (unit, length) = entries[buffers.len()];
            put_entry(slot.bytes(), unit, length);
        }
        for (unit, length) in &entries[..buffers.len()] {
            put_entry(end, *unit, *length);
            end = end.add(ENTRY);
        }
    }
    slot.what.store(what, Ordering::Relaxed);
    slot.length.store(length as u64, Ordering::Relaxed);
    let flag = if spill.is_some() { SPILLED } else { 0 };
    slot.buffers.store(buffers.len() as u32 | flag, Ordering::Relaxed);
    for span in buffers.drain(..).chain(spill) {
        desk.forget(span);
    }
    Ok(())
}

/// Puts a short call into the lane, which is the caller's to write.
#[inline]
pub(crate) fn write_short(slot: &Slot, what: u32, words: &Short) {
    store(&slot.short, words);
    slot.what.store(what, Ordering::Relaxed);
    slot.buffers.store(IS_SHORT, Ordering::Relaxed);
}

/// The call in the lane, which is the server's to read, if it is a short one.
#[inline]
pub(crate) fn read_short(slot: &Slot) -> Option<(u32, Short)> {
    if slot.buffers.load(Ordering::Relaxed) != IS_SHORT {
        return None;
    }
    Some((slot.what.load(Ordering::Relaxed), load(&slot.short)))
}

/// As [`write_short`], for the answer, whose place nobody else writes. `None` says that it lies in the lane.
#[inline]
pub(crate) fn write_answer(slot: &Slot, answer: Option<(u32, &Short)>) {
    slot.answer.is_short.store(answer.is_some().into(), Ordering::Relaxed);
    if let Some((what, words)) = answer {
        store(&slot.answer.short, words);
        slot.answer.what.store(what, Ordering::Relaxed);
    }
}

/// As [`read_short`], for the answer.
#[inline]
pub(crate) fn read_answer(slot: &Slot) -> Option<(u32, Short)> {
    if slot.answer.is_short.load(Ordering::Relaxed) == 0 {
        return None;
    }
    Some((slot.answer.what.load(Ordering::Relaxed), load(&slot.answer.short)))
}

#[inline]
fn store(places: &[AtomicU64; SHORT], words: &Short) {
    places.iter().zip(words).for_each(|(place, word)| place.store(*word, Ordering::Relaxed));
}

#[inline]
fn load(places: &[AtomicU64; SHORT]) -> Short {
    std::array::from_fn(|index| places[index].load(Ordering::Relaxed))
}

/// # Safety
///
/// There is room for an entry at `place`, which is the caller's to write.
unsafe fn put_entry(place: *mut u8, unit: u32, length: usize) {
    // SAFETY: by the contract.
    unsafe {
        place.cast::<u32>().write_unaligned(unit);
        place.add(8).cast::<u64>().write_unaligned(length as u64);
    }
}

/// # Safety
///
/// There is an entry at `place`, which nobody writes meanwhile.
unsafe fn get_entry(place: *const u8) -> (u32, usize) {
    // SAFETY: by the contract.
    unsafe { (place.cast::<u32>().read_unaligned(), place.add(8).cast::<u64>().read_unaligned() as usize) }
}

/// Takes the message out of the lane, which is the caller's to read, into `bytes`. Returns what it is, and its buffers.
pub(crate) fn read(
    desk: &Carrier,
    lane: usize,
    slot: &Slot,
    bytes: &mut Vec<u8>,
) -> Result<(u32, Buffers), ShmError> {
    const DAMAGED: ShmError = ShmError::Damaged { what: "a message in a lane contradicts itself" };
    let length = usize::try_from(slot.length.load(Ordering::Relaxed)).map_err(|_| DAMAGED)?;
    let buffers = slot.buffers.load(Ordering::Relaxed);
    let (count, is_spilled) = ((buffers & !SPILLED) as usize, buffers & SPILLED != 0);
    let ordinal = ordinal(lane, slot.turn.load(Ordering::Relaxed));
    let table = count.checked_mul(ENTRY).filter(|_| count <= MOST).ok_or(DAMAGED)?;
    let size = length.checked_add(table).ok_or(DAMAGED)?;
    bytes.clear();
    let spill;
    let place = if is_spilled {
        // SAFETY: an entry of the lane, which is the caller's to read.
        let (unit, long) = unsafe { get_entry(slot.bytes()) };
        if long != size {
            return Err(DAMAGED);
        }
        spill = desk.take_over(unit, long, ordinal)?;
        spill.as_ptr().cast_const()
    } else if size <= ROOM {
        slot.bytes().cast_const()
    } else {
        return Err(DAMAGED);
    };
    bytes.try_reserve(length).map_err(|_| ShmError::TooLarge { bytes: length as u64 })?;
    // SAFETY: so many bytes are there, the caller's to read, and the buffer has room for them.
    unsafe {
        bytes.as_mut_ptr().copy_from_nonoverlapping(place, length);
        bytes.set_len(length);
    }
    let mut taken = Buffers::with_capacity(count);
    for index in 0..count {
        // SAFETY: the table lies behind the bytes, within `size`.
        let (unit, length) = unsafe { get_entry(place.add(length + index * ENTRY)) };
        taken.push(desk.take_over(unit, length, ordinal)?);
    }
    Ok((slot.what.load(Ordering::Relaxed), taken))
}
