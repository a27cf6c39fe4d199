//! A random world of slotted coroutines that all check themselves.
//!
//! The host emulates CPython's chain of interpreter frames: a thread has a pointer to the newest frame,
//! each frame points to the previous one, and some of them lie on the C stack of their coroutine. When a
//! stack moves, [`TestHost::relocate`] mends the chain; the coroutine walks it after each resume.
//!
//! A failed check writes the seed and what is wrong to stderr and aborts: unwinding must not reach
//! the first frame of a slotted coroutine, and the harness would swallow the output of an abort.

use std::cell::Cell;
use std::hint::black_box;
use std::io::Write;
use std::ops::Range;
use std::ptr;

use weft_coroutine::slotted::{Config, Coroutine, Host, Slots, SwitchError};

use super::{Rng, rounding_mode, set_rounding_mode};

/// What a world is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) config: Config,
    /// The most coroutines that live at once.
    pub(crate) population: usize,
    /// How many switches, starts, ends and so on there are.
    pub(crate) steps: u64,
    /// How deep a coroutine may dig itself in, in bytes.
    pub(crate) depth: usize,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) switches: u64,
    pub(crate) starts: u64,
    pub(crate) finishes: u64,
    pub(crate) finishes_into: u64,
    pub(crate) discards: u64,
    pub(crate) discards_evicted: u64,
    pub(crate) relocations: u64,
    pub(crate) refused: u64,
    pub(crate) deep_moves: u64,
}

/// One link of the emulated chain of interpreter frames.
pub(crate) struct Frame {
    previous: *mut Frame,
    owner: u64,
    level: u64,
}

/// The emulated thread state.
pub(crate) struct Thread {
    frame: *mut Frame,
    owner: u64,
}

/// The emulated state of a suspended coroutine.
pub(crate) struct TestHost {
    frame: *mut Frame,
    owner: u64,
    /// Where the stack belongs and where it is, while it is on the heap.
    moved: Option<(Range<usize>, Range<usize>)>,
    relocations: u64,
    deep_moves: u64,
}

impl TestHost {
    pub(crate) fn new(owner: u64) -> Self {
        Self { frame: ptr::null_mut(), owner, moved: None, relocations: 0, deep_moves: 0 }
    }
}

// SAFETY: no method unwinds (a failed check aborts) or switches.
unsafe impl Host for TestHost {
    type Thread = Thread;

    unsafe fn suspend(&mut self, thread: *mut Thread) {
        // SAFETY: the place is valid by the caller's promise.
        unsafe {
            check((*thread).owner == self.owner, || format!("{} was suspended by another", self.owner));
            self.frame = (*thread).frame;
            (*thread).frame = ptr::dangling_mut();
            (*thread).owner = u64::MAX;
        }
    }

    unsafe fn resume(&mut self, thread: *mut Thread) {
        check(self.moved.is_none(), || format!("{} is resumed while its stack is away", self.owner));
        // SAFETY: the place is valid by the caller's promise.
        unsafe {
            (*thread).frame = self.frame;
            (*thread).owner = self.owner;
        }
    }

    unsafe fn relocate(&mut self, range: Range<usize>, delta: isize) {
        let there = range.start.wrapping_add_signed(delta)..range.end.wrapping_add_signed(delta);
        self.relocations += 1;
        self.deep_moves += u64::from(range.len() > 200_000);
        match self.moved.take() {
            None => self.moved = Some((range.clone(), there)),
            Some((home, away)) => {
                check(home == there && away == range, || {
                    format!("moved {home:x?} to {away:x?}, but {range:x?} back to {there:x?}")
                });
            }
        }
        // SAFETY: the frames on the stack are in its new place, as the engine promises; those on the heap
        // never move.
        unsafe {
            let mut link = &raw mut self.frame;
            while !(*link).is_null() {
                if range.contains(&(*link).addr()) {
                    *link = (*link).wrapping_byte_offset(delta);
                }
                check((**link).owner == self.owner, || {
                    format!("the chain of {} leads elsewhere", self.owner)
                });
                link = &raw mut (**link).previous;
            }
        }
    }
}

/// One coroutine and what the world knows about it.
struct Being {
    coroutine: Coroutine<TestHost>,
    id: u64,
    started: bool,
    /// Frames that lie on the heap; freed with the being, so that nothing leaks if it is discarded.
    #[allow(clippy::vec_box, reason = "the frames must not move when the vector grows")]
    heap_frames: Vec<Box<Frame>>,
}

/// All coroutines of a thread.
pub(crate) struct World {
    plan: Plan,
    rng: Rng,
    slots: Slots<TestHost>,
    thread: Thread,
    root: *mut Being,
    current: *mut Being,
    beings: Vec<*mut Being>,
    /// Ended; dropped by whoever runs next.
    dead: *mut Being,
    next_id: u64,
    token: usize,
    steps: u64,
    pub(crate) stats: Stats,
}

thread_local! {
    static WORLD: Cell<*mut World> = const { Cell::new(ptr::null_mut()) };
}

/// Ends the process if `condition` does not hold.
pub(crate) fn check(condition: bool, message: impl FnOnce() -> String) {
    if !condition {
        let world = WORLD.get();
        // SAFETY: the pointer is null or the world of this thread.
        let plan = if world.is_null() { String::new() } else { format!("{:?}", unsafe { (*world).plan }) };
        let _ = writeln!(std::io::stderr(), "FAILED: {}\n{plan}", message());
        std::process::abort();
    }
}

impl World {
    /// Lets a world live from its first to its last coroutine.
    pub(crate) fn run(plan: Plan) -> Stats {
        let root = Box::into_raw(Box::new(Being {
            coroutine: Coroutine::native(TestHost::new(0)),
            id: 0,
            started: true,
            heap_frames: Vec::new(),
        }));
        let mut world = Self {
            plan,
            rng: Rng::new(plan.seed),
            slots: Slots::new(plan.config),
            thread: Thread { frame: ptr::null_mut(), owner: 0 },
            root,
            current: root,
            beings: Vec::new(),
            dead: ptr::null_mut(),
            next_id: 1,
            token: 0,
            steps: 0,
            stats: Stats::default(),
        };
        let this = &raw mut world;
        WORLD.set(this);
        // SAFETY: everything below runs on this thread, and the world stays where it is until all have ended.
        unsafe {
            while !(*this).draining() {
                Self::step(this);
                verify_chain(this, 0);
            }
            while let Some(&being) = (*this).beings.last() {
                if (*being).started {
                    Self::switch(this, being);
                } else {
                    Self::discard(this, being);
                }
            }
            Self::bury(this);
            check((*this).slots.len() <= (plan.config.max_slots as usize).max(1), || "too many slots".into());
            WORLD.set(ptr::null_mut());
            drop(Box::from_raw(root));
        }
        world.stats
    }

    fn draining(&self) -> bool {
        self.steps >= self.plan.steps
    }

    /// One random act of the running coroutine, its own end and its digging apart.
    unsafe fn step(this: *mut Self) {
        // SAFETY: the caller runs on the world's thread; borrows end before each switch.
        unsafe {
            (*this).steps += 1;
            let act = (*this).rng.below(100);
            if act < 20 && (*this).beings.len() < (*this).plan.population {
                let being = Self::add(this);
                if act < 17 {
                    Self::enter(this, being);
                }
            } else if act < 24 {
                if let Some(being) = Self::pick(this).filter(|&being| being != (*this).root) {
                    Self::discard(this, being);
                }
            } else if let Some(being) = Self::pick(this) {
                Self::enter(this, being);
            }
        }
    }

    unsafe fn add(this: *mut Self) -> *mut Being {
        // SAFETY: as in `step`.
        unsafe {
            let id = (*this).next_id;
            (*this).next_id += 1;
            let being = Box::into_raw(Box::new(Being {
                coroutine: Coroutine::new(TestHost::new(id)),
                id,
                started: false,
                heap_frames: Vec::new(),
            }));
            (*this).beings.push(being);
            being
        }
    }

    /// Anybody but the running one; sometimes one of a few favourites, so that residents meet as well.
    unsafe fn pick(this: *mut Self) -> Option<*mut Being> {
        // SAFETY: as in `step`.
        unsafe {
            let count = (*this).beings.len();
            let crowd = if (*this).rng.percent(50) { count } else { count.min(3) };
            let index = (*this).rng.below(crowd + 1);
            let beings = &(*this).beings;
            let being = beings.get(index).copied().unwrap_or((*this).root);
            (being != (*this).current).then_some(being)
        }
    }

    /// Starts or resumes somebody.
    unsafe fn enter(this: *mut Self, being: *mut Being) {
        // SAFETY: as in `step`.
        unsafe { if (*being).started { Self::switch(this, being) } else { Self::start(this, being) } }
    }

    unsafe fn switch(this: *mut Self, to: *mut Being) {
        // SAFETY: as in `step`; `to` was started, lives and does not run.
        unsafe {
            let me = (*this).current;
            let token = Self::leave(this, to);
            let (slots, thread) = (&raw mut (*this).slots, &raw mut (*this).thread);
            let arrived =
                Slots::switch(slots, thread, &raw mut (*me).coroutine, &raw mut (*to).coroutine, token);
            (*this).stats.switches += 1;
            Self::arrive(this, me, arrived);
        }
    }

    unsafe fn start(this: *mut Self, to: *mut Being) {
        // SAFETY: as in `step`; `to` was not started.
        unsafe {
            let me = (*this).current;
            let token = Self::leave(this, to);
            let (slots, thread) = (&raw mut (*this).slots, &raw mut (*this).thread);
            let (from, target) = (&raw mut (*me).coroutine, &raw mut (*to).coroutine);
            let arrived = Slots::start(slots, thread, from, target, entry, token);
            (*this).stats.starts += 1;
            if arrived.is_err() {
                (*to).started = false;
            }
            Self::arrive(this, me, arrived);
        }
    }

    unsafe fn leave(this: *mut Self, to: *mut Being) -> usize {
        // SAFETY: as in `step`.
        unsafe {
            (*to).started = true;
            (*this).current = to;
            (*this).token = usize::try_from((*this).rng.next()).unwrap();
            (*this).token
        }
    }

    unsafe fn arrive(this: *mut Self, me: *mut Being, arrived: Result<usize, SwitchError>) {
        // SAFETY: as in `step`.
        unsafe {
            match arrived {
                Ok(token) => {
                    check((*this).current == me, || format!("{} was resumed for another", (*me).id));
                    check((*this).token == token, || format!("{} got a wrong transfer", (*me).id));
                }
                Err(_) => {
                    (*this).current = me;
                    (*this).stats.refused += 1;
                }
            }
            check((*this).thread.owner == (*me).id, || format!("{} has another's thread state", (*me).id));
            check(rounding_mode() == mode((*me).id), || format!("{} lost its rounding mode", (*me).id));
            Self::bury(this);
        }
    }

    unsafe fn bury(this: *mut Self) {
        // SAFETY: a dead being has left its stack, and nobody knows it any more.
        unsafe {
            let dead = std::mem::replace(&mut (*this).dead, ptr::null_mut());
            if !dead.is_null() {
                Self::forget(this, dead);
            }
        }
    }

    unsafe fn forget(this: *mut Self, being: *mut Being) {
        // SAFETY: the caller removed it from the list.
        unsafe {
            let host = &(*being).coroutine.host;
            (*this).stats.relocations += host.relocations;
            (*this).stats.deep_moves += host.deep_moves;
            drop(Box::from_raw(being));
        }
    }

    unsafe fn remove(this: *mut Self, being: *mut Being) {
        // SAFETY: as in `step`.
        unsafe {
            let index = (*this).beings.iter().position(|&other| other == being).unwrap();
            (*this).beings.swap_remove(index);
        }
    }

    unsafe fn discard(this: *mut Self, being: *mut Being) {
        // SAFETY: as in `step`; it does not run.
        unsafe {
            (*this).stats.discards += 1;
            (*this).stats.discards_evicted += u64::from((*being).coroutine.is_evicted());
            let size = Slots::suspended_size(&raw const (*this).slots, &raw const (*being).coroutine);
            check((size > 0) == (*being).started, || format!("{} has {size} bytes", (*being).id));
            Slots::discard(&raw mut (*this).slots, &raw mut (*being).coroutine);
            Self::remove(this, being);
            Self::forget(this, being);
        }
    }

    /// Ends the running coroutine.
    unsafe fn finish(this: *mut Self) -> ! {
        // SAFETY: as in `step`; nothing on this stack is needed again.
        unsafe {
            let me = (*this).current;
            Self::remove(this, me);
            loop {
                let to = Self::successor(this);
                let fresh = !(*to).started;
                let token = Self::leave(this, to);
                (*this).dead = me;
                let (slots, thread) = (&raw mut (*this).slots, &raw mut (*this).thread);
                let (from, target) = (&raw mut (*me).coroutine, &raw mut (*to).coroutine);
                let _error = if fresh {
                    (*this).stats.finishes_into += 1;
                    Slots::finish_into(slots, thread, from, target, entry, token)
                } else {
                    (*this).stats.finishes += 1;
                    Slots::finish(slots, thread, from, target, token)
                };
                // Refused: try another one. The root needs no memory, so this ends.
                (*this).stats.refused += 1;
                (*this).current = me;
                (*this).dead = ptr::null_mut();
                (*to).started = !fresh;
            }
        }
    }

    /// Who runs after the running one, which is not in the list any more.
    unsafe fn successor(this: *mut Self) -> *mut Being {
        // SAFETY: as in `step`.
        unsafe {
            if (*this).draining() {
                return (*this).root;
            }
            if (*this).rng.percent(40) && (*this).beings.len() < (*this).plan.population {
                return Self::add(this);
            }
            Self::pick(this).unwrap_or((*this).root)
        }
    }
}

/// The rounding mode that a coroutine sets for itself.
fn mode(id: u64) -> u32 {
    u32::try_from(id % 4).unwrap()
}

/// The first function of each coroutine.
unsafe extern "C" fn entry(token: usize) -> ! {
    let world = WORLD.get();
    // SAFETY: the world of this thread outlives its coroutines, and `leave` made this one the current.
    unsafe {
        let me = (*world).current;
        check(rounding_mode() == 0, || format!("{} starts with another's rounding mode", (*me).id));
        set_rounding_mode(mode((*me).id));
        World::arrive(world, me, Ok(token));
        check((*world).thread.frame.is_null(), || format!("{} starts with a frame", (*me).id));
        live(world, me, 1);
        check((*world).thread.frame.is_null(), || format!("{} ends with a frame", (*me).id));
        World::finish(world)
    }
}

fn checksum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| (sum ^ word).wrapping_mul(0x100_0000_01b3).rotate_left(17))
}

/// Walks the frames of the running coroutine: `level` of them, numbered downwards.
unsafe fn verify_chain(world: *mut World, level: u64) {
    // SAFETY: the chain consists of frames on the running stack and of the being's heap frames.
    unsafe {
        let owner = (*(*world).current).id;
        let mut frame = (*world).thread.frame;
        for expected in (1..=level).rev() {
            check(!frame.is_null(), || format!("the chain of {owner} ends at level {expected}"));
            let found = ((*frame).owner, (*frame).level);
            check(found == (owner, expected), || format!("{owner} finds {found:?} at level {expected}"));
            frame = (*frame).previous;
        }
        check(frame.is_null(), || format!("the chain of {owner} is too long"));
    }
}

/// One level of a coroutine's life: some data and a frame on the stack, acts, perhaps deeper levels.
#[inline(never)]
unsafe fn live(world: *mut World, me: *mut Being, level: u64) {
    // SAFETY: runs on the world's thread; borrows of the world end before each switch.
    unsafe {
        let id = (*me).id;
        let mut data = Rng::new(id << 16 | level);
        let mut words: [u64; 24] = std::array::from_fn(|_| data.next());
        let sum = checksum(&words);
        let pointer = black_box(&raw mut words);

        let mut on_stack = Frame { previous: (*world).thread.frame, owner: id, level };
        let on_heap = (*world).rng.percent(30);
        if on_heap {
            let mut frame = Box::new(Frame { previous: on_stack.previous, owner: id, level });
            (*world).thread.frame = &raw mut *frame;
            (*me).heap_frames.push(frame);
        } else {
            (*world).thread.frame = black_box(&raw mut on_stack);
        }

        while !(*world).draining() && !(*world).rng.percent(6) {
            let deeper = (*world).rng.below(100);
            if deeper < 6 && level < 6 {
                let bytes = (*world).plan.depth;
                if deeper == 0 && bytes > 0 {
                    let bytes = (*world).rng.below(bytes);
                    dig(world, me, level, bytes);
                } else {
                    live(world, me, level + 1);
                }
            } else {
                World::step(world);
            }
            check(checksum(&*pointer) == sum, || format!("the stack of {id} changed at level {level}"));
            verify_chain(world, level);
        }

        (*world).thread.frame = (*(*world).thread.frame).previous;
        if on_heap {
            (*me).heap_frames.pop();
        }
    }
}

/// Takes `bytes` of stack, and lives on below.
#[inline(never)]
unsafe fn dig(world: *mut World, me: *mut Being, level: u64, bytes: usize) {
    let filler = (bytes as u64).wrapping_mul(0x9e37_79b9) ^ level;
    let mut block = [filler; 256];
    let pointer = black_box(&raw mut block);
    // SAFETY: as in `live`.
    unsafe {
        match bytes.checked_sub(2048) {
            Some(rest) => dig(world, me, level, rest),
            None => live(world, me, level + 1),
        }
        check((*pointer).iter().all(|&word| word == filler), || {
            format!("a deep stack of {} changed", (*me).id)
        });
    }
}
