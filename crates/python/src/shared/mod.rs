//! Memory that processes share.
//!
//! * [`region`]: a piece of it, with the buffer protocol;
//! * [`sending`]: references to regions on their way to other processes;
//! * [`synchronized`]: an object in shared memory with its lock;
//! * [`number`]: reading and changing a number in shared memory, with its lock or in one step.

mod number;
mod region;
pub(crate) mod sending;
mod synchronized;

use pyo3::prelude::*;

/// Adds the module's part to `_native`.
pub(crate) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<region::SharedRegion>()?;
    module.add_class::<synchronized::SynchronizedBase>()?;
    number::init(module)
}
