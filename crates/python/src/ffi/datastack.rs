//! Data stacks: where the interpreter keeps Python frames, a small one for each coroutine.
//!
//! By default CPython maps 16 KiB when a thread state without a data stack makes its first call, and unmaps them
//! at the end; for a coroutine that is most of what creating it costs. Here each coroutine gets a small
//! *root chunk* from the heap instead. Its `previous` is null, and the interpreter never frees such a
//! chunk (`_PyThreadState_PopFrame`), so it remains ours. Calls that do not fit any more go to ordinary chunks,
//! which the interpreter maps and unmaps through the arena allocator: a coroutine that stands just below
//! the end of its root chunk would pay for that at every call, so a few of those blocks are kept
//! ([`install_cache`]).

use std::alloc::{self, Layout};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use pyo3::ffi::{PyObject_GetArenaAllocator, PyObject_SetArenaAllocator, PyObjectArenaAllocator};

use super::{field, layout};
use crate::gil::GilCell;

/// Bytes of a root chunk: room for the frames of a few small functions.
const ROOT_SIZE: usize = 512;

/// What the interpreter asks for when a chunk is full (`DATA_STACK_CHUNK_SIZE` in `pystate.c`).
const BLOCK_SIZE: usize = 16 << 10;

/// How many root chunks wait for the next coroutine.
const SPARE_ROOTS: usize = 512;

/// How many blocks are kept mapped.
const SPARE_BLOCKS: usize = 16;

/// What the interpreter's allocator of small objects asks for (`ARENA_SIZE` in `obmalloc.c`). Where thousands of
/// coroutines come and go together, so do the arenas that they lie in.
const ARENA_SIZE: usize = 1 << 20;

/// How many arenas are kept mapped.
const SPARE_ARENAS: usize = 4;

const ROOT_LAYOUT: Layout = match Layout::from_size_align(ROOT_SIZE, 16) {
    Ok(layout) => layout,
    Err(_) => panic!("a constant size and alignment"),
};

static ROOTS: GilCell<Vec<*mut c_void>> = GilCell::new(Vec::new());

/// A new root chunk, or null if there is no memory.
pub(crate) fn new_root() -> *mut c_void {
    // SAFETY: the GIL is held, and nothing in here lets go of it. The chunk has room for its header.
    unsafe {
        if let Some(chunk) = (*ROOTS.get()).pop() {
            return chunk;
        }
        let chunk: *mut c_void = alloc::alloc(ROOT_LAYOUT).cast();
        if !chunk.is_null() {
            field::<*mut c_void>(chunk, layout::CHUNK_PREVIOUS).write(ptr::null_mut());
            field::<usize>(chunk, layout::CHUNK_SIZE).write(ROOT_SIZE);
            field::<usize>(chunk, layout::CHUNK_TOP).write(0);
        }
        chunk
    }
}

/// Where the first frame of an empty root chunk goes, and where the chunk ends.
///
/// # Safety
///
/// `chunk` is from [`new_root`].
pub(crate) unsafe fn bounds(chunk: *mut c_void) -> (*mut c_void, *mut c_void) {
    // The interpreter leaves the first word of a root chunk unused: a frame at the very start of a chunk is
    // what tells it to free the chunk.
    // SAFETY: both lie in the chunk or just behind it.
    unsafe {
        let first: *mut *mut c_void = field(chunk, layout::CHUNK_DATA);
        (first.add(1).cast(), chunk.byte_add(ROOT_SIZE))
    }
}

/// Frees a chain of chunks: the interpreter's own to the arena allocator, the root to the spare ones.
///
/// # Safety
///
/// The GIL is held; `chunk` is null or the newest chunk of a chain whose root is from [`new_root`], without
/// frames that anyone needs.
pub(crate) unsafe fn free(mut chunk: *mut c_void) {
    // SAFETY: the chain is valid, says the caller; each chunk is read before it is freed.
    unsafe {
        while !chunk.is_null() {
            let previous = field::<*mut c_void>(chunk, layout::CHUNK_PREVIOUS).read();
            if previous.is_null() {
                let spare = ROOTS.get();
                if (*spare).len() < SPARE_ROOTS {
                    (*spare).push(chunk);
                } else {
                    alloc::dealloc(chunk.cast(), ROOT_LAYOUT);
                }
                return;
            }
            let size = field::<usize>(chunk, layout::CHUNK_SIZE).read();
            let mut arena = empty_arena();
            PyObject_GetArenaAllocator(&raw mut arena);
            if let Some(free) = arena.free {
                free(arena.ctx, chunk, size);
            }
            chunk = previous;
        }
    }
}

const fn empty_arena() -> PyObjectArenaAllocator {
    PyObjectArenaAllocator { ctx: ptr::null_mut(), alloc: None, free: None }
}

/// The allocator that was in place before; written once, under the GIL, before ours is installed.
static UNDERLYING: GilCell<PyObjectArenaAllocator> = GilCell::new(empty_arena());

/// Blocks kept mapped. Atomics, because thread states are also torn down without the GIL.
static BLOCKS: [AtomicPtr<c_void>; SPARE_BLOCKS] = [const { AtomicPtr::new(ptr::null_mut()) }; SPARE_BLOCKS];

static ARENAS: [AtomicPtr<c_void>; SPARE_ARENAS] = [const { AtomicPtr::new(ptr::null_mut()) }; SPARE_ARENAS];

/// Where what is that large is kept; nowhere, as a rule.
fn spare(size: usize) -> &'static [AtomicPtr<c_void>] {
    match size {
        BLOCK_SIZE => &BLOCKS,
        ARENA_SIZE => &ARENAS,
        _ => &[],
    }
}

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Puts the cache of blocks in front of the interpreter's arena allocator, once in a process.
///
/// # Safety
///
/// The GIL is held.
pub(crate) unsafe fn install_cache() {
    if INSTALLED.swap(true, Ordering::AcqRel) {
        return;
    }
    // SAFETY: under the GIL nobody changes the allocator meanwhile, and the functions live as long as
    // the process because an extension module is never unloaded.
    unsafe {
        PyObject_GetArenaAllocator(UNDERLYING.get());
        let mut cached = PyObjectArenaAllocator {
            ctx: ptr::null_mut(),
            alloc: Some(cached_alloc),
            free: Some(cached_free),
        };
        PyObject_SetArenaAllocator(&raw mut cached);
    }
}

extern "C" fn cached_alloc(_context: *mut c_void, size: usize) -> *mut c_void {
    for slot in spare(size) {
        if !slot.load(Ordering::Relaxed).is_null() {
            let block = slot.swap(ptr::null_mut(), Ordering::AcqRel);
            if !block.is_null() {
                return block;
            }
        }
    }
    // SAFETY: written before this function was installed, and never again.
    unsafe {
        let underlying = UNDERLYING.get();
        match (*underlying).alloc {
            Some(alloc) => alloc((*underlying).ctx, size),
            None => ptr::null_mut(),
        }
    }
}

extern "C" fn cached_free(_context: *mut c_void, block: *mut c_void, size: usize) {
    for slot in spare(size) {
        if slot.load(Ordering::Relaxed).is_null()
            && slot.compare_exchange(ptr::null_mut(), block, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            return;
        }
    }
    // SAFETY: as in `cached_alloc`; the block came from the underlying allocator.
    unsafe {
        let underlying = UNDERLYING.get();
        if let Some(free) = (*underlying).free {
            free((*underlying).ctx, block, size);
        }
    }
}
