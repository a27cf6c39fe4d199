//! Bytes that no correct program writes: errors and wrong data may come of it, but no panic and no access outside of
//! the segment. Locks are left alone: a damaged one is a documented panic, or held for ever. So is the high water: one
//! that is far too high costs a walk over descriptors that nobody wrote, and a gibibyte for them.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use weft_wait::{Deadline, ThreadParker};

use super::{Rng, Twin, again, for_seeds, sized};
use crate::arena::Arena;
use crate::layout::{Descriptor, Header, UNIT};
use crate::object::{Handle, PROLOGUE};
use crate::queue::Queue;
use crate::queue::layout as queue_layout;
use crate::robust::{ALONE, LocalLock};
use crate::span::Span;

type QueueHeader = queue_layout::Header<LocalLock>;

/// Writes nonsense of some kind over one word in `range`, an offset into the arena, but not over `spared`.
fn damage(arena: &Twin, range: Range<usize>, spared: &[Range<usize>], rng: &mut Rng) {
    let at = (range.start + rng.below(range.len())) & !3;
    if spared.iter().any(|spared| spared.start < at + 4 && at < spared.end) {
        return;
    }
    let place = arena.windows().at(at as u64).unwrap().cast::<u32>();
    // SAFETY: inside of a mapped window, aligned, and nobody else writes at the time.
    unsafe {
        let old = place.as_ptr().read();
        place.as_ptr().write(match rng.below(6) {
            0 => rng.next() as u32,
            1 => old ^ (1 << rng.below(32)),
            2 => old.wrapping_add(rng.below(9) as u32).wrapping_sub(4),
            3 => u32::MAX - rng.below(4) as u32,
            4 => rng.below(10) as u32,
            _ => arena.first() + rng.below(300) as u32,
        });
    }
}

fn use_it(arena: &Arc<Twin>, queue: &Queue<LocalLock>, rng: &mut Rng) {
    let parker = &mut ThreadParker::default();
    let now = Deadline::after(Duration::ZERO);
    match rng.below(8) {
        0..3 => {
            let body = vec![1; rng.below(3000)];
            let mut spans: Vec<_> =
                (0..rng.below(3)).filter_map(|_| Span::new(arena, rng.below(30_000)).ok()).collect();
            let _ = queue.put(3, &body, &mut spans, parker, now);
        }
        3..6 => {
            let mut body = Vec::new();
            if let Ok(received) = queue.get(&mut body, parker, now) {
                for span in received.spans {
                    let length = span.len().min(UNIT);
                    // SAFETY: the span has at least so many bytes.
                    let bytes = unsafe { std::slice::from_raw_parts(span.as_ptr(), length) };
                    std::hint::black_box(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>());
                }
            }
        }
        6 => {
            queue.task_done();
            arena.sweep();
            let _ = arena.trim();
        }
        _ => {
            let generation = rng.below(4) as u64;
            let unit = arena.first() + rng.below(300) as u32;
            let _ = Queue::attach(arena, Handle { unit, generation });
            let _ = queue.unfinished();
            let _ = Queue::attach(arena, queue.handle());
        }
    }
}

#[test]
fn nonsense_in_the_segment_is_survived() {
    ALONE.set(true);
    for_seeds(sized(400, 4), |seed| {
        let mut rng = Rng::new(seed);
        let arena = Arena::<LocalLock>::create().unwrap();
        let queue = Queue::create(&arena, 0).unwrap();
        let second = again(&arena);
        let other = Queue::attach(&second, queue.handle()).unwrap();
        for _ in 0..20 {
            use_it(&arena, &queue, &mut rng);
        }
        let start = queue.handle().unit as usize * UNIT;
        let header = start + PROLOGUE;
        let lock = size_of::<LocalLock>();
        let high_water = std::mem::offset_of!(Header<LocalLock>, high_water);
        let spared = [
            high_water..high_water + 4,
            std::mem::offset_of!(Header<LocalLock>, lock)
                ..std::mem::offset_of!(Header<LocalLock>, lock) + lock,
            header + std::mem::offset_of!(QueueHeader, put_lock)
                ..header + std::mem::offset_of!(QueueHeader, put_lock) + lock,
            header + std::mem::offset_of!(QueueHeader, get_lock)
                ..header + std::mem::offset_of!(QueueHeader, get_lock) + lock,
            header + std::mem::offset_of!(QueueHeader, poll_lock)
                ..header + std::mem::offset_of!(QueueHeader, poll_lock) + lock,
        ];
        let first = UNIT + arena.first() as usize * size_of::<Descriptor>();
        let blocks = arena.first() as usize * UNIT;
        let regions = [
            0..size_of::<Header<LocalLock>>(),
            first..first + 80 * size_of::<Descriptor>(),
            start..header + size_of::<QueueHeader>(),
            blocks..blocks + 80 * UNIT,
        ];
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..30 {
                damage(&arena, regions[rng.below(regions.len())].clone(), &spared, &mut rng);
                let (arena, queue) = if rng.percent(50) { (&arena, &queue) } else { (&second, &other) };
                use_it(arena, queue, &mut rng);
            }
            drop((queue, other));
            second.sweep();
        }));
        if let Err(payload) = outcome {
            // A damaged list of free blocks can make a program overwrite a lock itself.
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default();
            assert!(text.contains("a lock in shared memory is damaged"), "{text}");
        }
    });
}
