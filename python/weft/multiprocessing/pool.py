"""Pool, as `multiprocessing.pool` has it, on shared memory.

The pool itself is `weft._native._pool`, its workers `weft._crew`; here are the manners of the standard library. What differs from it:

* a task whose worker dies fails with `weft.WorkerDied`, at once, and another worker takes the place; all other tasks
  are done. In the standard library such a task is never resolved;
* a result that cannot be unpickled fails its task only; so does an exception;
* what is not done when the pool is terminated fails with `weft.PoolTerminated`, so that nobody waits for ever;
* a thread that waits for a result takes it off the queue itself. Callbacks run in a thread of the pool, as there.

`ThreadPool`, which has no processes, is the standard library's.

Semantics: https://docs.python.org/3/library/multiprocessing.html#module-multiprocessing.pool
"""

from __future__ import annotations

import os
import types
import warnings
from multiprocessing import pool as _stock_pool
from multiprocessing import util
from typing import TYPE_CHECKING, Any

from weft import _patches
from weft._crew import CLOSE, RUN, TERMINATE, Crew, check_size
from weft._native import _pool
from weft._unpicklable import UnpicklableError
from weft._worker import Duty
from weft.multiprocessing import context as _context
from weft.multiprocessing._displaced import rebind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.context import BaseContext

    from weft.multiprocessing._stock import AnyProcess

__all__ = ["Pool", "ThreadPool"]

INIT = "INIT"
AsyncResult = _pool.AsyncResult
ApplyResult = _pool.AsyncResult
MapResult = _pool.AsyncResult
IMapIterator = _pool.IMapIterator
IMapUnorderedIterator = _pool.IMapIterator
ThreadPool = _stock_pool.ThreadPool
_private: Any = _stock_pool  # the type stubs do not have them
if TYPE_CHECKING:

    class MaybeEncodingError(Exception):
        """What a task returned cannot be pickled."""

        exc: str
        value: str

        def __init__(self, exc: object, value: object) -> None: ...

else:
    MaybeEncodingError = _private.MaybeEncodingError
RemoteTraceback = _private.RemoteTraceback
ExceptionWithTraceback = _private.ExceptionWithTraceback


class UnpicklableResult(MaybeEncodingError, UnpicklableError):
    """What a task returned, or raised, cannot be pickled. `exc` and `value` are texts, as in the standard library.

    `path` says which part of the `result` it is, or that it is the `exception`.
    """

    def __init__(self, exc: str, value: str, path: str, what: str) -> None:
        Exception.__init__(self, exc, value, path, what)
        self.exc = exc
        self.value = value
        self.path = path
        self.part = None

    def __reduce__(self) -> Any:
        return type(self), self.args

    def __str__(self) -> str:
        return f"{MaybeEncodingError.__str__(self)}; it is {self.args[3]}"


class Pool(_pool.PoolBase):
    """A group of worker processes that calls are given to; see `multiprocessing.pool.Pool`.

    `processes` is how many (None: one for each processor that may be used), `initializer(*initargs)` is called in each when it
    starts, `maxtasksperchild` is how many tasks it does before another one takes its place (None: any number).
    `context` is the multiprocessing context that starts them. ValueError if a number is not at least 1,
    TypeError if the initializer cannot be called.
    """

    _wrap_exception = True

    @staticmethod
    def Process(ctx: BaseContext, *args: Any, **kwds: Any) -> AnyProcess:
        """A process object for a worker."""
        return ctx.Process(*args, **kwds)  # type: ignore[attr-defined]

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
    ) -> None:
        ctx: Any = context or _context._default_context.get_context()
        self._ctx = ctx
        if processes is None:
            processes = processors()
        check_size(processes)
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._processes = processes
        self._pool: list[AnyProcess] = []
        make = type(self).Process

        def make_process(**kwds: Any) -> AnyProcess:
            process = make(ctx, **kwds)
            process.name = process.name.replace("Process", "PoolWorker")
            process.daemon = True
            return process

        crew = self._make_crew(make_process, processes, Duty(initializer, initargs, maxtasksperchild))
        self._crew = crew
        self._begin(crew.core)
        crew.start()
        self._terminate: Any = util.Finalize(self, crew.terminate, exitpriority=15)

    def _make_crew(self, make_process: Callable[..., AnyProcess], size: int, duty: Duty) -> Crew:
        return Crew(make_process, size, duty, self._pool)

    def _repopulate_pool(self) -> None:
        """Start as many workers as are missing."""
        self._crew.repopulate()

    def __del__(self, _warn: Any = warnings.warn, RUN: str = RUN) -> None:
        if self._state == RUN:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={len(self._pool)}>"

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def close(self) -> None:
        """Take no more tasks. Workers end when all are done."""
        util.debug("closing pool")
        if self._state == RUN:
            self._state = CLOSE
            self._crew.close()

    def terminate(self) -> None:
        """End the workers at once. What is not done fails with `weft.PoolTerminated`."""
        util.debug("terminating pool")
        self._state = TERMINATE
        self._terminate()

    def join(self) -> None:
        """Wait until the workers have ended; ValueError before `close` or `terminate`."""
        util.debug("joining pool")
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        self._crew.join()

    def __enter__(self) -> Any:
        self._check_running()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: types.TracebackType | None,
    ) -> None:
        self.terminate()


def processors() -> int:
    """How many processors this process may use."""
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1


def take_over(stock: types.ModuleType) -> None:
    """Let the standard library's pools go on: `ThreadPool`, which is derived from them, and those that exist."""
    before = stock.Pool
    if issubclass(before, Pool):
        return  # it was replaced already
    as_it_was = dict(vars(stock))
    for cls in as_it_was.values():
        if isinstance(cls, type) and cls.__module__ == stock.__name__:
            rebind(cls, as_it_was)
    before.__qualname__ = "_StockPool"
    stock._StockPool = before  # type: ignore[attr-defined]


_patches.finish(__name__)
