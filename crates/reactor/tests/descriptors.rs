//! Descriptors that come, go, and come again under the same number.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;
use weft_reactor::{Event, Reactor, ReactorError, Ready, SourceKey, WatchKey};

const NOW: Option<Duration> = Some(Duration::ZERO);

fn pair() -> (UnixStream, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    (near, far)
}

fn poll(reactor: &mut Reactor) -> Vec<Event> {
    let mut events = Vec::new();
    reactor.poll(NOW, |event| events.push(event)).unwrap();
    events
}

#[test]
fn a_change_is_told_once_and_remembered() {
    let mut reactor = Reactor::new().unwrap();
    let (mut near, mut far) = pair();
    let key = reactor.register(near.as_raw_fd()).unwrap();
    assert_eq!(reactor.ready(key), Some(Ready::BOTH), "whoever comes first tries");
    reactor.would_block(key, Ready::READ);
    assert_eq!(poll(&mut reactor), [Event::Source(key, Ready::WRITE)]);
    assert_eq!(poll(&mut reactor), [], "told once");

    far.write_all(b"word").unwrap();
    assert!(
        matches!(poll(&mut reactor)[..], [Event::Source(known, ready)] if known == key && ready.has(Ready::READ))
    );
    assert!(reactor.ready(key).unwrap().has(Ready::READ), "and remembered");
    let mut buffer = [0; 16];
    assert_eq!(near.read(&mut buffer).unwrap(), 4);
    reactor.was_short(key);
    assert!(!reactor.ready(key).unwrap().has(Ready::READ));

    far.write_all(b"last").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    poll(&mut reactor);
    assert_eq!(near.read(&mut buffer).unwrap(), 4);
    reactor.was_short(key);
    assert!(reactor.ready(key).unwrap().has(Ready::READ), "a short read does not hide the end");
    assert_eq!(near.read(&mut buffer).unwrap(), 0);
}

#[test]
fn no_room_to_write_is_told_when_there_is_again() {
    let mut reactor = Reactor::new().unwrap();
    let (mut near, mut far) = pair();
    let key = reactor.register(near.as_raw_fd()).unwrap();
    poll(&mut reactor);
    let block = [7; 4096];
    while near.write(&block).is_ok() {}
    reactor.would_block(key, Ready::WRITE);
    assert_eq!(poll(&mut reactor), []);
    let mut received = vec![0; 1 << 20];
    while far.read(&mut received).is_ok() {}
    poll(&mut reactor);
    assert!(reactor.ready(key).unwrap().has(Ready::WRITE));
}

#[test]
fn no_room_to_write_says_nothing_of_the_end() {
    let mut reactor = Reactor::new().unwrap();
    let (mut near, mut far) = pair();
    let key = reactor.register(near.as_raw_fd()).unwrap();
    let block = [7; 4096];
    while near.write(&block).is_ok() {}
    far.write_all(b"last").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    poll(&mut reactor);
    assert!(near.write(&block).is_err());
    reactor.would_block(key, Ready::WRITE);
    let mut buffer = [0; 16];
    assert_eq!(near.read(&mut buffer).unwrap(), 4);
    reactor.was_short(key);
    assert!(reactor.ready(key).unwrap().has(Ready::READ), "the end was told, and is not told again");
    assert_eq!(near.read(&mut buffer).unwrap(), 0);
    reactor.would_block(key, Ready::READ);
    assert!(!reactor.ready(key).unwrap().has(Ready::READ | Ready::END), "a read that is refused does say so");
}

#[test]
fn what_lies_behind_a_mark_of_urgent_data_is_read() {
    let mut reactor = Reactor::new().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut near, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    let key = reactor.register(near.as_raw_fd()).unwrap();
    let mut received = Vec::new();
    for round in 1..=3 {
        far.write_all(b"abc").unwrap();
        // SAFETY: one readable byte.
        assert_eq!(unsafe { libc::send(far.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) }, 1);
        far.write_all(b"def").unwrap();
        while received.len() < 6 * round {
            if !reactor.ready(key).unwrap().has(Ready::READ) {
                let mut told = false;
                reactor.poll(Some(Duration::from_secs(10)), |_| told = true).unwrap();
                assert!(told, "after {received:?} nothing more is told");
                continue;
            }
            let mut buffer = [0; 16];
            match near.read(&mut buffer) {
                Ok(count) => {
                    received.extend_from_slice(&buffer[..count]);
                    reactor.was_short(key);
                }
                Err(_) => reactor.would_block(key, Ready::READ),
            }
        }
    }
    assert_eq!(received, b"abcdef".repeat(3));
}

#[test]
fn registered_twice_is_registered_until_the_second_end() {
    let mut reactor = Reactor::new().unwrap();
    let (near, mut far) = pair();
    let key = reactor.register(near.as_raw_fd()).unwrap();
    assert_eq!(reactor.register(near.as_raw_fd()).unwrap(), key);
    assert!(!reactor.deregister(key));
    poll(&mut reactor);
    far.write_all(b"x").unwrap();
    assert_eq!(poll(&mut reactor).len(), 1);
    assert!(reactor.deregister(key));
    assert_eq!((reactor.ready(key), reactor.registered()), (None, 0));
    assert!(!reactor.deregister(key), "over is over");
    far.write_all(b"y").unwrap();
    assert_eq!(poll(&mut reactor), []);
}

/// A descriptor's number that is closed and stays so. The lowest free number would not do: the tests of
/// this file run beside one another, and the next socket of any of them takes it.
fn closed_number() -> i32 {
    let (near, _far) = pair();
    // SAFETY: F_DUPFD makes a new descriptor and touches no memory.
    let number = unsafe { libc::fcntl(near.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 900) };
    assert!(number >= 900, "{}", std::io::Error::last_os_error());
    // SAFETY: the number was made above, and nobody else knows it.
    assert_eq!(unsafe { libc::close(number) }, 0);
    number
}

#[test]
fn what_cannot_be_registered_says_so() {
    let mut reactor = Reactor::new().unwrap();
    let file = File::open("/proc/self/maps").unwrap();
    let number = closed_number();
    for (descriptor, wanted) in [(file.as_raw_fd(), libc::EPERM), (number, libc::EBADF), (-1, libc::EBADF)] {
        let error = reactor.register(descriptor).unwrap_err();
        assert!(matches!(error, ReactorError::Watch { descriptor: known, .. } if known == descriptor));
        assert_eq!(error.errno().unwrap().raw_os_error(), wanted);
    }
    assert_eq!(reactor.registered(), 0);
}

#[test]
fn a_watch_is_told_as_long_as_it_is_true() {
    let mut reactor = Reactor::new().unwrap();
    let (mut near, mut far) = pair();
    let read = reactor.watch(near.as_raw_fd(), Ready::READ).unwrap();
    assert_eq!(poll(&mut reactor), []);
    far.write_all(b"x").unwrap();
    for _ in 0..3 {
        assert_eq!(poll(&mut reactor), [Event::Watch(read, Ready::READ)]);
    }
    let write = reactor.watch(near.as_raw_fd(), Ready::WRITE).unwrap();
    let both = reactor.watch(near.as_raw_fd(), Ready::BOTH).unwrap();
    let told = poll(&mut reactor);
    assert_eq!(
        told,
        [Event::Watch(read, Ready::READ), Event::Watch(write, Ready::WRITE), Event::Watch(both, Ready::BOTH)]
    );
    near.read_exact(&mut [0]).unwrap();
    assert_eq!(poll(&mut reactor), [Event::Watch(write, Ready::WRITE), Event::Watch(both, Ready::WRITE)]);
    reactor.unwatch(write);
    reactor.unwatch(both);
    reactor.unwatch(both);
    assert_eq!(poll(&mut reactor), []);
    reactor.unwatch(read);
}

#[test]
fn a_file_is_always_ready() {
    let mut reactor = Reactor::new().unwrap();
    let file = File::open("/proc/self/maps").unwrap();
    let key = reactor.watch(file.as_raw_fd(), Ready::READ).unwrap();
    assert!(reactor.is_always_ready());
    // Without a limit in time: it must not sleep.
    let mut events = Vec::new();
    reactor.poll(None, |event| events.push(event)).unwrap();
    assert_eq!(events, [Event::Watch(key, Ready::READ)]);
    reactor.unwatch(key);
    assert!(!reactor.is_always_ready());
}

#[test]
fn a_closed_descriptor_that_lives_on_elsewhere_is_not_told_for_ever() {
    let mut reactor = Reactor::new().unwrap();
    let (bystander, mut bystander_far) = pair();
    let beside = reactor.watch(bystander.as_raw_fd(), Ready::READ).unwrap();
    let (near, mut far) = pair();
    far.write_all(b"x").unwrap();
    let copy = near.try_clone().unwrap();
    let key = reactor.watch(near.as_raw_fd(), Ready::READ).unwrap();
    drop(near); // the kernel's entry stays, because the copy is the same connection
    reactor.unwatch(key);
    poll(&mut reactor); // notices
    assert_eq!(poll(&mut reactor), []);
    assert!(is_quiet(&reactor));
    bystander_far.write_all(b"x").unwrap();
    assert_eq!(poll(&mut reactor), [Event::Watch(beside, Ready::READ)], "others are watched on");
    drop(copy);
}

/// Whether whoever polls the reactor would sleep.
fn is_quiet(reactor: &Reactor) -> bool {
    let mut set = [rustix::event::PollFd::from_borrowed_fd(
        // SAFETY: the reactor's own descriptor, which is open.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(reactor.descriptor()) },
        rustix::event::PollFlags::IN,
    )];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut set, Some(&now)).unwrap() == 0
}

#[test]
fn whose_number_was_anothers_hears_nothing_of_that_one() {
    let mut reactor = Reactor::new().unwrap();
    let (bystander, mut bystander_far) = pair();
    let beside = reactor.watch(bystander.as_raw_fd(), Ready::READ).unwrap();
    let (first, mut first_far) = pair();
    let (second, mut second_far) = pair();
    let (third, mut third_far) = pair();
    // Far from the numbers that other tests take.
    // SAFETY: F_DUPFD makes a new descriptor and touches no memory.
    let number = unsafe { libc::fcntl(first.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 960) };
    assert!(number >= 960, "{}", std::io::Error::last_os_error());
    let take_number = |of: &UnixStream| {
        // SAFETY: the number is ours, and what it stood for lives on.
        assert_eq!(unsafe { libc::dup2(of.as_raw_fd(), number) }, number);
    };
    let watch = reactor.watch(number, Ready::READ).unwrap();
    take_number(&second);
    reactor.unwatch(watch); // too late for the kernel
    let watch = reactor.watch(number, Ready::READ).unwrap();
    first_far.write_all(b"x").unwrap();
    assert_eq!(poll(&mut reactor), []);
    assert!(is_quiet(&reactor));
    second_far.write_all(b"x").unwrap();
    assert_eq!(poll(&mut reactor), [Event::Watch(watch, Ready::READ)]);

    // While it is watched, by one that stays and one that comes.
    take_number(&third);
    let joins = reactor.watch(number, Ready::READ).unwrap();
    assert_eq!(poll(&mut reactor), []);
    assert!(is_quiet(&reactor));
    third_far.write_all(b"x").unwrap();
    assert_eq!(poll(&mut reactor), [Event::Watch(watch, Ready::READ), Event::Watch(joins, Ready::READ)]);
    reactor.unwatch(watch);
    reactor.unwatch(joins);
    bystander_far.write_all(b"x").unwrap();
    assert_eq!(poll(&mut reactor), [Event::Watch(beside, Ready::READ)]);
    // SAFETY: made above.
    assert_eq!(unsafe { libc::close(number) }, 0);
}

#[derive(Debug, Clone)]
enum Act {
    Open,
    Register(prop::sample::Index),
    Deregister(prop::sample::Index),
    Watch(prop::sample::Index),
    Unwatch(prop::sample::Index),
    /// Properly, or without a word to the reactor.
    Close(prop::sample::Index, bool),
    /// Without a word to anybody until it is done, and the connection lives on under another number.
    Lose(prop::sample::Index),
    Feed(prop::sample::Index),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let index = any::<prop::sample::Index>;
    let act = prop_oneof![
        3 => Just(Act::Open),
        3 => index().prop_map(Act::Register),
        1 => index().prop_map(Act::Deregister),
        2 => index().prop_map(Act::Watch),
        1 => index().prop_map(Act::Unwatch),
        2 => (index(), any::<bool>()).prop_map(|(which, properly)| Act::Close(which, properly)),
        1 => index().prop_map(Act::Lose),
        4 => index().prop_map(Act::Feed),
    ];
    prop::collection::vec(act, 0..120)
}

#[derive(Debug)]
struct Connection {
    near: UnixStream,
    far: UnixStream,
    source: Option<SourceKey>,
    watch: Option<WatchKey>,
    fed: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever is opened, closed and opened again under the same number: who is registered or watched hears of what is
    /// fed to it, and of nobody else's.
    #[test]
    fn nobody_hears_of_anothers(acts in acts()) {
        let mut reactor = Reactor::new().unwrap();
        let mut open: Vec<Connection> = Vec::new();
        let mut elsewhere = Vec::new();
        for act in acts {
            if let Act::Open = act {
                let (near, far) = pair();
                open.push(Connection { near, far, source: None, watch: None, fed: false });
                continue;
            }
            if open.is_empty() {
                continue;
            }
            match act {
                Act::Open => {}
                Act::Register(which) => {
                    let connection = which.get_mut(&mut open);
                    if connection.source.is_none() {
                        let key = reactor.register(connection.near.as_raw_fd()).unwrap();
                        connection.source = Some(key);
                        if !connection.fed {
                            reactor.would_block(key, Ready::READ);
                        }
                    }
                }
                Act::Deregister(which) => {
                    if let Some(key) = which.get_mut(&mut open).source.take() {
                        reactor.deregister(key);
                    }
                }
                Act::Watch(which) => {
                    let connection = which.get_mut(&mut open);
                    if connection.watch.is_none() {
                        connection.watch = Some(reactor.watch(connection.near.as_raw_fd(), Ready::READ).unwrap());
                    }
                }
                Act::Unwatch(which) => {
                    if let Some(key) = which.get_mut(&mut open).watch.take() {
                        reactor.unwatch(key);
                    }
                }
                Act::Close(which, properly) => {
                    let connection = open.swap_remove(which.index(open.len()));
                    if let Some(key) = connection.watch {
                        // The number is what is watched: it has to be given up before another one has it.
                        reactor.unwatch(key);
                    }
                    if properly && let Some(key) = connection.source {
                        reactor.deregister(key);
                    }
                }
                Act::Lose(which) => {
                    let Connection { near, mut far, watch, .. } = open.swap_remove(which.index(open.len()));
                    elsewhere.push(near.try_clone().unwrap());
                    drop(near);
                    far.write_all(b"x").unwrap();
                    if let Some(key) = watch {
                        reactor.unwatch(key);
                    }
                }
                Act::Feed(which) => {
                    let connection = which.get_mut(&mut open);
                    connection.far.write_all(b"x").unwrap();
                    connection.fed = true;
                }
            }
            let mut told: HashMap<WatchKey, Ready> = HashMap::new();
            reactor.poll(NOW, |event| {
                if let Event::Watch(key, ready) = event {
                    told.insert(key, ready);
                }
            }).unwrap();
            for connection in &open {
                if let Some(key) = connection.source {
                    prop_assert_eq!(reactor.ready(key).unwrap().has(Ready::READ), connection.fed);
                }
                if let Some(key) = connection.watch {
                    prop_assert_eq!(told.remove(&key), connection.fed.then_some(Ready::READ));
                }
            }
            prop_assert!(told.is_empty(), "{:?}", told);
        }
    }
}
