//! The hub as its driver sees it, without coroutines.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[path = "../../reactor/tests/filter/mod.rs"]
mod filter;

use weft_hub::{Hub, InUse, Occurrence};
use weft_reactor::{ReactorError, Ready};

const NOW: Option<Duration> = Some(Duration::ZERO);

fn poll(hub: &mut Hub<char>) -> Vec<Occurrence> {
    let mut told = Vec::new();
    hub.poll(NOW, |what| told.push(what)).unwrap();
    told
}

#[test]
fn timers_wake_and_tell() {
    let mut hub = Hub::new().unwrap();
    let now = hub.update_now();
    let waiter = hub.waiters.park('a');
    hub.wake_at(now, waiter);
    hub.tell_at(now, 7);
    let never = hub.tell_at(now, 8);
    hub.cancel_timer(never);
    let later = hub.tell_at(now + 3_600_000_000_000, 9);
    assert_eq!(poll(&mut hub), [Occurrence::Timer(7)]);
    assert_eq!((hub.waiters.next_ready(), hub.timers()), (Some('a'), 1));
    let left = hub.patience().unwrap();
    assert!(left > Duration::from_secs(3000) && left <= Duration::from_secs(3600));
    hub.cancel_timer(later);
    assert_eq!(hub.patience(), None);
    hub.waiters.post('b');
    assert_eq!(hub.patience(), NOW, "who is ready is not kept waiting");
}

#[test]
fn a_late_timer_wakes_nobody_else() {
    let mut hub = Hub::new().unwrap();
    let now = hub.update_now();
    let first = hub.waiters.park('a');
    hub.wake_at(now, first);
    assert_eq!(hub.waiters.withdraw(first), Some('a'));
    let second = hub.waiters.park('b'); // in the same place
    poll(&mut hub);
    assert_eq!(hub.waiters.ready_len(), 0);
    assert!(hub.waiters.wake(second));
}

#[test]
fn a_wait_for_a_descriptor_is_given_up_by_others() {
    let mut hub = Hub::new().unwrap();
    let (near, _far) = UnixStream::pair().unwrap();
    let source = hub.reactor().unwrap().register(near.as_raw_fd()).unwrap();
    poll(&mut hub);
    hub.reactor().unwrap().would_block(source, Ready::BOTH);
    let reader = hub.waiters.park('r');
    hub.wake_when_ready(source, Ready::READ, reader).unwrap();
    assert_eq!(hub.wake_waiting(source, Ready::WRITE), Ready::NONE, "nobody writes");
    assert_eq!(hub.wake_waiting(source, Ready::BOTH), Ready::READ);
    assert_eq!(hub.waiters.next_ready(), Some('r'));
    assert_eq!(hub.wake_waiting(source, Ready::BOTH), Ready::NONE, "nobody waits any more");
    let again = hub.waiters.park('r');
    hub.wake_when_ready(source, Ready::READ, again).unwrap();
    hub.deregister(source);
    assert_eq!(hub.waiters.next_ready(), Some('r'));
    assert_eq!(hub.wake_waiting(source, Ready::BOTH), Ready::NONE, "that registration is over");
}

#[test]
fn one_reader_and_one_writer_a_descriptor() {
    let mut hub = Hub::new().unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    let source = hub.reactor().unwrap().register(near.as_raw_fd()).unwrap();
    poll(&mut hub);
    hub.reactor().unwrap().would_block(source, Ready::BOTH);
    let (reader, writer, other) = (hub.waiters.park('r'), hub.waiters.park('w'), hub.waiters.park('o'));
    hub.wake_when_ready(source, Ready::READ, reader).unwrap();
    hub.wake_when_ready(source, Ready::WRITE, writer).unwrap();
    assert_eq!(hub.wake_when_ready(source, Ready::READ, other), Err(InUse));
    far.write_all(b"x").unwrap();
    poll(&mut hub);
    assert_eq!(hub.waiters.next_ready(), Some('r'));
    // The first is gone: the other one may.
    hub.wake_when_ready(source, Ready::READ, other).unwrap();
    hub.deregister(source);
    let mut woken = [hub.waiters.next_ready(), hub.waiters.next_ready()];
    woken.sort_unstable();
    assert!(woken.contains(&Some('o')), "who waits for what is closed tries, and learns of it");
}

#[test]
fn watches_tell_until_they_end() {
    let mut hub = Hub::new().unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    let waiter = hub.waiters.park('a');
    let wakes = hub.wake_when(near.as_raw_fd(), Ready::READ, waiter).unwrap();
    let tells = hub.tell_when(near.as_raw_fd(), Ready::BOTH, 5).unwrap();
    assert_eq!(poll(&mut hub), [Occurrence::Ready(5, Ready::WRITE)]);
    far.write_all(b"x").unwrap();
    assert_eq!(poll(&mut hub), [Occurrence::Ready(5, Ready::BOTH)]);
    assert_eq!(hub.waiters.next_ready(), Some('a'));
    hub.unwatch(wakes);
    hub.unwatch(tells);
    assert_eq!(poll(&mut hub), []);
}

#[test]
fn other_threads_wake_and_nudge() {
    let mut hub = Hub::new().unwrap();
    let waiter = hub.waiters.park('a');
    let remote = hub.remote().clone();
    std::thread::spawn(move || remote.wake(waiter)).join().unwrap();
    let mut told = Vec::new();
    hub.poll(None, |what| told.push(what)).unwrap();
    assert_eq!((told, hub.waiters.next_ready()), (vec![Occurrence::Woken], Some('a')));
    hub.remote().wake(waiter);
    hub.poll(None, |_| ()).unwrap();
    assert_eq!(hub.waiters.next_ready(), None, "that wait is over");
}

#[test]
fn a_turn_ends_by_time() {
    let mut hub: Hub<char> = Hub::new().unwrap();
    poll(&mut hub);
    while hub.may_hand_over() {
        std::hint::spin_loop();
    }
    poll(&mut hub);
    assert!(hub.may_hand_over());
}

#[test]
fn in_the_child_of_a_fork_waits_go_on_but_for_descriptors() {
    let mut hub = Hub::new().unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    let source = hub.reactor().unwrap().register(near.as_raw_fd()).unwrap();
    poll(&mut hub);
    hub.reactor().unwrap().would_block(source, Ready::READ);
    let waiter = hub.waiters.park('a');
    hub.wake_when_ready(source, Ready::READ, waiter).unwrap();
    // With a thread that stands at a word.
    let word = std::sync::atomic::AtomicU32::new(0);
    let stands = hub.waiters.park('b');
    // SAFETY: the word outlives the hub's use of it: recalled below.
    let post = unsafe { hub.post_at(&raw const word, 0, stands) };
    // SAFETY: the child ends without cleaning up.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            hub.after_fork().unwrap();
            hub.recall(post);
            far.write_all(b"x").unwrap();
            poll(&mut hub);
            assert_eq!(hub.waiters.next_ready(), None, "what comes is the parent's");
            let own = hub.waiters.park('c');
            hub.wake_when_ready(source, Ready::READ, own).unwrap();
            far.write_all(b"y").unwrap();
            poll(&mut hub);
            assert_eq!(hub.waiters.next_ready(), Some('c'));
            hub.remote().wake(stands);
            hub.poll(None, |_| ()).unwrap();
            assert_eq!(hub.waiters.next_ready(), Some('b'));
        }));
        // SAFETY: nothing of the parent's is cleaned up.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    hub.recall(post);
    poll(&mut hub);
    assert_eq!(hub.waiters.next_ready(), Some('a'), "the child's descriptor is the parent's as well");
}

/// Of the only other thread of this process: how often it has slept, and for how many ticks of the clock it has run.
fn sleeps_and_ticks() -> (u64, u64) {
    let me = std::process::id().to_string();
    let mut threads = std::fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    let other = threads.find(|path| !path.ends_with(&me)).unwrap();
    let status = std::fs::read_to_string(other.join("status")).unwrap();
    let sleeps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    let stat = std::fs::read_to_string(other.join("stat")).unwrap();
    // From the state on, which is the third.
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (sleeps.trim().parse().unwrap(), fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum())
}

#[test]
fn where_the_kernel_cannot_sleep_at_words_they_are_looked_at_in_peace() {
    // SAFETY: the child ends without cleaning up.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let outcome = std::panic::catch_unwind(|| {
            // In a child, as nobody gets rid of a filter.
            filter::refuse(libc::SYS_futex_waitv, libc::EPERM);
            let mut hub = Hub::new().unwrap();
            let word = std::sync::atomic::AtomicU32::new(0);
            let waiter = hub.waiters.park('a');
            // SAFETY: the word lives until the post is recalled.
            let post = unsafe { hub.post_at(&raw const word, 0, waiter) };
            while let (sleeps, ticks) = sleeps_and_ticks()
                && sleeps < 20
            {
                assert!(ticks < 50, "it runs all the time: {sleeps} sleeps in {ticks} ticks");
                std::thread::yield_now();
            }
            word.store(1, std::sync::atomic::Ordering::SeqCst);
            while hub.waiters.next_ready() != Some('a') {
                hub.poll(None, |_| ()).unwrap();
            }
            hub.recall(post);
        });
        // SAFETY: nothing of the parent's is cleaned up.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}

#[test]
fn a_fork_without_descriptors_is_seen_when_there_are_some() {
    let mut hub = Hub::new().unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    hub.tell_when(near.as_raw_fd(), Ready::READ, 7).unwrap();
    let waiter = hub.waiters.park('a');
    // SAFETY: the child ends without cleaning up.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: valid structures, and the limit is this process's own.
            let mut limit_descriptors = |most| unsafe {
                assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
                limit.rlim_cur = most;
                assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
            };
            limit_descriptors(3);
            assert!(matches!(hub.after_fork(), Err(ReactorError::Create(_))));
            assert!(matches!(hub.after_fork(), Err(ReactorError::Create(_))), "it was not seen to yet");
            limit_descriptors(100);
            hub.after_fork().unwrap();
            hub.remote().wake(waiter);
            far.write_all(b"x").unwrap();
            let mut told = Vec::new();
            hub.poll(None, |what| told.push(what)).unwrap();
            assert!(told.contains(&Occurrence::Ready(7, Ready::READ)), "{told:?}");
            assert_eq!(hub.waiters.next_ready(), Some('a'));
        }));
        // SAFETY: nothing of the parent's is cleaned up.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(poll(&mut hub), [Occurrence::Ready(7, Ready::READ)], "nothing but what the child wrote");
}

#[test]
fn a_closed_hub_can_be_used_and_does_nothing() {
    let mut hub = Hub::new().unwrap();
    let (near, _far) = UnixStream::pair().unwrap();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let source = hub.reactor().unwrap().register(near.as_raw_fd()).unwrap();
    let watch = hub.tell_when(near.as_raw_fd(), Ready::READ, 1).unwrap();
    let remote = hub.remote().clone();
    let parked = hub.waiters.park('a');
    hub.waiters.post('b');
    let now = hub.update_now();
    let timer = hub.wake_at(now, parked);
    let descriptor = hub.reactor().unwrap().descriptor();
    let sleep = hub.prepare();
    let before = open();
    assert_eq!(hub.close(), ['a', 'b']);
    drop(sleep);
    assert!(open() < before);
    assert!(hub.reactor().is_none());
    assert!(!hub.cancel_timer(timer));
    assert_eq!(hub.waiters.withdraw(parked), None);
    remote.wake(parked);
    hub.remote().wake(parked);
    hub.unwatch(watch);
    hub.deregister(source);
    assert_eq!(hub.wake_waiting(source, Ready::BOTH), Ready::NONE);
    let late = hub.waiters.park('c');
    assert_eq!(hub.tell_when(descriptor, Ready::READ, 2), Err(ReactorError::Closed));
    let word = std::sync::atomic::AtomicU32::new(0);
    // SAFETY: the word lives until the post is recalled.
    let post = unsafe { hub.post_at(&raw const word, 0, late) };
    hub.recall(post);
    assert_eq!(hub.poll(None, |_| ()), Err(ReactorError::Closed), "it does not sleep either");
    assert_eq!(hub.close(), ['c']);
}
