//! One process: frames as they are cut and as they are not, and threads that share an end.

use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use weft_pipe::frame::{Head, Parsed, parse};
use weft_pipe::{End, Incoming, PipeError, pair};
use weft_shm::Arena;
use weft_wait::{Deadline, ThreadParker};

type Never = std::convert::Infallible;

fn receive(end: &End, most: Option<u64>) -> Result<Vec<u8>, PipeError<Never>> {
    let mut parker = ThreadParker::default();
    let mut buffer = Vec::new();
    match end.receive(&mut buffer, most, &mut parker)? {
        Incoming::Short(start) => Ok(buffer.split_off(start)),
        // SAFETY: the span is ours, and this long.
        Incoming::Span(span) => unsafe { Ok(std::slice::from_raw_parts(span.as_ptr(), span.len()).to_vec()) },
        Incoming::Long(mut frame) => {
            let (mut body, mut chunk) = (Vec::new(), vec![0; 70_000]);
            while frame.left() > 0 {
                let count = frame.read(&mut chunk, &mut parker)?;
                body.extend_from_slice(&chunk[..count]);
            }
            Ok(body)
        }
    }
}

fn transmit(end: &End, body: &[u8]) -> Result<(), PipeError<Never>> {
    let mut parker = ThreadParker::default();
    match end.reserve(body.len(), &mut parker)? {
        Some(mut reserved) => {
            reserved.memory().copy_from_slice(body);
            end.post(reserved, &mut parker)
        }
        None => {
            let (one, other) = body.split_at(body.len() / 3);
            end.send(&[one, other], &mut parker)
        }
    }
}

fn lone_pair() -> (End, End) {
    let (one, other) = UnixStream::pair().unwrap();
    (End::of_descriptor(one.into_raw_fd()), End::of_descriptor(other.into_raw_fd()))
}

fn kernel_pipe() -> (End, End) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    (End::of_descriptor(writer.into_raw_fd()), End::of_descriptor(reader.into_raw_fd()))
}

fn shared_pair(shown: bool) -> (End, End) {
    let (one, other) = pair::<Never>(&Arena::create().unwrap()).unwrap();
    if shown {
        one.show();
        other.show();
    }
    (one, other)
}

fn every_kind() -> Vec<(&'static str, (End, End))> {
    vec![
        ("pair", shared_pair(false)),
        ("pair that was shown", shared_pair(true)),
        ("socket", lone_pair()),
        ("pipe", kernel_pipe()),
    ]
}

#[test]
fn all_lengths_arrive() {
    for (kind, (one, other)) in every_kind() {
        for length in [0, 1, 59, 60, 61, 2600, 2700, 16_380, 16_381, 16_400, 70_000, 3_000_000] {
            let body: Vec<u8> = (0..length).map(|at| (at * 7 + at / 256) as u8).collect();
            std::thread::scope(|scope| {
                let sender = scope.spawn(|| transmit(&one, &body).unwrap());
                assert_eq!(receive(&other, None).unwrap(), body, "{length} bytes over a {kind}");
                sender.join().unwrap();
            });
        }
        drop(one);
        assert_eq!(receive(&other, None), Err(PipeError::Eof), "{kind}");
    }
}

#[test]
fn messages_of_threads_that_share_an_end_stay_whole() {
    const EACH: u64 = 600;
    for (kind, (one, other)) in every_kind() {
        let (left, sum) = (AtomicU64::new(EACH * 3), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for writer in 0..3_u64 {
                let one = &one;
                scope.spawn(move || {
                    for number in 0..EACH {
                        let length = match number % 50 {
                            0 => 90_000,
                            1 => 17_000,
                            _ => number as usize % 300,
                        };
                        let mark = (writer + number * 3) as u8;
                        transmit(one, &vec![mark; length + 1]).unwrap();
                    }
                });
            }
            for _ in 0..3 {
                scope.spawn(|| {
                    while left
                        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                        .is_ok()
                    {
                        let body = receive(&other, None).unwrap();
                        assert!(body.iter().all(|byte| *byte == body[0]), "mixed, over a {kind}");
                        sum.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(sum.load(Ordering::SeqCst), EACH * 3);
    }
}

#[test]
fn what_was_sent_raw_comes_in_order() {
    let (one, other) = shared_pair(false);
    transmit(&one, b"first").unwrap();
    one.show();
    let mut raw = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(&one, 3).unwrap());
    raw.write_all(b"\0\0\0\x06second").unwrap();
    transmit(&one, b"third").unwrap();
    for wanted in ["first", "second", "third"] {
        assert_eq!(receive(&other, None).unwrap(), wanted.as_bytes());
    }
}

#[test]
fn too_long_is_said_before_it_is_taken() {
    for (kind, (one, other)) in every_kind() {
        transmit(&one, &[1; 300]).unwrap();
        assert_eq!(receive(&other, Some(299)), Err(PipeError::BadLength), "{kind}");
    }
}

#[test]
fn a_closed_end_is_said_so() {
    let (one, other) = shared_pair(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| receive(&other, None));
        while rustix::event::poll(
            &mut [rustix::event::PollFd::new(&other, rustix::event::PollFlags::IN)],
            Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 1_000_000 }),
        ) != Ok(0)
        {}
        other.close().unwrap();
        // In its own time: at the end of a slice.
        assert_eq!(waiting.join().unwrap(), Err(PipeError::Closed));
    });
    assert_eq!(receive(&other, None), Err(PipeError::Closed));
    let mut parker = ThreadParker::default();
    assert_eq!(other.poll(&mut parker, Deadline::NEVER), Err(PipeError::Closed));
    assert_eq!(transmit(&one, b"x"), Err(PipeError::System(rustix::io::Errno::PIPE)));
}

#[test]
fn a_descriptor_is_not_closed_under_who_waits() {
    let (one, other) = shared_pair(false);
    let number = other.number();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| receive(&other, None));
        std::thread::yield_now();
        other.close().unwrap();
        // Whether or not the other thread has come to wait, it never reads from a new file of this number.
        let file = UnixStream::pair().unwrap();
        assert_eq!(waiting.join().unwrap(), Err(PipeError::Closed), "{number} {}", file.0.as_raw_fd());
    });
    drop(one);
}

proptest! {
    #[test]
    fn any_first_bytes_are_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
        match parse(&bytes) {
            Parsed::Incomplete(needed) => prop_assert!(needed > bytes.len() && needed <= 12),
            Parsed::Body { head, body } => {
                prop_assert!(head <= bytes.len());
                prop_assert!(isize::try_from(body).is_ok());
            }
            Parsed::Token | Parsed::Bad => prop_assert!(bytes[0] & 0x80 != 0),
        }
    }

    #[test]
    fn what_is_written_is_read(body in 0..=isize::MAX as u64) {
        let head = Head::new(body);
        let length = head.as_bytes().len();
        prop_assert_eq!(parse(head.as_bytes()), Parsed::Body { head: length, body });
    }

    /// A foreign peer that sends anything, and goes.
    #[test]
    fn any_stream_ends(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..300_usize) {
        let (mut raw, socket) = UnixStream::pair().unwrap();
        let end = End::of_descriptor(socket.into_raw_fd());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (one, other) = bytes.split_at(cut.min(bytes.len()));
                // The reader may have given up already.
                let _ = raw.write_all(one).and_then(|()| raw.write_all(other));
            });
            for _ in 0..100 {
                match receive(&end, Some(1 << 20)) {
                    Ok(_) => {}
                    Err(PipeError::Eof | PipeError::EofInMessage | PipeError::BadLength) => break,
                    Err(PipeError::System(rustix::io::Errno::CONNRESET)) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            drop(end);
        });
    }
}
