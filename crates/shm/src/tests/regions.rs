//! Regions in random company: whoever dies, what somebody holds stays, and what nobody holds goes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Rng, Twin, again, check, for_seeds, sized};
use crate::arena::Arena;
use crate::crash;
use crate::error::ShmError;
use crate::identity::{Identity, pretended};
use crate::layout::UNIT;
use crate::object::{Handle, Route, Transit};
use crate::queue::Queue;
use crate::region::Region;
use crate::robust::LocalLock;

type Memory = Region<LocalLock>;

const NOBODY: Identity = Identity { pid: 0, start: 0 };

const POINTS: &[&str] = &[
    "allocate: held",
    "allocate: taken",
    "create: entered",
    "create: made",
    "create: ready",
    "free: marked",
    "leave: left",
    "region: object made",
    "region: part marked",
    "sweep: all found",
    "sweep: one freed",
];

struct Process {
    arena: Arc<Twin>,
    identity: Identity,
    regions: Vec<Memory>,
}

impl Process {
    fn start(arena: &Twin) -> Self {
        let (arena, identity) = (again(arena), pretended::start());
        arena.pretend(identity);
        Self { arena, identity, regions: Vec::new() }
    }

    fn bury(self) {
        self.arena.pretend(NOBODY);
        self.regions.iter().for_each(Region::disown);
        pretended::end(self.identity);
    }

    fn exit(self) {
        let identity = self.identity;
        drop(self);
        pretended::end(identity);
    }
}

/// Every byte of a region says which it is.
fn mark(handle: Handle) -> u8 {
    handle.generation as u8 | 1
}

/// Which bytes are looked at: all of them. Miri would take an hour for the many megabytes of some regions; it finds use of
/// foreign memory by one byte in a page.
const STEP: usize = sized(1, 509);

fn fill(region: &Memory) {
    // SAFETY: the region has so many bytes, and no other thread uses it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(region.as_ptr(), region.len()) };
    assert!(bytes.iter().step_by(STEP).all(|byte| *byte == 0), "new memory is not zero");
    bytes.fill(mark(region.handle()));
}

fn look(region: &Memory) {
    // SAFETY: as above.
    let bytes = unsafe { std::slice::from_raw_parts(region.as_ptr(), region.len()) };
    assert!(
        bytes.iter().step_by(STEP).all(|byte| *byte == mark(region.handle())),
        "somebody else has a region's memory"
    );
}

fn size(rng: &mut Rng) -> usize {
    match rng.below(10) {
        0 => 0,
        1..5 => 1 + rng.below(UNIT),
        5..9 => 1 + rng.below(20 * UNIT),
        _ => 1 + rng.below(500 * UNIT),
    }
}

fn unharmed<T>(work: impl FnOnce() -> T) -> T {
    let plan = crash::suspend();
    let outcome = work();
    crash::resume(plan);
    outcome
}

#[test]
fn what_is_held_stays_and_the_rest_goes_whoever_dies() {
    let mut deaths = BTreeMap::<&str, u32>::new();
    for_seeds(sized(4 * POINTS.len() as u64, 2), |seed| {
        let mut rng = Rng::new(seed);
        let first = Arena::<LocalLock>::create().unwrap();
        let observer = Process::start(&first);
        let queue = Queue::create(&observer.arena, 0).unwrap();
        // References that are in the queue, each with its carrier's word.
        let mut under_way = Vec::<(Handle, Transit)>::new();
        let mut processes: Vec<_> = (0..3).map(|_| Process::start(&first)).collect();
        let acting = Rc::new(RefCell::new(Arc::clone(&observer.arena)));
        let mut planned = false;
        for step in 0..sized(200, 12) {
            if !planned && (step == 0 || rng.percent(40)) {
                let acting = Rc::clone(&acting);
                let point = POINTS[(seed as usize + rng.below(2) * rng.below(99)) % POINTS.len()];
                crash::crash_at(point, rng.below(2) as u32, move || acting.borrow().pretend(NOBODY));
                planned = true;
            }
            let index = rng.below(processes.len());
            let process = &mut processes[index];
            acting.replace(Arc::clone(&process.arena));
            let (act, bytes, pick) = (rng.below(100), size(&mut rng), rng.below(1000));
            let received = (act >= 60 && !under_way.is_empty())
                .then(|| under_way.swap_remove(pick % under_way.len().max(1)));
            let outcome = catch_unwind(AssertUnwindSafe(|| match (act, received) {
                (_, Some((handle, transit))) => {
                    let region = Region::receive(&process.arena, handle, transit).unwrap();
                    look(&region);
                    process.regions.push(region);
                }
                (0..35, _) => {
                    let region = Region::create(&process.arena, bytes).unwrap();
                    fill(&region);
                    process.regions.push(region);
                }
                (35..60, _) if !process.regions.is_empty() => {
                    let region = &process.regions[pick % process.regions.len()];
                    let transit = region.send(Route::Queue(queue.handle())).unwrap();
                    assert!(region.is_shared());
                    if pick % 8 == 0 {
                        region.withdraw(transit);
                    } else {
                        under_way.push((region.handle(), transit));
                    }
                }
                (60..92, _) if !process.regions.is_empty() => {
                    drop(process.regions.swap_remove(pick % process.regions.len()));
                }
                _ => drop(process.arena.sweep()),
            }));
            if let Err(payload) = outcome {
                let Ok(point) = payload.downcast::<&str>() else { panic!("not a death by a crash point") };
                *deaths.entry(*point).or_default() += 1;
                planned = false;
                unharmed(|| processes.swap_remove(index).bury());
                processes.push(Process::start(&first));
            } else if rng.percent(4) {
                unharmed(|| processes.swap_remove(index).exit());
                processes.push(Process::start(&first));
            }
            unharmed(|| processes.iter().flat_map(|process| &process.regions).for_each(look));
        }
        crash::suspend();
        processes.into_iter().for_each(Process::exit);
        // What is under way is still there to be received, by somebody who comes now.
        for (handle, transit) in under_way.drain(..).step_by(2) {
            look(&Region::receive(&observer.arena, handle, transit).unwrap());
        }
        // And the rest, which nobody will ever receive, goes with the queue.
        drop(queue);
        observer.exit();
        first.sweep();
        assert_eq!(check(&first).into_iter().collect::<Vec<_>>(), []);
    });
    if cfg!(miri) {
        return; // too few deaths for all points
    }
    let missed: Vec<_> = POINTS.iter().filter(|point| !deaths.contains_key(**point)).collect();
    assert!(missed.is_empty(), "points at which nobody died: {missed:?} of {deaths:?}");
}

#[test]
fn a_reference_that_was_sent_outlives_its_sender_for_a_while() {
    let arena = Arena::<LocalLock>::create().unwrap();
    let (sender, receiver) = (Process::start(&arena), Process::start(&arena));
    let region = Region::create(&sender.arena, 5 * UNIT).unwrap();
    fill(&region);
    let (handle, transit) = (region.handle(), region.send(Route::Other).unwrap());
    drop(region);
    sender.exit();
    arena.sweep();
    let received = Region::receive(&receiver.arena, handle, transit).unwrap();
    look(&received);
    // The same bytes can be loaded once more while somebody has it, and not afterwards.
    drop(Region::receive(&receiver.arena, handle, transit).unwrap());
    drop(received);
    arena.sweep();
    assert_eq!(check(&arena).len(), 2, "what the dead one sent gets a minute");
    receiver.exit();
}

#[test]
fn a_region_that_is_gone_is_not_received() {
    let arena = Arena::<LocalLock>::create().unwrap();
    let region = Region::create(&arena, 10).unwrap();
    let (handle, transit) = (region.handle(), region.send(Route::Other).unwrap());
    assert!(region.is_shared());
    region.withdraw(transit);
    assert!(!region.is_shared());
    drop(region);
    assert!(matches!(Region::receive(&arena, handle, transit), Err(ShmError::Gone { .. })));
    assert_eq!(check(&arena).len(), 0);
}

#[test]
fn a_region_larger_than_a_window_is_mapped_in_one_piece() {
    let arena = Arena::<LocalLock>::create().unwrap();
    let other = again(&arena);
    let length = (24 << 20) + 5;
    let region = Region::create(&arena, length).unwrap();
    fill(&region);
    let received = Region::receive(&other, region.handle(), Transit::KEPT).unwrap();
    assert_eq!(received.len(), length);
    look(&received);
    drop((region, received));
    assert_eq!(check(&arena).len(), 0);
}

#[test]
fn a_header_that_lies_is_an_error() {
    let arena = Arena::<LocalLock>::create().unwrap();
    let region = Region::create(&arena, 3 * UNIT).unwrap();
    let (start, _) = arena.piece(region.handle().unit).unwrap();
    let attach = || Region::receive(&arena, region.handle(), Transit::KEPT);
    // SAFETY: the words of the header, as `region` has them: length, then the block.
    let (length, data) = unsafe {
        let length = start.add(crate::object::PROLOGUE).cast::<std::sync::atomic::AtomicU64>();
        (length.as_ref(), length.add(1).cast::<std::sync::atomic::AtomicU32>().as_ref())
    };
    let (right_length, right_data) = (length.load(Ordering::Relaxed), data.load(Ordering::Relaxed));
    for wrong in [u64::MAX, 1 << 40, 5 * UNIT as u64] {
        length.store(wrong, Ordering::Relaxed);
        assert!(matches!(attach(), Err(ShmError::Damaged { .. })));
    }
    length.store(right_length, Ordering::Relaxed);
    for wrong in [0, 1, u32::MAX, region.handle().unit, right_data + 1] {
        data.store(wrong, Ordering::Relaxed);
        assert!(matches!(attach(), Err(ShmError::Damaged { .. })), "{wrong}");
    }
    data.store(right_data, Ordering::Relaxed);
    drop(attach().unwrap());
    drop(region);
    assert_eq!(check(&arena).len(), 0);
}
