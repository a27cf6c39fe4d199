//! Real processes that are killed and stopped at random instants while they hold locks, or wait.
//!
//! A program of its own without threads, so that it can fork. The seeds are printed; `WEFT_SOAK_SECONDS` makes
//! it long. Arguments that do not begin with `-` choose tests by name.

#[path = "../../shm/tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use support::{Rng, fork, seeds, send, shared, wait, watched};
use weft_shm::Arena;
use weft_sync::{
    AcquireError, Arrival, Barrier, BarrierError, Condition, Event, Grant, Mutex, Semaphore, Tenure, owner,
};
use weft_wait::{Deadline, ThreadParker};

const WORKERS: usize = 4;
const NEVER: Deadline = Deadline::NEVER;

fn parker() -> ThreadParker {
    ThreadParker::default()
}

fn pause(rng: &mut Rng, most: usize) {
    std::thread::sleep(Duration::from_micros(rng.below(most) as u64));
}

/// Waits until a child that was sent SIGSTOP stands still.
fn until_stopped(child: libc::pid_t) {
    let mut status = 0;
    // SAFETY: the status is ours, and the child not yet waited for.
    let found = unsafe { libc::waitpid(child, &raw mut status, libc::WUNTRACED) };
    assert!(found == child && libc::WIFSTOPPED(status), "status {status:#x}");
}

/// Keeps so many workers running, each `work(place, rng)`, and kills or stops one after the other. `stopped` sees who
/// stands still and is about to be killed, `killed` who was.
struct Storm<'a> {
    pulse: &'a AtomicU32,
    rng: Rng,
    work: &'a dyn Fn(usize, Rng),
    workers: Vec<libc::pid_t>,
}

impl<'a> Storm<'a> {
    fn new(pulse: &'a AtomicU32, seed: u64, work: &'a dyn Fn(usize, Rng)) -> Self {
        let mut storm = Self { pulse, rng: Rng::new(seed), work, workers: Vec::new() };
        for place in 0..WORKERS {
            let worker = storm.start(place);
            storm.workers.push(worker);
        }
        storm
    }

    fn start(&mut self, place: usize) -> libc::pid_t {
        let (work, rng) = (self.work, Rng::new(self.rng.next()));
        fork(|| work(place, rng))
    }

    fn hit(
        &mut self,
        mut stopped: impl FnMut(usize, libc::pid_t),
        mut killed: impl FnMut(usize, libc::pid_t),
    ) {
        self.pulse.fetch_add(1, Ordering::Relaxed);
        pause(&mut self.rng, 3000);
        let place = self.rng.below(WORKERS);
        let victim = self.workers[place];
        let stops_first = self.rng.percent(50);
        if stops_first {
            send(victim, libc::SIGSTOP);
            until_stopped(victim);
            if self.rng.percent(30) {
                pause(&mut self.rng, 5000);
                send(victim, libc::SIGCONT);
                return;
            }
            stopped(place, victim);
        }
        send(victim, libc::SIGKILL);
        assert_eq!(wait(victim), -libc::SIGKILL, "somebody ended before it was killed");
        killed(place, victim);
        self.workers[place] = self.start(place);
    }

    fn end(&mut self) {
        for worker in std::mem::take(&mut self.workers) {
            assert_eq!(wait(worker), 0, "a worker");
            self.pulse.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct MutexNotes {
    end: AtomicBool,
    /// Who is between acquire and release; a dead one's stays until its death is reported.
    inside: AtomicU32,
    /// Deaths reported, by an error or with the lock.
    reported: AtomicU32,
    turns: AtomicU32,
}

fn mutex_work(mutex: &Mutex, notes: &MutexNotes, mut rng: Rng) {
    let me = std::process::id();
    while !notes.end.load(Ordering::Relaxed) {
        let inherits = rng.percent(50);
        let deadline = if rng.percent(30) {
            Deadline::after(Duration::from_micros(rng.below(3000) as u64))
        } else {
            NEVER
        };
        let dead = match mutex.acquire(inherits, &mut parker(), deadline) {
            Ok(Grant::Clean) => 0,
            Ok(Grant::Inherited(dead)) => {
                notes.reported.fetch_add(1, Ordering::SeqCst);
                dead.pid
            }
            Err(AcquireError::TimedOut) => continue,
            Err(AcquireError::OwnerDied(dead)) => {
                // Somebody else may be inside already, but not the dead one's double.
                let _ = notes.inside.compare_exchange(dead.pid, 0, Ordering::SeqCst, Ordering::SeqCst);
                notes.reported.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            Err(error) => panic!("{error:?}"),
        };
        let before = notes.inside.swap(me, Ordering::SeqCst);
        // One that was told of the death may not have wiped it out yet; but nobody alive is inside.
        assert!(before == 0 || before == dead || !is_alive(before), "{before} is inside, {dead} died");
        if rng.percent(20) {
            pause(&mut rng, 200);
        }
        notes.turns.fetch_add(1, Ordering::Relaxed);
        assert_eq!(notes.inside.swap(0, Ordering::SeqCst), me);
        mutex.release().unwrap();
    }
}

fn is_alive(pid: u32) -> bool {
    // SAFETY: a plain question to the system.
    let there = unsafe { libc::kill(pid as libc::pid_t, 0) } == 0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    there && !state.starts_with(['Z', 'X'])
}

fn holders_killed(pulse: &AtomicU32) {
    let arena = Arena::create().unwrap();
    let notes = shared::<MutexNotes>();
    let (mut kills, mut held) = (0, 0);
    for seed in seeds(12) {
        println!("holders_killed: seed {seed}");
        let tenure = if seed % 2 == 0 { Tenure::Always } else { Tenure::UntilNormalEnd };
        let mutex = Mutex::create(&arena, tenure).unwrap();
        // Deaths with the lock that were seen, and kills of which it is not known.
        let (mut certain, mut possible) = (0, 0);
        let work = |_, rng| mutex_work(&mutex, notes, rng);
        let mut storm = Storm::new(pulse, seed, &work);
        for _ in 0..25 {
            let owner = std::cell::Cell::new(None);
            storm.hit(
                |_, victim| {
                    let holds =
                        matches!(mutex.owner(), owner::Owner::Process(who) if who.pid == victim as u32);
                    owner.set(Some(holds));
                },
                |_, _| {
                    kills += 1;
                    match owner.get() {
                        Some(holds) => certain += u32::from(holds),
                        None => possible += 1,
                    }
                },
            );
        }
        notes.end.store(true, Ordering::SeqCst);
        storm.end();
        // What the last one left: nobody wanted the lock any more.
        match mutex.acquire(false, &mut parker(), NEVER) {
            Ok(_) => {}
            Err(AcquireError::OwnerDied(_)) => {
                notes.reported.fetch_add(1, Ordering::SeqCst);
                mutex.acquire(false, &mut parker(), NEVER).unwrap();
            }
            Err(error) => panic!("{error:?}"),
        }
        mutex.release().unwrap();
        let reported = notes.reported.swap(0, Ordering::SeqCst);
        // One that is killed between the report and its note is missing.
        assert!(
            reported <= certain + possible && reported + possible + certain / 4 + 1 >= certain,
            "{reported} reports, {certain} to {} deaths with the lock",
            certain + possible
        );
        held += reported;
        assert!(notes.turns.swap(0, Ordering::SeqCst) > 0);
        notes.inside.store(0, Ordering::SeqCst);
        notes.end.store(false, Ordering::SeqCst);
        drop(mutex);
    }
    println!("holders_killed: {kills} kills, {held} with the lock");
    assert!(held > 0);
}

/// A lock that is left taken is an orphan if its holder was killed, and only an RLock's if it ended normally.
fn ends_of_a_holder(_pulse: &AtomicU32) {
    let arena = Arena::create().unwrap();
    type End = fn(&Mutex);
    let normally: End = |_| owner::end_normally();
    let after_the_mark: End = |mutex| {
        mutex.release().unwrap();
        owner::end_normally();
        assert!(mutex.try_take());
    };
    let silently: End = |_| {};
    let by_letting_go: End = |mutex| {
        let again = Mutex::attach(mutex.arena(), mutex.handle()).unwrap();
        drop(again); // the other handle is still there
        owner::end_normally();
    };
    for tenure in [Tenure::Always, Tenure::UntilNormalEnd] {
        let ends = [(normally, true), (after_the_mark, true), (silently, false), (by_letting_go, true)];
        for (end, is_normal) in ends {
            let mutex = Mutex::create(&arena, tenure).unwrap();
            let child = fork(|| {
                assert!(mutex.try_take());
                end(&mutex);
            });
            assert_eq!(wait(child), 0);
            let outcome = mutex.acquire(false, &mut parker(), Deadline::after(Duration::from_millis(200)));
            if is_normal && tenure == Tenure::UntilNormalEnd {
                assert_eq!(outcome, Err(AcquireError::TimedOut));
                assert_eq!(mutex.owner(), owner::Owner::Ended);
                mutex.release().unwrap();
            } else {
                assert!(
                    matches!(outcome, Err(AcquireError::OwnerDied(who)) if who.pid == child as u32),
                    "{outcome:?}"
                );
            }
            assert_eq!(mutex.acquire(false, &mut parker(), NEVER), Ok(Grant::Clean));
            // What this process holds is not its child's, and the child's end is not this one's.
            let child = fork(|| {
                assert!(matches!(mutex.owner(), owner::Owner::Process(who) if who.pid != std::process::id()));
                owner::end_normally();
            });
            assert_eq!(wait(child), 0);
            assert!(matches!(mutex.owner(), owner::Owner::Process(who) if who.pid == std::process::id()));
            mutex.release().unwrap();
        }
    }
}

/// Without a wait, too: one that only tries gets to know of the death.
fn tries_see_a_death(_pulse: &AtomicU32) {
    let arena = Arena::create().unwrap();
    let mutex = Mutex::create(&arena, Tenure::Always).unwrap();
    let child = fork(|| assert!(mutex.try_take()));
    assert_eq!(wait(child), 0);
    let mut tries = 0;
    let dead = loop {
        match mutex.try_acquire::<()>(false) {
            Err(AcquireError::TimedOut) => tries += 1,
            Err(AcquireError::OwnerDied(dead)) => break dead,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(dead.pid, child as u32, "after {tries} tries");
    assert_eq!(mutex.try_acquire::<()>(false), Ok(Grant::Clean));
}

#[derive(Default)]
struct SemaphoreNotes {
    end: AtomicBool,
    has: [AtomicBool; WORKERS],
}

fn semaphore_holders_killed(pulse: &AtomicU32) {
    let arena = Arena::create().unwrap();
    let notes = shared::<SemaphoreNotes>();
    let mut kills = 0;
    for seed in seeds(8) {
        println!("semaphore_holders_killed: seed {seed}");
        const PERMITS: u32 = 30;
        let semaphore = Semaphore::create(&arena, PERMITS, PERMITS).unwrap();
        let work = |place: usize, mut rng: Rng| {
            while !notes.end.load(Ordering::Relaxed) {
                semaphore.acquire(&mut parker(), NEVER).unwrap();
                notes.has[place].store(true, Ordering::SeqCst);
                if rng.percent(10) {
                    pause(&mut rng, 200);
                }
                notes.has[place].store(false, Ordering::SeqCst);
                semaphore.release().unwrap();
            }
        };
        let mut storm = Storm::new(pulse, seed, &work);
        let (mut certain, mut uncertain) = (0, 0);
        for _ in 0..20 {
            storm.hit(
                |_, _| {},
                |place, _| {
                    kills += 1;
                    // Around the note it is not known which came first.
                    if notes.has[place].swap(false, Ordering::SeqCst) {
                        certain += 1;
                    } else {
                        uncertain += 1;
                    }
                },
            );
        }
        notes.end.store(true, Ordering::SeqCst);
        storm.end();
        // A semaphore has no owner: what the dead took is gone, and nothing else.
        let (value, left) = (semaphore.value(), PERMITS - certain);
        assert!(value <= left && value >= left.saturating_sub(uncertain), "{value} of {PERMITS}");
        notes.end.store(false, Ordering::SeqCst);
    }
    println!("semaphore_holders_killed: {kills} kills");
}

#[derive(Default)]
struct ConditionNotes {
    end: AtomicBool,
    items: AtomicU32,
    put: AtomicU32,
    got: AtomicU32,
}

/// Acquires, from the dead as well.
fn acquire(mutex: &Mutex) {
    mutex.acquire(true, &mut parker(), NEVER).unwrap();
}

fn consume(mutex: &Mutex, condition: &Condition, notes: &ConditionNotes, mut rng: Rng) {
    loop {
        acquire(mutex);
        while notes.items.load(Ordering::SeqCst) == 0 {
            if notes.end.load(Ordering::SeqCst) {
                return mutex.release().unwrap();
            }
            let entry = condition.enter().unwrap();
            let patience = rng.percent(20).then(|| Duration::from_micros(rng.below(2000) as u64));
            loop {
                mutex.release().unwrap();
                let deadline = patience.map_or(NEVER, Deadline::after);
                let may = condition.sleep(entry, &mut parker(), deadline).is_ok();
                acquire(mutex);
                if condition.take(entry) || !may {
                    break;
                }
            }
            condition.leave(entry);
        }
        notes.items.fetch_sub(1, Ordering::SeqCst);
        notes.got.fetch_add(1, Ordering::SeqCst);
        mutex.release().unwrap();
    }
}

fn waiters_and_notifiers_killed(pulse: &AtomicU32) {
    let arena = Arena::create().unwrap();
    let notes = shared::<ConditionNotes>();
    let mut kills = 0;
    for seed in seeds(12) {
        println!("waiters_and_notifiers_killed: seed {seed}");
        let mutex = Mutex::create(&arena, Tenure::Always).unwrap();
        let condition = Condition::create(&arena).unwrap();
        let work = |place: usize, mut rng: Rng| {
            if place >= 2 {
                return consume(&mutex, &condition, notes, rng);
            }
            while !notes.end.load(Ordering::SeqCst) {
                acquire(&mutex);
                let many = 1 + rng.below(3) as u32;
                notes.put.fetch_add(many, Ordering::SeqCst);
                notes.items.fetch_add(many, Ordering::SeqCst);
                condition.notify(many);
                mutex.release().unwrap();
                if rng.percent(50) {
                    pause(&mut rng, 300);
                }
            }
        };
        let mut storm = Storm::new(pulse, seed, &work);
        for _ in 0..25 {
            storm.hit(|_, _| {}, |_, _| kills += 1);
        }
        notes.end.store(true, Ordering::SeqCst);
        acquire(&mutex);
        condition.notify(u32::MAX);
        mutex.release().unwrap();
        // A consumer that is told nothing of the end sleeps on.
        storm.end();
        assert_eq!((condition.waiting(), condition.pending()), (0, 0));
        let (put, got) = (notes.put.swap(0, Ordering::SeqCst), notes.got.swap(0, Ordering::SeqCst));
        // One that was killed may have put and not counted, or taken and not counted.
        let left = notes.items.swap(0, Ordering::SeqCst);
        assert!(put.abs_diff(got + left) <= kills * 3 && got > 0, "{put} put, {got} got, {left} left");
        notes.end.store(false, Ordering::SeqCst);
    }
    println!("waiters_and_notifiers_killed: {kills} kills");
}

/// A notification that the only other waiter, a dead one, could have taken reaches the one that lives.
fn a_dead_waiter_takes_nothing_along(_pulse: &AtomicU32) {
    let arena = Arena::create().unwrap();
    let condition = Condition::create(&arena).unwrap();
    for _ in 0..20 {
        let child = fork(|| {
            let entry = condition.enter().unwrap();
            let _ = condition.sleep(entry, &mut parker(), NEVER);
        });
        while condition.waiting() == 0 {
            std::thread::yield_now();
        }
        let entry = condition.enter().unwrap();
        send(child, libc::SIGKILL);
        assert_eq!(wait(child), -libc::SIGKILL);
        assert_eq!(condition.notify(1), 1);
        assert_eq!(condition.sleep(entry, &mut parker(), NEVER), Ok(()));
        assert!(condition.take(entry));
        condition.leave(entry);
        assert_eq!((condition.waiting(), condition.pending()), (0, 0));
    }
}

#[derive(Default)]
struct EventNotes {
    end: AtomicBool,
    woken: AtomicU32,
}

fn event_waiters_and_setters_killed(pulse: &AtomicU32) {
    let arena = Arena::create().unwrap();
    let notes = shared::<EventNotes>();
    for seed in seeds(6) {
        println!("event_waiters_and_setters_killed: seed {seed}");
        let event = Event::create(&arena).unwrap();
        let work = |place: usize, mut rng: Rng| {
            while !notes.end.load(Ordering::SeqCst) {
                if place == 0 {
                    event.set().unwrap();
                    pause(&mut rng, 200);
                    event.clear().unwrap();
                } else {
                    event.wait(&mut parker(), NEVER).unwrap();
                    notes.woken.fetch_add(1, Ordering::SeqCst);
                }
            }
        };
        let mut storm = Storm::new(pulse, seed, &work);
        for _ in 0..20 {
            storm.hit(|_, _| {}, |_, _| {});
        }
        notes.end.store(true, Ordering::SeqCst);
        assert_eq!(wait(storm.workers.remove(0)), 0);
        event.set().unwrap();
        storm.end();
        assert!(notes.woken.swap(0, Ordering::SeqCst) > 0);
        notes.end.store(false, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct BarrierNotes {
    end: AtomicBool,
    passed: AtomicU32,
    broken: AtomicU32,
    /// Which round each is in.
    rounds: [AtomicU32; WORKERS],
}

fn barrier_parties_killed(pulse: &AtomicU32) {
    let arena = Arena::create().unwrap();
    let notes = shared::<BarrierNotes>();
    let mut kills = 0;
    for seed in seeds(10) {
        println!("barrier_parties_killed: seed {seed}");
        let barrier = Barrier::create(&arena, WORKERS as u32).unwrap();
        let acts = seed % 2 == 0;
        let work = |place: usize, mut rng: Rng| {
            while !notes.end.load(Ordering::SeqCst) {
                notes.rounds[place].fetch_add(1, Ordering::SeqCst);
                let outcome = match barrier.wait(acts, &mut parker(), NEVER) {
                    Ok(Arrival::Last { place, .. }) => {
                        if rng.percent(10) {
                            pause(&mut rng, 200);
                        }
                        barrier.finish(place, &mut parker())
                    }
                    Ok(Arrival::Passed(_)) => Ok(()),
                    Err(error) => Err(error),
                };
                match outcome {
                    Ok(()) => {
                        notes.passed.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(BarrierError::Broken) => {
                        notes.broken.fetch_add(1, Ordering::SeqCst);
                        // As programs do that go on with those who are left.
                        barrier.reset(&mut parker()).unwrap();
                        pause(&mut rng, 300);
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            barrier.abort(&mut parker()).unwrap();
        };
        let mut storm = Storm::new(pulse, seed, &work);
        for _ in 0..20 {
            storm.hit(|_, _| {}, |_, _| kills += 1);
        }
        notes.end.store(true, Ordering::SeqCst);
        barrier.abort(&mut parker()).unwrap();
        storm.end();
        assert!(notes.passed.swap(0, Ordering::SeqCst) > 0);
        barrier.reset(&mut parker()).unwrap();
        assert_eq!((barrier.waiting(), barrier.is_broken()), (0, false));
        notes.end.store(false, Ordering::SeqCst);
    }
    println!("barrier_parties_killed: {kills} kills, {} broken", notes.broken.load(Ordering::SeqCst));
}

/// One that waits and is killed breaks the barrier for those that wait with it, whatever it was doing.
fn a_dead_party_breaks_a_barrier(_pulse: &AtomicU32) {
    let arena = Arena::create().unwrap();
    for acts in [false, true] {
        let (barrier, acting) = (Barrier::create(&arena, 3).unwrap(), shared::<AtomicU32>());
        let waiter = fork(|| {
            let outcome = barrier.wait(false, &mut parker(), NEVER);
            assert_eq!(outcome, Err(BarrierError::Broken));
        });
        let victim = fork(|| {
            if acts {
                while barrier.waiting() < 2 {
                    std::thread::yield_now();
                }
            }
            if barrier.wait(acts, &mut parker(), NEVER).is_ok() {
                acting.store(1, Ordering::SeqCst);
            }
            loop {
                // SAFETY: sleeps until it is killed.
                unsafe { libc::pause() };
            }
        });
        let third = acts.then(|| {
            fork(|| assert_eq!(barrier.wait(false, &mut parker(), NEVER), Err(BarrierError::Broken)))
        });
        // Acting, nobody counts as waiting any more than before.
        while barrier.waiting() < 2 {
            std::thread::yield_now();
        }
        while acts && acting.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        send(victim, libc::SIGKILL);
        assert_eq!(wait(victim), -libc::SIGKILL);
        assert_eq!(wait(waiter), 0);
        assert!(third.is_none_or(|third| wait(third) == 0));
        assert!(barrier.is_broken());
        barrier.reset(&mut parker()).unwrap();
        assert_eq!((barrier.waiting(), barrier.is_broken()), (0, false));
    }
}

/// Nothing is left when all have let go, killed or not.
fn nothing_is_left(_pulse: &AtomicU32) {
    let arena: Arc<Arena> = Arena::create().unwrap();
    let all = (
        Mutex::create(&arena, Tenure::UntilNormalEnd).unwrap(),
        Semaphore::create(&arena, 1, 1).unwrap(),
        Condition::create(&arena).unwrap(),
        Event::create(&arena).unwrap(),
        Barrier::create(&arena, 1000).unwrap(),
    );
    let ready = shared::<AtomicU32>();
    let child = fork(|| {
        assert!(all.0.try_take() && all.1.try_take());
        let entry = all.2.enter().unwrap();
        ready.store(1, Ordering::SeqCst);
        let _ = all.2.sleep(entry, &mut parker(), NEVER);
    });
    while ready.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    send(child, libc::SIGKILL);
    assert_eq!(wait(child), -libc::SIGKILL);
    drop(all);
    arena.sweep();
    assert_eq!(arena.blocks_in_use().unwrap(), 0);
}

type Test = fn(&AtomicU32);

const TESTS: &[(&str, Test)] = &[
    ("ends_of_a_holder", ends_of_a_holder),
    ("tries_see_a_death", tries_see_a_death),
    ("a_dead_waiter_takes_nothing_along", a_dead_waiter_takes_nothing_along),
    ("a_dead_party_breaks_a_barrier", a_dead_party_breaks_a_barrier),
    ("nothing_is_left", nothing_is_left),
    ("holders_killed", holders_killed),
    ("semaphore_holders_killed", semaphore_holders_killed),
    ("waiters_and_notifiers_killed", waiters_and_notifiers_killed),
    ("event_waiters_and_setters_killed", event_waiters_and_setters_killed),
    ("barrier_parties_killed", barrier_parties_killed),
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
