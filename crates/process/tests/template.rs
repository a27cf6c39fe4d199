//! A template, its spares and children, against a host that only forks.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open};
use weft_process::ProcessError;
use weft_process::child::{Child, UNKNOWN, Waited};
use weft_process::client::{AfterSignal, Link, Started};
use weft_process::server::{Forked, Host, Job, Outcome, Template};

struct Plain;

impl Host for Plain {
    fn fork(&mut self) -> io::Result<Forked> {
        // SAFETY: the template was forked off a test's thread and has one thread.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(Forked::Child),
            pid => Ok(Forked::Parent(pid.cast_unsigned())),
        }
    }
}

/// A host whose forks fail.
struct Broken;

impl Host for Broken {
    fn fork(&mut self) -> io::Result<Forked> {
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }
}

struct Setup {
    link: Link,
    template: Pid,
    parent: OwnedFd,
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = kill_process(self.template, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.template), rustix::process::WaitOptions::empty());
    }
}

fn exit(code: i32) -> ! {
    // SAFETY: ends this process without the test harness's clean-up.
    unsafe { libc::_exit(code) }
}

/// What the children of these tests do: the payload says.
fn run(job: &Job) -> i32 {
    match job.payload.first() {
        Some(b'x') => i32::from(job.payload[1]),
        Some(b'p') => loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        },
        Some(b'w') => {
            for descriptor in &job.descriptors {
                if rustix::io::write(descriptor, b"!").is_err() {
                    return 1;
                }
            }
            0
        }
        Some(b'g') => match job.link.start(b"x\x07", &[], job.parent.as_fd(), &mut || AfterSignal::GoOn) {
            Ok(Started::Child(child)) => match child.wait(None) {
                Ok(Waited::Ended(code)) => code + 1,
                _ => 2,
            },
            _ => 1,
        },
        Some(b'l') => i32::from(job.payload.len() == 1_000_000),
        _ => 99,
    }
}

fn template(host: &mut impl Host) -> Setup {
    // The template's children hang on the lifeline of whoever executed it.
    weft_process::lifeline::ensure().unwrap();
    let (link, inherited) = Link::create().unwrap();
    // SAFETY: the child only makes system calls, and allocates, which glibc allows after a fork.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop(link);
        if weft_process::lifeline::arm_after_fork().is_err() {
            exit(101);
        }
        let Ok(mut template) = Template::adopt(inherited.socket, inherited.table) else { exit(102) };
        let Ok(Some(preparation)) = template.receive_preparation() else { exit(103) };
        if template.ready(&preparation).is_err() {
            exit(104);
        }
        match template.run(host) {
            Ok(Outcome::Child(job)) => exit(run(&job)),
            Ok(Outcome::Finished) => exit(0),
            Err(_) => exit(105),
        }
    }
    drop(inherited);
    let template = Pid::from_raw(pid).unwrap();
    link.prepare(pid.cast_unsigned(), b"hello").unwrap();
    let ready = link.wait_ready(&mut || AfterSignal::GoOn).unwrap();
    assert_eq!(ready.as_deref(), Some(&b"hello"[..]));
    Setup { link, template, parent: pidfd_open(getpid(), PidfdFlags::empty()).unwrap() }
}

impl Setup {
    fn try_start(&self, payload: &[u8], descriptors: &[OwnedFd]) -> Result<Child, ProcessError> {
        let borrowed = descriptors.iter().map(AsFd::as_fd).collect::<Vec<_>>();
        match self.link.start(payload, &borrowed, self.parent.as_fd(), &mut || AfterSignal::GoOn)? {
            Started::Child(child) => Ok(child),
            Started::GivenUp => panic!("nobody gave up"),
        }
    }

    fn start(&self, payload: &[u8]) -> Child {
        self.try_start(payload, &[]).unwrap()
    }
}

fn end(child: &Child) -> i32 {
    loop {
        match child.wait(None).unwrap() {
            Waited::Ended(code) => return code,
            Waited::Interrupted => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn children_run_and_their_ends_are_known() {
    let setup = template(&mut Plain);
    for code in 0..40 {
        assert_eq!(end(&setup.start(&[b'x', code])), i32::from(code));
    }
    let child = setup.start(b"p");
    assert_eq!(child.poll(), Waited::TimedOut);
    assert_eq!(child.wait(Some(Duration::from_millis(1))).unwrap(), Waited::TimedOut);
    child.signal(libc::SIGKILL).unwrap();
    assert_eq!(end(&child), -libc::SIGKILL);
    child.signal(libc::SIGKILL).unwrap();
}

#[test]
fn many_at_once() {
    let setup = template(&mut Plain);
    let children = (0..100).map(|code| setup.start(&[b'x', code])).collect::<Vec<_>>();
    for (code, child) in children.iter().enumerate() {
        assert_eq!(end(child), code as i32);
    }
}

#[test]
fn several_threads_wait_for_one() {
    let setup = template(&mut Plain);
    let child = setup.start(b"p");
    std::thread::scope(|scope| {
        let waiters = (0..4).map(|_| scope.spawn(|| end(&child))).collect::<Vec<_>>();
        child.signal(libc::SIGTERM).unwrap();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), -libc::SIGTERM);
        }
    });
}

#[test]
fn a_sentinel_is_ready_when_the_end_is_known() {
    let setup = template(&mut Plain);
    let (child, ended) = (setup.start(b"p"), setup.start(b"x\x03"));
    assert_eq!(end(&ended), 3);
    let ready = |child: &Child| {
        let sentinel = child.sentinel().unwrap();
        let mut polled = [rustix::event::PollFd::from_borrowed_fd(sentinel, rustix::event::PollFlags::IN)];
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut polled, Some(&at_once)).unwrap() == 1
    };
    assert!(ready(&ended) && !ready(&child));
    child.signal(libc::SIGKILL).unwrap();
    while !ready(&child) {
        std::thread::yield_now();
    }
    assert_eq!(child.poll(), Waited::Ended(-libc::SIGKILL), "no gap between the two");
}

#[test]
fn a_child_has_children_of_the_same_template() {
    let setup = template(&mut Plain);
    assert_eq!(end(&setup.start(b"g")), 8);
}

#[test]
fn large_payloads_and_many_descriptors() {
    let setup = template(&mut Plain);
    let mut payload = vec![b'l'; 1_000_000];
    assert_eq!(end(&setup.start(&payload)), 1);
    payload.pop();
    assert_eq!(end(&setup.start(&payload)), 0);
    for count in [1, 239, 240, 241, 251, 500] {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let copies = (0..count).map(|_| writer.try_clone().unwrap()).collect::<Vec<_>>();
        assert_eq!(end(&setup.try_start(b"w", &copies).unwrap()), 0);
        drop((copies, writer));
        let mut written = Vec::new();
        io::Read::read_to_end(&mut std::fs::File::from(reader), &mut written).unwrap();
        assert_eq!(written.len(), count);
    }
}

#[test]
fn nonsense_is_ignored() {
    let setup = template(&mut Plain);
    for message in [&b"?"[..], &[0; 32], &[0xff; 4000]] {
        rustix::net::send(setup.link.socket(), message, rustix::net::SendFlags::empty()).unwrap();
    }
    assert_eq!(end(&setup.start(b"x\x01")), 1);
}

#[test]
fn a_killed_template_takes_its_spares_along_but_not_its_children() {
    let setup = template(&mut Plain);
    let child = setup.start(b"p");
    kill_process(setup.template, Signal::KILL).unwrap();
    rustix::process::waitpid(Some(setup.template), rustix::process::WaitOptions::empty()).unwrap();
    assert!(!setup.link.is_alive());
    loop {
        match setup.try_start(b"x\0", &[]) {
            // A spare that is just being killed.
            Err(ProcessError::NoAnswer) => {}
            Err(ProcessError::TemplateGone) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(child.poll(), Waited::TimedOut, "it runs on");
    child.signal(libc::SIGKILL).unwrap();
    assert_eq!(end(&child), UNKNOWN);
}

#[test]
fn a_stopped_template_s_spares_still_serve() {
    let setup = template(&mut Plain);
    assert_eq!(end(&setup.start(b"x\x02")), 2);
    let child = setup.start(b"p");
    kill_process(setup.template, Signal::STOP).unwrap();
    child.signal(libc::SIGKILL).unwrap();
    assert_eq!(child.wait(Some(Duration::from_millis(20))).unwrap(), Waited::TimedOut);
    kill_process(setup.template, Signal::CONT).unwrap();
    assert_eq!(end(&child), -libc::SIGKILL);
}

#[test]
fn a_fork_that_fails_is_the_caller_s_error() {
    let setup = template(&mut Broken);
    for _ in 0..20 {
        match setup.try_start(b"x\0", &[]) {
            Err(error @ ProcessError::Refused { .. }) => assert_eq!(error.errno(), Some(libc::EAGAIN)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_template_ends_with_its_last_client() {
    let setup = template(&mut Plain);
    let watched = pidfd_open(setup.template, PidfdFlags::empty()).unwrap();
    let Setup { .. } = &setup;
    let child = setup.start(b"x\x05");
    assert_eq!(end(&child), 5);
    let template = setup.template;
    // Everything but the template's own end.
    let link = {
        let setup = std::mem::ManuallyDrop::new(setup);
        // SAFETY: the value is never dropped as a whole, and its link is read once.
        unsafe { std::ptr::read(&raw const setup.link) }
    };
    drop(link);
    let mut polled = [rustix::event::PollFd::new(&watched, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut polled, None).unwrap();
    let (_, status) =
        rustix::process::waitpid(Some(template), rustix::process::WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0));
}
