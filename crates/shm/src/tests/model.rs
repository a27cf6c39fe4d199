//! The queue against a model.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use weft_wait::{Deadline, ThreadParker};

use super::{again, check, property, sized};
use crate::arena::Arena;
use crate::queue::{LONGEST_BODY, Queue, QueueError};
use crate::robust::LocalLock;
use crate::span::Span;

#[derive(Debug, Clone)]
enum Act {
    Put {
        kind: u8,
        body: usize,
        spans: Vec<usize>,
    },
    Get,
    Done,
    ShutDown {
        immediate: bool,
    },
    /// Another handle takes the place of the n-th.
    Renew(usize),
}

fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
    let body = prop_oneof![5 => 0..100_usize, 2 => 0..sized(5000_usize, 2000), 1 => LONGEST_BODY - 20..=LONGEST_BODY];
    let size = prop_oneof![3 => 0..sized(9000_usize, 300), 1 => 0..sized(1_usize << 20, 20_000)];
    let spans = prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(size, 0..4)];
    let put = (0..255_u8, body, spans).prop_map(|(kind, body, spans)| Act::Put { kind, body, spans });
    let act = prop_oneof![
        50 => put,
        45 => Just(Act::Get),
        10 => Just(Act::Done),
        1 => any::<bool>().prop_map(|immediate| Act::ShutDown { immediate }),
        3 => (0..3_usize).prop_map(Act::Renew),
    ];
    prop::collection::vec((0..3_usize, act), 1..sized(300, 100))
}

fn filled(number: u64, length: usize) -> Vec<u8> {
    (0..length).map(|at| (number as usize * 13 + at * 5) as u8).collect()
}

proptest! {
    #![proptest_config(property(sized(100, 2)))]

    #[test]
    fn it_does_what_a_deque_does(limit in prop_oneof![Just(0_u64), 1..20_u64], acts in acts()) {
        let arena = Arena::<LocalLock>::create().unwrap();
        let mut handles = vec![Queue::create(&arena, limit).unwrap()];
        // Each handle has its own mapping and its own idea of where the queue is.
        (1..3).for_each(|_| {
            let other = Queue::attach(&again(&arena), handles[0].handle()).unwrap();
            handles.push(other);
        });
        let mut model = VecDeque::new();
        let (mut number, mut put, mut done, mut closed) = (0_u64, 0_u64, 0_u64, false);
        let parker = &mut ThreadParker::default();
        let now = || Deadline::after(Duration::ZERO);
        for (which, act) in acts {
            let queue = &handles[which];
            match act {
                Act::Put { kind, body, spans: lengths } => {
                    number += 1;
                    let mut spans: Vec<_> = lengths.iter().map(|length| {
                        let span = Span::new(queue.arena(), *length).unwrap();
                        let bytes = filled(number, *length);
                        // SAFETY: new, and of this length.
                        unsafe { span.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), *length) };
                        span
                    }).collect();
                    let outcome = queue.put(kind, &filled(number, body), &mut spans, parker, now());
                    if closed {
                        assert_eq!(outcome, Err(QueueError::ShutDown));
                    } else if limit != 0 && model.len() as u64 >= limit {
                        assert_eq!(outcome, Err(QueueError::TimedOut));
                    } else {
                        outcome.unwrap();
                        put += 1;
                        model.push_back((number, kind, body, lengths.clone()));
                        assert!(spans.is_empty());
                        continue;
                    }
                    assert_eq!(spans.len(), lengths.len());
                }
                Act::Get => {
                    let mut got = vec![1, 2, 3];
                    let outcome = queue.get(&mut got, parker, now());
                    match model.pop_front() {
                        Some((number, kind, body, lengths)) => {
                            let received = outcome.unwrap();
                            assert_eq!((received.kind, got), (kind, filled(number, body)));
                            assert_eq!(received.spans.len(), lengths.len());
                            for (span, length) in received.spans.iter().zip(lengths) {
                                // SAFETY: it has so many bytes.
                                let bytes = unsafe { std::slice::from_raw_parts(span.as_ptr(), span.len()) };
                                assert_eq!(bytes, filled(number, length));
                            }
                        }
                        None if closed => assert_eq!(outcome.unwrap_err(), QueueError::ShutDown),
                        None => assert_eq!(outcome.unwrap_err(), QueueError::TimedOut),
                    }
                }
                Act::Done => {
                    assert_eq!(queue.task_done(), done < put);
                    done += u64::from(done < put);
                }
                Act::ShutDown { immediate } => {
                    queue.shut_down(immediate, parker).unwrap();
                    closed = true;
                    if immediate {
                        done = put.min(done + model.len() as u64);
                        model.clear();
                    }
                }
                Act::Renew(which) => {
                    let renewed = Queue::attach(&again(&arena), handles[0].handle()).unwrap();
                    handles[which] = renewed;
                }
            }
            for queue in &handles {
                assert_eq!(queue.len(), model.len() as u64);
                assert_eq!(queue.unfinished(), put - done);
                assert_eq!(queue.is_shut_down(), closed);
                assert_eq!(queue.is_full(), limit != 0 && model.len() as u64 >= limit);
            }
        }
        drop(handles);
        assert!(check(&arena).is_empty());
    }
}

#[test]
fn the_last_handle_takes_all_with_it() {
    let arena = Arena::<LocalLock>::create().unwrap();
    let queue = Arc::new(Queue::create(&arena, 0).unwrap());
    // Miri has no /proc to reach a poller by.
    let pollers = (0..sized(3, 0)).map(|_| queue.poller().unwrap()).collect::<Vec<_>>();
    let others: Vec<_> =
        (0..sized(100, 40)).map(|_| Queue::attach(&arena, queue.handle()).unwrap()).collect();
    for length in [1, 5000, 1 << 20] {
        let mut spans = vec![Span::new(&arena, length).unwrap()];
        queue.put(1, &[1; 9000], &mut spans, &mut ThreadParker::default(), Deadline::NEVER).unwrap();
    }
    drop((pollers, others, queue));
    assert!(check(&arena).is_empty());
}

#[test]
#[cfg_attr(miri, ignore = "thousands of holders, of which each looks at all")]
fn no_more_can_hold_a_queue_than_there_is_room_for() {
    let arena = Arena::<LocalLock>::create().unwrap();
    let queue = Queue::create(&arena, 0).unwrap();
    let mut others = Vec::new();
    let refusal = loop {
        match Queue::attach(&arena, queue.handle()) {
            Ok(other) => others.push(other),
            Err(error) => break error,
        }
    };
    assert!(others.len() > 4000, "{}", others.len());
    assert!(refusal.to_string().contains("as many take part in it as can"), "{refusal}");
    drop((others, queue));
    assert!(check(&arena).is_empty());
}
