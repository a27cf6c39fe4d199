//! Lanes in which lies what nobody would write.

use std::sync::atomic::Ordering;

use weft_shm::{Arena, Span};

use crate::lane::ROOM;
use crate::{Call, Desk};

/// Numbers that look random, and are the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Values at which something may break.
    fn number(&mut self) -> u64 {
        const EDGES: [u64; 8] = [0, 1, 16, ROOM as u64, ROOM as u64 + 1, 1 << 31, 1 << 40, u64::MAX];
        match self.next() % 3 {
            0 => EDGES[(self.next() % 8) as usize],
            1 => self.next() % 4096,
            _ => self.next(),
        }
    }
}

#[test]
fn garbage_in_a_lane_is_an_error_or_garbage_and_no_other_lanes() {
    let arena = Arena::create().unwrap();
    let desk = Desk::create(&arena).unwrap();
    let _life = desk.open().unwrap();
    let (spoilt, good) = (desk.claim().unwrap(), desk.claim().unwrap());
    let _spared = Span::new(&arena, 5000).unwrap();
    let blocks = arena.blocks_in_use().unwrap();
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let (mut bytes, mut errors) = (Vec::new(), 0);
    let rounds = if cfg!(miri) { 40 } else { 20_000 };
    for round in 0..rounds {
        let slot = desk.slot(spoilt.index());
        slot.what.store(dice.next() as u32, Ordering::Relaxed);
        slot.buffers.store(dice.number() as u32 | ((dice.next() % 2) as u32) << 31, Ordering::Relaxed);
        slot.length.store(dice.number(), Ordering::Relaxed);
        slot.turn.store(dice.number(), Ordering::Relaxed);
        for index in 0..64 {
            // SAFETY: the lane is idle, and its owner's to write.
            unsafe { slot.bytes().add(index).write(dice.next() as u8) };
        }
        if dice.next().is_multiple_of(4) {
            // Perhaps somebody's buffer that is not on its way.
            // SAFETY: as above.
            unsafe { slot.bytes().cast::<u32>().write_unaligned((dice.next() % 2048) as u32) };
        }
        slot.state.call();
        let request = desk.begin(spoilt.index(), &mut bytes).unwrap();
        match request {
            Err(_) => errors += 1,
            Ok(Call::Short(..)) => {}
            Ok(Call::Long(request)) => {
                assert!(request.buffers.is_empty(), "a buffer from nowhere, in round {round}")
            }
        }
        assert!(desk.answer(spoilt.index(), 0, &[b"answer"], &mut Vec::new()).unwrap());
        assert!(slot.state.is_answered());
        slot.state.take();
        assert!(desk.begin(good.index(), &mut bytes).is_none());
    }
    assert!(errors > rounds / 4, "{errors} of {rounds}");
    assert_eq!(arena.blocks_in_use().unwrap(), blocks);
}
