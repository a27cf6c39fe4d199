//! The module `weft._native._sync`: what the faces' locks are made of.
//!
//! * [`semlock`]: a lock or semaphore; the methods that have to be quick, as the interpreter calls them;
//! * [`guard`]: what the classes that have one in `_semlock` derive from, for `with`, and [`ready`], its methods;
//! * [`condition`], [`event`], [`barrier`]: the others.

mod barrier;
mod condition;
mod event;
mod guard;
mod ready;
pub(crate) mod semlock;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use weft_shm::Handle;
use weft_shm::identity::Identity;

use crate::queue::arenas::{find_arena, own_arena, shm_error};

/// Where an object is: its arena's id, its place in it, and its generation.
type Address = (u64, u32, u64);

const fn handle(address: Address) -> Handle {
    Handle { unit: address.1, generation: address.2 }
}

fn address(arena: u64, handle: Handle) -> Address {
    (arena, handle.unit, handle.generation)
}

/// The exception for the death of the process that held a lock.
#[cold]
fn owner_died(py: Python<'_>, owner: Identity) -> PyErr {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = MAKE.get_or_try_init(py, || {
        let module = py.import("weft.multiprocessing.synchronize")?;
        Ok::<_, PyErr>(module.getattr("_owner_died")?.unbind())
    });
    match make.and_then(|make| make.bind(py).call1((owner.pid,))) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

/// Say that this process is about to end normally: the locks that it leaves taken are left so on purpose, and
/// nobody is told that their owner died.
#[pyfunction]
fn end_normally() {
    weft_sync::owner::end_normally();
}

extern "C" fn at_exit() {
    weft_sync::owner::end_normally();
}

/// Makes `_native._sync`.
pub(crate) fn init(native: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = native.py();
    // After everything that Python does at its end. There are places for 32 such functions; without one, a process that
    // ends with a lock counts as killed unless it was started by multiprocessing.
    // SAFETY: the GIL is held, and the function stays loaded and touches no Python object.
    let _ = unsafe { pyo3::ffi::Py_AtExit(Some(at_exit)) };
    let module = PyModule::new(py, "weft._native._sync")?;
    module.add_class::<semlock::SemLock>()?;
    module.add_class::<guard::Guard>()?;
    module.add_class::<condition::ConditionBase>()?;
    module.add_class::<event::EventBase>()?;
    module.add_class::<barrier::BarrierBase>()?;
    module.add_function(wrap_pyfunction!(end_normally, &module)?)?;
    semlock::add_methods(py)?;
    guard::add_methods(py)?;
    native.setattr("_sync", module)
}
