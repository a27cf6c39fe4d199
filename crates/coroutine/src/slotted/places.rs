//! Which slot a coroutine gets, and what becomes of one that is left.

use std::ptr;
use std::sync::atomic::Ordering;

use weft_sys::mapping::{MappingError, StackMapping};

use super::{Coroutine, Host, KEPT_DEPTH, Leave, NO_SLOT, RESERVED, SHARED_SLOTS, Slot, Slots};

/// How far apart the tops of neighbouring slots lie, in cache lines of 64 bytes, modulo a page.
const COLOUR_STRIDE: usize = 11 * 64;

/// How many coroutines die on a thread between two looks for deep slots.
const TRIM_INTERVAL: u32 = 64;

/// Usable bytes of the helper's stack: it only copies memory and calls [`Host::relocate`].
const HELPER_SIZE: usize = 32 << 10;

impl<H: Host> Slots<H> {
    /// Chooses the slot for a new coroutine: a free one, a new one, or a shared one.
    ///
    /// # Safety
    ///
    /// `from` is the coroutine that runs.
    pub(super) unsafe fn bind(&mut self, from: *mut Coroutine<H>, leave: Leave) -> Result<u32, MappingError> {
        while let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.listed = false;
            if slot.occupant.is_null() {
                return Ok(index);
            }
        }
        let count = self.count();
        let max = self.config.max_slots.max(1);
        if count < max - self.shared_count() {
            match self.reserve_slot() {
                Ok(slot) => return Ok(slot),
                Err(error) if count == 0 => return Err(error),
                // No more stacks to be had: from now on the last ones are shared.
                Err(_) => self.config.max_slots = count,
            }
        }
        // SAFETY: valid by the caller's promise.
        let own = unsafe { (*from).slot };
        if leave == Leave::Finish && own != NO_SLOT {
            // Its own slot is about to be free; the helper stack makes the exchange.
            return Ok(own);
        }
        let shared = self.shared_count();
        let first = self.config.max_slots.max(1) - shared;
        let mut turn = self.next_shared % shared;
        if first + turn == own && shared > 1 {
            turn = (turn + 1) % shared;
        }
        self.next_shared = turn + 1;
        let slot = first + turn;
        if slot < self.count() {
            return Ok(slot);
        }
        match self.reserve_slot() {
            Ok(slot) => Ok(slot),
            Err(error) if self.slots.is_empty() => Err(error),
            Err(_) => {
                self.config.max_slots = self.count();
                Ok(self.count() - 1)
            }
        }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("slots are counted by a u32 limit")
    }

    /// How many slots, the last ones, are shared: at least one, and not most of a few.
    fn shared_count(&self) -> u32 {
        (self.config.max_slots / 4).clamp(1, SHARED_SLOTS)
    }

    fn is_shared(&self, slot: u32) -> bool {
        slot >= self.config.max_slots.max(1) - self.shared_count()
    }

    /// Undoes [`Slots::bind`].
    pub(super) unsafe fn unbind(&mut self, to: *mut Coroutine<H>, old_slot: u32) {
        // SAFETY: valid by the caller's promise.
        unsafe {
            let slot = (*to).slot;
            if slot != old_slot {
                if self.slots[slot as usize].occupant.is_null() {
                    self.list(slot);
                }
                (*to).slot = old_slot;
            }
        }
    }

    fn reserve_slot(&mut self) -> Result<u32, MappingError> {
        let index = self.slots.len();
        if RESERVED.fetch_add(1, Ordering::Relaxed) >= self.config.process_budget && index > 0 {
            RESERVED.fetch_sub(1, Ordering::Relaxed);
            return Err(MappingError::Budget { budget: self.config.process_budget });
        }
        // So that neither list grows where growing must not fail.
        let listable = self.slots.len() + 1 - self.free.len().min(self.slots.len());
        if self.slots.try_reserve(1).is_err() || self.free.try_reserve(listable).is_err() {
            RESERVED.fetch_sub(1, Ordering::Relaxed);
            return Err(MappingError::no_memory(self.config.slot_size));
        }
        let page = weft_sys::mapping::page_size();
        let mapping = StackMapping::new(self.config.slot_size.saturating_add(page)).inspect_err(|_| {
            RESERVED.fetch_sub(1, Ordering::Relaxed);
        })?;
        let colour = (index * COLOUR_STRIDE) % page;
        let top = mapping.top().wrapping_sub(colour);
        self.slots.push(Slot { mapping, top, occupant: ptr::null_mut(), listed: false });
        Ok(u32::try_from(index).expect("slots are counted by a u32 limit"))
    }

    pub(super) fn ensure_helper(&mut self) -> Result<(), MappingError> {
        if self.helper.is_none() {
            self.helper = Some(StackMapping::new(HELPER_SIZE)?);
        }
        Ok(())
    }

    /// Marks a slot as free, and now and then gives back what a deep coroutine left behind.
    ///
    /// The code that runs may stand on that very slot until the next switch.
    pub(super) fn vacate(&mut self, slot: u32) {
        self.slots[slot as usize].occupant = ptr::null_mut();
        self.list(slot);
        self.deaths = self.deaths.wrapping_add(1);
        if self.deaths.is_multiple_of(TRIM_INTERVAL) {
            self.trim(slot);
        }
    }

    /// Adds a slot to the free ones, unless it is shared.
    fn list(&mut self, slot: u32) {
        if !self.is_shared(slot) && !std::mem::replace(&mut self.slots[slot as usize].listed, true) {
            self.free.push(slot);
        }
    }

    /// Gives back the deep pages of one free slot, taking turns; not of `left`, on which somebody may stand.
    fn trim(&mut self, left: u32) {
        if self.free.is_empty() {
            return;
        }
        let turn = (self.deaths / TRIM_INTERVAL) as usize % self.free.len();
        let index = self.free[turn];
        let slot = &self.slots[index as usize];
        if index != left && slot.occupant.is_null() && slot.mapping.resident_below(KEPT_DEPTH) > 0 {
            // SAFETY: the slot is free and is not the one that is being left, so nothing lies in it.
            unsafe { slot.mapping.discard_below(KEPT_DEPTH) };
        }
    }
}
