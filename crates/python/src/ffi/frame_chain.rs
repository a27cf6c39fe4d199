//! Mends a chain of frames of which some lie on a C stack that has moved.
//!
//! From 3.12 on, every entry into the interpreter loop puts a frame of its own on the C stack and links it
//! between the Python frames. While the C stack of a suspended coroutine lies on the heap, those links must
//! lead there: a frame object, a traceback or a suspended generator may be asked for its caller at any
//! time, from any thread.

use std::ffi::c_void;
use std::ops::Range;

use super::{field, layout};

/// Walks from `*first` outwards and adds `delta` to every link that points into `range`.
///
/// # Safety
///
/// The chain is that of a suspended coroutine; frames in `range` can be read at their new place.
pub(crate) unsafe fn relocate(first: *mut *mut c_void, range: &Range<usize>, delta: isize) {
    let mut link = first;
    // SAFETY: every frame is valid where its link, mended, points to; each is visited once.
    unsafe {
        while !link.read().is_null() {
            let mut frame = link.read();
            if range.contains(&frame.addr()) {
                frame = frame.wrapping_byte_offset(delta);
                link.write(frame);
            }
            link = field(frame, layout::FRAME_PREVIOUS);
        }
    }
}
