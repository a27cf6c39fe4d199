//! Writers and readers of one pair's ends that are killed and stopped at random instants.
//!
//! A program of its own without threads, so that it can fork. The seeds are printed; `WEFT_SOAK_SECONDS` makes it long.

#[path = "../../shm/tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use support::{Rng, fork, seeds, send, shared, wait, watched};
use weft_pipe::{End, Incoming, PipeError, pair};
use weft_shm::Arena;
use weft_wait::ThreadParker;

const LIVES: usize = 64;
const MESSAGES: usize = 1 << 18;
/// The writer of end marks.
const END: u32 = u32::MAX;

/// What everybody notes in a round.
struct Notes {
    writers_end: AtomicBool,
    tried: [AtomicU32; LIVES],
    sent: [AtomicU32; LIVES],
    /// Errors that said that somebody died or was lost.
    told: AtomicU32,
    seen: [[AtomicU8; MESSAGES]; LIVES],
}

fn content(writer: u32, number: u32, length: usize) -> impl Iterator<Item = u8> {
    (0..length).map(move |at| (writer as usize * 17 + number as usize * 5 + at * 3 + at / 251) as u8)
}

fn message(writer: u32, number: u32, length: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(length + 8);
    body.extend_from_slice(&writer.to_le_bytes());
    body.extend_from_slice(&number.to_le_bytes());
    body.extend(content(writer, number, length));
    body
}

fn transmit(end: &End, body: &[u8]) -> Result<(), PipeError<std::convert::Infallible>> {
    let mut parker = ThreadParker::default();
    match end.reserve(body.len(), &mut parker)? {
        Some(mut reserved) => {
            reserved.memory().copy_from_slice(body);
            end.post(reserved, &mut parker)
        }
        None => end.send(&[body], &mut parker),
    }
}

fn write(end: &End, notes: &Notes, writer: u32, mut rng: Rng) {
    let mut number = 0;
    while !notes.writers_end.load(Ordering::Relaxed) && (number as usize) < MESSAGES {
        let length = match rng.below(100) {
            0..60 => rng.below(40),
            60..80 => rng.below(20_000),
            80..95 => rng.below(100_000),
            _ => rng.below(1_500_000),
        };
        let body = message(writer, number, length);
        notes.tried[writer as usize].store(number + 1, Ordering::SeqCst);
        transmit(end, &body).unwrap();
        number += 1;
        notes.sent[writer as usize].store(number, Ordering::SeqCst);
    }
}

fn receive(end: &End) -> Result<Vec<u8>, PipeError<std::convert::Infallible>> {
    let mut parker = ThreadParker::default();
    let mut buffer = Vec::new();
    match end.receive(&mut buffer, None, &mut parker)? {
        Incoming::Short(start) => Ok(buffer.split_off(start)),
        // SAFETY: the span is ours, and this long.
        Incoming::Span(span) => unsafe { Ok(std::slice::from_raw_parts(span.as_ptr(), span.len()).to_vec()) },
        Incoming::Long(mut frame) => {
            let mut body = vec![0; usize::try_from(frame.left()).unwrap()];
            let mut filled = 0;
            while frame.left() > 0 {
                filled += frame.read(&mut body[filled..], &mut parker)?;
            }
            Ok(body)
        }
    }
}

fn read(end: &End, notes: &Notes) {
    let mut last = [None::<u32>; LIVES];
    loop {
        let body = match receive(end) {
            Ok(body) => body,
            Err(PipeError::WriterDied { .. } | PipeError::ReaderDied { .. }) => {
                notes.told.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
        let (writer, number) = (word(0), word(4));
        if writer == END {
            return;
        }
        assert!((writer as usize) < LIVES, "garbage");
        let before = notes.seen[writer as usize][number as usize].fetch_add(1, Ordering::SeqCst);
        assert_eq!(before, 0, "message {number} of {writer} came twice");
        assert!(last[writer as usize].is_none_or(|last| last < number), "messages of {writer} out of order");
        last[writer as usize] = Some(number);
        assert!(body[8..].iter().copied().eq(content(writer, number, body.len() - 8)), "a corrupt body");
    }
}

/// Kills at random instants; says how many.
fn round(arena: &Arc<Arena>, notes: &'static Notes, pulse: &AtomicU32, seed: u64) -> usize {
    let mut rng = Rng::new(seed);
    let (here, there) = pair::<()>(arena).unwrap();
    let is_shown = rng.percent(40);
    if is_shown {
        // Long messages go in pieces through the descriptor then.
        here.show();
        there.show();
    }
    let (mut lives, mut killed_readers, mut kills) = (0_u32, 0, 0);
    let mut start_writer = |rng: &mut Rng| {
        let (writer, rng) = (lives, Rng::new(rng.next()));
        lives += 1;
        fork(|| write(&here, notes, writer, rng))
    };
    let start_reader = || fork(|| read(&there, notes));
    let mut writers: Vec<_> = (0..1 + rng.below(3)).map(|_| start_writer(&mut rng)).collect();
    let mut readers: Vec<_> = (0..1 + rng.below(3)).map(|_| start_reader()).collect();
    for _ in 0..4 + rng.below(16) {
        pulse.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_micros(rng.below(3000) as u64));
        let is_writer = rng.percent(50);
        let group = if is_writer { &mut writers } else { &mut readers };
        let which = rng.below(group.len());
        if rng.percent(25) {
            send(group[which], libc::SIGSTOP);
            std::thread::sleep(Duration::from_micros(rng.below(5000) as u64));
            send(group[which], libc::SIGCONT);
            continue;
        }
        let victim = group.swap_remove(which);
        send(victim, libc::SIGKILL);
        assert_eq!(wait(victim), -libc::SIGKILL, "somebody ended before it was killed");
        kills += 1;
        if is_writer {
            writers.push(start_writer(&mut rng));
        } else {
            killed_readers += 1;
            readers.push(start_reader());
        }
    }
    notes.writers_end.store(true, Ordering::SeqCst);
    for child in writers {
        assert_eq!(wait(child), 0, "a writer");
        pulse.fetch_add(1, Ordering::Relaxed);
    }
    // A mark is lost with what is behind a message that a killed reader left, but nobody is killed any more.
    while let Some(child) = readers.pop() {
        transmit(&here, &message(END, 0, 0)).unwrap();
        let mut status = 0;
        // SAFETY: the status is ours.
        while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
            std::thread::sleep(Duration::from_millis(1));
            if weft_pipe::outstanding(std::os::fd::AsFd::as_fd(&here)) == Ok(0) {
                transmit(&here, &message(END, 0, 0)).unwrap();
            }
        }
        assert_eq!(status, 0, "a reader");
        pulse.fetch_add(1, Ordering::Relaxed);
    }
    let (mut got, mut sent, mut tried) = (0_u64, 0_u64, 0_u64);
    for writer in 0..lives as usize {
        let mine = notes.tried[writer].swap(0, Ordering::SeqCst);
        tried += u64::from(mine);
        sent += u64::from(notes.sent[writer].swap(0, Ordering::SeqCst));
        for seen in &notes.seen[writer][..mine as usize] {
            got += u64::from(seen.swap(0, Ordering::SeqCst));
        }
    }
    notes.writers_end.store(false, Ordering::SeqCst);
    let told = notes.told.swap(0, Ordering::SeqCst);
    assert!(got <= tried, "{got} got, {tried} tried");
    if is_shown {
        assert!(u64::from(told) <= kills as u64 + 1, "{told} errors for {kills} kills");
    } else {
        assert!(got + killed_readers >= sent, "{sent} sent, {got} got, {killed_readers} readers killed");
        assert_eq!(told, 0);
    }
    drop((here, there));
    kills
}

fn killed_at_random_instants(pulse: &AtomicU32) {
    let notes = shared::<Notes>();
    let mut kills = 0;
    for seed in seeds(40) {
        println!("seed {seed}");
        let arena = Arena::create().unwrap();
        kills += round(&arena, notes, pulse, seed);
        // Those who were killed take their marks of holders with them.
        arena.sweep();
    }
    println!("{kills} kills");
}

/// Whoever holds an end keeps the stream open, through raw forks, and nobody else does.
fn the_end_is_seen(_pulse: &AtomicU32) {
    let arena = Arena::create().unwrap();
    let (here, there) = pair::<()>(&arena).unwrap();
    let child = fork(|| {
        there.close().unwrap();
        let grandchild = fork(|| {
            transmit(&here, b"last words").unwrap();
        });
        assert_eq!(wait(grandchild), 0);
    });
    here.close().unwrap();
    assert_eq!(receive(&there).unwrap(), b"last words");
    assert_eq!(receive(&there), Err(PipeError::Eof));
    assert_eq!(wait(child), 0);
    assert!(matches!(transmit(&there, b"x"), Err(PipeError::System(rustix::io::Errno::PIPE))));
}

type Test = fn(&AtomicU32);

const TESTS: &[(&str, Test)] =
    &[("the_end_is_seen", the_end_is_seen), ("killed_at_random_instants", killed_at_random_instants)];

fn main() {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (name, test) in TESTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            let pulse = shared::<AtomicU32>();
            watched(name, pulse, || test(pulse));
        }
    }
}
