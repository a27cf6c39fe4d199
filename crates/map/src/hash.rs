//! Hashes of keys. They are stored in shared memory, so they do not depend on the process.

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// The hash of a key.
#[inline]
pub(crate) fn hash(kind: u8, key: &[u8]) -> u64 {
    let mut state = fold(u64::from(kind) ^ MIX, key.len() as u64 ^ 0xd6e8_feb8_6659_fd93);
    let (words, rest) = key.as_chunks::<8>();
    for word in words {
        state = fold(state ^ u64::from_le_bytes(*word), MIX);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        state = fold(state ^ u64::from_le_bytes(last), 0xa076_1d64_78bd_642f);
    }
    fold(state, MIX) ^ state
}
