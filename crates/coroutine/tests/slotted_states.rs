//! Single steps of slotted coroutines: what each one moves, and what the host is told.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::ptr;

use weft_coroutine::slotted::{Config, Coroutine, Host, Slots};

/// What the host was told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Suspend(u32),
    Resume(u32),
    Move(u32, Range<usize>, isize),
}

thread_local! {
    static TOLD: RefCell<Vec<Told>> = const { RefCell::new(Vec::new()) };
    static STAGE: Cell<*mut Stage> = const { Cell::new(ptr::null_mut()) };
}

struct Recorder(u32);

fn told(what: Told) {
    TOLD.with_borrow_mut(|list| list.push(what));
}

// SAFETY: appends to a list; nothing unwinds or switches.
unsafe impl Host for Recorder {
    type Thread = ();
    unsafe fn suspend(&mut self, _: *mut ()) {
        told(Told::Suspend(self.0));
    }
    unsafe fn resume(&mut self, _: *mut ()) {
        told(Told::Resume(self.0));
    }
    unsafe fn relocate(&mut self, range: Range<usize>, delta: isize) {
        told(Told::Move(self.0, range, delta));
    }
}

/// A thread's slots and a few coroutines; number 0 is the native stack.
struct Stage {
    slots: Slots<Recorder>,
    #[allow(clippy::vec_box, reason = "coroutines must not move")]
    actors: Vec<Box<Coroutine<Recorder>>>,
    running: usize,
}

impl Stage {
    fn new(max_slots: u32, actors: u32) -> Box<Self> {
        TOLD.take();
        let mut stage = Box::new(Self {
            slots: Slots::new(Config { slot_size: 2 << 20, max_slots, ..Config::default() }),
            actors: std::iter::once(Box::new(Coroutine::native(Recorder(0))))
                .chain((1..=actors).map(|id| Box::new(Coroutine::new(Recorder(id)))))
                .collect(),
            running: 0,
        });
        STAGE.set(&raw mut *stage);
        stage
    }
}

fn actor(index: usize) -> *mut Coroutine<Recorder> {
    // SAFETY: the stage of this thread lives while its test runs.
    unsafe { &raw mut *(&mut (*STAGE.get()).actors)[index] }
}

fn slots() -> *mut Slots<Recorder> {
    // SAFETY: as in `actor`.
    unsafe { &raw mut (*STAGE.get()).slots }
}

fn enter(index: usize) -> *mut Coroutine<Recorder> {
    // SAFETY: as in `actor`.
    actor(unsafe { std::mem::replace(&mut (*STAGE.get()).running, index) })
}

fn start(index: usize) -> usize {
    let from = enter(index);
    // SAFETY: all pointers are of this thread's stage; `from` runs and `index` is fresh.
    unsafe { Slots::start(slots(), ptr::null_mut(), from, actor(index), body, index) }.unwrap()
}

fn switch(index: usize, transfer: usize) -> usize {
    let from = enter(index);
    // SAFETY: as in `start`; `index` was started and is suspended.
    unsafe { Slots::switch(slots(), ptr::null_mut(), from, actor(index), transfer) }.unwrap()
}

fn finish(index: usize) -> ! {
    let from = enter(index);
    // SAFETY: as in `switch`; nothing on this stack is needed again.
    let error = unsafe { Slots::finish(slots(), ptr::null_mut(), from, actor(index), 0) };
    panic!("{error}")
}

/// Orders that the native stack sends to an actor.
const BACK: usize = 1;
const DIG: usize = 2;
const END: usize = 3;

/// An actor: does what it is told until it ends. It goes back to the native stack after each order.
unsafe extern "C" fn body(me: usize) -> ! {
    let words = std::hint::black_box([me; 32]);
    let mut order = BACK;
    loop {
        match order {
            BACK => order = switch(0, me),
            DIG => order = dig(me, 300),
            END => finish(0),
            _ => std::process::abort(),
        }
        if words.iter().any(|&word| word != me) {
            eprintln!("the stack of {me} changed");
            std::process::abort();
        }
    }
}

/// Goes back to the native stack from `levels` KiB further down.
#[inline(never)]
fn dig(me: usize, levels: usize) -> usize {
    let block = std::hint::black_box([me; 128]);
    let order = if levels == 0 { switch(0, me) } else { dig(me, levels - 1) };
    if block.iter().any(|&word| word != me) {
        eprintln!("the deep stack of {me} changed");
        std::process::abort();
    }
    order
}

/// The one move of an actor.
fn only_move(list: &[Told], actor: u32) -> (Range<usize>, isize) {
    let moves = list.iter().filter_map(|what| match what {
        Told::Move(id, range, delta) if *id == actor => Some((range.clone(), *delta)),
        _ => None,
    });
    let [only] = &moves.collect::<Vec<_>>()[..] else { panic!("{list:x?}") };
    only.clone()
}

#[test]
fn a_collision_tells_the_host_exact_ranges_there_and_back() {
    let stage = Stage::new(1, 2);
    assert_eq!(start(1), 1);
    let top_of_first = actor(1);
    // SAFETY: actor 1 is suspended.
    let (sp, size) =
        unsafe { ((*top_of_first).stack_pointer().addr(), Slots::suspended_size(slots(), top_of_first)) };
    assert!(size > 256 && size < 16 << 10, "{size}");
    TOLD.take();
    assert_eq!(start(2), 2);
    let (out, delta) = only_move(&TOLD.take(), 1);
    assert_eq!(out, sp..sp + size);
    assert!(stage.actors[1].is_evicted() && !stage.actors[2].is_evicted());
    assert_eq!(stage.actors[1].stack_pointer().addr(), sp, "a context keeps its address");

    assert_eq!(switch(1, BACK), 1);
    let list = TOLD.take();
    only_move(&list, 2);
    let (back, back_delta) = only_move(&list, 1);
    assert_eq!(back.start, out.start.wrapping_add_signed(delta));
    assert_eq!((back.len(), back_delta), (out.len(), -delta));
    let last = list.len() - 1;
    assert!(
        list.iter().rposition(|what| matches!(what, Told::Move(..)))
            < list.iter().position(|what| *what == Told::Resume(1))
    );
    assert_eq!(list[last], Told::Resume(0));
    assert!(!stage.actors[1].is_evicted() && stage.actors[2].is_evicted());
    assert_eq!(stage.slots.len(), 1);
    switch(1, END);
    switch(2, END);
}

#[test]
fn residents_switch_without_any_move_and_free_slots_are_used_again() {
    let stage = Stage::new(8, 6);
    (1..=3).for_each(|index| assert_eq!(start(index), index));
    for _ in 0..10 {
        (1..=3).for_each(|index| assert_eq!(switch(index, BACK), index));
    }
    assert!(!TOLD.take().iter().any(|what| matches!(what, Told::Move(..))));
    for index in 1..=3 {
        switch(index, END);
    }
    for index in 4..=6 {
        start(index);
        switch(index, END);
    }
    assert_eq!(stage.slots.len(), 3);
}

#[test]
fn a_slot_that_an_evicted_coroutine_came_back_to_is_not_free() {
    // 1 and 2 share a slot. When 1 has ended, 2 comes back to it and goes deep. Many others come
    // and go, and every now and then free slots are trimmed: 2 must keep its pages.
    let stage = Stage::new(2, 402);
    for index in [402, 1, 2] {
        start(index);
    }
    assert_eq!(stage.slots.len(), 2);
    assert!(stage.actors[1].is_evicted());
    switch(1, END);
    assert_eq!(switch(2, DIG), 2);
    // SAFETY: actor 2 is suspended.
    assert!(unsafe { Slots::suspended_size(slots(), actor(2)) } > 300 << 10);
    switch(402, END);
    for index in 3..402 {
        start(index);
        switch(index, END);
    }
    assert_eq!(switch(2, BACK), 2, "dig() looks at its blocks on the way up");
    switch(2, END);
}

#[test]
fn discarding_frees_the_slot_of_a_resident_only() {
    let stage = Stage::new(1, 3);
    start(1);
    start(2);
    assert!(stage.actors[1].is_evicted());
    // SAFETY: none of them runs.
    unsafe {
        Slots::discard(slots(), actor(1));
        assert!(!stage.actors[1].is_evicted());
        assert_eq!(Slots::suspended_size(slots(), actor(1)), 0);
        Slots::discard(slots(), actor(2));
        Slots::discard(slots(), actor(2));
    }
    TOLD.take();
    start(3);
    assert!(!TOLD.take().iter().any(|what| matches!(what, Told::Move(..))), "the slot was free");
    switch(3, END);
    assert_eq!(stage.slots.len(), 1);
}

#[test]
fn evict_all_moves_every_resident_and_they_can_be_discarded_without_slots() {
    let mut stage = Stage::new(3, 5);
    for index in 1..=5 {
        start(index);
    }
    // SAFETY: only the native stack runs, and none of them will run again.
    unsafe { Slots::evict_all(slots()) }.unwrap();
    assert!(stage.actors[1..].iter().all(|actor| actor.is_evicted()));
    stage.slots = Slots::new(Config { slot_size: 1 << 20, max_slots: 1, ..Config::default() });
    for index in 1..=5 {
        // SAFETY: an evicted coroutine does not touch its slots.
        unsafe {
            assert!(Slots::suspended_size(slots(), actor(index)) > 0);
            Slots::discard(slots(), actor(index));
        }
    }
}
