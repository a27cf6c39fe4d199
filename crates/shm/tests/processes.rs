//! Real processes that are killed, stopped, starved of memory and descriptors, and forked at bad moments.
//!
//! A program of its own without threads, as far as a test does not want them, so that it can fork. The seeds are
//! printed; `WEFT_SOAK_SECONDS` makes it long. Arguments that do not begin with `-` choose tests by name.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use support::{Rng, fork, seeds, send, shared, wait, watched};
use weft_shm::robust::RobustMutex;
use weft_shm::{Arena, PrivateSpan, Queue, QueueError, ShmError, Span};
use weft_wait::{Deadline, ThreadParker};

type Shared = Queue<RobustMutex>;

/// Lives of producers and messages of each that a round can have.
const LIVES: usize = 64;
const MESSAGES: usize = 1 << 20;

/// What everybody notes in a round.
struct Notes {
    producers_end: AtomicBool,
    consumers_end: AtomicBool,
    /// Children that came to run anything.
    born: AtomicU32,
    /// What each producer was about to put, and what it had put for certain.
    tried: [AtomicU32; LIVES],
    sent: [AtomicU32; LIVES],
    /// How often each message was got.
    seen: [[AtomicU8; MESSAGES]; LIVES],
}

fn parker() -> ThreadParker {
    ThreadParker::default()
}

fn put_number(queue: &Shared, number: u64) {
    queue.put(1, &number.to_le_bytes(), &mut Vec::new(), &mut parker(), Deadline::NEVER).unwrap();
}

fn get_number(queue: &Shared) -> u64 {
    let mut body = Vec::new();
    queue.get(&mut body, &mut parker(), Deadline::NEVER).unwrap();
    u64::from_le_bytes(body[..].try_into().unwrap())
}

fn content(producer: usize, number: u32, length: usize) -> impl Iterator<Item = u8> {
    (0..length).map(move |at| (producer * 17 + number as usize * 5 + at * 3) as u8)
}

fn produce(queue: &Shared, notes: &Notes, producer: usize, with_spans: bool, mut rng: Rng) {
    let mut number = 0_u32;
    while !notes.producers_end.load(Ordering::Relaxed) && (number as usize) < MESSAGES {
        let length = if rng.percent(5) { rng.below(9000) } else { rng.below(40) };
        let mut body = Vec::with_capacity(length + 8);
        body.extend_from_slice(&(producer as u32).to_le_bytes());
        body.extend_from_slice(&number.to_le_bytes());
        body.extend(content(producer, number, length));
        let mut spans = Vec::new();
        if with_spans && rng.percent(30) {
            for _ in 0..=rng.below(3) {
                let length = 1 + rng.below(50_000);
                let span = Span::new(queue.arena(), length).unwrap();
                // SAFETY: new, and of this length.
                let bytes = unsafe { std::slice::from_raw_parts_mut(span.as_ptr(), length) };
                bytes.iter_mut().zip(content(producer, number, length)).for_each(|(to, from)| *to = from);
                spans.push(span);
            }
        }
        notes.tried[producer].store(number + 1, Ordering::SeqCst);
        queue.put(1, &body, &mut spans, &mut parker(), Deadline::NEVER).unwrap();
        number += 1;
        notes.sent[producer].store(number, Ordering::SeqCst);
    }
}

fn consume(queue: &Shared, notes: &Notes) {
    let (mut body, mut parker) = (Vec::new(), parker());
    let mut last = [None::<u32>; LIVES];
    loop {
        let is_end = notes.consumers_end.load(Ordering::SeqCst);
        let patience = Duration::from_millis(if is_end { 0 } else { 5 });
        let received = match queue.get(&mut body, &mut parker, Deadline::after(patience)) {
            Ok(received) => received,
            Err(QueueError::TimedOut) if is_end && queue.is_empty() => return,
            Err(QueueError::TimedOut) => continue,
            Err(error) => panic!("{error:?}"),
        };
        let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
        let (producer, number) = (word(0) as usize, word(4));
        let before = notes.seen[producer][number as usize].fetch_add(1, Ordering::SeqCst);
        assert_eq!(before, 0, "message {number} of {producer} came twice");
        assert!(last[producer].is_none_or(|last| last < number), "messages of {producer} out of order");
        last[producer] = Some(number);
        assert!(body[8..].iter().copied().eq(content(producer, number, body.len() - 8)), "a corrupt body");
        for span in received.spans {
            // SAFETY: it has so many bytes.
            let bytes = unsafe { std::slice::from_raw_parts(span.as_ptr(), span.len()) };
            assert!(bytes.iter().copied().eq(content(producer, number, span.len())), "a corrupt span");
        }
    }
}

struct Round<'a> {
    queue: &'a Shared,
    notes: &'static Notes,
    with_spans: bool,
    rng: Rng,
    producers: Vec<libc::pid_t>,
    consumers: Vec<libc::pid_t>,
    lives: usize,
    forks: u32,
}

impl Round<'_> {
    fn start_producer(&mut self) {
        let (producer, rng) = (self.lives, Rng::new(self.rng.next()));
        self.lives += 1;
        let (queue, notes, with_spans) = (self.queue, self.notes, self.with_spans);
        self.forks += 1;
        self.producers.push(fork(|| {
            notes.born.fetch_add(1, Ordering::SeqCst);
            produce(queue, notes, producer, with_spans, rng);
        }));
    }

    fn start_consumer(&mut self) {
        let (queue, notes) = (self.queue, self.notes);
        self.forks += 1;
        self.consumers.push(fork(|| {
            notes.born.fetch_add(1, Ordering::SeqCst);
            consume(queue, notes);
        }));
    }

    fn pause(&mut self, most: usize) {
        std::thread::sleep(Duration::from_micros(self.rng.below(most) as u64));
    }
}

/// Kills at random instants; says how many, and how many died before they could redeem what was promised at their
/// fork, which keeps the queue for a minute.
fn round(arena: &Arc<Arena>, notes: &'static Notes, pulse: &AtomicU32, seed: u64) -> (usize, u32) {
    let mut rng = Rng::new(seed);
    let limit = if rng.percent(50) { 1 + rng.below(20) as u64 } else { 0 };
    let queue = Shared::create(arena, limit).unwrap();
    let with_spans = rng.percent(50);
    let kills = 4 + rng.below(12);
    let (producers, consumers) = (1 + rng.below(3), 1 + rng.below(3));
    let mut round = Round {
        queue: &queue,
        notes,
        with_spans,
        rng,
        producers: vec![],
        consumers: vec![],
        lives: 0,
        forks: 0,
    };
    (0..producers).for_each(|_| round.start_producer());
    (0..consumers).for_each(|_| round.start_consumer());
    let mut killed_consumers = 0;
    for _ in 0..kills {
        pulse.fetch_add(1, Ordering::Relaxed);
        round.pause(3000);
        let is_producer = round.rng.percent(50);
        let group = if is_producer { &mut round.producers } else { &mut round.consumers };
        let which = round.rng.below(group.len());
        if round.rng.percent(25) {
            let victim = group[which];
            send(victim, libc::SIGSTOP);
            round.pause(5000);
            send(victim, libc::SIGCONT);
            continue;
        }
        let victim = group.swap_remove(which);
        let is_stopped = round.rng.percent(20);
        if is_stopped {
            send(victim, libc::SIGSTOP);
            round.pause(1000);
        }
        send(victim, libc::SIGKILL);
        assert_eq!(wait(victim), -libc::SIGKILL, "somebody ended before it was killed");
        if is_producer {
            round.start_producer();
        } else {
            killed_consumers += 1;
            round.start_consumer();
        }
        if round.rng.percent(10) {
            arena.sweep();
        }
    }
    notes.producers_end.store(true, Ordering::SeqCst);
    for child in std::mem::take(&mut round.producers) {
        assert_eq!(wait(child), 0, "a producer");
        pulse.fetch_add(1, Ordering::Relaxed);
    }
    notes.consumers_end.store(true, Ordering::SeqCst);
    for child in std::mem::take(&mut round.consumers) {
        assert_eq!(wait(child), 0, "a consumer");
        pulse.fetch_add(1, Ordering::Relaxed);
    }
    let (lives, stillborn) = (round.lives, round.forks - notes.born.swap(0, Ordering::SeqCst));
    assert_eq!(queue.len(), 0);
    let (mut got, mut sent, mut tried) = (0_u64, 0_u64, 0_u64);
    for producer in 0..lives {
        let count = |counts: &[AtomicU32; LIVES]| counts[producer].load(Ordering::SeqCst);
        let mine = count(&notes.tried);
        tried += u64::from(mine);
        sent += u64::from(count(&notes.sent));
        for seen in &notes.seen[producer][..mine as usize] {
            got += u64::from(seen.swap(0, Ordering::SeqCst));
        }
        notes.tried[producer].store(0, Ordering::SeqCst);
        notes.sent[producer].store(0, Ordering::SeqCst);
    }
    // Nobody reports anything as done, so this is how many were put.
    let put = queue.unfinished();
    assert!((sent..=tried).contains(&put), "{sent} <= {put} <= {tried}");
    assert!(got <= put && put - got <= killed_consumers, "{put} put, {got} got, {killed_consumers} killed");
    notes.producers_end.store(false, Ordering::SeqCst);
    notes.consumers_end.store(false, Ordering::SeqCst);
    (kills, stillborn)
}

fn killed_at_random_instants(pulse: &AtomicU32) {
    let arena = Arena::<RobustMutex>::create().unwrap();
    let notes = shared::<Notes>();
    let (mut kills, mut stillborn) = (0, 0);
    for seed in seeds(40) {
        println!("killed_at_random_instants: seed {seed}");
        // One arena for many rounds has to stay small; one of its own shows whether a round left anything.
        let own = (seed % 2 == 0).then(|| Arena::create().unwrap());
        let (more_kills, more_stillborn) = round(own.as_ref().unwrap_or(&arena), notes, pulse, seed);
        (kills, stillborn) = (kills + more_kills, stillborn + more_stillborn);
        if let Some(own) = own.filter(|_| more_stillborn == 0) {
            own.sweep();
            assert_eq!(own.blocks_in_use().unwrap(), 0);
        }
    }
    if std::env::var_os("WEFT_SOAK_SECONDS").is_some() {
        for _ in 0..62 {
            std::thread::sleep(Duration::from_secs(1));
            pulse.fetch_add(1, Ordering::Relaxed);
        }
        arena.sweep();
        assert_eq!(arena.blocks_in_use().unwrap(), 0);
    }
    println!("killed_at_random_instants: {stillborn} stillborn");
    println!("killed_at_random_instants: {kills} kills and stops, {} bytes kept", arena.resident().unwrap());
    assert!(arena.resident().unwrap() < 600 << 20);
}

/// A process in which many threads use queues forks, and its children use them, too.
fn forked_from_many_threads(pulse: &AtomicU32) {
    let arena = Arena::<RobustMutex>::create().unwrap();
    let queue = Shared::create(&arena, 0).unwrap();
    let answers = Shared::create(&arena, 0).unwrap();
    let end = AtomicBool::new(false);
    for seed in seeds(1) {
        println!("forked_from_many_threads: seed {seed}");
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (arena, queue, end) = (&arena, &queue, &end);
                scope.spawn(move || {
                    let mut rng = Rng::new(seed + thread);
                    let mut kept = Vec::new();
                    while !end.load(Ordering::Relaxed) {
                        // Queues and private buffers come and go while others fork.
                        let own = Shared::create(arena, 0).unwrap();
                        let mut spans = vec![Span::new(arena, 1 + rng.below(100_000)).unwrap()];
                        own.put(1, &[1; 100], &mut spans, &mut parker(), Deadline::NEVER).unwrap();
                        let received = own.get(&mut Vec::new(), &mut parker(), Deadline::NEVER).unwrap();
                        kept.extend(received.spans.into_iter().map(PrivateSpan::new));
                        if kept.len() > 4 {
                            kept.clear();
                        }
                        put_number(queue, 7);
                        assert_eq!(get_number(queue), 7);
                    }
                });
            }
            for child in 0..100_u64 {
                pulse.fetch_add(1, Ordering::Relaxed);
                let (queue, answers) = (&queue, &answers);
                let pid = fork(move || {
                    for _ in 0..10 {
                        put_number(queue, 7);
                        assert_eq!(get_number(queue), 7);
                    }
                    put_number(answers, child);
                });
                assert_eq!(wait(pid), 0, "child {child}");
                assert_eq!(get_number(answers), child);
            }
            end.store(true, Ordering::Relaxed);
        });
        end.store(false, Ordering::Relaxed);
    }
    drop((queue, answers));
    arena.sweep();
    assert_eq!(arena.blocks_in_use().unwrap(), 0);
}

/// A received buffer is private, in a forked child as well.
fn private_across_a_fork(_pulse: &AtomicU32) {
    let arena = Arena::<RobustMutex>::create().unwrap();
    for length in [1, 5000, 3 << 20, 20 << 20] {
        let span = Span::new(&arena, length).unwrap();
        // SAFETY: new, and of this length.
        unsafe { span.as_ptr().write_bytes(3, length) };
        let private = PrivateSpan::new(span);
        let turn = Shared::create(&arena, 0).unwrap();
        let child = fork(|| {
            assert_eq!(get_number(&turn), 1);
            // SAFETY: it has so many bytes, in the child, too.
            let bytes = unsafe { std::slice::from_raw_parts_mut(private.as_ptr(), length) };
            assert!(bytes.iter().all(|byte| *byte == 3), "the parent's bytes");
            bytes.fill(5);
            let other = Span::new(&arena, length).unwrap();
            // SAFETY: new, and of this length.
            unsafe { other.as_ptr().write_bytes(9, length) };
            assert!(bytes.iter().all(|byte| *byte == 5), "a new span's bytes");
        });
        // SAFETY: it is this test's, and has so many bytes.
        unsafe { private.as_ptr().write_bytes(4, length) };
        drop(private);
        let reused = Span::new(&arena, length).unwrap();
        // SAFETY: new, and of this length.
        unsafe { reused.as_ptr().write_bytes(8, length) };
        put_number(&turn, 1);
        assert_eq!(wait(child), 0, "a buffer of {length} bytes");
    }
    arena.sweep();
    assert_eq!(arena.blocks_in_use().unwrap(), 0);
}

fn set_limit(what: libc::__rlimit_resource_t, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: a valid structure.
    assert_eq!(unsafe { libc::setrlimit(what, &raw const limit) }, 0);
}

/// Fills a queue with large buffers until that is refused, and empties it again.
fn fill_until_refused(arena: &Arc<Arena>, length: usize) -> ShmError {
    let queue = Shared::create(arena, 0).unwrap();
    let refusal = loop {
        let error = match Span::new(arena, length) {
            Ok(span) => {
                // SAFETY: new, and of this length.
                unsafe { span.as_ptr().write_bytes(1, length) };
                match queue.put(1, b"x", &mut vec![span], &mut parker(), Deadline::NEVER) {
                    Ok(()) => continue,
                    Err(QueueError::Memory(error)) => error,
                    Err(other) => panic!("{other:?}"),
                }
            }
            Err(error) => error,
        };
        break error;
    };
    let count = queue.len();
    let mut got = 0;
    while queue.try_get(&mut Vec::new(), &mut parker()).unwrap().is_some() {
        got += 1;
    }
    assert_eq!(got, count);
    refusal
}

fn what_is_used_up_is_an_error(pulse: &AtomicU32) {
    let in_child = |name: &str, work: &dyn Fn()| {
        pulse.fetch_add(1, Ordering::Relaxed);
        assert_eq!(wait(fork(work)), 0, "{name}");
    };
    in_child("address space, windows", &|| {
        let arena = Arena::<RobustMutex>::create().unwrap();
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = text.split(' ').next().unwrap().parse().unwrap();
        set_limit(libc::RLIMIT_AS, pages * 4096 + (100 << 20));
        let refusal = fill_until_refused(&arena, 100_000);
        assert!(refusal.to_string().contains("address space"), "{refusal}");
        assert_eq!(arena.blocks_in_use().unwrap(), 0);
        // The next free block may lie where nothing can be mapped any more; that is an error again, and no damage.
        match Shared::create(&arena, 0) {
            Ok(queue) => put_number(&queue, 1),
            Err(error) => assert!(error.to_string().contains("address space"), "{error}"),
        }
    });
    in_child("address space, views", &|| {
        let arena = Arena::<RobustMutex>::create().unwrap();
        set_limit(libc::RLIMIT_AS, 1 << 30);
        let refusal = Span::new(&arena, 2 << 30).unwrap_err();
        assert!(refusal.to_string().contains("address space"), "{refusal}");
        assert_eq!(arena.blocks_in_use().unwrap(), 0);
    });
    in_child("a message that cannot be mapped stays", &|| {
        let arena = Arena::<RobustMutex>::create().unwrap();
        let queue = Shared::create(&arena, 0).unwrap();
        let span = Span::new(&arena, 200 << 20).unwrap();
        queue.put(1, b"large", &mut vec![span], &mut parker(), Deadline::NEVER).unwrap();
        let child = fork(|| {
            // As another process would see it, which has nothing mapped.
            let again =
                Arena::attach(std::os::fd::AsFd::as_fd(&*arena).try_clone_to_owned().unwrap()).unwrap();
            let queue = Shared::attach(&again, queue.handle()).unwrap();
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: u64 = text.split(' ').next().unwrap().parse().unwrap();
            set_limit(libc::RLIMIT_AS, pages * 4096 + (100 << 20));
            let outcome = queue.get(&mut Vec::new(), &mut parker(), Deadline::NEVER);
            assert!(matches!(outcome, Err(QueueError::Memory(ShmError::System { .. }))), "{outcome:?}");
            assert_eq!(queue.len(), 1);
        });
        assert_eq!(wait(child), 0);
        assert_eq!(queue.len(), 1);
        let received = queue.get(&mut Vec::new(), &mut parker(), Deadline::NEVER).unwrap();
        assert_eq!(received.spans[0].len(), 200 << 20);
    });
    in_child("the size of files", &|| {
        set_limit(libc::RLIMIT_FSIZE, 100 << 20);
        let arena = Arena::<RobustMutex>::create().unwrap();
        let refusal = fill_until_refused(&arena, 300_000);
        assert!(matches!(refusal, ShmError::TooLarge { .. } | ShmError::System { .. }), "{refusal}");
        assert_eq!(arena.blocks_in_use().unwrap(), 0);
        set_limit(libc::RLIMIT_FSIZE, 1 << 20);
        let refusal = Arena::<RobustMutex>::create().unwrap_err();
        assert!(refusal.to_string().contains("ulimit -f"), "{refusal}");
    });
    in_child("descriptors", &|| {
        let arena = Arena::<RobustMutex>::create().unwrap();
        let queue = Arc::new(Shared::create(&arena, 0).unwrap());
        let mut spans = vec![Span::new(&arena, 5000).unwrap()];
        queue.put(1, b"x", &mut spans, &mut parker(), Deadline::NEVER).unwrap();
        let kept = Span::new(&arena, 5000).unwrap();
        let before = arena.blocks_in_use().unwrap();
        let child = fork(|| {
            set_limit(libc::RLIMIT_NOFILE, 0);
            let refusal = Arena::<RobustMutex>::create().unwrap_err();
            assert!(refusal.to_string().contains("ulimit -n"), "{refusal}");
            // It cannot look into /proc, and must not take the living for dead.
            assert_eq!(arena.sweep(), 0);
            assert_eq!(arena.blocks_in_use().unwrap(), before);
            let received = queue.get(&mut Vec::new(), &mut parker(), Deadline::NEVER).unwrap();
            assert_eq!(received.spans[0].len(), 5000);
            let refusal = queue.poller().unwrap_err();
            assert!(refusal.to_string().contains("ulimit -n"), "{refusal}");
            // A child that cannot find out when it started is not taken for dead either.
            let own = Span::new(&arena, 5000).unwrap();
            let grandchild = fork(|| {
                let mut spans = vec![Span::new(&arena, 6000).unwrap()];
                queue.put(1, b"y", &mut spans, &mut parker(), Deadline::NEVER).unwrap();
            });
            assert_eq!(wait(grandchild), 0);
            drop(own);
        });
        assert_eq!(wait(child), 0);
        drop(kept);
        let received = queue.get(&mut Vec::new(), &mut parker(), Deadline::NEVER).unwrap();
        assert_eq!(received.spans[0].len(), 6000);
        drop((received, queue));
        arena.sweep();
        assert_eq!(arena.blocks_in_use().unwrap(), 0);
    });
}

type Test = fn(&AtomicU32);

const TESTS: &[(&str, Test)] = &[
    ("private_across_a_fork", private_across_a_fork),
    ("what_is_used_up_is_an_error", what_is_used_up_is_an_error),
    ("forked_from_many_threads", forked_from_many_threads),
    ("killed_at_random_instants", killed_at_random_instants),
];

fn main() {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (name, test) in TESTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            let pulse = shared::<AtomicU32>();
            watched(name, pulse, || test(pulse));
        }
    }
}
