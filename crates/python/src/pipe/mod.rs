//! Connections: Python objects as messages of `weft_pipe`'s ends.
//!
//! * [`connection`]: the class; its waits, and what it raises;
//! * [`pickles`]: objects to bytes and back, the plain ones natively;
//! * [`received`]: long messages as they come in;
//! * [`error`]: the engine's errors as Python exceptions;
//! * [`ready`]: waiting for many descriptors at once.

mod connection;
mod error;
mod pickles;
mod ready;
mod received;

use pyo3::prelude::*;

/// Adds the module's part to `_native`.
pub(crate) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<connection::ConnectionBase>()?;
    module.add_class::<connection::SharedPart>()?;
    module.add_function(wrap_pyfunction!(connection::connected_pair, module)?)?;
    module.add_function(wrap_pyfunction!(ready::wait_ready, module)?)
}
