//! Managers: calls to Python objects that live in a server process.
//!
//! * [`desk`]: what a server has: its objects, and the loop that answers calls;
//! * [`lane`]: what a client's thread calls through;
//! * [`parcel`]: calls whose arguments somebody else has to unpickle;
//! * [`proxy`]: the quick part of proxies; [`namespace`]: attributes of those of namespaces;
//! * [`table`]: objects by their identity, and which of their methods are called without further ado;
//! * [`plain`]: calls of dictionaries and the like, without a bound method;
//! * [`short`]: calls and answers of a few words;
//! * [`wire`]: what the bytes of a call and of an answer mean.

mod desk;
mod lane;
mod namespace;
mod parcel;
mod plain;
mod proxy;
mod short;
mod table;
mod wire;

use pyo3::prelude::*;

/// Adds the module's part to `_native`.
pub(crate) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<desk::ManagerDesk>()?;
    module.add_class::<lane::ManagerLane>()?;
    module.add_class::<parcel::ManagerParcel>()?;
    module.add_class::<proxy::ProxyBase>()?;
    module.add_function(wrap_pyfunction!(namespace::quicken_namespace, module)?)?;
    module.add_function(wrap_pyfunction!(proxy::proxy_method, module)?)
}
