//! What a server has: its objects, and the loop that answers calls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use weft_manager::{Call, Desk, LANES, Request, Short};
use weft_shm::Handle;
use weft_shm::identity::Identity;
use weft_wait::Deadline;
use weft_wait::thread::Prospect;

use super::lane::ManagerLane;
use super::parcel::{ManagerParcel, open};
use super::plain::{self, Sort};
use super::short::{self, Reader};
use super::table::{self, Entry, Method, Table};
use super::wire::{FIRST, TAKEN, Tag, read_head};
use crate::gil::GilCell;
use crate::queue::arenas::{find_arena, own_arena, shm_error};
use crate::queue::codec::{self, Failure, Spans};
use crate::queue::columns;
use crate::queue::parker::GilParker;

/// Whether it pays to wait for the next call without sleeping.
static PROSPECT: Prospect = Prospect::new();

/// What a server and its clients share, on either side.
#[pyclass(frozen, weakref, name = "ManagerDesk", module = "weft._native")]
pub(crate) struct ManagerDesk {
    desk: OnceLock<Arc<Desk>>,
    /// Guarded by the GIL.
    table: GilCell<Table>,
    /// Guarded by the GIL: how many have asked that nothing is called directly.
    exclusive: GilCell<usize>,
    /// The lane of the call that the serving thread carries out.
    lane: AtomicUsize,
    /// Guarded by the GIL: for each lane, what puts back what its last answer that is marked as [`TAKEN`] took.
    backs: GilCell<Vec<Option<Py<PyAny>>>>,
}

/// What the loop calls.
struct Callbacks<'a, 'py> {
    dispatch: &'a Bound<'py, PyAny>,
    arrived: &'a Bound<'py, PyAny>,
    would_block: &'a Bound<'py, PyAny>,
}

/// What becomes of a call.
enum Outcome<'py> {
    /// With what puts it back if nobody gets it.
    Answer(Tag, Bound<'py, PyAny>, Option<Py<PyAny>>),
    /// Somebody else answers it, or has done so.
    Later,
}

impl ManagerDesk {
    fn desk(&self) -> PyResult<&Arc<Desk>> {
        self.desk.get().ok_or_else(|| PyRuntimeError::new_err("the desk was not opened"))
    }

    fn table<T>(&self, _py: Python<'_>, visit: impl FnOnce(&mut Table) -> T) -> T {
        // SAFETY: the GIL is held, and what `visit` does, in this file, runs no Python code and comes not here.
        visit(unsafe { &mut *self.table.get() })
    }

    fn is_exclusive(&self, _py: Python<'_>) -> bool {
        // SAFETY: the GIL is held.
        unsafe { *self.exclusive.get() != 0 }
    }

    /// Carries out one call.
    fn carry_out<'py>(
        &self,
        py: Python<'py>,
        lane: usize,
        bytes: &[u8],
        request: Request,
        callbacks: &Callbacks<'_, 'py>,
    ) -> PyResult<Outcome<'py>> {
        let (ident, method, body) = read_head(bytes)?;
        if request.what & FIRST != 0 {
            let owner = self.desk()?.owner(lane).map(|owner| (owner.pid, owner.start));
            callbacks.arrived.call1((lane, owner))?;
        }
        let identity = table::word_of(ident);
        let is_exclusive = self.is_exclusive(py);
        if !is_exclusive
            && method == "update"
            && let Some(columns) = codec::columns_of(request.what as u8, body, &request.buffers)
            && let Some(dict) = self.object(py, identity, Sort::Dict, method)
        {
            match columns::merge(py, columns, dict.bind(py).cast::<PyDict>()?) {
                Ok(true) => return Ok(Outcome::Answer(Tag::Return, py.None().into_bound(py), None)),
                Ok(false) => {}
                // As the method itself would have raised it: of a key that cannot be compared.
                Err(error) => return failure(py, error),
            }
        }
        if codec::is_pickle(request.what as u8) {
            // Unpickling it, comparing and hashing it may run anybody's code, and take as long as that likes.
            let parcel = Bound::new(py, ManagerParcel::new(body.to_vec(), request))?;
            callbacks.dispatch.call1((lane, ident, method, parcel, py.None()))?;
            return Ok(Outcome::Later);
        }
        let (args, kwds) = open(py, body, request)?;
        if !is_exclusive {
            let direct = self.table(py, |table| {
                identity.and_then(|identity| table.direct(identity, method)).map(|found| found.clone_ref(py))
            });
            if let Some(Method { call, back }) = direct {
                self.lane.store(lane, Ordering::Relaxed);
                match call.bind(py).call(&args, kwds.as_ref()) {
                    Ok(value) if value.is(callbacks.would_block) => {}
                    Ok(value) => return Ok(Outcome::Answer(Tag::Return, value, back)),
                    Err(error) => return failure(py, error),
                }
            }
        }
        let answer = callbacks.dispatch.call1((lane, ident, method, args, kwds))?;
        outcome(&answer)
    }

    fn object(&self, py: Python<'_>, identity: Option<u64>, sort: Sort, method: &str) -> Option<Py<PyAny>> {
        self.table(py, |table| table.object(identity?, sort, method).map(|object| object.clone_ref(py)))
    }

    /// Carries out a short call.
    fn carry_out_short<'py>(
        &self,
        py: Python<'py>,
        lane: usize,
        (what, words): (u32, &Short),
        callbacks: &Callbacks<'_, 'py>,
    ) -> PyResult<Outcome<'py>> {
        let (identity, mut reader) = Reader::of_call(words);
        let method = (what & 0xff) as usize;
        let mut next = || self.table(py, |table| reader.node(py, Some(&mut table.names)));
        let call =
            |args: &[Bound<'py, PyAny>]| self.call_numbered(py, lane, (identity, method), args, callbacks);
        match what >> 8 {
            0 => call(&[]),
            1 => call(&[next()?]),
            2 => call(&[next()?, next()?]),
            3 => call(&[next()?, next()?, next()?]),
            _ => Err(codec::damaged("a short one has too many arguments")),
        }
    }

    #[inline]
    fn call_numbered<'py>(
        &self,
        py: Python<'py>,
        lane: usize,
        (identity, method): (u64, usize),
        args: &[Bound<'py, PyAny>],
        callbacks: &Callbacks<'_, 'py>,
    ) -> PyResult<Outcome<'py>> {
        if !self.is_exclusive(py) {
            let found = self.table(py, |table| {
                let (sort, object, bound) = table.numbered(identity, method)?;
                Some((sort, object.clone_ref(py).into_bound(py), bound.clone_ref(py)))
            });
            if let Some((sort, object, Method { call, back })) = found {
                self.lane.store(lane, Ordering::Relaxed);
                let called = plain::call(sort, &object, method, args);
                match called.unwrap_or_else(|| plain::call_method(call.bind(py), args)) {
                    Ok(value) if value.is(callbacks.would_block) => {}
                    Ok(value) => return Ok(Outcome::Answer(Tag::Return, value, back)),
                    Err(error) => return failure(py, error),
                }
            }
        }
        let name = super::proxy::checked_name_of(method)
            .ok_or_else(|| codec::damaged("the number of a method is not known"))?;
        let args = PyTuple::new(py, args)?;
        let answer = callbacks.dispatch.call1((lane, table::text_of(identity), name, args, py.None()))?;
        outcome(&answer)
    }

    /// Puts an answer into the lane. What cannot be pickled, or finds no memory, is answered with an error. What nobody
    /// waits for any more is given to `back`.
    fn put_answer(
        &self,
        py: Python<'_>,
        lane: usize,
        tag: Tag,
        value: &Bound<'_, PyAny>,
        back: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let desk = self.desk()?;
        let (mut body, mut buffers) = (super::lane::take_buffer(), Spans::new());
        let outcome = match codec::encode(value, desk.arena(), &mut body, &mut buffers) {
            Ok(kind) => {
                let mut what = u32::from(kind) | u32::from(tag as u8) << 8;
                if let Some(back) = &back {
                    what |= TAKEN;
                    self.keep_back(py, lane, Some(back.clone_ref(py)));
                }
                desk.answer(lane, what, &[&body], &mut buffers).map_err(shm_error)
            }
            Err(Failure::Memory(error) | Failure::Pickle(error)) => Err(error),
        };
        super::lane::keep_buffer(body);
        let error = match (outcome, back) {
            (Ok(false), Some(back)) => return back.call1(py, (value,)).map(drop),
            (Ok(_), _) => return Ok(()),
            (Err(error), _) => error,
        };
        if !error.is_instance_of::<pyo3::exceptions::PyException>(py) {
            return Err(error);
        }
        self.put_text(lane, Tag::Unserializable, &explain(py, &error))
    }

    /// Notes what puts back what the next answer in the lane took. Returns what was noted before.
    fn keep_back(&self, _py: Python<'_>, lane: usize, back: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
        // SAFETY: the GIL is held, and nothing here runs Python code: what was there is dropped by the caller.
        let backs = unsafe { &mut *self.backs.get() };
        if backs.is_empty() {
            backs.resize_with(LANES, || None);
        }
        std::mem::replace(&mut backs[lane], back)
    }

    /// Frees lanes by `sweep`, and puts back what was taken for answers that nobody took.
    fn sweep_with(
        &self,
        py: Python<'_>,
        sweep: impl FnOnce(&Desk, &mut dyn FnMut(usize, Request, &[u8])),
    ) -> PyResult<()> {
        let mut unread = Vec::new();
        sweep(self.desk()?, &mut |lane, answer, bytes| {
            if answer.what & TAKEN != 0 {
                unread.push((lane, answer, bytes.to_vec()));
            }
        });
        // Of those that were taken from one object the first comes out first again.
        for (lane, mut answer, bytes) in unread.into_iter().rev() {
            let Some(back) = self.keep_back(py, lane, None) else { continue };
            let item = codec::decode(py, answer.what as u8, &bytes, &mut answer.buffers);
            back.call1(py, (item.map_err(|(error, _)| error)?,))?;
        }
        Ok(())
    }

    /// An answer that always finds room.
    fn put_text(&self, lane: usize, tag: Tag, text: &str) -> PyResult<()> {
        const ROOM: usize = 1500;
        let end = (0..=text.len().min(ROOM)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        // With the traceback's end, which says what happened.
        let start = if text.len() > ROOM {
            (text.len() - ROOM..text.len()).find(|start| text.is_char_boundary(*start)).unwrap_or(0)
        } else {
            0
        };
        let text = if start > 0 { &text[start..] } else { &text[..end] };
        let what = u32::from(codec::kind::STR) | u32::from(tag as u8) << 8;
        self.desk()?.answer(lane, what, &[text.as_bytes()], &mut Vec::new()).map_err(shm_error)?;
        Ok(())
    }

    fn serve_one(
        &self,
        py: Python<'_>,
        lane: usize,
        bytes: &mut Vec<u8>,
        callbacks: &Callbacks<'_, '_>,
    ) -> PyResult<()> {
        let desk = self.desk()?;
        let outcome = match desk.begin(lane, bytes) {
            None => return Ok(()),
            Some(Ok(Call::Short(what, words))) => {
                let outcome = self.carry_out_short(py, lane, (what, &words), callbacks);
                // What would have to be put back is kept where `sweep` finds it.
                if let Ok(Outcome::Answer(Tag::Return, value, None)) = &outcome
                    && let Some(answer) = short::encode_answer(value)
                {
                    desk.answer_short(lane, 0, &answer);
                    return Ok(());
                }
                outcome
            }
            Some(Ok(Call::Long(request))) => self.carry_out(py, lane, bytes, request, callbacks),
            Some(Err(error)) => Err(shm_error(error)),
        };
        match outcome {
            Ok(Outcome::Later) => Ok(()),
            Ok(Outcome::Answer(tag, value, back)) => self.put_answer(py, lane, tag, &value, back),
            Err(error) => self.put_text(lane, Tag::Traceback, &explain(py, &error)),
        }
    }
}

/// What the dispatcher answered, which may be nothing yet.
fn outcome<'py>(answer: &Bound<'py, PyAny>) -> PyResult<Outcome<'py>> {
    if answer.is_none() {
        return Ok(Outcome::Later);
    }
    let (name, value): (Bound<'py, PyAny>, Bound<'py, PyAny>) = answer.extract()?;
    Ok(Outcome::Answer(tag(&name)?, value, None))
}

/// The traceback of an exception, as text.
fn explain(py: Python<'_>, error: &PyErr) -> String {
    let format = || {
        let format = py.import("traceback")?.getattr("format_exception")?;
        let lines: Vec<String> = format.call1((error.value(py),))?.extract()?;
        Ok::<_, PyErr>(lines.concat())
    };
    format().unwrap_or_else(|_| error.to_string())
}

/// What the object's method raised: the caller's to see, unless it is meant for the server.
fn failure<'py>(py: Python<'py>, error: PyErr) -> PyResult<Outcome<'py>> {
    if error.is_instance_of::<pyo3::exceptions::PyException>(py) {
        let value: Bound<'py, PyBaseException> = error.into_value(py).into_bound(py);
        return Ok(Outcome::Answer(Tag::Error, value.into_any(), None));
    }
    Err(error)
}

fn tag(name: &Bound<'_, PyAny>) -> PyResult<Tag> {
    let name: &str = &name.extract::<String>()?;
    Tag::of_name(name).ok_or_else(|| PyValueError::new_err(format!("{name:?} is no kind of answer")))
}

#[pymethods]
impl ManagerDesk {
    #[new]
    fn new() -> Self {
        Self {
            desk: OnceLock::new(),
            table: GilCell::new(Table::default()),
            exclusive: GilCell::new(0),
            lane: AtomicUsize::new(0),
            backs: GilCell::new(Vec::new()),
        }
    }

    /// Make a new one in shared memory.
    fn create(&self, py: Python<'_>) -> PyResult<()> {
        let desk = Desk::create(&own_arena(py)?).map_err(shm_error)?;
        self.desk.set(desk).map_err(|_| PyRuntimeError::new_err("the desk is in shared memory already"))
    }

    /// Become a handle of the one that `handle` of another process's describes.
    fn attach(&self, py: Python<'_>, place: (u64, u32, u64)) -> PyResult<()> {
        let (arena, unit, generation) = place;
        let desk = Desk::attach(&find_arena(py, arena)?, Handle { unit, generation }).map_err(shm_error)?;
        self.desk.set(desk).map_err(|_| PyRuntimeError::new_err("the desk is in shared memory already"))
    }

    /// Where it is: its arena's id, its place in it, and its generation.
    fn handle(&self) -> PyResult<(u64, u32, u64)> {
        let desk = self.desk()?;
        let Handle { unit, generation } = desk.handle();
        Ok((desk.arena().id(), unit, generation))
    }

    /// Give an object a place, and return its identity. `direct` has the methods that the serving thread may call itself, by
    /// name: they do not block, or return `would_block` instead. A pair has, beside the method, what is called with a result
    /// that nobody got. `sort` is the name of the object's class, if that is one of those
    /// that are known here and the methods are its own.
    fn enter(
        &self,
        py: Python<'_>,
        direct: &Bound<'_, PyDict>,
        object: &Bound<'_, PyAny>,
        sort: &str,
    ) -> PyResult<String> {
        let entry = Entry::new(direct, object, sort)?;
        Ok(self.table(py, |table| table.enter(entry)))
    }

    /// Take the object away. False if there is none of that identity.
    fn leave(&self, py: Python<'_>, ident: &str) -> bool {
        let left = self.table(py, |table| table.leave(ident));
        left.is_some()
    }

    /// Call these methods of the object directly no more; with None, none of them.
    #[pyo3(signature = (ident, methods))]
    fn restrict(&self, py: Python<'_>, ident: &str, methods: Option<Vec<String>>) {
        let taken = self.table(py, |table| table.restrict(ident, methods.as_deref()));
        drop(taken);
    }

    /// The lane whose call the serving thread carries out: in methods that it calls directly.
    #[getter]
    fn lane(&self) -> usize {
        self.lane.load(Ordering::Relaxed)
    }

    /// While this was called more often with True than with False, no method is called directly.
    fn set_exclusive(&self, _py: Python<'_>, on: bool) {
        // SAFETY: the GIL is held.
        let count = unsafe { &mut *self.exclusive.get() };
        *count = if on { *count + 1 } else { count.saturating_sub(1) };
    }

    /// Answer calls until `close`, in the calling thread, which calls `opened()` as soon as lanes can be claimed.
    ///
    /// `dispatch(lane, ident, method, args, kwds)` is called for what is not to be called directly, and returns a pair
    /// of the kind of answer and the answer, or None if `answer` will be called. `arrived(lane, (pid, start))` is called
    /// before the first call through a lane.
    fn serve(
        &self,
        py: Python<'_>,
        dispatch: &Bound<'_, PyAny>,
        arrived: &Bound<'_, PyAny>,
        would_block: &Bound<'_, PyAny>,
        opened: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let desk = Arc::clone(self.desk()?);
        let Some(_serving) = desk.open() else {
            return Err(PyRuntimeError::new_err("the desk was opened before"));
        };
        opened.call0()?;
        let callbacks = Callbacks { dispatch, arrived, would_block };
        let mut bytes = Vec::new();
        let (mut after, mut last) = (0, None);
        while !desk.is_closed() {
            // Both kinds in turns, so that nobody waits for ever.
            loop {
                let watched = desk.watched();
                if let Some(lane) = watched {
                    self.serve_one(py, lane, &mut bytes, &callbacks)?;
                }
                match desk.next(after) {
                    Some(lane) => {
                        self.serve_one(py, lane, &mut bytes, &callbacks)?;
                        // Who calls alone is watched.
                        if last.replace(lane) == Some(lane) && watched.is_none() {
                            desk.watch(lane);
                        }
                        after = lane + 1;
                    }
                    None if watched.is_none() => break,
                    None => {}
                }
            }
            // The lanes before `after` are looked at by `next`, too, as it goes around; signals are the main thread's.
            let mut parker = GilParker::for_answer(py, &PROSPECT, None);
            desk.wait(&mut parker, Deadline::NEVER)?;
        }
        Ok(())
    }

    /// Answer the call that `dispatch` returned None for. If nobody gets the answer, `back(value)` is called, unless it is
    /// None: then or later.
    #[pyo3(signature = (lane, kind, value, back = None))]
    fn answer(
        &self,
        py: Python<'_>,
        lane: usize,
        kind: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        back: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        self.put_answer(py, lane, tag(kind)?, value, back)
    }

    /// End serving. All callers are told.
    fn close(&self) -> PyResult<()> {
        self.desk()?.close();
        Ok(())
    }

    /// The processes that have lanes, each as its id and its time of start.
    fn owners(&self) -> PyResult<Vec<(u32, u32)>> {
        Ok(self.desk()?.owners().into_iter().map(|owner| (owner.pid, owner.start)).collect())
    }

    /// The lanes of a process.
    fn lanes(&self, owner: (u32, u32)) -> PyResult<Vec<usize>> {
        let desk = self.desk()?;
        let owner = Identity { pid: owner.0, start: owner.1 };
        Ok((0..LANES).filter(|lane| desk.owner(*lane) == Some(owner)).collect())
    }

    /// Free the lanes of a process that has ended.
    fn sweep(&self, py: Python<'_>, owner: (u32, u32)) -> PyResult<()> {
        let owner = Identity { pid: owner.0, start: owner.1 };
        self.sweep_with(py, |desk, unread| desk.sweep(owner, unread))
    }

    /// Free the lanes of all processes that have ended, also of those that never called.
    fn sweep_dead(&self, py: Python<'_>) -> PyResult<()> {
        self.sweep_with(py, |desk, unread| desk.sweep_dead(unread))
    }

    /// A lane for the calling thread to the server with the process id `server`. None if there is none left, or
    /// nobody serves.
    fn claim(&self, server: u32) -> PyResult<Option<ManagerLane>> {
        Ok(self.desk()?.claim().map(|lane| ManagerLane::new(lane, server)))
    }

    /// How the server process ended: its exit code, or minus the signal; None if nobody has found out.
    #[getter]
    fn cause(&self) -> PyResult<Option<i16>> {
        Ok(self.desk()?.cause())
    }

    #[setter]
    fn set_cause(&self, code: i16) -> PyResult<()> {
        self.desk()?.publish_cause(code);
        Ok(())
    }

    /// Whether whoever served closed it in good order.
    #[getter]
    fn closed(&self) -> PyResult<bool> {
        Ok(self.desk()?.is_closed())
    }

    /// Whether somebody serves.
    #[getter]
    fn alive(&self) -> PyResult<bool> {
        let desk = self.desk()?;
        Ok(!desk.is_dead() && !desk.is_closed())
    }
}
