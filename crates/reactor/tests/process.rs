//! What concerns the whole process: wake-ups, signals, children, forks, and a lack of descriptors.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

mod filter;

use weft_reactor::signals::Listener;
use weft_reactor::{ChildExit, Event, ExitStatus, Reactor, ReactorError, Ready};

/// Signals, children and limits are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

const NOW: Option<Duration> = Some(Duration::ZERO);

fn is_woken(reactor: &mut Reactor, patience: Option<Duration>) -> bool {
    let mut woken = false;
    reactor.poll(patience, |event| woken |= event == Event::Woken).unwrap();
    woken
}

#[test]
fn threads_wake_it() {
    let mut reactor = Reactor::new().unwrap();
    assert!(!is_woken(&mut reactor, NOW));
    static SENT: AtomicUsize = AtomicUsize::new(0);
    const EACH: usize = 10_000;
    std::thread::scope(|threads| {
        for _ in 0..4 {
            let waker = reactor.waker().clone();
            threads.spawn(move || {
                for _ in 0..EACH {
                    SENT.fetch_add(1, Ordering::Relaxed);
                    waker.wake();
                }
            });
        }
        // Without a limit in time: a wake-up that is lost hangs the test.
        while SENT.load(Ordering::Relaxed) < 4 * EACH {
            reactor.poll(None, |_| ()).unwrap();
        }
    });
    let waker = reactor.waker().clone();
    is_woken(&mut reactor, NOW);
    waker.wake();
    waker.wake();
    assert!(is_woken(&mut reactor, None));
    assert!(!is_woken(&mut reactor, NOW));
    drop(reactor);
    waker.wake();
}

#[test]
fn signals_wake_those_that_watch_them() {
    let _alone = ALONE.lock();
    let (mut first, mut second) = (Reactor::new().unwrap(), Reactor::new().unwrap());
    let mut ears = [Listener::new(first.waker()).unwrap(), Listener::new(second.waker()).unwrap()];
    ears[0].watch(libc::SIGUSR1).unwrap();
    ears[0].watch(libc::SIGUSR1).unwrap();
    ears[1].watch(libc::SIGUSR1).unwrap();
    ears[1].watch(libc::SIGUSR2).unwrap();
    // SAFETY: both signals are handled.
    unsafe {
        libc::raise(libc::SIGUSR1);
        libc::raise(libc::SIGUSR2);
        libc::raise(libc::SIGUSR2);
    }
    assert!(is_woken(&mut first, None) && is_woken(&mut second, None));
    let mut took = ears.each_mut().map(|ear| {
        let mut came = Vec::new();
        ear.take(|signal, times| came.push((signal, times)));
        came
    });
    took[1].sort_unstable();
    assert_eq!(took[0], [(libc::SIGUSR1, 1)]);
    assert_eq!(took[1], [(libc::SIGUSR1, 1), (libc::SIGUSR2, 2)]);
    let mut nothing = true;
    ears[0].take(|_, _| nothing = false);
    assert!(nothing, "each is told once");
}

#[test]
fn a_signal_does_again_what_it_did_before() {
    let _alone = ALONE.lock();
    static CAUGHT: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn count(_signal: libc::c_int) {
        CAUGHT.fetch_add(1, Ordering::SeqCst);
    }
    // SAFETY: the handler only counts.
    unsafe { libc::signal(libc::SIGUSR1, count as *const () as usize) };
    let mut reactor = Reactor::new().unwrap();
    let mut ear = Listener::new(reactor.waker()).unwrap();
    ear.watch(libc::SIGUSR1).unwrap();
    // SAFETY: the signal is handled.
    unsafe { libc::raise(libc::SIGUSR1) };
    assert_eq!(CAUGHT.load(Ordering::SeqCst), 0);
    assert!(is_woken(&mut reactor, None));
    drop(ear);
    // SAFETY: the signal is handled, by the first handler.
    unsafe { libc::raise(libc::SIGUSR1) };
    assert_eq!(CAUGHT.load(Ordering::SeqCst), 1);
    assert!(!is_woken(&mut reactor, NOW));
}

#[test]
fn what_is_no_signal_is_refused() {
    let _alone = ALONE.lock();
    let reactor = Reactor::new().unwrap();
    let mut ear = Listener::new(reactor.waker()).unwrap();
    for signal in [-1, 0, 65, 1000, libc::SIGKILL, libc::SIGSTOP] {
        assert!(
            matches!(ear.watch(signal), Err(ReactorError::Signal { signal: known, .. }) if known == signal)
        );
    }
    assert!(ear.is_idle());
}

#[test]
fn a_childs_end_is_told_and_nobody_elses_taken() {
    let _alone = ALONE.lock();
    let mut reactor = Reactor::new().unwrap();
    let spawn = |script: &str| std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
    let mut bystander = spawn("exit 5");
    let (leaver, victim) = (spawn("exit 3"), spawn("kill -TERM $$"));
    let children = [&leaver, &victim].map(|child| ChildExit::open(child.id() as i32).unwrap());
    for (child, expected) in children.iter().zip([ExitStatus::Exited(3), ExitStatus::Killed(libc::SIGTERM)]) {
        let watch = reactor.watch(child.descriptor(), Ready::READ).unwrap();
        let status = loop {
            if let Some(status) = child.try_reap().unwrap() {
                break status;
            }
            reactor.poll(None, |_| ()).unwrap();
        };
        assert_eq!(status, expected);
        let again = child.try_reap().unwrap().unwrap();
        assert!(again == ExitStatus::Taken || again == expected, "{again:?}: only newer kernels remember it");
        reactor.unwatch(watch);
    }
    assert_eq!(bystander.wait().unwrap().code(), Some(5), "still there for whoever it belongs to");
    assert_eq!((ExitStatus::Exited(3).raw(), ExitStatus::Killed(15).raw()), (Some(0x300), Some(15)));
    assert!(matches!(ChildExit::open(-4), Err(ReactorError::Child { pid: -4, .. })));
}

#[test]
fn a_status_has_all_that_waitpid_says() {
    let _alone = ALONE.lock();
    // For the dumps: one after the other, as both may have the same name.
    let place = std::env::temp_dir().join(format!("weft-dumps-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let script = "ulimit -c unlimited; kill -ABRT $$";
    let spawn = || std::process::Command::new("sh").args(["-c", script]).current_dir(&place).spawn().unwrap();
    // Whether it leaves a dump is for the system to say.
    let expected = std::os::unix::process::ExitStatusExt::into_raw(spawn().wait().unwrap());
    let child = ChildExit::open(spawn().id() as i32).unwrap();
    let status = loop {
        if let Some(status) = child.try_reap().unwrap() {
            break status;
        }
        std::thread::yield_now();
    };
    std::fs::remove_dir_all(&place).unwrap();
    assert_eq!(status.raw(), Some(expected));
    assert_eq!(ExitStatus::Dumped(libc::SIGABRT).raw(), Some(134));
}

#[test]
fn of_children_that_the_kernel_forgets_their_end_is_known() {
    let _alone = ALONE.lock();
    assert!(in_fork(|| {
        // SAFETY: the disposition is this child's own.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        let (gate, mut key) = std::io::pipe().unwrap();
        // SAFETY: the children wait, or do not, and end.
        let fork = |waits: bool| match unsafe { libc::fork() } {
            0 => {
                if waits {
                    // Else it waits for itself, if the test ends early.
                    // SAFETY: this process's own, which does not use it.
                    unsafe { libc::close(key.as_raw_fd()) };
                    let _ = std::io::Read::read(&mut &gate, &mut [0]);
                }
                // SAFETY: as above.
                unsafe { libc::_exit(3) };
            }
            child => child,
        };
        let (early, late) = (fork(false), fork(true));
        // SAFETY: no signal is sent.
        while unsafe { libc::kill(early, 0) } == 0 {
            std::thread::yield_now();
        }
        let mut reactor = Reactor::new().unwrap();
        let early = ChildExit::open(early).unwrap();
        let watch = reactor.watch(early.descriptor(), Ready::READ).unwrap();
        let mut told = false;
        reactor.poll(None, |event| told |= event == Event::Watch(watch, Ready::READ)).unwrap();
        assert!(told);
        assert_eq!(early.try_reap().unwrap(), Some(ExitStatus::Taken));
        reactor.unwatch(watch);

        let late = ChildExit::open(late).unwrap();
        assert_eq!(late.try_reap().unwrap(), None);
        reactor.watch(late.descriptor(), Ready::READ).unwrap();
        key.write_all(b"x").unwrap();
        reactor.poll(None, |_| ()).unwrap();
        let status = late.try_reap().unwrap();
        // Newer kernels remember it for whoever had a descriptor before.
        assert!(matches!(status, Some(ExitStatus::Taken | ExitStatus::Exited(3))), "{status:?}");

        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        assert!(ChildExit::open(early.pid()).is_err(), "otherwise it is an error");
        true
    }));
}

#[test]
fn under_a_filter_that_does_not_know_its_calls_it_sleeps() {
    let _alone = ALONE.lock();
    for error in [libc::EPERM, libc::ENOSYS] {
        assert!(in_fork(|| {
            filter::refuse(libc::SYS_epoll_pwait2, error);
            let mut reactor = Reactor::new().unwrap();
            let patience = Duration::from_micros(1500);
            for _ in 0..3 {
                let began = std::time::Instant::now();
                reactor.poll(Some(patience), |_| ()).unwrap();
                assert!(began.elapsed() >= patience, "not earlier than it has to");
            }
            reactor.waker().wake();
            is_woken(&mut reactor, None)
        }));
    }
}

/// Runs `body` in the child of a fork; says whether it came to its end, and returned true.
fn in_fork(body: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `body` and ends without cleaning up what the harness's threads had in hand.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            libc::_exit(if outcome.unwrap_or(false) { 0 } else { 1 });
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        status == 0
    }
}

/// Runs `body` while there is a child that has all descriptors as well, and does nothing.
fn beside_a_fork(body: impl FnOnce()) {
    let (gate, key) = std::io::pipe().unwrap();
    // SAFETY: the child waits and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: this process's own, which does not use it; otherwise it would wait for itself.
        unsafe { libc::close(key.as_raw_fd()) };
        let _ = std::io::Read::read(&mut &gate, &mut [0]);
        // SAFETY: nothing of the parent's is cleaned up.
        unsafe { libc::_exit(0) };
    }
    body();
    drop(key);
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
}

/// Whether whoever polls the reactor would sleep.
fn is_quiet(reactor: &Reactor) -> bool {
    let mut asked = libc::pollfd { fd: reactor.descriptor(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid structure.
    unsafe { libc::poll(&raw mut asked, 1, 0) == 0 }
}

#[test]
fn what_is_given_up_is_quiet_though_a_fork_has_it_still() {
    let _alone = ALONE.lock();
    let mut reactor = Reactor::new().unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    let (other, mut other_far) = UnixStream::pair().unwrap();
    let stale = reactor.watch(near.as_raw_fd(), Ready::READ).unwrap();
    let watch = reactor.watch(other.as_raw_fd(), Ready::READ).unwrap();
    let place = std::env::temp_dir().join(format!("weft-watched-{}", std::process::id()));
    std::fs::write(&place, "").unwrap();
    let file = reactor.watch_file(&place, Duration::from_secs(3600)).unwrap();
    reactor.poll(NOW, |_| ()).unwrap();
    beside_a_fork(|| {
        drop(near);
        reactor.unwatch(stale);
        far.write_all(b"x").unwrap();
        reactor.unwatch_file(file);
        std::fs::remove_file(&place).unwrap();
        let mut events = Vec::new();
        for _ in 0..2 {
            reactor.poll(NOW, |event| events.push(event)).unwrap();
        }
        assert_eq!(events, []);
        assert!(is_quiet(&reactor));
        other_far.write_all(b"x").unwrap();
        reactor.poll(NOW, |event| events.push(event)).unwrap();
        assert_eq!(events, [Event::Watch(watch, Ready::READ)]);
    });
}

#[test]
fn a_fork_has_a_set_of_its_own() {
    let _alone = ALONE.lock();
    let mut reactor = Reactor::new().unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    let (other, mut other_far) = UnixStream::pair().unwrap();
    let source = reactor.register(near.as_raw_fd()).unwrap();
    let watch = reactor.watch(other.as_raw_fd(), Ready::READ).unwrap();
    reactor.poll(NOW, |_| ()).unwrap();
    reactor.would_block(source, Ready::READ);
    let waker = reactor.waker().clone();
    let number = reactor.descriptor();
    assert!(in_fork(|| {
        reactor.after_fork().unwrap();
        assert_eq!(reactor.descriptor(), number);
        // Its own wake-ups, and not the parent's.
        waker.wake();
        assert!(is_woken(&mut reactor, None));
        far.write_all(b"x").unwrap();
        other_far.write_all(b"x").unwrap();
        reactor.poll(NOW, |_| ()).unwrap();
        assert!(reactor.ready(source).unwrap().has(Ready::READ));
        let mut told = false;
        reactor.poll(NOW, |event| told |= matches!(event, Event::Watch(known, _) if known == watch)).unwrap();
        assert!(told);
        // What is taken out here stays in there.
        reactor.deregister(source);
        reactor.unwatch(watch);
        true
    }));
    let mut events = Vec::new();
    reactor.poll(NOW, |event| events.push(event)).unwrap();
    assert!(!events.contains(&Event::Woken), "the child's wake-up is not the parent's");
    assert!(reactor.ready(source).unwrap().has(Ready::READ), "what the child fed to it came");
    assert!(events.contains(&Event::Watch(watch, Ready::READ)));
}

#[test]
fn what_a_fork_takes_out_first_of_all_is_its_own() {
    let _alone = ALONE.lock();
    let mut reactor = Reactor::new().unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    let (other, mut other_far) = UnixStream::pair().unwrap();
    let source = reactor.register(near.as_raw_fd()).unwrap();
    let watch = reactor.watch(other.as_raw_fd(), Ready::READ).unwrap();
    reactor.poll(NOW, |_| ()).unwrap();
    reactor.would_block(source, Ready::READ);
    assert!(in_fork(|| {
        // Nobody has told it of the fork.
        assert!(reactor.deregister(source));
        reactor.unwatch(watch);
        let (mine, _its_far) = UnixStream::pair().unwrap();
        reactor.register(mine.as_raw_fd()).unwrap();
        true
    }));
    far.write_all(b"x").unwrap();
    other_far.write_all(b"x").unwrap();
    let mut events = Vec::new();
    reactor.poll(NOW, |event| events.push(event)).unwrap();
    assert!(events.contains(&Event::Watch(watch, Ready::READ)));
    assert!(
        matches!(events.as_slice(), [Event::Source(known, _), _] | [_, Event::Source(known, _)] if *known == source)
    );
}

/// In the child of a fork: how many descriptors it may have.
fn limit_descriptors(most: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: valid structures; the child of a fork, so nobody else's limit changes.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = most.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

#[test]
fn a_fork_without_descriptors_tries_again() {
    let _alone = ALONE.lock();
    let mut reactor = Reactor::new().unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    let source = reactor.register(near.as_raw_fd()).unwrap();
    let watch = reactor.watch(near.as_raw_fd(), Ready::READ).unwrap();
    reactor.poll(NOW, |_| ()).unwrap();
    reactor.would_block(source, Ready::READ);
    assert!(in_fork(|| {
        limit_descriptors(3);
        for _ in 0..3 {
            assert!(matches!(reactor.after_fork(), Err(ReactorError::Create(_))));
            assert!(!reactor.deregister(source));
            reactor.unwatch(watch);
        }
        limit_descriptors(1000);
        reactor.after_fork().unwrap();
        reactor.waker().wake();
        far.write_all(b"x").unwrap();
        let mut events = Vec::new();
        reactor.poll(None, |event| events.push(event)).unwrap();
        assert!(reactor.ready(source).unwrap().has(Ready::READ));
        events.contains(&Event::Woken) && events.contains(&Event::Watch(watch, Ready::READ))
    }));
    let mut events = Vec::new();
    reactor.poll(NOW, |event| events.push(event)).unwrap();
    assert!(!events.contains(&Event::Woken), "the child's wake-up is not the parent's");
    assert!(events.contains(&Event::Watch(watch, Ready::READ)));
    assert!(reactor.ready(source).unwrap().has(Ready::READ));
}

#[test]
fn without_descriptors_stale_watches_keep_nobody_awake() {
    let _alone = ALONE.lock();
    assert!(in_fork(|| {
        let mut reactor = Reactor::new().unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        let (mut other, mut other_far) = UnixStream::pair().unwrap();
        let _copy = near.try_clone().unwrap();
        let stale = reactor.watch(near.as_raw_fd(), Ready::READ).unwrap();
        let watch = reactor.watch(other.as_raw_fd(), Ready::READ).unwrap();
        drop(near);
        reactor.unwatch(stale);
        limit_descriptors(3);
        let poll = |reactor: &mut Reactor| {
            let mut events = Vec::new();
            reactor.poll(NOW, |event| events.push(event)).unwrap();
            events
        };
        far.write_all(b"x").unwrap();
        assert_eq!(poll(&mut reactor), []);
        assert_eq!(poll(&mut reactor), []);
        assert!(is_quiet(&reactor));
        for _ in 0..2 {
            other_far.write_all(b"x").unwrap();
            for _ in 0..3 {
                assert!(!is_quiet(&reactor));
                assert_eq!(poll(&mut reactor), [Event::Watch(watch, Ready::READ)], "as long as it is true");
            }
            std::io::Read::read_exact(&mut other, &mut [0]).unwrap();
            assert_eq!(poll(&mut reactor), []);
            assert!(is_quiet(&reactor));
        }
        limit_descriptors(1000);
        far.write_all(b"x").unwrap();
        assert_eq!(poll(&mut reactor), []);
        other_far.write_all(b"x").unwrap();
        for _ in 0..3 {
            assert_eq!(poll(&mut reactor), [Event::Watch(watch, Ready::READ)]);
        }
        true
    }));
}

#[test]
fn without_descriptors_it_says_so_and_serves_on() {
    let _alone = ALONE.lock();
    assert!(in_fork(|| {
        let mut reactor = Reactor::new().unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        let source = reactor.register(near.as_raw_fd()).unwrap();
        limit_descriptors(3);
        assert!(matches!(Reactor::new(), Err(ReactorError::Create(_))));
        assert!(matches!(reactor.watch(near.as_raw_fd(), Ready::READ), Err(ReactorError::Create(_))));
        assert!(matches!(ChildExit::open(std::process::id() as i32), Err(ReactorError::Child { .. })));
        far.write_all(b"x").unwrap();
        reactor.poll(NOW, |_| ()).unwrap();
        reactor.ready(source).unwrap().has(Ready::READ)
    }));
}
