//! Copying into memory that another process will read.

/// Copies `bytes` to `target`, past the caches where that is known how: the other process reads them next, and what this
/// one has in its caches stays there.
///
/// # Safety
///
/// `target` has room for the bytes, is aligned to 16, and nobody else uses it.
pub unsafe fn copy_for_another(bytes: &[u8], target: *mut u8) {
    // SAFETY: by the contract.
    unsafe {
        // Miri does not know such stores.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        streamed(bytes, target);
        #[cfg(any(not(target_arch = "x86_64"), miri))]
        target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
    }
}

/// # Safety
///
/// As [`copy_for_another`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn streamed(bytes: &[u8], target: *mut u8) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    const LINE: usize = 64;
    let lines = bytes.len() / LINE;
    // SAFETY: each step reads and writes one whole line of both; the target's address is aligned by the contract, and
    // every processor of this kind has these instructions. The fence orders the stores before whatever publishes them.
    unsafe {
        for line in 0..lines {
            let from = bytes.as_ptr().add(line * LINE).cast::<__m128i>();
            let to = target.add(line * LINE).cast::<__m128i>();
            let quarters = [0, 1, 2, 3].map(|quarter| _mm_loadu_si128(from.add(quarter)));
            for (quarter, value) in quarters.into_iter().enumerate() {
                _mm_stream_si128(to.add(quarter), value);
            }
        }
        _mm_sfence();
        let done = lines * LINE;
        target.add(done).copy_from_nonoverlapping(bytes.as_ptr().add(done), bytes.len() - done);
    }
}
