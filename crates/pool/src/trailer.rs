//! What follows the body of a message: which task it is, and what to do with it.
//!
//! It is behind the body, because then the body can be written first, by those who know nothing of tasks.

/// How the body of a task is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Call {
    /// The positional arguments.
    Arguments = 0,
    /// The positional and the named arguments.
    Named = 1,
    /// The one argument.
    Item = 2,
    /// Many arguments, for a call each.
    Items = 3,
    /// Many tuples of arguments, for a call each.
    Tuples = 4,
}

impl Call {
    const fn of(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Arguments,
            1 => Self::Named,
            2 => Self::Item,
            3 => Self::Items,
            4 => Self::Tuples,
            _ => return None,
        })
    }
}

/// Behind a task: the reference to its function, and this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskTrailer {
    /// The task's number.
    pub id: u64,
    /// How the body is to be read.
    pub call: Call,
    /// How many bytes before the trailer refer to the function; 0 if it is in the body, in front of the rest.
    pub function: u16,
    /// Whether the worker notes when it began.
    pub timed: bool,
}

impl TaskTrailer {
    const SIZE: usize = 12;

    /// Appends the trailer to `body`.
    #[inline]
    pub fn append(self, body: &mut Vec<u8>) {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8] = self.call as u8;
        bytes[9] = self.timed.into();
        bytes[10..].copy_from_slice(&self.function.to_le_bytes());
        body.extend_from_slice(&bytes);
    }

    /// Takes a message apart: its trailer, the reference to the function, and the body. `None` if it is damaged.
    #[inline]
    pub fn split(message: &[u8]) -> Option<(Self, &[u8], &[u8])> {
        let (rest, bytes) = message.split_last_chunk::<{ Self::SIZE }>()?;
        let trailer = Self {
            id: u64::from_le_bytes(*bytes.first_chunk()?),
            call: Call::of(bytes[8])?,
            timed: bytes[9] != 0,
            function: u16::from_le_bytes([bytes[10], bytes[11]]),
        };
        let (body, function) = rest.split_at_checked(rest.len().checked_sub(trailer.function.into())?)?;
        Some((trailer, function, body))
    }

    /// The number of the task in `message`, and whether it is timed.
    #[inline]
    pub(crate) fn id_of(message: &[u8]) -> Option<u64> {
        let bytes = message.last_chunk::<{ Self::SIZE }>()?;
        Some(u64::from_le_bytes(*bytes.first_chunk()?))
    }
}

/// How a task ended, as its worker tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The body is what it returned.
    Returned = 0,
    /// The body is the exception.
    Raised = 1,
    /// It was cancelled before it began. There is no body.
    Cancelled = 2,
}

/// Behind a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultTrailer {
    /// The task's number.
    pub id: u64,
    /// How it ended.
    pub outcome: Outcome,
}

impl ResultTrailer {
    const SIZE: usize = 9;

    /// Appends the trailer to `body`.
    #[inline]
    pub fn append(self, body: &mut Vec<u8>) {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8] = self.outcome as u8;
        body.extend_from_slice(&bytes);
    }

    /// Takes a message apart: its trailer and its body. `None` if it is damaged.
    #[inline]
    pub fn split(message: &[u8]) -> Option<(Self, &[u8])> {
        let (body, bytes) = message.split_last_chunk::<{ Self::SIZE }>()?;
        let outcome = match bytes[8] {
            0 => Outcome::Returned,
            1 => Outcome::Raised,
            2 => Outcome::Cancelled,
            _ => return None,
        };
        Some((Self { id: u64::from_le_bytes(*bytes.first_chunk()?), outcome }, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_comes_apart_as_it_was_put_together() {
        let mut message = b"body".to_vec();
        message.extend_from_slice(b"function");
        let trailer = TaskTrailer { id: 77, call: Call::Named, function: 8, timed: true };
        trailer.append(&mut message);
        assert_eq!(TaskTrailer::split(&message), Some((trailer, &b"function"[..], &b"body"[..])));
        assert_eq!(TaskTrailer::id_of(&message), Some(77));
    }

    #[test]
    fn what_is_cut_short_or_lies_is_refused() {
        let mut message = b"x".to_vec();
        TaskTrailer { id: 1, call: Call::Item, function: 2, timed: false }.append(&mut message);
        assert_eq!(TaskTrailer::split(&message), None, "a function longer than the message");
        assert_eq!(TaskTrailer::split(&message[..5]), None);
        let mut message = Vec::new();
        TaskTrailer { id: 1, call: Call::Item, function: 0, timed: false }.append(&mut message);
        message[8] = 99;
        assert_eq!(TaskTrailer::split(&message), None, "a call that there is not");
        let mut message = Vec::new();
        ResultTrailer { id: 1, outcome: Outcome::Raised }.append(&mut message);
        message[8] = 3;
        assert_eq!(ResultTrailer::split(&message), None, "an outcome that there is not");
        assert_eq!(ResultTrailer::split(&message[..8]), None);
    }

    #[test]
    fn a_result_comes_apart_as_it_was_put_together() {
        let mut message = b"value".to_vec();
        let trailer = ResultTrailer { id: u64::MAX >> 2, outcome: Outcome::Returned };
        trailer.append(&mut message);
        assert_eq!(ResultTrailer::split(&message), Some((trailer, &b"value"[..])));
    }
}
