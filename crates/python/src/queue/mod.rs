//! Process queues: Python objects as messages of `weft_shm`'s queue.
//!
//! * [`object`]: the class; its waits, and what it raises;
//! * [`codec`]: what is encoded natively, and the layout of each kind of message;
//! * [`tree`]: small containers of plain values;
//! * [`columns`]: long containers of plain values;
//! * [`pickling`]: everything else, by the pickler, with large buffers out of band;
//! * [`buffer`]: large buffers as the receiver sees them;
//! * [`view`]: the bytes of an object with the buffer protocol;
//! * [`parker`]: how a thread of the interpreter waits;
//! * [`arenas`]: the segments this process has.

pub(crate) mod arenas;
pub(crate) mod buffer;
pub(crate) mod codec;
pub(crate) mod columns;
mod object;
pub(crate) mod parker;
pub(crate) mod pickling;
mod tree;
pub(crate) mod view;

use pyo3::prelude::*;

/// Adds the module's part to `_native`.
pub(crate) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<object::QueueBase>()?;
    module.add_class::<buffer::SharedBuffer>()?;
    module.add_function(wrap_pyfunction!(arenas::arena_descriptor, module)?)?;
    module.add_function(wrap_pyfunction!(arenas::attach_arena, module)?)?;
    module.add_function(wrap_pyfunction!(arenas::shared_memory_in_use, module)?)?;
    module.add_function(wrap_pyfunction!(arenas::shared_blocks_in_use, module)?)?;
    module.add_function(wrap_pyfunction!(arenas::sweep_shared_memory, module)?)
}
