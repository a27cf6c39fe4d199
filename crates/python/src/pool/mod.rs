//! Process pools: Python calls as tasks of `weft_pool`.
//!
//! * [`core`]: the pool in the process that owns it: who is owed which result;
//! * [`face`]: the class that the faces' pools are made of;
//! * [`calls`]: calls as messages;
//! * [`executor`], [`futures`]: the same for `concurrent.futures`;
//! * [`functions`]: functions by reference, so that each need not be pickled and looked up for every task;
//! * [`result`]: results that somebody waits for;
//! * [`stream`]: results as an iterator, fed as they come; [`feeder`] a thread that reads a slow source;
//! * [`value`]: what a message became, or will;
//! * [`worker`]: the loop of a worker process.

mod calls;
mod core;
mod executor;
mod face;
mod feeder;
mod functions;
mod futures;
mod result;
mod stream;
mod value;
mod worker;

use pyo3::prelude::*;

/// Adds the module's part to `_native`.
pub(crate) fn init(native: &Bound<'_, PyModule>) -> PyResult<()> {
    let module = PyModule::new(native.py(), "weft._native._pool")?;
    module.add_class::<core::Core>()?;
    module.add_class::<face::PoolBase>()?;
    module.add_class::<executor::ExecutorBase>()?;
    module.add_class::<futures::FutureBase>()?;
    module.add_class::<result::AsyncResult>()?;
    module.add_class::<stream::Reader>()?;
    module.add_class::<worker::Worker>()?;
    module.add("MOST_WORKERS", weft_pool::MOST_WORKERS)?;
    native.setattr("_pool", module)
}
