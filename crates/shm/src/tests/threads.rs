//! Threads at once, each a "process" of its own: for Miri, which looks for data races between them, with memory as weak
//! as the language allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_wait::{Deadline, ThreadParker};

use super::{Twin, again, check, sized};
use crate::arena::Arena;
use crate::object::Handle;
use crate::private::PrivateSpan;
use crate::queue::Queue;
use crate::robust::LocalLock;
use crate::span::Span;

const EACH: u64 = sized(3000, 12);

fn content(number: u64) -> impl Iterator<Item = u8> {
    (0..16 + number % 50).map(move |at| (number * 3 + at) as u8)
}

/// A span with bytes of its own at its start and end.
fn span(arena: &Arc<Twin>, number: u64) -> Span<LocalLock> {
    let span = Span::new(arena, 100 + number as usize % 3 * 5000).unwrap();
    for at in [0, span.len() - 8] {
        // SAFETY: new, and longer than this.
        unsafe { span.as_ptr().add(at).cast::<[u8; 8]>().write(number.to_le_bytes()) };
    }
    span
}

fn check_span(pointer: *mut u8, length: usize, number: u64) {
    for at in [0, length - 8] {
        // SAFETY: the caller has a span of this length.
        let bytes = unsafe { pointer.add(at).cast::<[u8; 8]>().read() };
        assert_eq!(u64::from_le_bytes(bytes), number);
    }
}

fn produce(arena: &Twin, handle: Handle, numbers: std::ops::Range<u64>) {
    let arena = again(arena);
    let queue = Queue::attach(&arena, handle).unwrap();
    let _alarm = Alarm(&queue);
    for number in numbers {
        let body: Vec<u8> = number.to_le_bytes().into_iter().chain(content(number)).collect();
        let mut spans = if number % 3 == 0 { vec![span(&arena, number)] } else { vec![] };
        queue.put(1, &body, &mut spans, &mut ThreadParker::default(), Deadline::NEVER).unwrap();
    }
}

/// Ends the others' waits when this thread panics, so that the test fails rather than hangs.
struct Alarm<'a>(&'a Queue<LocalLock>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.shut_down(true, &mut ThreadParker::default());
        }
    }
}

/// Gets so many messages; says the sum of their numbers.
fn consume(arena: &Twin, handle: Handle, count: u64) -> u64 {
    let arena = again(arena);
    let queue = Queue::attach(&arena, handle).unwrap();
    let _alarm = Alarm(&queue);
    let (mut body, mut sum, mut kept) = (Vec::new(), 0, None);
    for _ in 0..count {
        let received = queue.get(&mut body, &mut ThreadParker::default(), Deadline::NEVER).unwrap();
        let number = u64::from_le_bytes(body[..8].try_into().unwrap());
        assert!(body[8..].iter().copied().eq(content(number)));
        for span in received.spans {
            let (private, number) = (PrivateSpan::new(span), number);
            check_span(private.as_ptr(), private.len(), number);
            kept = Some((private, number));
        }
        if let Some((private, number)) = &kept {
            check_span(private.as_ptr(), private.len(), *number);
        }
        assert!(queue.task_done());
        sum += number;
    }
    sum
}

/// Messages and spans between so many threads on either side, while others look on and sweep.
fn exchange(threads: u64, limit: u64) {
    let arena = Arena::<LocalLock>::create().unwrap();
    let queue = Queue::create(&arena, limit).unwrap();
    let (handle, total) = (queue.handle(), threads * EACH);
    let sum = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (arena, sum) = (&arena, &sum);
            scope.spawn(move || produce(arena, handle, thread * EACH..(thread + 1) * EACH));
            scope.spawn(move || sum.fetch_add(consume(arena, handle, EACH), Ordering::Relaxed));
        }
        scope.spawn(|| {
            let arena = again(&arena);
            for _ in 0..sized(100, 3) {
                let other = Queue::attach(&arena, handle).unwrap();
                assert!(other.len() <= if limit == 0 { total } else { limit });
                assert!(other.unfinished() <= total && other.has_writer());
                // Nobody died.
                assert_eq!(arena.sweep(), 0);
                arena.trim().unwrap();
            }
        });
        // What was put may be all that there is for now: done is what was put, and there may be more.
        queue.join(&mut ThreadParker::default(), Deadline::NEVER).unwrap();
    });
    assert_eq!(sum.into_inner(), (0..total).sum());
    assert_eq!((queue.len(), queue.unfinished()), (0, 0));
    drop(queue);
    assert!(check(&arena).is_empty());
}

#[test]
fn one_puts_and_one_gets() {
    exchange(1, 0);
}

#[test]
fn many_put_and_get() {
    exchange(2, 0);
}

#[test]
fn many_wait_for_room() {
    exchange(2, 1);
}

#[test]
fn the_last_of_many_handles_takes_all_with_it() {
    let arena = Arena::<LocalLock>::create().unwrap();
    for _ in 0..sized(200, 4) {
        let queue = Queue::create(&arena, 0).unwrap();
        let mut spans = vec![span(&arena, 7)];
        queue.put(1, &[1; 5000], &mut spans, &mut ThreadParker::default(), Deadline::NEVER).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let other = Queue::attach(&again(&arena), queue.handle()).unwrap();
                scope.spawn(move || drop(other));
            }
            scope.spawn(|| drop(Queue::create(&arena, 0).unwrap()));
            drop(queue);
        });
    }
    assert!(check(&arena).is_empty());
}

#[test]
fn what_was_got_can_be_reported() {
    let arena = Arena::<LocalLock>::create().unwrap();
    let queue = Queue::create(&arena, 0).unwrap();
    let report = || {
        queue.get(&mut Vec::new(), &mut ThreadParker::default(), Deadline::NEVER).unwrap();
        assert!(queue.task_done(), "more were reported than were put");
    };
    for _ in 0..sized(1000, 5) {
        std::thread::scope(|scope| {
            (0..3).for_each(|_| drop(scope.spawn(report)));
            for _ in 0..3 {
                queue.put(1, b"", &mut Vec::new(), &mut ThreadParker::default(), Deadline::NEVER).unwrap();
            }
        });
    }
}
