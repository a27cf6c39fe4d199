//! The messages on the template's socket, and the answer through a request's pipe.
//!
//! All numbers are little-endian. A message is one SEQPACKET record: a header, the client's state, and the payload
//! unless it travels in a memory file. With it come descriptors: for a request the answer's pipe, the parent's process
//! descriptor and the sender's end of the socket; then the memory file if there is one; then the
//! user's. More of the user's than one message may carry wait in a socket that is passed instead of them.
//!
//! What arrives was written by a process of the same program, yet nothing is believed: lengths and counts are checked
//! against what came.

/// At most so many bytes of payload travel in the message itself.
pub const INLINE: usize = 64 * 1024;
/// Room for a message: header, state, payload.
pub const MESSAGE: usize = INLINE + 4096;
/// The kernel's bound on the descriptors of one message.
pub const DESCRIPTORS: usize = 253;

const MAGIC: u32 = u32::from_le_bytes(*b"weft");
const HEADER: usize = 32;
const ANSWER_MAGIC: u32 = u32::from_le_bytes(*b"born");

/// How many bytes an answer has.
pub const ANSWER: usize = 16;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To the template, first of all: what to import.
    Prepare,
    /// From the template: it is ready, or why not.
    Ready,
    /// To a spare: become this child.
    Start,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It ends before it should, or goes on after it.
    #[error("it has {found} bytes where {expected} are announced")]
    Length {
        /// How long it should be.
        expected: u64,
        /// How long it is.
        found: u64,
    },
    /// It does not begin as ours do.
    #[error("it does not begin as a message of this version does")]
    Magic,
    /// It is of no kind that exists, or not the kind that belongs here.
    #[error("it is of the unexpected kind {0}")]
    Kind(u16),
    /// The descriptors are not those that are announced.
    #[error("{found} descriptors came where {expected} are announced")]
    Descriptors {
        /// How many should have come.
        expected: usize,
        /// How many came.
        found: usize,
    },
}

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is for.
    pub kind: Kind,
    /// The payload is in a memory file.
    pub in_file: bool,
    /// The user's descriptors wait in a socket.
    pub descriptors_apart: bool,
    /// How many descriptors of the user's there are.
    pub descriptors: u16,
    /// Who asks.
    pub client: u32,
    /// Bytes of the state.
    pub state: u32,
    /// Bytes of the payload.
    pub payload: u64,
}

impl Header {
    /// How many descriptors come with the message itself.
    pub const fn attached(&self) -> usize {
        let fixed = if matches!(self.kind, Kind::Start) { 3 } else { 0 };
        let users = if self.descriptors_apart { 1 } else { self.descriptors as usize };
        fixed + self.in_file as usize + users
    }

    /// As bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let kind: u16 = match self.kind {
            Kind::Prepare => 1,
            Kind::Ready => 2,
            Kind::Start => 3,
        };
        let flags = u16::from(self.in_file) | u16::from(self.descriptors_apart) << 1;
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&kind.to_le_bytes());
        bytes[6..8].copy_from_slice(&flags.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.descriptors.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.client.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.state.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.payload.to_le_bytes());
        bytes
    }

    /// Splits a message with `attached` descriptors into its header, state and inline payload.
    pub fn parse(message: &[u8], attached: usize) -> Result<(Self, &[u8], &[u8]), FrameError> {
        let short = FrameError::Length { expected: HEADER as u64, found: message.len() as u64 };
        let (header, body) = message.split_first_chunk::<HEADER>().ok_or(short)?;
        if u32_at(header, 0) != MAGIC {
            return Err(FrameError::Magic);
        }
        let (kind, flags) = (u16_at(header, 4), u16_at(header, 6));
        let parsed = Self {
            kind: match kind {
                1 => Kind::Prepare,
                2 => Kind::Ready,
                3 => Kind::Start,
                other => return Err(FrameError::Kind(other)),
            },
            in_file: flags & 1 != 0,
            descriptors_apart: flags & 2 != 0,
            descriptors: u16_at(header, 8),
            client: u32_at(header, 12),
            state: u32_at(header, 16),
            payload: u64::from_le_bytes(header[24..32].try_into().expect("eight bytes")),
        };
        if flags & !3 != 0 {
            return Err(FrameError::Magic);
        }
        let inline = if parsed.in_file { 0 } else { parsed.payload };
        let expected = u64::from(parsed.state).saturating_add(inline);
        if expected != body.len() as u64 {
            return Err(FrameError::Length { expected, found: body.len() as u64 });
        }
        if parsed.attached() != attached {
            return Err(FrameError::Descriptors { expected: parsed.attached(), found: attached });
        }
        let (state, payload) = body.split_at(parsed.state as usize);
        Ok((parsed, state, payload))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// What a client hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// The child runs, and ends in this entry of the table.
    Started {
        /// Its process id.
        pid: u32,
        /// Its entry.
        entry: u32,
    },
    /// It could not be started: an error number of the system.
    Refused(i32),
}

impl Answer {
    /// As bytes, which a pipe takes in one piece.
    pub fn encode(self) -> [u8; ANSWER] {
        let (error, pid, entry) = match self {
            Self::Started { pid, entry } => (0, pid, entry),
            Self::Refused(error) => (error, 0, 0),
        };
        let mut bytes = [0; ANSWER];
        bytes[0..4].copy_from_slice(&ANSWER_MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&error.to_le_bytes());
        bytes[8..12].copy_from_slice(&pid.to_le_bytes());
        bytes[12..16].copy_from_slice(&entry.to_le_bytes());
        bytes
    }

    /// Reads what came through the pipe.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() != ANSWER {
            return Err(FrameError::Length { expected: ANSWER as u64, found: bytes.len() as u64 });
        }
        if u32_at(bytes, 0) != ANSWER_MAGIC {
            return Err(FrameError::Magic);
        }
        Ok(match u32_at(bytes, 4).cast_signed() {
            0 => Self::Started { pid: u32_at(bytes, 8), entry: u32_at(bytes, 12) },
            error => Self::Refused(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(header: Header, body: usize) -> Vec<u8> {
        let mut bytes = header.encode().to_vec();
        bytes.resize(HEADER + body, 7);
        bytes
    }

    fn start() -> Header {
        Header {
            kind: Kind::Start,
            in_file: false,
            descriptors_apart: false,
            descriptors: 2,
            client: 77,
            state: 10,
            payload: 20,
        }
    }

    #[test]
    fn there_and_back() {
        let sent = start();
        let bytes = message(sent, 30);
        let (header, state, payload) = Header::parse(&bytes, 5).unwrap();
        assert_eq!((header, state.len(), payload.len()), (sent, 10, 20));
        let filed = Header { in_file: true, payload: u64::MAX, ..sent };
        assert_eq!(Header::parse(&message(filed, 10), 6).unwrap().0, filed);
        for answer in [Answer::Started { pid: 5, entry: 6 }, Answer::Refused(11)] {
            assert_eq!(Answer::parse(&answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_an_error_or_a_message() {
        let bytes = message(start(), 30);
        for end in 0..bytes.len() {
            assert!(Header::parse(&bytes[..end], 5).is_err());
        }
        for at in 0..HEADER {
            for value in [0, 1, 2, 3, 0x7f, 0x80, 0xff] {
                let mut hostile = bytes.clone();
                hostile[at] = value;
                if let Ok((header, state, payload)) = Header::parse(&hostile, 5) {
                    assert_eq!(state.len() + payload.len(), 30);
                    assert_eq!(header.attached(), 5);
                }
            }
        }
    }

    #[test]
    fn lengths_that_overflow_are_wrong() {
        let header = Header { payload: u64::MAX, state: u32::MAX, ..start() };
        assert!(matches!(Header::parse(&message(header, 30), 5), Err(FrameError::Length { .. })));
    }

    #[test]
    fn descriptors_must_be_those_announced() {
        let bytes = message(start(), 30);
        let found = Header::parse(&bytes, 4);
        assert_eq!(found.unwrap_err(), FrameError::Descriptors { expected: 5, found: 4 });
    }

    #[test]
    fn answers_are_checked() {
        assert!(Answer::parse(&[]).is_err() && Answer::parse(&[0; ANSWER]).is_err());
        assert!(Answer::parse(&[0; ANSWER + 1]).is_err());
    }
}
