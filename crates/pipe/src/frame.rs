//! What a message looks like on the wire: that of the standard library's `multiprocessing.connection`.
//!
//! ```text
//! 0                4
//! ├─ length, i32 ──┤ body …                       up to 0x7fffffff bytes
//! ├─── -1, i32 ────┤─ length, u64 ──┤ body …      beyond
//! ├── TOKEN, i32 ──┤ unit u32, ordinal u64, length u64: the body lies in shared memory
//! ```
//!
//! All numbers are big-endian. The third form is only ever sent by one end of a pair to the other, which knows the
//! memory that is meant; everywhere else it is a bad length.

/// The longest body whose length goes into four bytes.
pub const LONGEST_SHORT: u64 = 0x7fff_ffff;

/// The first word of a frame whose body lies in shared memory.
pub const TOKEN: i32 = -0x7765_6674;

/// How long a token's frame is.
pub const TOKEN_FRAME: usize = 4 + TOKEN_BODY;
pub(crate) const TOKEN_BODY: usize = 20;

const LONG: i32 = -1;

/// The bytes in front of a body.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    bytes: [u8; 12],
    length: usize,
}

impl Head {
    /// For a body of so many bytes.
    pub fn new(body: u64) -> Self {
        let mut bytes = [0; 12];
        match i32::try_from(body) {
            Ok(short) => {
                bytes[..4].copy_from_slice(&short.to_be_bytes());
                Self { bytes, length: 4 }
            }
            Err(_) => {
                bytes[..4].copy_from_slice(&LONG.to_be_bytes());
                bytes[4..].copy_from_slice(&body.to_be_bytes());
                Self { bytes, length: 12 }
            }
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What the first bytes of a frame say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// There have to be so many bytes before more can be said.
    Incomplete(usize),
    /// The body has `body` bytes and begins after `head`.
    Body {
        /// Bytes in front of it.
        head: usize,
        /// Bytes of it.
        body: u64,
    },
    /// A [`Token`] follows the first four bytes.
    Token,
    /// No message begins like this.
    Bad,
}

/// Looks at the first bytes of a frame.
pub fn parse(bytes: &[u8]) -> Parsed {
    let Some((first, rest)) = bytes.split_first_chunk::<4>() else { return Parsed::Incomplete(4) };
    match i32::from_be_bytes(*first) {
        LONG => match rest.first_chunk::<8>() {
            None => Parsed::Incomplete(12),
            Some(word) => match u64::from_be_bytes(*word) {
                body if isize::try_from(body).is_ok() => Parsed::Body { head: 12, body },
                _ => Parsed::Bad,
            },
        },
        TOKEN => Parsed::Token,
        length => u64::try_from(length).map_or(Parsed::Bad, |body| Parsed::Body { head: 4, body }),
    }
}

/// Where in shared memory a body lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub(crate) unit: u32,
    pub(crate) ordinal: u64,
    pub(crate) length: u64,
}

impl Token {
    pub(crate) fn body(self) -> [u8; TOKEN_BODY] {
        let mut bytes = [0; TOKEN_BODY];
        bytes[..4].copy_from_slice(&self.unit.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.ordinal.to_be_bytes());
        bytes[12..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// From what follows the first four bytes; `None` if that is cut short.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (unit, rest) = bytes.split_first_chunk::<4>()?;
        let (ordinal, rest) = rest.split_first_chunk::<8>()?;
        let length = rest.first_chunk::<8>()?;
        Some(Self {
            unit: u32::from_be_bytes(*unit),
            ordinal: u64::from_be_bytes(*ordinal),
            length: u64::from_be_bytes(*length),
        })
    }
}
