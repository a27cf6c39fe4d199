//! Which threads exist, for the fork handler: atomics only, because the child of a fork may not wait for locks.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::super::object::PyGreenlet;
use super::Thread;

/// Blocks of slots, linked and never freed, so that the child can walk them at any instant.
struct Block {
    threads: [AtomicPtr<Thread>; 62],
    next: AtomicPtr<Block>,
}

static FIRST: Block =
    Block { threads: [const { AtomicPtr::new(ptr::null_mut()) }; 62], next: AtomicPtr::new(ptr::null_mut()) };
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn slot(mut index: usize) -> &'static AtomicPtr<Thread> {
    let mut block = &FIRST;
    while index >= block.threads.len() {
        index -= block.threads.len();
        let mut next = block.next.load(Ordering::Acquire);
        if next.is_null() {
            next = Box::into_raw(Box::new(Block {
                threads: [const { AtomicPtr::new(ptr::null_mut()) }; 62],
                next: AtomicPtr::new(ptr::null_mut()),
            }));
            // Only called under the GIL when the list grows, so nobody else links a block here.
            block.next.store(next, Ordering::Release);
        }
        // SAFETY: blocks are never freed.
        block = unsafe { &*next };
    }
    &block.threads[index]
}

/// Notes a thread; returns where. Called under the GIL.
pub(super) fn enter(thread: *mut Thread) -> usize {
    let count = COUNT.load(Ordering::Relaxed);
    let index = (0..count).find(|&index| slot(index).load(Ordering::Relaxed).is_null()).unwrap_or(count);
    slot(index).store(thread, Ordering::Release);
    COUNT.fetch_max(index + 1, Ordering::Release);
    index
}

pub(super) fn leave(index: usize) {
    slot(index).store(ptr::null_mut(), Ordering::Release);
}

/// In the child of a fork: every thread but `survivor` is gone.
pub(super) unsafe fn cut_off_all_but(survivor: *mut Thread) {
    for index in 0..COUNT.load(Ordering::Acquire) {
        let thread = slot(index).load(Ordering::Acquire);
        if !thread.is_null() && thread != survivor {
            // SAFETY: entries are removed before their thread is freed; the stores are atomic.
            unsafe {
                super::mark_lost((*thread).current);
                super::main_thread_cell((*thread).main).store(ptr::null_mut(), Ordering::Release);
            }
            leave(index);
        }
    }
}

const _: () = assert!(size_of::<*mut PyGreenlet>() == size_of::<AtomicPtr<Thread>>());
