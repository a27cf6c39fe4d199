"""Threads for calls that would block the hub's. As gevent.threadpool.

A pool belongs to a hub. `spawn` puts a task into a queue that the workers, plain threads, take from, and gives an AsyncResult.
A worker posts the outcome to the loop, in which everything else happens: the result is set, a place becomes free, workers are
started and counted. So nothing but the queue is shared between threads. A task that was taken in keeps the loop from ending.
"""

from __future__ import annotations

import concurrent.futures
import os
import weakref
from _queue import SimpleQueue
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from weft.greenlet import getcurrent

from ._threadpool_futures import _FutureProxy
from ._threadpool_results import _Results
from ._threadpool_worker import (  # noqa: F401  some are what gevent.threadpool has for others
    _format_hub,
    _get_thread_profile,
    _get_thread_trace,
    _post,
    _WorkerGreenlet,
)
from .event import AsyncResult, Event
from .exceptions import InvalidThreadUseError
from .greenlet import Greenlet
from .hub import get_hub
from .lock import Semaphore

__all__ = ["ThreadPool", "ThreadPoolExecutor", "ThreadResult"]


class ThreadResult:
    """The outcome of a task on its way to the loop. There `call_when_ready()` is called, then `receiver(self)`."""

    __slots__ = ("_call_when_ready", "_pid", "context", "exc_info", "hub", "receiver", "value")

    def __init__(self, receiver: Any, hub: Any, call_when_ready: Callable[[], Any]) -> None:
        self.receiver = receiver
        self.hub = hub
        self.context: Any = None
        self.value: Any = None
        self.exc_info: Any = ()
        self._call_when_ready: Any = call_when_ready
        self._pid = os.getpid()
        hub.loop.ref()

    @property
    def exception(self) -> BaseException | None:
        """What the task failed with."""
        return self.exc_info[1] if self.exc_info else None

    def successful(self) -> bool:
        """Whether it did not fail."""
        return not self.exc_info

    # In the worker.

    def set(self, value: Any) -> None:
        """The task has returned that."""
        self.value = value
        _post(self.hub, self._arrive)

    def handle_error(self, context: Any, exc_info: Any) -> None:
        """The task has failed."""
        self.context = context
        self.exc_info = exc_info
        _post(self.hub, self._arrive)

    # In the loop.

    def _arrive(self) -> None:
        hub, receiver, call_when_ready = self.hub, self.receiver, self._call_when_ready
        self.hub = self._call_when_ready = None
        self.receiver = _nobody
        # One that a fork has overtaken: whom it was counted with has begun anew.
        counts = self._pid == os.getpid()
        if counts:
            hub.loop.unref()
        try:
            if counts:
                call_when_ready()
            if self.exc_info:
                hub.handle_error(self.context, *self.exc_info)
            self.context = None
            receiver(self)
        finally:
            self.value = None
            if self.exc_info:
                # The traceback holds the frames of the task.
                self.exc_info = (self.exc_info[0], self.exc_info[1], None)

    def forget(self) -> None:
        """The task was not taken in."""
        hub, self.hub = self.hub, None
        self.receiver = _nobody
        if hub is not None:
            hub.loop.unref()


def _nobody(_result: Any) -> None:
    """Receives what nobody is to receive."""


# --- pools --------------------------------------------------------------------------------------------------

_pools: weakref.WeakSet[ThreadPool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_pools):
        pool._on_fork()


os.register_at_fork(after_in_child=_after_fork)


class ThreadPool:
    """Up to `maxsize` threads, started as tasks come in, that end after `idle_task_timeout` seconds without one (-1: never).

    With `maxsize` tasks under way and one more that waits for a thread, `spawn` waits for one to be done.
    """

    _WorkerGreenlet = _WorkerGreenlet

    def __init__(self, maxsize: int, hub: Any = None, idle_task_timeout: float = -1) -> None:
        self.hub: Any = get_hub() if hub is None else hub
        self.pid = os.getpid()
        self._idle_task_timeout = idle_task_timeout
        self._maxsize = 0
        self._begin()
        self.maxsize = maxsize
        _pools.add(self)

    def _begin(self) -> None:
        self.task_queue: Any = SimpleQueue()
        self._workers: set[Any] = set()
        # Workers that were told to end, and did not yet.
        self._ending = 0
        self._unfinished = 0
        # One more may wait for a thread.
        self._room = Semaphore(self._maxsize + 1, self.hub)
        # So many places are given up as soon as their tasks are done.
        self._owed = 0
        self._changed = Event()

    def _on_fork(self) -> None:
        """In the child of a fork: the threads do not exist there, and their tasks are never done."""
        if self.pid == os.getpid():
            return
        self.pid = os.getpid()
        loop = self.hub.loop
        for _ in range(self._unfinished if loop is not None and not loop.destroyed else 0):
            loop.unref()
        for worker in list(self._workers):
            worker._pool = worker._hub = worker._tasks = None
        self._begin()

    def __len__(self) -> int:
        return self._unfinished

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} at {id(self):#x} tasks={len(self)} size={self.size} "
            f"maxsize={self.maxsize} hub={_format_hub(self.hub)}>"
        )

    # --- how many threads -------------------------------------------------------------------------------------

    @property
    def maxsize(self) -> int:
        """How many threads there may be, and tasks under way."""
        return self._maxsize

    @maxsize.setter
    def maxsize(self, maxsize: int) -> None:
        if not isinstance(maxsize, int):
            raise TypeError(f"maxsize must be integer: {maxsize!r}")
        if maxsize < 0:
            raise ValueError(f"maxsize must not be negative: {maxsize!r}")
        more, self._maxsize = maxsize - self._maxsize, maxsize
        for _ in range(more):
            self._give_place()
        for _ in range(-more):
            if not self._room.acquire(blocking=False):
                self._owed += 1
        self.adjust()

    def _give_place(self) -> None:
        if self._owed:
            self._owed -= 1
        else:
            self._room.release()

    @property
    def size(self) -> int:
        """How many threads there are. Set, threads are started, or told to end and waited for."""
        return len(self._workers)

    @size.setter
    def size(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"Size of the pool cannot be negative: {size!r}")
        if size > self._maxsize:
            raise ValueError(f"Size of the pool cannot be bigger than maxsize: {size!r} > {self._maxsize!r}")
        while len(self._workers) - self._ending < size:
            self._add_thread()
        self._end_all_but(size)
        if len(self._workers) <= size or getcurrent() is self.hub:
            return
        # What a thread posts at its end is worth waiting for.
        loop = self.hub.loop
        loop.ref()
        try:
            while len(self._workers) > size:
                # Tasks may come in, and start others, meanwhile.
                self._end_all_but(size)
                self._changed.clear()
                self._changed.wait()
        finally:
            if not loop.destroyed:
                loop.unref()

    def _end_all_but(self, size: int) -> None:
        while len(self._workers) - self._ending > size:
            self._ending += 1
            self.task_queue.put(None)

    def _add_thread(self) -> None:
        self._WorkerGreenlet(self)

    def _worker_left(self, worker: Any, told_to_end: bool) -> None:
        """In the loop."""
        if worker not in self._workers:
            return  # of before a fork
        self._workers.discard(worker)
        if told_to_end:
            self._ending -= 1
        self._changed.set()
        self.adjust()

    def adjust(self) -> None:
        """Start threads for tasks that nobody has taken, and end those that are too many."""
        while len(self._workers) - self._ending < min(self._maxsize, self._unfinished):
            self._add_thread()
        self._end_all_but(self._maxsize)

    def join(self) -> None:
        """Wait until all tasks are done."""
        while self._unfinished:
            self._changed.clear()
            self._changed.wait()

    def kill(self) -> None:
        """End the threads, each after its task. More tasks start others."""
        self.size = 0

    def forsake(self) -> None:
        """Have the threads end, each after its task, without waiting for that."""
        self._end_all_but(0)

    # --- tasks ------------------------------------------------------------------------------------------------

    def spawn(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> AsyncResult:
        """Have a thread call `func(*args, **kwargs)`: its result, to come. Waits for a place."""
        if get_hub() is not self.hub:
            raise InvalidThreadUseError(f"{self!r} is used in a thread with another hub, {get_hub()!r}")
        self._room.acquire()
        result = AsyncResult()
        self._unfinished += 1
        outcome = ThreadResult(result, self.hub, self._task_done)
        try:
            self.task_queue.put((func, args, kwargs, outcome))
            self.adjust()
        except BaseException:
            outcome.forget()
            self._task_done()
            raise
        return result

    def _task_done(self) -> None:
        """In the loop."""
        self._unfinished -= 1
        self._changed.set()
        self._give_place()

    def apply(self, func: Callable[..., Any], args: Any = None, kwds: Any = None) -> Any:
        """`func(*args, **kwds)` in a thread; wait for the result. Called in another thread than the hub's, which is not
        the hub's to block, the function is called right there."""
        args, kwds = args or (), kwds or {}
        if get_hub() is not self.hub:
            return func(*args, **kwds)
        return self.spawn(func, *args, **kwds).get()

    def apply_async(
        self, func: Callable[..., Any], args: Any = None, kwds: Any = None, callback: Any = None
    ) -> Any:
        """The same without waiting: gives a greenlet; `callback` is called with the result."""
        return Greenlet.spawn(self._apply_and_tell, func, args, kwds, callback)

    def _apply_and_tell(self, func: Callable[..., Any], args: Any, kwds: Any, callback: Any) -> Any:
        result = self.apply(func, args, kwds)
        if callback is not None:
            callback(result)
        return result

    def map(self, func: Callable[..., Any], iterable: Iterable[Any]) -> list[Any]:
        """The results of `func` for all items, in their order."""
        return list(self.imap(func, iterable))

    def map_async(self, func: Callable[..., Any], iterable: Iterable[Any], callback: Any = None) -> Any:
        """The same without waiting: gives a greenlet; `callback` is called with the list."""
        return Greenlet.spawn(self._map_and_tell, func, iterable, callback)

    def _map_and_tell(self, func: Callable[..., Any], iterable: Iterable[Any], callback: Any) -> Any:
        results = self.map(func, iterable)
        if callback is not None:
            callback(results)
        return results

    def imap(
        self, func: Callable[..., Any], *iterables: Iterable[Any], maxsize: int | None = None
    ) -> Iterator[Any]:
        """The results one after the other, in the order of the items; at most `maxsize` wait to be taken."""
        return _Results(self, func, zip(*iterables, strict=False), maxsize, in_order=True)

    def imap_unordered(
        self, func: Callable[..., Any], *iterables: Iterable[Any], maxsize: int | None = None
    ) -> Iterator[Any]:
        """The results one after the other, as they come."""
        return _Results(self, func, zip(*iterables, strict=False), maxsize, in_order=False)


class ThreadPoolExecutor(concurrent.futures.ThreadPoolExecutor):
    """concurrent.futures' executor over a ThreadPool: waiting for a future lets other greenlets run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._threadpool: ThreadPool | None = ThreadPool(self._max_workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Have a thread call the function: a future."""
        if self._shutdown or self._threadpool is None:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return _FutureProxy(self._threadpool.spawn(fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more, and end the threads after what was taken in."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        pool, self._threadpool = self._threadpool, None
        if pool is not None:
            pool.kill()

    kill = shutdown

    def _adjust_thread_count(self) -> None:
        """Threads are the pool's business."""
