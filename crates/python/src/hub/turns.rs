//! The loop, as it runs in the hub's greenlet: turn after turn, until there is nothing left to come.

use std::ffi::CStr;
use std::ptr;
use std::time::Duration;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use weft_sys::clock::monotonic;

use super::callback::Callback;
use super::core::{Core, Phase};
use super::eventloop::{core_of, core_of_loop, is_default, loop_argument};
use super::ready::{self, Step};
use super::{fire, here, linkable, queue, step, timeout};
use crate::ffi::current_thread_state;
use crate::greenlet::object::{PyGreenlet, SavedError, owned};
use crate::greenlet::parcel::Parcel;
use crate::greenlet::switch;
use crate::greenlet::thread::{clear_away_ended, current_thread};

/// So long the GIL is held over turns that do not sleep, in nanoseconds: twice the interpreter's own interval, 5 ms, which is what a
/// thread that computes has it for in return. One that has waited for that long without hearing of it is handed the GIL when it
/// is given up. One that hears of it sooner has to be quick, and begins to wait anew if it is not.
const GIL_HELD: u64 = 10_000_000;

/// Who had the GIL back sooner has, as far as it can know, had it in its way all the time of somebody who waits, in nanoseconds.
const TAKEN_BACK: u64 = 50_000;

/// After how many times in a row that it was back so soon it is left lying for a moment.
const IN_VAIN: u32 = 3;

/// That moment: longer than a thread takes to wake up.
const LEFT_LYING: Duration = Duration::from_micros(150);

/// Whoever waited for the GIL for so long after a sleep shares it with a thread that computes, in nanoseconds.
const CONTENDED: u64 = 1_000_000;

/// How long it is looked again then before a sleep: a fifth of what it costs to give the GIL up.
const LONGER_LOOK: Duration = Duration::from_millis(1);

/// And before how many sleeps.
const LONGER_LOOKS: u32 = 64;

/// The most that the main thread sleeps at once: a signal's handler may have run in another thread, which tells nobody.
const LONGEST_SLEEP: Duration = Duration::from_millis(300);

pub(super) const RUN_DOC: &CStr = c"run(loop, nowait=False, once=False) -> None\n\n\
Run the loop in the current greenlet until nothing can come any more, or for one turn.";

pub(super) unsafe extern "C" fn run(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: called by the interpreter; the loop is held for as long as this runs.
    unsafe {
        let core = loop_argument(c"run", arguments, count, 1, 3);
        if core.is_null() {
            return ptr::null_mut();
        }
        let mut flags = [false; 2];
        for (index, flag) in flags.iter_mut().enumerate() {
            if count > index as isize + 1 {
                match ffi::PyObject_IsTrue(arguments.add(index + 1).read()) {
                    -1 => return ptr::null_mut(),
                    truth => *flag = truth != 0,
                }
            }
        }
        let holder = owned(arguments.read());
        (*core).depth += 1;
        (*core).stop = false;
        let fine = turns(holder, flags[0], flags[1]);
        // It may have been destroyed by what ran.
        let core = core_of(holder);
        if core.is_null() {
            ffi::PyErr_Clear();
        } else {
            (*core).depth -= 1;
        }
        ffi::Py_DECREF(holder);
        if fine { owned(ffi::Py_None()) } else { ptr::null_mut() }
    }
}

/// False with an exception set.
unsafe fn turns(holder: *mut PyObject, nowait: bool, once: bool) -> bool {
    // SAFETY: whatever runs Python code is followed by a fresh look for the core, which may be gone.
    unsafe {
        // Whether time has passed since the poll with which the turn began.
        let mut late = true;
        loop {
            let Some(core) = alive(holder) else { return true };
            if let Err(error) = (*core).check_fork() {
                raise(&error);
                return false;
            }
            if (*core).stop {
                return true;
            }
            (*core).note_phase(Phase::Prepare);
            late |= tell(holder);
            run_ready(holder, late);
            let Some(core) = alive(holder) else { return true };
            let busy = (*core).is_busy();
            if (*core).stop || (!busy && (*core).references <= 0) {
                return true;
            }
            let idles = (*core).phases.iter().any(|&(phase, _)| phase == Phase::Idle);
            if !poll(holder, core, !busy && !idles && !nowait) {
                return false;
            }
            if ffi::PyErr_CheckSignals() != 0 {
                handle_error(holder, ffi::Py_None());
            }
            clear_away_ended();
            here::release_retired();
            let Some(core) = alive(holder) else { return true };
            (*core).turns += 1;
            if idles && !(*core).is_busy() {
                (*core).note_phase(Phase::Idle);
            }
            // Before anybody is told: who begins to watch meanwhile is told in the next turn, after what is ready then.
            (*core).note_phase(Phase::Check);
            late = tell(holder);
            if nowait || once {
                return true;
            }
        }
    }
}

unsafe fn alive(holder: *mut PyObject) -> Option<*mut Core> {
    // SAFETY: the GIL is held and the holder alive.
    unsafe {
        let core = core_of_loop(holder);
        (!core.is_null()).then_some(core)
    }
}

/// Looks what has come; sleeps for it if it may, and nothing has. False with an exception set.
unsafe fn poll(holder: *mut PyObject, core: *mut Core, may_sleep: bool) -> bool {
    // SAFETY: the core is borrowed for single statements; what is borrowed from it while the GIL is given up is nothing.
    unsafe {
        // What ran in this turn may have forked, and this be the child.
        if let Err(error) = (*core).check_fork() {
            raise(&error);
            return false;
        }
        let mut occurrences = Vec::new();
        let mut sleep = (*core).hub.prepare();
        sleep.sleep(Some(Duration::ZERO));
        let mut outcome = (*core).hub.report(sleep, |what| occurrences.push(what));
        (*core).note(&occurrences);
        let mut nothing = outcome.is_ok() && !(*core).is_busy();
        if nothing && may_sleep && looks_again(core) {
            nothing = false;
        }
        if nothing && may_sleep {
            let mut patience = (*core).hub.patience();
            if is_default(holder) {
                patience = Some(patience.map_or(LONGEST_SLEEP, |left| left.min(LONGEST_SLEEP)));
            }
            let mut sleep = (*core).hub.prepare();
            // Should another thread destroy the loop meanwhile, what wakes this one is still there.
            let _remote = (*core).hub.remote().clone();
            let state = ffi::PyEval_SaveThread();
            let slept_at = monotonic();
            sleep.sleep(patience);
            let woke_at = monotonic();
            ffi::PyEval_RestoreThread(state);
            // Another thread may have destroyed it meanwhile.
            let Some(core) = alive(holder) else { return true };
            let now = monotonic();
            let waited = now - woke_at;
            if now - slept_at > TAKEN_BACK {
                (*core).gave_up_at = now;
                (*core).given_in_vain = 0;
            }
            (*core).contended = if waited > CONTENDED && has_other_threads() {
                LONGER_LOOKS
            } else {
                (*core).contended.saturating_sub(1)
            };
            occurrences.clear();
            outcome = (*core).hub.report(sleep, |what| occurrences.push(what));
            (*core).note(&occurrences);
        } else if (*core).hub.now() - (*core).gave_up_at > GIL_HELD {
            let pauses = (*core).given_in_vain >= IN_VAIN && has_other_threads();
            let began = monotonic();
            let state = ffi::PyEval_SaveThread();
            if pauses {
                std::thread::sleep(LEFT_LYING);
            }
            ffi::PyEval_RestoreThread(state);
            let Some(core) = alive(holder) else { return true };
            let now = monotonic();
            (*core).gave_up_at = now;
            (*core).given_in_vain = if now - began > TAKEN_BACK { 0 } else { (*core).given_in_vain + 1 };
            (*core).hub.begin_turn();
        }
        match outcome {
            Ok(()) => true,
            Err(error) => {
                raise(&error);
                false
            }
        }
    }
}

/// Looks a few times more before the GIL is given up: beside a thread that computes it would be back only after 5 ms, and
/// an idle processor takes as long to wake as this takes. Says whether something has come.
unsafe fn looks_again(core: *mut Core) -> bool {
    // SAFETY: the core is borrowed for single statements; nothing of Python's runs.
    unsafe {
        // A timer that is due sooner than a spin ends is waited for just as well.
        let patience = &raw const (*core).patience;
        let mut look = || {
            let mut occurrences = Vec::new();
            let mut sleep = (*core).hub.prepare();
            sleep.sleep(Some(Duration::ZERO));
            let outcome = (*core).hub.report(sleep, |what| occurrences.push(what));
            (*core).note(&occurrences);
            outcome.is_err() || (*core).is_busy()
        };
        if (*core).contended > 0 {
            weft_wait::thread::spin_for(LONGER_LOOK, &mut look)
        } else {
            (*patience).spin(&mut look)
        }
    }
}

/// Whether anybody else could have had the GIL.
unsafe fn has_other_threads() -> bool {
    // SAFETY: the GIL is held; the interpreter exists.
    unsafe {
        let first = ffi::PyInterpreterState_ThreadHead(ffi::PyInterpreterState_Get());
        !first.is_null() && !ffi::PyThreadState_Next(first).is_null()
    }
}

/// Runs those that are ready, also those that become it meanwhile, until the turn is over; at least one. The turn is counted
/// from now if it is `late`.
unsafe fn run_ready(holder: *mut PyObject, late: bool) {
    // SAFETY: as for `turns`.
    unsafe {
        if late && let Some(core) = alive(holder) {
            (*core).hub.begin_turn();
        }
        loop {
            let Some(core) = alive(holder) else { return };
            match ready::next(core, true) {
                Step::Switch(greenlet, parcel) => resume(holder, greenlet, parcel),
                Step::Callback(callback) => call(holder, callback),
                Step::Coroutine(coroutine) => step::step(holder, coroutine),
                Step::Link(function, source) => {
                    linkable::call_link(holder, function, source);
                    ffi::Py_DECREF(source);
                }
                Step::Timeout(timeout) => {
                    if !timeout::expire(timeout) {
                        handle_error(holder, holder);
                    }
                }
                Step::Serve(queue) => {
                    if !queue::serve(queue) {
                        handle_error(holder, queue);
                    }
                    ffi::Py_DECREF(queue);
                }
                Step::InHub | Step::Nothing => return,
            }
            let Some(core) = alive(holder) else { return };
            if (*core).stop || (*core).hub.waiters.ready_len() == 0 || !(*core).hub.may_hand_over() {
                return;
            }
        }
    }
}

/// Switches to a greenlet, whose reference is taken, until somebody switches back.
unsafe fn resume(holder: *mut PyObject, greenlet: *mut PyGreenlet, parcel: Parcel) {
    // SAFETY: only raw pointers are on the stack.
    unsafe {
        if let Some(core) = alive(holder) {
            (*core).between = true;
        }
        let result = switch::switch_giving(greenlet, parcel);
        if let Some(core) = alive(holder) {
            (*core).between = false;
        }
        if result.is_null() {
            // It may be another one's than that which was switched to.
            let failed = take_failed();
            handle_error(holder, if failed.is_null() { holder } else { failed.cast() });
            ffi::Py_XDECREF(failed.cast());
        } else {
            ffi::Py_DECREF(result);
        }
    }
}

/// The greenlet whose exception has come to the hub, owned; null if that is not known.
unsafe fn take_failed() -> *mut PyGreenlet {
    // SAFETY: the GIL is held, and the thread known.
    unsafe {
        let thread = current_thread(current_thread_state());
        if thread.is_null() {
            return ptr::null_mut();
        }
        std::mem::replace(&mut (*thread).failed, ptr::null_mut())
    }
}

/// Calls a callback; takes its reference.
unsafe fn call(holder: *mut PyObject, callback: *mut PyObject) {
    // SAFETY: owned, so alive. The function and its arguments are raw before anything can switch.
    unsafe {
        let (function, arguments) = {
            let py = Python::assume_attached();
            let Ok(callback) = Borrowed::from_ptr(py, callback).cast::<Callback>() else { return };
            match callback.get().take(py) {
                Some((function, arguments)) => {
                    (function.into_ptr(), arguments.map_or(ptr::null_mut(), Py::into_ptr))
                }
                None => (ptr::null_mut(), ptr::null_mut()),
            }
        };
        if !function.is_null() {
            let result = if arguments.is_null() {
                ffi::PyObject_CallNoArgs(function)
            } else {
                ffi::PyObject_Call(function, arguments, ptr::null_mut())
            };
            if result.is_null() {
                handle_error(holder, callback);
            } else {
                ffi::Py_DECREF(result);
            }
            ffi::Py_DECREF(function);
            ffi::Py_XDECREF(arguments);
        }
        ffi::Py_DECREF(callback);
    }
}

/// Tells watchers what was noted for them; those that are noted meanwhile come with the next turn. Says whether there were any.
unsafe fn tell(holder: *mut PyObject) -> bool {
    // SAFETY: as for `turns`.
    unsafe {
        let Some(core) = alive(holder) else { return false };
        let mut left = (*core).pending.len();
        let any = left > 0;
        while left > 0 {
            left -= 1;
            let Some(core) = alive(holder) else { return any };
            let Some((number, bits)) = (*core).pending.pop_front() else { return any };
            // It may have been stopped meanwhile.
            let Some(&object) = (*core).watchers.get(&number) else { continue };
            owned(object);
            fire::fire(holder, object, bits);
            ffi::Py_DECREF(object);
        }
        any
    }
}

/// Hands the exception that is set to the loop's `handle_error(context, type, value, traceback)`.
pub(super) unsafe fn handle_error(holder: *mut PyObject, context: *mut PyObject) {
    // SAFETY: the exception is fetched whole and passed on; the GIL is held.
    unsafe {
        let error = SavedError::take_whole();
        if error.is_nothing() {
            return;
        }
        let [kind, value, traceback] = error.parts();
        let result = ffi::PyObject_CallMethod(
            holder,
            c"handle_error".as_ptr(),
            c"OOOO".as_ptr(),
            context,
            kind,
            value,
            traceback,
        );
        if result.is_null() {
            ffi::PyErr_WriteUnraisable(holder);
        } else {
            ffi::Py_DECREF(result);
        }
        error.discard();
    }
}

unsafe fn raise(error: &weft_reactor::ReactorError) {
    // SAFETY: the GIL is held.
    let py = unsafe { Python::assume_attached() };
    super::eventloop::to_exception(error).restore(py);
}
