//! What a queue does while everybody lives.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

// Miri knows no robust mutexes.
#[cfg(miri)]
use weft_shm::robust::LocalLock as Lock;
#[cfg(not(miri))]
use weft_shm::robust::RobustMutex as Lock;
use weft_shm::{Arena, Queue, QueueError, Span};
use weft_wait::{Deadline, ThreadParker};

type Shared = Queue<Lock>;

/// How much of something a test does: less of it under Miri, which is some thousand times slower.
const fn sized<T: Copy>(usual: T, under_miri: T) -> T {
    if cfg!(miri) { under_miri } else { usual }
}

fn arena() -> Arc<Arena<Lock>> {
    Arena::create().unwrap()
}

fn put(queue: &Shared, body: &[u8]) {
    queue.put(1, body, &mut Vec::new(), &mut ThreadParker::default(), Deadline::NEVER).unwrap();
}

fn get(queue: &Shared) -> Result<Vec<u8>, QueueError<Infallible>> {
    let mut body = Vec::new();
    queue.get(&mut body, &mut ThreadParker::default(), Deadline::after(Duration::ZERO)).map(|_| body)
}

#[test]
fn first_in_first_out_over_many_chunks() {
    let arena = arena();
    let queue = Shared::create(&arena, 0).unwrap();
    let count: u32 = sized(200_000, 400);
    for number in 0..count {
        put(&queue, &number.to_le_bytes());
    }
    assert_eq!(queue.len(), u64::from(count));
    for number in 0..count {
        assert_eq!(get(&queue).unwrap(), number.to_le_bytes());
    }
    assert_eq!(get(&queue), Err(QueueError::TimedOut));
    assert!(queue.is_empty());
}

#[test]
fn bodies_of_every_size_arrive_whole() {
    let arena = arena();
    let queue = Shared::create(&arena, 0).unwrap();
    for size in
        (0..300).step_by(sized(1, 41)).chain([1000, 3000, 4095, 4096, 4097, weft_shm::queue::LONGEST_BODY])
    {
        let body: Vec<u8> = (0..size).map(|at| (at * 7 + size) as u8).collect();
        put(&queue, &body);
        put(&queue, b"next");
        assert_eq!(get(&queue).unwrap(), body);
        assert_eq!(get(&queue).unwrap(), b"next");
    }
}

#[test]
fn a_full_queue_takes_no_more() {
    let arena = arena();
    let queue = Shared::create(&arena, 2).unwrap();
    put(&queue, b"a");
    put(&queue, b"b");
    assert!(queue.is_full());
    let mut parker = ThreadParker::default();
    let outcome = queue.put(1, b"c", &mut Vec::new(), &mut parker, Deadline::after(Duration::ZERO));
    assert_eq!(outcome, Err(QueueError::TimedOut));
    assert_eq!(get(&queue).unwrap(), b"a");
    put(&queue, b"c");
    assert_eq!(queue.len(), 2);
}

#[test]
fn spans_travel_by_reference_and_are_freed() {
    let arena = arena();
    let queue = Shared::create(&arena, 0).unwrap();
    for size in [1, 4096, 1 << 20, sized(40 << 20, 20 << 20)] {
        let span = Span::new(&arena, size).unwrap();
        // SAFETY: the span is this test's alone and has `size` bytes.
        unsafe { span.as_ptr().write_bytes(size as u8 | 1, size) };
        let mut spans = vec![span];
        queue.put(2, b"with", &mut spans, &mut ThreadParker::default(), Deadline::NEVER).unwrap();
        assert!(spans.is_empty());
        let mut body = Vec::new();
        let received = queue.get(&mut body, &mut ThreadParker::default(), Deadline::NEVER).unwrap();
        assert_eq!((received.kind, &body[..]), (2, &b"with"[..]));
        let span = &received.spans[0];
        assert_eq!(span.len(), size);
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts(span.as_ptr(), size) };
        assert!(bytes.iter().step_by(sized(1, 65_521)).all(|byte| *byte == size as u8 | 1));
    }
}

#[test]
#[cfg_attr(miri, ignore = "a gibibyte")]
fn memory_is_given_back() {
    let arena = arena();
    let queue = Shared::create(&arena, 0).unwrap();
    let body = [7; 1000];
    for _ in 0..1_000_000 {
        put(&queue, &body);
    }
    let most = arena.resident().unwrap();
    assert!(most > 1_000_000_000, "{most}");
    while get(&queue).is_ok() {}
    let kept = arena.resident().unwrap();
    assert!(kept < 200 << 20, "{kept} of {most}");
}

#[test]
fn a_queue_ends_with_its_last_handle() {
    let arena = arena();
    let handle = {
        let queue = Shared::create(&arena, 0).unwrap();
        let second = Shared::attach(&arena, queue.handle()).unwrap();
        drop(queue);
        put(&second, b"still here");
        second.handle()
    };
    assert!(Shared::attach(&arena, handle).is_err());
}

#[test]
fn producers_and_consumers_lose_and_double_nothing() {
    const EACH: u64 = sized(30_000, 20);
    let arena = arena();
    for (threads, limit) in [(1, 0), (3, 0), (3, 10), (sized(8, 3), 1)] {
        let each = if limit == 1 { EACH / 10 } else { EACH };
        let queue = Shared::create(&arena, limit).unwrap();
        let mut seen = std::thread::scope(|scope| {
            for producer in 0..threads {
                let queue = &queue;
                scope.spawn(move || {
                    for number in 0..each {
                        put(queue, &(producer * each + number).to_le_bytes());
                    }
                });
            }
            let consumers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let mut parker = ThreadParker::default();
                        let mut body = Vec::new();
                        (0..each)
                            .map(|_| {
                                queue.get(&mut body, &mut parker, Deadline::NEVER).unwrap();
                                u64::from_le_bytes(body[..].try_into().unwrap())
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            consumers.into_iter().flat_map(|consumer| consumer.join().unwrap()).collect::<Vec<_>>()
        });
        seen.sort_unstable();
        assert!(seen.iter().copied().eq(0..threads * each));
        assert!(queue.is_empty());
    }
}

#[test]
fn done_is_counted() {
    let arena = arena();
    let queue = Shared::create(&arena, 0).unwrap();
    assert!(!queue.task_done());
    put(&queue, b"job");
    let soon = Deadline::after(Duration::from_millis(1));
    assert_eq!(queue.join(&mut ThreadParker::default(), soon), Err(QueueError::TimedOut));
    get(&queue).unwrap();
    assert!(queue.task_done());
    assert!(!queue.task_done());
    queue.join(&mut ThreadParker::default(), Deadline::NEVER).unwrap();
}

#[test]
fn a_shut_down_queue_is_emptied_and_then_refuses() {
    let arena = arena();
    let queue = Shared::create(&arena, 0).unwrap();
    put(&queue, b"left");
    queue.shut_down(false, &mut ThreadParker::default()).unwrap();
    let outcome = queue.put(1, b"late", &mut Vec::new(), &mut ThreadParker::default(), Deadline::NEVER);
    assert_eq!(outcome, Err(QueueError::ShutDown));
    assert_eq!(get(&queue).unwrap(), b"left");
    assert_eq!(get(&queue), Err(QueueError::ShutDown));
    let queue = Shared::create(&arena, 0).unwrap();
    put(&queue, b"left");
    queue.shut_down(true, &mut ThreadParker::default()).unwrap();
    assert_eq!(get(&queue), Err(QueueError::ShutDown));
    assert_eq!(queue.unfinished(), 0);
}

#[test]
fn a_shutdown_wakes_who_waits() {
    let arena = arena();
    let queue = Shared::create(&arena, 0).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope
            .spawn(|| queue.get(&mut Vec::new(), &mut ThreadParker::default(), Deadline::NEVER).map(|_| ()));
        queue.shut_down(false, &mut ThreadParker::default()).unwrap();
        assert_eq!(waiter.join().unwrap(), Err(QueueError::ShutDown));
    });
}

#[test]
#[cfg_attr(miri, ignore = "it has no files")]
fn a_foreign_descriptor_is_refused() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let error = Arena::<Lock>::attach(file.into()).unwrap_err();
    assert!(error.to_string().contains("no shared memory of this version of weft"), "{error}");
}

fn is_readable(poller: &weft_shm::queue::Poller<Lock>) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut watched = [PollFd::new(poller, PollFlags::IN)];
    poll(&mut watched, Some(&rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

#[test]
#[cfg_attr(miri, ignore = "it has no /proc to reach a poller by")]
fn a_poller_is_readable_while_there_is_a_message() {
    let arena = arena();
    let queue = Arc::new(Shared::create(&arena, 0).unwrap());
    let poller = queue.poller().unwrap();
    assert!(!is_readable(&poller));
    put(&queue, b"a");
    put(&queue, b"b");
    assert!(is_readable(&poller));
    get(&queue).unwrap();
    assert!(is_readable(&poller));
    let late = queue.poller().unwrap();
    assert!(is_readable(&late));
    get(&queue).unwrap();
    assert!(!is_readable(&poller) && !is_readable(&late));
    drop(poller);
    put(&queue, b"c");
    assert!(is_readable(&late));
}
