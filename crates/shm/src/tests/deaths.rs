//! Processes that die at every point where a death could hurt, in random company.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use weft_wait::{Deadline, ThreadParker};

use super::{Rng, Twin, again, check, for_seeds, sized};
use crate::arena::Arena;
use crate::crash;
use crate::identity::{Identity, pretended};
use crate::object::Handle;
use crate::queue::{LONGEST_BODY, Ledger, Poller, Queue, QueueError};
use crate::robust::LocalLock;
use crate::span::Span;

/// Nobody has it, so nothing in this process is its.
const NOBODY: Identity = Identity { pid: 0, start: 0 };

const POINTS: &[&str] = &[
    "allocate: has memory",
    "allocate: held",
    "allocate: populated",
    "allocate: taken",
    "commit: half",
    "create: entered",
    "create: made",
    "create: ready",
    "free: buddy unlinked",
    "free: marked",
    "free: merge noted",
    "free: merged",
    "get: all taken over",
    "get: committed",
    "get: noted",
    "get: read",
    "get: span taken over",
    "grow: risen",
    "grow: written",
    "leave: left",
    "lengthen: marked",
    "link: pointed",
    "poll: promised",
    "poll: set",
    "poll: unknown",
    "put: chunk taken",
    "put: committed",
    "put: jump written",
    "put: span handed over",
    "put: written",
    "rebuild: cleared",
    "rebuild: linked",
    "repair: done",
    "span: holder written",
    "split: halved",
    "split: left noted",
    "split: right written",
    "sweep: all found",
    "sweep: one freed",
    "take: unlinked",
    "trim: noted",
    "trim: released",
    "trim: taken",
    "unlink: half",
];

struct Process {
    arena: Arc<Twin>,
    identity: Identity,
    queue: Option<Arc<Queue<LocalLock>>>,
    more: Vec<Arc<Queue<LocalLock>>>,
    poller: Option<Poller<LocalLock>>,
    spans: Vec<Span<LocalLock>>,
    note: Note,
    /// The position of the message it got last.
    taken: Option<u64>,
}

/// What a process has noted of the message in its hands: its position in the queue.
type Note = Rc<Cell<Option<u64>>>;

/// The notes of all processes that were ever there, in the hands of one, or of nobody who gets anything.
struct Book {
    mine: Option<Note>,
    all: Rc<RefCell<Vec<Note>>>,
}

impl Ledger for Book {
    fn note(&mut self, position: u64, _body: &[u8]) {
        self.mine.as_ref().expect("whoever gets a message has a note").set(Some(position));
    }

    fn forget(&mut self, position: u64) {
        for note in self.all.borrow().iter().filter(|note| note.get() == Some(position)) {
            note.set(None);
        }
    }
}

impl Process {
    /// A process that has nothing yet.
    fn start(arena: &Twin) -> Self {
        let (arena, identity) = (again(arena), pretended::start());
        arena.pretend(identity);
        let (more, spans, note) = (Vec::new(), Vec::new(), Rc::default());
        Self { arena, identity, queue: None, more, poller: None, spans, note, taken: None }
    }

    fn attach(&mut self, handle: Handle) {
        let queue = Queue::attach(&self.arena, handle).unwrap();
        match &self.queue {
            None => self.queue = Some(Arc::new(queue)),
            Some(_) => self.more.push(Arc::new(queue)),
        }
    }

    fn queue(&self) -> &Queue<LocalLock> {
        self.queue.as_ref().unwrap()
    }

    /// It is dead: whatever it has in its hands is dropped without being given back.
    fn bury(self) {
        self.arena.pretend(NOBODY);
        self.queue.iter().chain(&self.more).for_each(|queue| queue.disown());
        pretended::end(self.identity);
    }

    /// It gives everything back and ends.
    fn exit(self) {
        let identity = self.identity;
        drop(self);
        pretended::end(identity);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    number: u64,
    body: usize,
    spans: Vec<usize>,
}

impl Message {
    fn random(number: u64, rng: &mut Rng) -> Self {
        let body = match rng.below(10) {
            0 => LONGEST_BODY - rng.below(9),
            1..4 => rng.below(4000) + 8,
            _ => rng.below(64) + 8,
        };
        let count = if rng.percent(70) { 0 } else { rng.below(4) };
        Self { number, body, spans: (0..count).map(|_| rng.below(20_000) + 1).collect() }
    }

    fn byte(&self, at: usize) -> u8 {
        (self.number as usize).wrapping_mul(31).wrapping_add(at * 7) as u8
    }

    fn bytes(&self, length: usize) -> Vec<u8> {
        (0..length).map(|at| self.byte(at)).collect()
    }
}

fn bytes(span: &Span<LocalLock>) -> &[u8] {
    // SAFETY: the span has so many bytes, and nobody writes to it now.
    unsafe { std::slice::from_raw_parts(span.as_ptr(), span.len()) }
}

fn put(process: &mut Process, message: &Message) -> bool {
    let (body, mut spans) = (message.bytes(message.body), Vec::new());
    for length in &message.spans {
        let span = Span::new(&process.arena, *length).unwrap();
        // SAFETY: new, and of this length.
        unsafe { span.as_ptr().copy_from_nonoverlapping(message.bytes(*length).as_ptr(), *length) };
        spans.push(span);
    }
    let soon = Deadline::after(Duration::ZERO);
    match process.queue().put(1, &body, &mut spans, &mut ThreadParker::default(), soon) {
        Ok(()) => true,
        Err(QueueError::TimedOut) => {
            assert_eq!(spans.len(), message.spans.len(), "spans stay with who failed to put them");
            false
        }
        other => panic!("{other:?}"),
    }
}

fn get(process: &mut Process, notes: &Rc<RefCell<Vec<Note>>>, expected: Option<&Message>) -> bool {
    let mut body = Vec::new();
    let mut book = Book { mine: Some(Rc::clone(&process.note)), all: Rc::clone(notes) };
    let parker = &mut ThreadParker::default();
    let received = process.queue().try_get_noted(&mut body, &mut book, parker).unwrap();
    let (received, message) = match (received, expected) {
        (Some(received), Some(message)) => (received, message),
        (None, None) => return false,
        other => panic!("{other:?}"),
    };
    assert_eq!(body, message.bytes(message.body));
    assert_eq!(received.spans.iter().map(Span::len).collect::<Vec<_>>(), message.spans);
    for span in &received.spans {
        assert_eq!(bytes(span), message.bytes(span.len()));
    }
    process.spans.extend(received.spans);
    true
}

fn is_readable(poller: &Poller<LocalLock>) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut watched = [PollFd::new(poller, PollFlags::IN)];
    poll(&mut watched, Some(&rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

/// What a process does in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Put,
    Get,
    DropSpan,
    Sweep,
    Trim,
    AttachMore,
    LetGo,
    OtherQueue,
    Poll,
    Unpoll,
}

struct World {
    observer: Process,
    processes: Vec<Process>,
    model: VecDeque<Message>,
    numbers: u64,
    limit: u64,
    notes: Rc<RefCell<Vec<Note>>>,
    /// How many messages were got.
    gets: u64,
    /// The notes of the dead, and what they have to be when the queue is settled.
    buried: Vec<(Note, Option<u64>)>,
    /// Who acts at present, and would be the one to die.
    acting: Rc<RefCell<Arc<Twin>>>,
    /// The point at which somebody is to die.
    planned: Option<&'static str>,
}

/// Runs something in which nobody dies.
fn unharmed<T>(work: impl FnOnce() -> T) -> T {
    let plan = crash::suspend();
    let outcome = work();
    crash::resume(plan);
    outcome
}

impl World {
    fn new(seed: u64, rng: &mut Rng) -> Self {
        let first = Arena::<LocalLock>::create().unwrap();
        let limit = if rng.percent(30) { 1 + rng.below(8) as u64 } else { 0 };
        let mut observer = Process::start(&first);
        observer.queue = Some(Arc::new(Queue::create(&observer.arena, limit).unwrap()));
        let acting = Rc::new(RefCell::new(Arc::clone(&observer.arena)));
        let (processes, model) = (Vec::new(), VecDeque::new());
        let (notes, buried) = (Rc::default(), Vec::new());
        let mut world = Self {
            observer,
            processes,
            model,
            numbers: 0,
            limit,
            notes,
            gets: 0,
            buried,
            acting,
            planned: None,
        };
        (0..3).for_each(|_| world.recruit());
        world.plan(POINTS[seed as usize % POINTS.len()], 0);
        world
    }

    fn recruit(&mut self) {
        let mut process = Process::start(&self.observer.arena);
        unharmed(|| process.attach(self.observer.queue().handle()));
        self.notes.borrow_mut().push(Rc::clone(&process.note));
        self.processes.push(process);
    }

    /// Settles the queue: afterwards all notes are true, of the living and of the dead.
    fn settle(&mut self) {
        let mut book = Book { mine: None, all: Rc::clone(&self.notes) };
        let parker = &mut ThreadParker::default();
        unharmed(|| self.observer.queue().settle(&mut book, parker)).unwrap();
        for (note, expected) in self.buried.drain(..) {
            assert_eq!(note.get(), expected, "the note of a dead process");
            self.notes.borrow_mut().retain(|kept| !Rc::ptr_eq(kept, &note));
        }
        for process in &self.processes {
            assert_eq!(process.note.get(), process.taken, "the note of a living process");
        }
    }

    /// Plans a death.
    fn plan(&mut self, point: &'static str, before: u32) {
        let acting = Rc::clone(&self.acting);
        self.planned = Some(point);
        // From its death on nothing is its, so what unwinds gives nothing back.
        crash::crash_at(point, before, move || acting.borrow().pretend(NOBODY));
    }

    /// Lets a process do something, and perhaps die in it: says where.
    fn step(&mut self, rng: &mut Rng) -> Option<&'static str> {
        if self.planned.is_none() && rng.percent(50) {
            self.plan(POINTS[rng.below(POINTS.len())], rng.below(3) as u32);
        }
        let index = rng.below(self.processes.len());
        let process = &mut self.processes[index];
        // Miri has no /proc to reach a poller by.
        let act = match rng.below(sized(100, 95)) {
            0..36 => Act::Put,
            36..66 => Act::Get,
            66..74 => Act::DropSpan,
            74..78 => Act::Sweep,
            78..86 => Act::Trim,
            86..89 => Act::AttachMore,
            89..92 => Act::LetGo,
            92..95 => Act::OtherQueue,
            95..98 => Act::Poll,
            _ => Act::Unpoll,
        };
        self.acting.replace(Arc::clone(&process.arena));
        let message = Message::random(self.numbers, rng);
        self.numbers += 1;
        let front = self.model.front().cloned();
        let before = self.observer.queue().len();
        assert_eq!(before, self.model.len() as u64);
        let outcome = catch_unwind(AssertUnwindSafe(|| match act {
            Act::Put => put(process, &message),
            Act::Get => get(process, &self.notes, front.as_ref()),
            Act::DropSpan => process.spans.pop().is_some(),
            Act::Sweep => process.arena.sweep() > 0,
            Act::Trim => process.arena.trim().is_ok(),
            Act::AttachMore => {
                (0..40).for_each(|_| process.attach(process.queue().handle()));
                true
            }
            Act::LetGo => {
                // One by one: a death in the middle of a list's drop would let the others go.
                while let Some(queue) = process.more.pop() {
                    drop(queue);
                }
                true
            }
            Act::OtherQueue => {
                let other = Queue::create(&process.arena, 0).unwrap();
                for size in [10, 5000, 9000] {
                    let mut spans = vec![Span::new(&process.arena, size).unwrap()];
                    let parker = &mut ThreadParker::default();
                    other.put(2, &[7; 3000], &mut spans, parker, Deadline::NEVER).unwrap();
                }
                process.more.push(Arc::new(other));
                true
            }
            Act::Poll => {
                process.poller = Some(process.queue.as_ref().unwrap().poller().unwrap());
                true
            }
            Act::Unpoll => process.poller.take().is_some(),
        }));
        let after = self.observer.queue().len();
        let mut is_got = false;
        match (act, &outcome) {
            (Act::Put, Ok(done)) => {
                assert_eq!(*done, self.limit == 0 || before < self.limit);
                if *done {
                    self.model.push_back(message);
                }
            }
            // Either it was committed or it was not.
            (Act::Put, Err(_)) if after == before + 1 => self.model.push_back(message),
            (Act::Get, Ok(true)) => is_got = true,
            (Act::Get, Err(_)) => is_got = after + 1 == before,
            _ => {}
        }
        if is_got {
            drop(self.model.pop_front());
            self.processes[index].taken = Some(self.gets);
            self.gets += 1;
        }
        assert_eq!(after, self.model.len() as u64, "{act:?}: {outcome:?}");
        if matches!((act, &outcome), (Act::Put | Act::Get | Act::Poll, Ok(_))) {
            for poller in self.processes.iter().filter_map(|process| process.poller.as_ref()) {
                assert_eq!(is_readable(poller), after != 0);
            }
        }
        // Whatever happened, and whoever died: nobody is left to wait for what is there.
        if after != 0 {
            let of_the_living =
                self.processes.iter().enumerate().filter(|(other, _)| outcome.is_ok() || *other != index);
            for poller in of_the_living.filter_map(|(_, process)| process.poller.as_ref()) {
                assert!(is_readable(poller), "{act:?}: {outcome:?}: a message that pollers are not told of");
            }
        }
        if let Err(payload) = outcome {
            let Ok(point) = payload.downcast::<&str>() else { panic!("not a death by a crash point") };
            assert_eq!(self.planned.take(), Some(*point));
            let dead = self.processes.remove(index);
            // It noted the message and does not have it: it has none.
            let only_noted = act == Act::Get && !is_got && matches!(*point, "get: noted" | "commit: half");
            self.buried.push((Rc::clone(&dead.note), if only_noted { None } else { dead.taken }));
            unharmed(|| dead.bury());
            self.recruit();
            if rng.percent(50) {
                self.settle();
            }
            if rng.percent(40) {
                // Those who clear away are not safe either.
                self.plan(["repair: done", "rebuild: cleared", "rebuild: linked"][rng.below(3)], 0);
            }
            return Some(*point);
        }
        if rng.percent(3) {
            unharmed(|| self.processes.remove(index).exit());
            self.recruit();
        }
        None
    }

    /// Everybody gets everything and goes: nothing may be left.
    fn end(mut self) {
        self.settle();
        while let Some(message) = self.model.pop_front() {
            assert!(get(&mut self.processes[0], &self.notes, Some(&message)));
        }
        assert!(!get(&mut self.processes[1], &self.notes, None));
        self.processes.into_iter().for_each(Process::exit);
        let arena = again(&self.observer.arena);
        self.observer.exit();
        arena.sweep();
        assert_eq!(check(&arena).into_iter().collect::<Vec<_>>(), []);
    }
}

#[test]
fn nothing_is_lost_doubled_or_leaked_whoever_dies() {
    let mut deaths = BTreeMap::<&str, u32>::new();
    for_seeds(sized(3 * POINTS.len() as u64, 3), |seed| {
        let mut rng = Rng::new(seed);
        let mut world = World::new(seed, &mut rng);
        for step in 0..sized(300, 20) {
            if let Some(point) = world.step(&mut rng) {
                *deaths.entry(point).or_default() += 1;
            }
            if step % 16 == 0 {
                unharmed(|| check(&world.observer.arena));
            }
        }
        crash::suspend();
        world.end();
    });
    if cfg!(miri) {
        return; // too few deaths for all points
    }
    let missed: Vec<_> = POINTS.iter().filter(|point| !deaths.contains_key(**point)).collect();
    assert!(missed.is_empty(), "points at which nobody died: {missed:?} of {deaths:?}");
}
