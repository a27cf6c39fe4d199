//! A map of bytes to bytes in shared memory, for many processes at once.
//!
//! * [`Map`]: the map as one process has it;
//! * [`shard`]: the algorithm; who may touch what;
//! * [`segment`]: where entries lie.

mod hash;
mod map;
mod segment;
mod shard;

pub use map::{Entry, Host, Map, SHARDS, Value};
pub use segment::{GLANCE, Glance};
