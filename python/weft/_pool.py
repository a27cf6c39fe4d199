"""`weft.Pool`: a pool of processes as a new program wants it.

It is `multiprocessing.Pool` with more: time limits, retries, priorities, cancelling, progress, statistics, and workers that
come and go. Its workers start from the template process unless told otherwise, and may have children of their own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from weft._crew import Crew
from weft._native import _pool
from weft._worker import Duty
from weft.multiprocessing import context as _context
from weft.multiprocessing import pool as _face
from weft.multiprocessing.api import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from multiprocessing.context import BaseContext

    from weft.multiprocessing._stock import AnyProcess

T = TypeVar("T")

_METHODS = ("template", "forkserver", "spawn", "fork")
# Items that are out and unread of an iterator over results, for each worker.
_READ_AHEAD = 16


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """What is seldom asked of a pool.

    `idle_timeout`: seconds after which a worker without a task ends; others are started when there are tasks. None: never.
    `memory_limit`: bytes of resident memory; a worker that has more after a task is replaced. None: no limit.
    `affinity`: sets of processors, given to the workers in turn. None: all that this process may use.
    `worker_state`: called once in each worker, without arguments; tasks find what it returns by `weft.worker_state()`.
    `worker_exit`: called in each worker when it ends in order, with the state if there is one.
    `grace`: seconds that a task which is to be stopped has after SIGINT, and after SIGTERM, until SIGKILL.
    `reseed`: whether numpy's global random generator, which workers may have inherited, is seeded anew in each.
    """

    idle_timeout: float | None = None
    memory_limit: int | None = None
    affinity: Sequence[Collection[int]] | None = None
    worker_state: Callable[[], object] | None = None
    worker_exit: Callable[..., object] | None = None
    grace: float = 1.0
    reseed: bool = True

    def __post_init__(self) -> None:
        for name in ("idle_timeout", "memory_limit", "grace"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, not {value!r}")
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0, not {value!r}")
        for name in ("worker_state", "worker_exit"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be a callable, not {type(value).__name__}")


@dataclass(frozen=True)
class PoolStats:
    """A pool at one moment, and what it has done since it was made.

    `size` workers there should be, `workers` there are, `busy` of them are at a task; `queued` tasks wait, `outstanding`
    are not resolved. `done` tasks returned, `failed` raised or died or were stopped, `retried` is how often one was put again;
    `died` workers did not end in order, `replaced` were followed by others.
    """

    size: int
    workers: int
    busy: int
    queued: int
    outstanding: int
    done: int
    failed: int
    retried: int
    died: int
    replaced: int


class Result(Generic[T]):
    """A result that can be cancelled; otherwise as `multiprocessing.pool.AsyncResult`."""

    def __init__(self, result: _pool.AsyncResult[T], crew: Crew) -> None:
        self._result = result
        self._crew = crew

    def get(self, timeout: float | None = None) -> T:
        """Return the result when it has come, or raise the exception that the call raised.

        Waits `timeout` seconds (None: for ever), and raises `multiprocessing.TimeoutError` then. Also raises `weft.WorkerDied`,
        `weft.TaskTimeout`, `concurrent.futures.CancelledError` and `weft.PoolTerminated`.
        """
        return self._result.get(timeout)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result has come, `timeout` seconds at most (None: for ever)."""
        self._result.wait(timeout)

    def ready(self) -> bool:
        """Whether the result has come."""
        return self._result.ready()

    def successful(self) -> bool:
        """Whether the call returned rather than raised. ValueError if the result has not come."""
        return self._result.successful()

    def cancel(self) -> bool:
        """Keep the task from being done, or stop it if a worker is at it; `get` raises CancelledError then.

        A running task gets SIGINT, that is a KeyboardInterrupt, after the pool's `grace` SIGTERM, and then SIGKILL. Returns
        False, and does nothing, if the result has come.
        """
        task = self._result._id
        if task is None:
            return False
        return self._crew.cancel(task)


class Pool(_face.Pool):
    """A group of worker processes that calls are given to.

    `processes` is how many (None: one for each processor that may be used), `initializer(*initargs)` is called in each when it
    starts, `maxtasksperchild` is how many tasks it does before another one takes its place (None: any number).
    `context` says how they start: "template" (the default), "spawn", "fork", or a multiprocessing context.

    A task whose worker dies is done again up to `retries` times, and then fails with `weft.WorkerDied`; no other task
    is touched. A task that runs longer than `timeout` seconds is stopped, and fails with `weft.TaskTimeout`. Both can be given
    for single tasks. `options` has what is seldom asked.

    Functions that cannot be pickled by name, as lambdas and closures, work if the package cloudpickle is installed.
    Raises ValueError and TypeError for arguments that make no sense.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | str | None = None,
        *,
        retries: int = 0,
        timeout: float | None = None,
        options: PoolOptions | None = None,
    ) -> None:
        if options is not None and not isinstance(options, PoolOptions):
            raise TypeError(f"options must be weft.PoolOptions, not {type(options).__name__}")
        self._options = options or PoolOptions()
        _check_wishes(timeout, retries)
        self._limit = timeout
        self._retries = retries
        self._method = "template"
        if isinstance(context, str):
            if context not in _METHODS:
                raise ValueError(f"cannot start by {context!r}; the methods are {', '.join(_METHODS)}")
            self._method, context = context, None
        self._given = context
        if context is None:
            context = _context._default_context.get_context()
        super().__init__(processes, initializer, initargs, maxtasksperchild, context)

    def _make_crew(self, make_process: Callable[..., AnyProcess], size: int, duty: Duty) -> Crew:
        options = self._options
        duty.patience, duty.memory = options.idle_timeout, options.memory_limit
        duty.affinity, duty.reseed = options.affinity, options.reseed
        duty.state, duty.farewell = options.worker_state, options.worker_exit
        if self._given is None:
            make_process = _Maker(self._method)
        crew = Crew(make_process, size, duty, self._pool, options.grace)
        crew.core.retries = self._retries
        return crew

    # --- calls -----------------------------------------------------------------------------------------------------

    def apply(  # type: ignore[override]
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        priority: int = 0,
    ) -> T:
        """Call `func(*args, **kwds)` in a worker, and return what it returns, or raise what it raises.

        It may run for `timeout` seconds, is done again up to `retries` times if its worker dies, and overtakes waiting
        tasks of lower `priority`. Raises what `Result.get` raises.
        """
        if timeout is None and self._limit is None and not priority:
            if retries is None or retries == self._retries:
                return super().apply(_portable(func), args, kwds)
        return self.apply_async(func, args, kwds, timeout=timeout, retries=retries, priority=priority).get()

    def apply_async(  # type: ignore[override]
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        priority: int = 0,
    ) -> Result[T]:
        """As `apply`, without waiting: return a `Result`.

        `callback` is called with what it returns, `error_callback` with what it raises, in another thread, before the result
        is ready.
        """
        _check_wishes(timeout, retries)
        limit = self._limit if timeout is None else timeout
        result = self._apply_async(
            _portable(func), args, kwds or {}, callback, error_callback, retries, limit, priority
        )
        if limit is not None:
            self._crew.poke()
        return Result(result, self._crew)

    def map(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        priority: int = 0,
        progress: bool | Callable[[int, int], object] = False,
    ) -> list[T]:
        """Call `func` with each item, `chunksize` items a task, and return the list of results.

        `timeout`, `retries` and `priority` are as in `apply`, for each task, that is, each chunk; so with a time limit or
        retries the default is one item a task. With `progress` true a bar of the package tqdm
        shows how many items are done; a callable is called with the number of those done and of all.
        """
        if progress:
            items = list(iterable)
            meant_for_calls = timeout is not None or self._limit is not None or retries or self._retries
            size = chunksize or (1 if meant_for_calls else max(1, -(-len(items) // (self._crew.size * 4))))
            results = self.imap(
                func,
                items,
                size,
                read_ahead=max(1, len(items)),
                timeout=timeout,
                retries=retries,
                priority=priority,
            )
            return list(_watched(results, len(items), progress))
        limit = self._limit if timeout is None else timeout
        if limit is None and retries is None and not self._retries and not priority:
            return super().map(_portable(func), iterable, chunksize)
        return self._many(func, iterable, chunksize, None, None, False, retries, limit, priority).get()

    def map_async(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        priority: int = 0,
    ) -> _pool.AsyncResult[list[T]]:
        """As `map`, without waiting; callbacks as in `apply_async`."""
        limit = self._limit if timeout is None else timeout
        return self._many(
            func, iterable, chunksize, callback, error_callback, False, retries, limit, priority
        )

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        priority: int = 0,
    ) -> list[T]:
        """As `map`, with a tuple of arguments for each call."""
        return self.starmap_async(
            func, iterable, chunksize, timeout=timeout, retries=retries, priority=priority
        ).get()

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        priority: int = 0,
    ) -> _pool.AsyncResult[list[T]]:
        """As `starmap`, without waiting; callbacks as in `apply_async`."""
        limit = self._limit if timeout is None else timeout
        return self._many(func, iterable, chunksize, callback, error_callback, True, retries, limit, priority)

    def _many(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[list[T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        star: bool,
        retries: int | None,
        limit: float | None,
        priority: int,
    ) -> _pool.AsyncResult[list[T]]:
        _check_wishes(limit, retries)
        if chunksize is None and (limit is not None or retries or self._retries):
            chunksize = 1  # they are meant for a call, not for many in turn
        result = self._map_async(
            _portable(func), iterable, chunksize, callback, error_callback, star, retries, limit, priority
        )
        if limit is not None:
            self._crew.poke()
        return result

    def imap(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        read_ahead: int | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        priority: int = 0,
        progress: bool | Callable[[int, int], object] = False,
    ) -> Any:
        """As `map`, one result after the other: return an iterator.

        The iterable is read as the results are: at most `read_ahead` items (None: 16 for each worker, and a chunk) are out
        whose results were not read. So it may be endless, and results do not pile up.
        """
        results = self._results(func, iterable, chunksize, True, read_ahead, timeout, retries, priority)
        return _watched(results, _length(iterable), progress) if progress else results

    def imap_unordered(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        read_ahead: int | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        priority: int = 0,
        progress: bool | Callable[[int, int], object] = False,
    ) -> Any:
        """As `imap`, results in the order in which they come."""
        results = self._results(func, iterable, chunksize, False, read_ahead, timeout, retries, priority)
        return _watched(results, _length(iterable), progress) if progress else results

    def _results(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int,
        ordered: bool,
        read_ahead: int | None,
        timeout: float | None,
        retries: int | None,
        priority: int,
    ) -> _pool.IMapIterator[T]:
        if read_ahead is None:
            read_ahead = max(_READ_AHEAD * self._crew.size, 2 * chunksize * self._crew.size)
        elif read_ahead < 1:
            raise ValueError(f"read_ahead must be at least 1, not {read_ahead}")
        _check_wishes(timeout, retries)
        limit = self._limit if timeout is None else timeout
        results = self._imap(
            _portable(func), iterable, chunksize, ordered, read_ahead, retries, limit, priority
        )
        if limit is not None:
            self._crew.poke()
        return results

    # --- the pool ------------------------------------------------------------------------------------------------------

    def resize(self, processes: int) -> None:
        """Have so many workers from now on. Those that are too many end when their tasks are done. ValueError below 1."""
        self._check_running()
        self._crew.resize(processes)
        self._processes = processes

    def stats(self) -> PoolStats:
        """The pool at this moment."""
        crew = self._crew
        core = crew.core
        core.collect_results()
        resolved, failed, retried = core.counts()
        return PoolStats(
            size=crew.size,
            workers=len(self._pool),
            busy=crew.busy(),
            queued=core.queued(),
            outstanding=core.outstanding(),
            done=resolved - failed,
            failed=failed,
            retried=retried,
            died=crew.died,
            replaced=crew.replaced,
        )


def _check_wishes(timeout: object, retries: object) -> None:
    """TypeError or ValueError for what no task can have."""
    if retries is not None and not isinstance(retries, int):
        raise TypeError(f"retries must be an integer, not {retries!r}")
    if retries is not None and retries < 0:
        raise ValueError(f"retries must be 0 or more, not {retries}")
    if timeout is not None and not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if timeout is not None and not timeout > 0:  # nor nan
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")


class _Maker:
    """Makes workers' process objects, without a hold on the pool."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __call__(self, **kwds: Any) -> AnyProcess:
        process = Process(**kwds, daemon=True, start_method=self._method)
        process.name = process.name.replace("Process", "PoolWorker")
        return process


# --- functions that have no name ----------------------------------------------------------------------------------------


class _ByValue:
    """A function that travels as its code."""

    def __init__(self, function: Callable[..., Any], pickled: bytes) -> None:
        self.func = function  # as a partial's: what gives the task its name
        self._pickled = pickled
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)
        self.__module__ = getattr(function, "__module__", "")

    def __reduce__(self) -> Any:
        return _from_value, (self._pickled,)


_made: dict[bytes, Any] = {}
_MOST_MADE = 64


def _from_value(pickled: bytes) -> Any:
    """In a worker: the function. It is unpickled once."""
    import pickle

    function = _made.get(pickled)
    if function is None:
        if len(_made) >= _MOST_MADE:
            _made.clear()
        function = _made[pickled] = pickle.loads(pickled)
    return function


def _portable(function: Callable[..., T]) -> Callable[..., T]:
    """The function, or what takes its place in a message if its name leads nowhere."""
    name = getattr(function, "__qualname__", None)
    if type(function) is not _FUNCTION or ("<" not in str(name) and not _is_in_hidden_main(function)):
        return function
    try:
        import cloudpickle  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return function  # the pickler says what is wrong
    # Each time: what it refers to may have changed.
    portable: Any = _ByValue(function, cloudpickle.dumps(function))
    made: Callable[..., T] = portable
    return made


_FUNCTION: type = type(_portable)


def _is_in_hidden_main(function: Any) -> bool:
    if function.__module__ != "__main__":
        return False
    from weft.multiprocessing import _payload

    return not _payload.main_can_be_imported()


# --- progress ------------------------------------------------------------------------------------------------------------


def _length(iterable: Iterable[Any]) -> int:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except TypeError:
        return -1


def _watched(results: Iterable[T], total: int, progress: Any) -> Any:
    """The results, with their number shown or told as they come; `total` is -1 if it is not known."""
    if callable(progress):
        for done, result in enumerate(results, 1):
            progress(done, total)
            yield result
        return
    try:
        from tqdm.auto import tqdm  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise ModuleNotFoundError(
            "progress=True needs the package tqdm: pip install tqdm; or give a callable (done, total)"
        ) from None
    yield from tqdm(results, total=None if total < 0 else total, file=sys.stderr)
