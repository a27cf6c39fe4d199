//! Stackful coroutines with two stack policies behind one switch.
//!
//! * [`arch`]: the context switch itself, one file per processor.
//! * [`slotted`]: many coroutines share a few large stack *slots* of their thread; a coroutine whose slot
//!   another one needs is copied out to the heap and back. Cheap in memory, unsafe to point into;
//!   meant for an interpreter host.
//! * [`owned`]: each coroutine has a stack that never moves. The safe Rust API.

pub mod arch;
pub mod owned;
pub mod slotted;
