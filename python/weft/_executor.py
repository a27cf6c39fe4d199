"""`weft.Executor`: an executor of `concurrent.futures` whose tasks die alone.

Its futures are the standard library's to everybody who wants to know, and cost a fraction: see `crates/python/src/pool/futures.rs`.

This module is imported while `concurrent.futures.process` is being changed, and imports nothing of ours that imports that.

Semantics: https://docs.python.org/3/library/concurrent.futures.html#processpoolexecutor
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from concurrent.futures import _base
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from weft._native import _pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.context import BaseContext

    from weft._worker import Duty
    from weft.multiprocessing._stock import AnyProcess

T = TypeVar("T")

__all__ = ["Executor", "Future"]


class Future(_pool.FutureBase[T], _base.Future[T]):
    """A `concurrent.futures.Future` whose result is taken off the queue by whoever asks for it."""

    __slots__ = ()
    __init__ = object.__init__

    def __repr__(self) -> str:
        if self._watched:
            return _base.Future.__repr__(self)
        where = f"<{type(self).__name__} at {id(self):#x} state="
        if self.cancelled():
            return f"{where}cancelled>"
        if self.done():
            error = self.exception()
            came = f"raised {type(error).__name__}" if error else f"returned {type(self.result()).__name__}"
            return f"{where}finished {came}>"
        return f"{where}{'running' if self.running() else 'pending'}>"


class Executor(_pool.ExecutorBase, _base.Executor):
    """Calls functions in worker processes; see `concurrent.futures.ProcessPoolExecutor`.

    `max_workers` is how many processes there are at most (None: one for each processor that may be used); they start as tasks
    come. `mp_context` says how: "template" (the default), "spawn", "fork", or a multiprocessing context.
    `initializer(*initargs)` is called in each when it starts, `max_tasks_per_child` is how many tasks it does before another
    one takes its place (None: any number).

    A task whose worker dies is done again up to `retries` times, and then fails with `weft.WorkerDied`. Another worker
    takes the place, and no other task is touched.

    Functions that cannot be pickled by name, as lambdas and closures, work if the package cloudpickle is installed.
    Raises ValueError and TypeError for arguments that make no sense.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        retries: int = 0,
    ) -> None:
        from weft import _portability

        if not isinstance(retries, int):
            raise TypeError(f"retries must be an integer, not {retries!r}")
        if not 0 <= retries < 1 << 32:
            raise ValueError(f"retries must be 0 or more, and less than 2**32, not {retries}")
        self._check(max_workers, initializer, max_tasks_per_child)
        self._mp_context = mp_context
        at_once, make_process = _maker(mp_context)
        portable = _portability.of("fork" if at_once else "template")
        if initializer is not None and not at_once:
            initializer = portable(initializer)
        duty = _duty(initializer, initargs, max_tasks_per_child)
        self._set_up(max_workers, duty, make_process, at_once, False, portable)
        self._crew.core.retries = retries
        self._crew.core.refuse_unpicklable()

    @staticmethod
    def _check(max_workers: int | None, initializer: Callable[..., object] | None, most: int | None) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        if most is not None:
            if not isinstance(most, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if most <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")

    def _set_up(
        self,
        max_workers: int | None,
        duty: Duty,
        make_process: Callable[..., AnyProcess],
        at_once: bool,
        breaks: bool,
        portable: Callable[..., Any] | None,
    ) -> None:
        from weft._executor_crew import ExecutorCrew
        from weft.multiprocessing.pool import processors

        self._max_workers = processors() if max_workers is None else max_workers
        self._shutdown_lock = threading.Lock()
        self._shutdown_thread = False
        self._processes: dict[int, AnyProcess] | None = {}
        crew = ExecutorCrew(make_process, self._max_workers, duty, self._processes, at_once, breaks)
        self._crew = crew
        self._begin(crew.core, Future, portable)
        # Let go of without being shut down: what was submitted is done.
        self._gone = weakref.finalize(self, crew.close)
        self._gone.atexit = False

    def _refuse(self) -> None:
        """Say why no task is taken."""
        from concurrent.futures.process import BrokenProcessPool

        from weft._executor_crew import is_over

        broken = self._crew.broken
        if broken is not None:
            raise BrokenProcessPool(str(broken)) from broken
        if is_over():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        raise RuntimeError("cannot schedule new futures after shutdown")

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call `fn` with the items of the iterables in turn, `chunksize` calls a task; return an iterator over the results.

        All tasks are submitted at once; with `buffersize` only so many, and the next one when a result is asked for. An
        exception of a call is raised in place of its result, and ends the iteration. TimeoutError if a result has not come
        `timeout` seconds after the call of `map`.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        end = None if timeout is None else timeout + time.monotonic()
        arguments = zip(*iterables)  # noqa: B905
        futures = deque(self._submit_many(fn, arguments, chunksize, buffersize))
        more = None if buffersize is None else (weakref.ref(self), fn, arguments, chunksize)
        results = _results(futures, end, more)
        return results if chunksize == 1 else chain.from_iterable(map(_emptied, results))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and let the workers end when all are done.

        With `wait`, return when they have ended. With `cancel_futures`, tasks that no worker has begun are cancelled.
        """
        with self._shutdown_lock:
            self._shutdown_thread = True
        if cancel_futures:
            self._crew.cancel_queued()
        self._crew.close()
        if wait:
            self._crew.wait()
        self._processes = None

    def terminate_workers(self) -> None:
        """End the workers with SIGTERM, and shut down. Tasks that no worker has begun are cancelled, the others fail."""
        self._force("terminate")

    def kill_workers(self) -> None:
        """End the workers with SIGKILL, and shut down. Tasks that no worker has begun are cancelled, the others fail."""
        self._force("kill")

    def _force(self, how: str) -> None:
        with self._shutdown_lock:
            self._shutdown_thread = True
        self._crew.force(how)
        self.shutdown(wait=False)

    @property
    def _broken(self) -> str | bool:
        """Why no task is taken any more."""
        broken = self._crew.broken
        return False if broken is None else str(broken)

    @property
    def _executor_manager_thread(self) -> threading.Thread | None:
        return None if self._processes is None else self._crew.manager


def _duty(initializer: Callable[..., object] | None, initargs: Iterable[Any], most: int | None) -> Duty:
    from weft._worker import Duty

    return Duty(initializer, initargs, most, sends_all=True, reseed=True)


def _maker(context: BaseContext | str | None) -> tuple[bool, Callable[..., AnyProcess]]:
    """What makes workers' process objects, and whether all of them have to be started before any thread is."""
    from weft._pool import _METHODS, _Maker

    if context is None or isinstance(context, str):
        method = context or "template"
        if method not in _METHODS:
            raise ValueError(f"cannot start by {method!r}; the methods are {', '.join(_METHODS)}")
        return method == "fork", _Maker(method)
    make: Callable[..., AnyProcess] = context.Process  # type: ignore[attr-defined]
    return is_forked(context), make


def _results(
    futures: deque[_pool.FutureBase[Any]],
    end: float | None,
    more: tuple[weakref.ref[Executor], Callable[..., Any], Iterator[Any], int] | None,
) -> Iterator[Any]:
    try:
        while futures:
            if more is not None:
                executor, fn, arguments, chunksize = more
                if (alive := executor()) is not None:
                    futures.extend(alive._submit_many(fn, arguments, chunksize, 1))
                    del alive
            # No reference stays here, to the future or its result.
            yield _result_or_cancel(futures.popleft(), None if end is None else end - time.monotonic())
    finally:
        for future in futures:
            future.cancel()


def _result_or_cancel(future: _pool.FutureBase[Any], timeout: float | None) -> Any:
    try:
        return future.result(timeout)
    except BaseException:
        future.cancel()
        raise
    finally:
        del future


def _emptied(results: list[T]) -> Iterator[T]:
    """The items, without a reference to those that were read."""
    results.reverse()
    while results:
        yield results.pop()


def is_forked(context: BaseContext) -> bool:
    """Whether the context forks this process: no thread may be started before its workers then."""
    return context.get_start_method(allow_none=False) == "fork"
