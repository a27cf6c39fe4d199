//! The hub for greenlets: `weft_hub` driven by the interpreter.
//!
//! * [`core`]: what a loop keeps, and what it does with events.
//! * [`turns`]: the loop itself, which runs in the hub's greenlet; [`park`]: how a greenlet waits, and whom it hands over to.
//! * [`process_waits`]: how a greenlet waits in code that knows nothing of hubs.
//! * [`coroutine`], [`mod@step`]: generators as coroutines without a stack of their own.
//! * [`stream`]: sockets that read and write without the hub's hearing of it, as long as nothing blocks.
//! * [`local`]: attributes of greenlet-local objects.
//! * [`eventloop`], [`watcher`], [`callback`]: the objects that programs see.
//! * [`kind`]: what watchers watch; [`watchers`], [`mod@stat`] what each kind has of its own; [`fire`] how one is called.
//! * [`mod@here`]: the hub of the calling thread; [`ready`]: what comes next, for the hub and for who hands over.
//! * [`spawned`]: greenlets that the hub starts, [`tree`] who made them; [`waiter`]: a meeting of two.
//! * [`linkable`]: [`event`]s, [`async_result`]s and [`semaphore`]s, [`links`] whom they tell; [`gather`]: waiting for many.
//! * [`queue`]: queues between greenlets; [`timeout`]: exceptions that raise themselves, [`limit`] how long a wait may last.
//! * [`class`]: types in the interpreter's own terms; [`faces`]: what the face has that is needed here.
//!
//! Every function that switches is a plain C function and no method of PyO3's, whose frames keep counts and borrows on
//! the stack: a greenlet that waits may never go on.
//!
//! # The GIL
//!
//! It is held for every call of the kernel that does not block. A poll looks first without sleeping; only when nothing is ready
//! the GIL is given up, to sleep. Giving it up for each `recv` and `send` would have every one of them wait for another
//! thread's turn to end, 5 ms each, beside a thread that computes. In return, a turn that was long gives it up once.

mod async_result;
mod callback;
mod class;
mod core;
mod coroutine;
mod event;
mod eventloop;
mod faces;
mod fire;
mod gather;
mod here;
mod kind;
mod limit;
mod linkable;
mod links;
mod local;
mod park;
mod process_waits;
mod queue;
mod ready;
mod semaphore;
mod spawned;
mod stat;
mod step;
mod stream;
mod timeout;
mod tree;
mod turns;
mod waiter;
mod watcher;
mod watchers;

use pyo3::ffi::{self, PyMethodDef};
use pyo3::prelude::*;

use crate::gil::GilCell;
use faces::names;

pub(crate) use process_waits::{Ended, For, Here, greenlet_number, here};

static FUNCTIONS: GilCell<[PyMethodDef; 18]> = GilCell::new([
    class::fast(c"run", turns::run, turns::RUN_DOC),
    class::fast(c"sleep", park::sleep, park::SLEEP_DOC),
    class::fast(c"give_way", park::give_way, park::GIVE_WAY_DOC),
    class::fast(c"switch", park::switch, park::SWITCH_DOC),
    class::fast(c"recv", stream::recv, stream::RECV_DOC),
    class::fast(c"recv_into", stream::recv_into, stream::RECV_INTO_DOC),
    class::fast(c"send", stream::send, stream::SEND_DOC),
    class::fast(c"sendall", stream::sendall, stream::SENDALL_DOC),
    class::fast(c"wait", stream::wait, stream::WAIT_DOC),
    class::method(c"pause", park::pause, park::PAUSE_DOC),
    class::method(
        c"spawn_raw",
        spawned::spawn_raw,
        c"spawn_raw(function, *args, **kwargs) -> greenlet\n\n\
        Have a plain greenlet run the function, soon. It has no links and no result.",
    ),
    class::one(
        c"set_spawn_callbacks",
        spawned::set_spawn_callbacks,
        c"Say who is called with every greenlet that is started: a set, or None.",
    ),
    class::one(c"track_tree", tree::track_tree, c"Say whether greenlets note who made them, and where."),
    class::named!(
        c"wait_all",
        [c"objects", c"timeout", c"count"],
        1,
        gather::wait_all,
        c"wait_all(objects, timeout=None, count=None) -> list\n\n\
        Wait for the objects to become ready, and return those that did.",
    ),
    class::fast(c"getattr_in", local::getattr_in, local::GETATTR_IN_DOC),
    class::fast(c"setattr_in", local::setattr_in, local::SETATTR_IN_DOC),
    class::fast(c"delattr_in", local::delattr_in, local::DELATTR_IN_DOC),
    PyMethodDef::zeroed(),
]);

/// Makes `weft._native._hub`.
pub(crate) fn init(native: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = native.py();
    let module = PyModule::new(py, "weft._native._hub")?;
    // SAFETY: under the GIL, at import; the table is a static.
    let status = unsafe { ffi::PyModule_AddFunctions(module.as_ptr(), FUNCTIONS.get().cast()) };
    if status != 0 {
        return Err(PyErr::fetch(py));
    }
    module.add_class::<eventloop::Loop>()?;
    module.add_class::<watcher::Watcher>()?;
    module.add_class::<watchers::Io>()?;
    module.add_class::<watchers::Timer>()?;
    module.add_class::<watchers::Asynchronous>()?;
    module.add_class::<watchers::Child>()?;
    module.add_class::<watchers::Signal>()?;
    module.add_class::<stat::Stat>()?;
    module.add_class::<callback::Callback>()?;
    module.add_class::<stream::Stream>()?;
    module.add_function(wrap_pyfunction!(park::set_exceptions, &module)?)?;
    module.add_function(wrap_pyfunction!(park::waits_for, &module)?)?;
    module.add_function(wrap_pyfunction!(process_waits::own_greenlet, &module)?)?;
    module.add_class::<coroutine::Coroutine>()?;
    module.add_function(wrap_pyfunction!(coroutine::check_generator, &module)?)?;
    module.add_function(wrap_pyfunction!(coroutine::current_coroutine, &module)?)?;
    module.add_function(wrap_pyfunction!(step::set_arranger, &module)?)?;
    module.add_function(wrap_pyfunction!(faces::set_face, &module)?)?;
    module.add_function(wrap_pyfunction!(here::set_hub_class, &module)?)?;
    module.add_function(wrap_pyfunction!(here::get_hub, &module)?)?;
    module.add_function(wrap_pyfunction!(here::get_hub_if_exists, &module)?)?;
    module.add_function(wrap_pyfunction!(here::set_hub, &module)?)?;
    // SAFETY: under the GIL, once; the greenlet types exist.
    let fine = unsafe {
        faces::ready()
            && linkable::ready(module.as_ptr())
            && spawned::ready(module.as_ptr())
            && timeout::ready(module.as_ptr())
            && waiter::ready(module.as_ptr())
            && gather::ready(module.as_ptr())
            && queue::ready(module.as_ptr())
    };
    if !fine {
        return Err(PyErr::fetch(py));
    }
    native.setattr("_hub", module)
}
