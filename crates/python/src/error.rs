//! Errors of the engine crates as Python exceptions.
//!
//! They are all shortages of memory, so the messages are made by the interpreter, which can cope with having none.

use pyo3::ffi;
use weft_coroutine::slotted::SwitchError;
use weft_sys::mapping::MappingError;

/// Sets `MemoryError` for an engine error.
///
/// # Safety
///
/// The GIL is held.
pub(crate) unsafe fn set_switch_error(error: &SwitchError) {
    // SAFETY: the GIL is held; every format has exactly the arguments that follow it.
    unsafe {
        let kind = ffi::PyExc_MemoryError;
        match error {
            SwitchError::Image { size } => ffi::PyErr_Format(
                kind,
                c"no memory to move a coroutine stack of %zu bytes out of its slot".as_ptr(),
                *size,
            ),
            SwitchError::Mapping(MappingError::Map { size, source }) => ffi::PyErr_Format(
                kind,
                c"cannot map a coroutine stack of %zu bytes (errno %d); raise the address-space limit \
                  (ulimit -v) or vm.max_map_count, or use fewer stacks"
                    .as_ptr(),
                *size,
                source.raw_os_error(),
            ),
            SwitchError::Mapping(MappingError::Budget { budget }) => ffi::PyErr_Format(
                kind,
                c"the process has its %zu coroutine stacks already; raise vm.max_map_count or the \
                  address-space limit (ulimit -v)"
                    .as_ptr(),
                *budget,
            ),
            SwitchError::Mapping(MappingError::Size { size }) => ffi::PyErr_Format(
                kind,
                c"a coroutine stack of %zu bytes is not possible; see WEFT_STACK_SIZE".as_ptr(),
                *size,
            ),
        };
    }
}
