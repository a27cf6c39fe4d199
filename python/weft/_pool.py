"""`weft.Pool`: a pool of processes as a new program wants it.

It is `multiprocessing.Pool` with more: time limits, retries, priorities, cancelling, progress, statistics, and workers that
come and go. Its workers start from the template process unless told otherwise, and may have children of their own.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from weft import _portability
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
R = TypeVar("R")
_Asked = tuple["int | None", "float | None", int]  # retries, seconds, priority
_Progress = Any  # whether a bar is shown, or what is told

_METHODS = ("template", "forkserver", "spawn", "fork")
# Items that are out and unread of an iterator over results, for each worker.
_READ_AHEAD = 16
_MOST_URGENT = (1 << 63) - 1


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
        if self.affinity is not None:
            _check_affinity(self.affinity)


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
    """A result, of one call or of many, that can be cancelled; otherwise as `multiprocessing.pool.AsyncResult`."""

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

        Of a map, that is all of its tasks which are not done. A running task gets SIGINT, that is a KeyboardInterrupt, after the pool's `grace` SIGTERM, and then SIGKILL. Returns
        False, and does nothing, if the result has come.
        """
        return self._crew.cancel(self._crew.core.tasks_of(self._result))


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
        _check_wishes(timeout, retries, 0)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
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
        else:
            self._method = context.get_start_method()
        self._portable = _portability.of(self._method)
        super().__init__(processes, initializer, initargs, maxtasksperchild, context)

    def _make_crew(self, make_process: Callable[..., AnyProcess], size: int, duty: Duty) -> Crew:
        options = self._options
        duty.patience, duty.memory = options.idle_timeout, options.memory_limit
        duty.affinity, duty.reseed = options.affinity, options.reseed
        for name, function in (
            ("initializer", duty.initializer),
            ("state", options.worker_state),
            ("farewell", options.worker_exit),
        ):
            stays = function is None or self._method == "fork"
            setattr(duty, name, function if stays else self._portable(function))  # type: ignore[arg-type]
        if self._given is None:
            make_process = _Maker(self._method)
        crew = Crew(make_process, size, duty, self._pool, options.grace)
        crew.core.retries = self._retries
        crew.core.refuse_unpicklable()
        return crew

    # --- calls -----------------------------------------------------------------------------------------------------

    def _asked(self, timeout: float | None, retries: int | None, priority: int) -> _Asked:
        """What is asked of a task beyond its being done."""
        if timeout is not None or retries is not None or priority != 0:
            _check_wishes(timeout, retries, priority)
        return retries, self._limit if timeout is None else timeout, priority

    def _is_plain(self, asked: _Asked) -> bool:
        retries, limit, priority = asked
        return limit is None and not priority and retries in (None, self._retries)

    def _is_meant_for_calls(self, asked: _Asked) -> bool:
        """Whether it is meant for a call, not for many in turn."""
        return asked[1] is not None or bool(asked[0] or self._retries)

    def _tended(self, result: R, asked: _Asked) -> R:
        """A result; the watcher has to see to its time limit, if it has one."""
        if asked[1] is not None:
            self._crew.poke()
        return result

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
        tasks of lower `priority`. Raises what `Result.get` raises, and `weft.UnpicklableError` if it cannot be sent.
        """
        if self._limit is None and timeout is None and retries is None and priority == 0:
            return super().apply(self._portable(func), args, kwds)
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
        is ready. What cannot be sent is raised here.
        """
        asked = self._asked(timeout, retries, priority)
        portable = self._portable(func)
        result = self._apply_async(portable, args, kwds or {}, callback, error_callback, asked)
        return Result(self._tended(result, asked), self._crew)

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
        asked = self._asked(timeout, retries, priority)
        if not progress and self._is_plain(asked) and not self._retries:
            return super().map(self._portable(func), iterable, chunksize)
        return self._all(func, iterable, chunksize, False, asked, progress)

    def map_async(  # type: ignore[override]
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
        progress: bool | Callable[[int, int], object] = False,
    ) -> Result[list[T]]:
        """As `map`, without waiting: return a `Result`. Callbacks as in `apply_async`, and so is `progress`, which is told of items
        that failed, too."""
        asked = self._asked(timeout, retries, priority)
        return self._later(func, iterable, chunksize, (callback, error_callback), False, asked, progress)

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        priority: int = 0,
        progress: bool | Callable[[int, int], object] = False,
    ) -> list[T]:
        """As `map`, with a tuple of arguments for each call."""
        return self._all(func, iterable, chunksize, True, self._asked(timeout, retries, priority), progress)

    def starmap_async(  # type: ignore[override]
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
        progress: bool | Callable[[int, int], object] = False,
    ) -> Result[list[T]]:
        """As `starmap`, without waiting; otherwise as `map_async`."""
        asked = self._asked(timeout, retries, priority)
        return self._later(func, iterable, chunksize, (callback, error_callback), True, asked, progress)

    def _all(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None,
        star: bool,
        asked: _Asked,
        progress: _Progress,
    ) -> list[T]:
        if not progress:
            return self._later(func, iterable, chunksize, (None, None), star, asked, False).get()
        # In the caller's thread, where what `progress` raises is raised.
        items = list(iterable)
        size = chunksize or (
            1 if self._is_meant_for_calls(asked) else max(1, -(-len(items) // (self._crew.size * 4)))
        )
        results = self._results(func, items, size, (True, star, max(1, len(items))), asked)
        return list(_watched(results, len(items), progress))

    def _later(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None,
        callbacks: tuple[Callable[[list[T]], object] | None, Callable[[BaseException], object] | None],
        star: bool,
        asked: _Asked,
        progress: _Progress,
    ) -> Result[list[T]]:
        if chunksize is None and self._is_meant_for_calls(asked):
            chunksize = 1
        told = (*callbacks, _teller(progress) if progress else None)
        result = self._map_async(self._portable(func), iterable, chunksize, told, star, asked)
        return Result(self._tended(result, asked), self._crew)

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
        asked = self._asked(timeout, retries, priority)
        results = self._results(func, iterable, chunksize, (True, False, read_ahead), asked)
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
        asked = self._asked(timeout, retries, priority)
        results = self._results(func, iterable, chunksize, (False, False, read_ahead), asked)
        return _watched(results, _length(iterable), progress) if progress else results

    def _results(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int,
        manner: tuple[bool, bool, int | None],
        asked: _Asked,
    ) -> _pool.IMapIterator[T]:
        """An iterator over results: whether they keep their order, whether an item is a tuple of arguments, how far it reads."""
        ordered, star, read_ahead = manner
        if read_ahead is None:
            read_ahead = max(_READ_AHEAD * self._crew.size, 2 * chunksize * self._crew.size)
        elif read_ahead < 1:
            raise ValueError(f"read_ahead must be at least 1, not {read_ahead}")
        manner = ordered, star, read_ahead
        return self._tended(self._imap(self._portable(func), iterable, chunksize, manner, asked), asked)

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


def _check_wishes(timeout: object, retries: object, priority: object) -> None:
    """TypeError or ValueError for what no task can have."""
    if retries is not None and not isinstance(retries, int):
        raise TypeError(f"retries must be an integer, not {retries!r}")
    if retries is not None and not 0 <= retries < 1 << 32:
        raise ValueError(f"retries must be 0 or more, and less than 2**32, not {retries}")
    if timeout is not None and not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if timeout is not None and not timeout > 0:  # nor nan
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
    if not isinstance(priority, int):
        raise TypeError(f"priority must be an integer, the higher the more urgent, not {priority!r}")
    if not -_MOST_URGENT <= priority <= _MOST_URGENT:
        raise ValueError(f"priority must be from {-_MOST_URGENT} to {_MOST_URGENT}, not {priority}")


def _check_affinity(affinity: Any) -> None:
    """TypeError or ValueError for what are no sets of processors."""
    meant = "affinity must be a sequence of sets of processor numbers, as [{0}, {1}]"
    try:
        sets = [list(one) for one in affinity]
    except TypeError:
        raise TypeError(f"{meant}, not {affinity!r}") from None
    there = os.sysconf("SC_NPROCESSORS_CONF")
    for one in sets:
        if not one:
            raise ValueError(f"{meant}, and none of them empty, not {affinity!r}")
        for processor in one:
            if not isinstance(processor, int):
                raise TypeError(f"{meant}; {processor!r} is no number")
            if not 0 <= processor < there:
                raise ValueError(f"{meant}; there is no processor {processor}, of {there} from 0 on")


class _Maker:
    """Makes workers' process objects, without a hold on the pool."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __call__(self, **kwds: Any) -> AnyProcess:
        process = Process(**kwds, daemon=True, start_method=self._method)
        process.name = process.name.replace("Process", "PoolWorker")
        return process


# --- progress ------------------------------------------------------------------------------------------------------------


def _length(iterable: Iterable[Any]) -> int:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except TypeError:
        return -1


def _watched(results: Iterable[T], total: int, progress: _Progress) -> Any:
    """The results, with their number shown or told as they come; `total` is -1 if it is not known."""
    if callable(progress):
        for done, result in enumerate(results, 1):
            progress(done, total)
            yield result
        return
    yield from _bars()(results, total=None if total < 0 else total, file=sys.stderr)


def _teller(progress: _Progress) -> Callable[[int, int], object]:
    """What is told how many items of how many are done: `progress` itself, or what shows a bar."""
    if callable(progress):
        told: Callable[[int, int], object] = progress
        return told
    bar = _bars()(file=sys.stderr)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def _bars() -> Any:
    """The class of bars."""
    try:
        from tqdm.auto import tqdm  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise ModuleNotFoundError(
            "progress=True needs the package tqdm: pip install tqdm; or give a callable (done, total)"
        ) from None
    return tqdm
