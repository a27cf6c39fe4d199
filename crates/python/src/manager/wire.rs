//! What the bytes of a call and of an answer mean.
//!
//! ```text
//! call      object: length in 1 byte, and its identity;  method: length in 1 byte, and its name;  body
//!           what: kind of the body (8 bits), KEYWORDS, FIRST
//! answer    body
//!           what: kind of the body (8 bits), tag (8 bits), TAKEN
//! ```
//!
//! A call's body is the tuple of its arguments, or, with `KEYWORDS`, the tuple of that tuple and a dictionary.

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

/// The body is arguments and keywords.
pub(super) const KEYWORDS: u32 = 1 << 8;
/// The first call through a lane since it was claimed.
pub(super) const FIRST: u32 = 1 << 9;

/// The answer is gone from the object that it came from: it goes back if nobody gets it.
pub(super) const TAKEN: u32 = 1 << 16;

/// What an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tag {
    Return = 0,
    Error = 1,
    Traceback = 2,
    Proxy = 3,
    Unserializable = 4,
}

impl Tag {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Return, "#RETURN"),
        (Self::Error, "#ERROR"),
        (Self::Traceback, "#TRACEBACK"),
        (Self::Proxy, "#PROXY"),
        (Self::Unserializable, "#UNSERIALIZABLE"),
    ];

    /// By its name in the standard library's protocol.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(tag, _)| *tag)
    }

    pub(super) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.iter().map(|(tag, _)| *tag).find(|tag| *tag as u8 == number)
    }

    pub(super) const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// Puts what a call begins with into `head`. False if a name is too long for it.
pub(super) fn write_head(ident: &str, method: &str, head: &mut Vec<u8>) -> bool {
    let (Ok(ident_length), Ok(method_length)) = (u8::try_from(ident.len()), u8::try_from(method.len()))
    else {
        return false;
    };
    head.push(ident_length);
    head.extend_from_slice(ident.as_bytes());
    head.push(method_length);
    head.extend_from_slice(method.as_bytes());
    true
}

/// The object, the method and the body of a call.
pub(super) fn read_head(bytes: &[u8]) -> PyResult<(&str, &str, &[u8])> {
    let name = |bytes| {
        let (length, rest) = <[u8]>::split_first(bytes)?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        Some((std::str::from_utf8(name).ok()?, rest))
    };
    let read = || {
        let (ident, rest) = name(bytes)?;
        let (method, body) = name(rest)?;
        Some((ident, method, body))
    };
    read()
        .ok_or_else(|| PyOSError::new_err("a call in shared memory is damaged: its head contradicts itself"))
}
