//! Long lists, tuples and dictionaries of plain values, column by column.
//!
//! ```text
//! body      shape (1 byte), then
//!   LIST, TUPLE    count (8), column
//!   DICT           count (8), column of keys, column of values
//!   ROWS           count (8), width (1), so many columns: a list of tuples of that length
//!   FEW            count (1), items: 0 and a node, or 1 and a body: a short tuple, as of arguments
//! column    form (1), then
//!   SAME           a node: every item is this object
//!   INTEGERS       width (1): 1, 2, 4 or 8; values
//!   FLOATS         values of 8 bytes
//!   TEXTS          whether some come again (1), length of all (8), length of each (1), texts
//!   MIXED          whether some come again (1), length of all (8), nodes
//! node      tag, then
//!   None, True, False     nothing
//!   int, float            8 bytes
//!   str, bytes            length (1), and the bytes
//!   AGAIN                 number of the str or bytes in the column that it is (4)
//! ```
//!
//! Tasks, results and what is put into shared containers are such, and the pickler takes several times as long for them. What
//! it would keep is kept as a rule: strings that come again soon arrive as one object; and none is so long that
//! it matters otherwise. Encoding runs no Python code, so nothing changes meanwhile.

mod read;
mod write;

pub(super) use read::decode;
pub(crate) use read::merge;
pub(super) use write::encode;

const LIST: u8 = 1;
const TUPLE: u8 = 2;
const DICT: u8 = 3;
const ROWS: u8 = 4;
const FEW: u8 = 5;

const SAME: u8 = 1;
const INTEGERS: u8 = 2;
const FLOATS: u8 = 3;
const TEXTS: u8 = 4;
const MIXED: u8 = 5;

/// The tag of a node that came before; as a length, the same.
const AGAIN: u8 = 255;
