//! The `greenlet` type: stackful coroutines as Python objects, with the C API of the greenlet package.
//!
//! * [`object`]: the object's layout and what hangs on it.
//! * [`thread`]: what each thread keeps (its main and current greenlet, its stacks) and the thread's end.
//! * [`switch`]: the switch; [`parcel`]: what it carries over; [`first_last`]: a greenlet's first and last moments.
//! * [`lifetime`]: creation, garbage collection, deallocation of suspended greenlets.
//! * [`attributes`]: `run`, `parent`, `dead`, `gr_frame`, `gr_context`, `repr()`.
//! * [`types`]: the type objects; [`methods`]: `switch` and `throw`.
//! * [`tracing`]: `settrace`; [`capi`]: the capsule; [`module`]: the module and its functions.
//!
//! Semantics follow the greenlet package's documentation and its test suite, version 3.5.

pub(crate) mod attributes;
mod capi;
mod first_last;
pub(crate) mod lifetime;
pub(crate) mod methods;
mod module;
pub(crate) mod object;
pub(crate) mod parcel;
pub(crate) mod switch;
pub(crate) mod thread;
mod tracing;
pub(crate) mod types;

pub(crate) use module::init;
