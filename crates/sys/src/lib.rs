//! Raw kernel resources, each behind a small typed wrapper.
//!
//! This crate is the bottom of weft: it knows the kernel and nothing above it.

pub mod clock;
pub mod doorbell;
pub mod epoll;
pub mod futex;
pub mod mapping;
#[cfg_attr(miri, path = "memory_file_miri.rs")]
pub mod memory_file;
pub mod memory_limit;
pub mod pidfd;
pub mod prefetch;
pub mod readiness;
