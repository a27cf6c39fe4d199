"""Threads for calls that would block the hub's. As gevent.threadpool.

A pool belongs to a hub. `spawn` puts a task into a queue that the workers, plain threads, take from, and gives an AsyncResult.
A worker posts the outcome to the loop, in which everything else happens: the result is set, a place becomes free, workers are
started and counted. So nothing but the queue is shared between threads. A task that was taken in keeps the loop from ending.
"""

from __future__ import annotations

import concurrent.futures
import os
import sys
import traceback
import weakref
from _queue import Empty, SimpleQueue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import _base as _futures
from typing import Any

from weft.greenlet import getcurrent, greenlet

from . import monkey
from ._util import Lazy
from .event import AsyncResult, Event
from .exceptions import InvalidThreadUseError
from .greenlet import Greenlet
from .hub import get_hub, get_hub_if_exists
from .lock import Semaphore
from .queue import Queue

__all__ = ["ThreadPool", "ThreadPoolExecutor", "ThreadResult"]

start_new_thread, get_ident = monkey.get_original("_thread", ["start_new_thread", "get_ident"])


def _format_hub(hub: Any) -> str:
    if hub is None:
        return "<missing>"
    return f"<{type(hub).__name__} at {id(hub):#x} thread_ident={hub.thread_ident:#x}>"


def _get_thread_profile(_sys: Any = sys) -> Any:
    """What threads are to be profiled with."""
    return getattr(_sys.modules.get("threading"), "_profile_hook", None)


def _get_thread_trace(_sys: Any = sys) -> Any:
    """What threads are to be traced with."""
    return getattr(_sys.modules.get("threading"), "_trace_hook", None)


# --- workers ------------------------------------------------------------------------------------------------


class _WorkerGreenlet(greenlet):
    """A thread of a pool; it runs in this greenlet, so that one sees what it is."""

    greenlet_tree_is_root = True

    def __init__(self, threadpool: ThreadPool) -> None:
        super().__init__()
        self._pool: Any = threadpool
        self._hub = threadpool.hub
        self._tasks = threadpool.task_queue
        self._idle_task_timeout = threadpool._idle_task_timeout
        self._thread_ident = 0
        patched = monkey.is_module_patched("sys")
        self._stderr = monkey.get_original("sys", "stderr") if patched else sys.stderr
        threadpool._workers.add(self)
        try:
            start_new_thread(self._begin, ())
        except BaseException:
            threadpool._workers.discard(self)
            raise

    def _begin(self) -> None:
        """What the thread runs."""
        main: Any = getcurrent()
        main.greenlet_tree_is_ignored = True
        self.parent = main
        self._thread_ident = get_ident()
        try:
            self.switch()
        except BaseException:
            self._complain("A worker thread ended with an error")

    def run(self) -> None:
        """Take tasks until one is None, there is none for too long, or what is around a task fails."""
        task: Any = None
        told_to_end = False
        try:
            while True:
                self._name_hub()
                task = self._next_task()
                if task is None:
                    told_to_end = True
                    return
                self._run_task(*task)
                task = None
        except Empty:
            pass  # idle for too long
        except Exception:
            self._complain(f"Failed to run worker thread. Task={task!r}")
        finally:
            task = None
            self._leave(told_to_end)

    def _next_task(self) -> Any:
        # Who shows all threads leaves out those that have this in a frame.
        gevent_threadpool_worker_idle = True  # noqa: F841
        timeout = self._idle_task_timeout
        return self._tasks.get(timeout=None if timeout is None or timeout < 0 else timeout)

    def _name_hub(self) -> None:
        """If a task made this thread a hub, it is not blocked while the thread waits for the next."""
        hub = get_hub_if_exists()
        if hub is not None:
            hub.name = "ThreadPool Worker Hub"
            if hub.periodic_monitoring_thread is not None:
                hub.periodic_monitoring_thread.ignore_current_greenlet_blocking()

    def _before_run_task(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        thread_result: Any,
        _sys: Any = sys,
        _get_thread_profile: Any = _get_thread_profile,
        _get_thread_trace: Any = _get_thread_trace,
    ) -> None:
        profile, trace = _get_thread_profile(), _get_thread_trace()
        if profile is not None:
            _sys.setprofile(profile)
        if trace is not None:
            _sys.settrace(trace)

    def _after_run_task(self, func: Any, args: Any, kwargs: Any, thread_result: Any, _sys: Any = sys) -> None:
        if _sys.getprofile() is not None:
            _sys.setprofile(None)
        if _sys.gettrace() is not None:
            _sys.settrace(None)

    def _run_task(self, func: Any, args: Any, kwargs: Any, thread_result: ThreadResult) -> None:
        try:
            self._before_run_task(func, args, kwargs, thread_result)
        except BaseException:
            thread_result.handle_error((self, func), sys.exc_info())
            raise
        try:
            value = func(*args, **kwargs)
        except BaseException:
            thread_result.handle_error((self, func), sys.exc_info())
        else:
            thread_result.set(value)
            del value
        finally:
            self._after_run_task(func, args, kwargs, thread_result)
            del func, args, kwargs, thread_result

    def _leave(self, told_to_end: bool) -> None:
        """Tell the pool, whose count of those that were told to end is otherwise as it was."""
        pool, hub = self._pool, self._hub
        self._pool = self._hub = self._tasks = None
        if pool is None:
            return  # a fork has taken the pool away
        own = get_hub_if_exists()
        if own is not None:
            own.destroy(True)
        _post(hub, pool._worker_left, self, told_to_end)

    def _complain(self, what: str) -> None:
        if self._stderr is not None:
            print(what, file=self._stderr)
            traceback.print_exc(file=self._stderr)

    def __repr__(self) -> str:
        return (
            f"<ThreadPoolWorker at {id(self):#x} thread_ident={self._thread_ident:#x} "
            f"threadpool-hub={_format_hub(self._hub)}>"
        )


def _post(hub: Any, function: Callable[..., Any], *args: Any) -> None:
    """Have the hub's loop call a function, unless it is gone."""
    loop = None if hub is None else hub.loop
    if loop is not None:
        try:
            loop.run_callback_threadsafe(function, *args)
        except ValueError:
            return  # destroyed: nobody waits there any more


class ThreadResult:
    """The outcome of a task on its way to the loop. There `call_when_ready()` is called, then `receiver(self)`."""

    __slots__ = ("_call_when_ready", "context", "exc_info", "hub", "receiver", "value")

    def __init__(self, receiver: Any, hub: Any, call_when_ready: Callable[[], Any]) -> None:
        self.receiver = receiver
        self.hub = hub
        self.context: Any = None
        self.value: Any = None
        self.exc_info: Any = ()
        self._call_when_ready: Any = call_when_ready
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
        hub.loop.unref()
        try:
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


class _Results:
    """Results of many tasks. A greenlet starts these as there is room, and puts what becomes of them into a queue."""

    def __init__(
        self,
        pool: ThreadPool,
        func: Callable[..., Any],
        items: Iterator[Any],
        maxsize: int | None,
        in_order: bool,
    ) -> None:
        self._room = Semaphore(maxsize) if maxsize else None
        self._started: Any = Queue()
        # How many were started; None as long as there may be more.
        self._left: int | None = None
        self._taken = 0
        Greenlet.spawn(self._start, pool, func, items, in_order)

    def _start(
        self, pool: ThreadPool, func: Callable[..., Any], items: Iterator[Any], in_order: bool
    ) -> None:
        count = 0
        try:
            for item in items:
                if self._room is not None:
                    self._room.acquire()
                result = pool.spawn(func, *item)
                count += 1
                if in_order:
                    self._started.put(result)
                else:
                    result.rawlink(self._started.put)
        except BaseException as error:
            count += 1
            self._started.put(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._left = count
            # Who waits already looks again.
            self._started.put(None)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while self._left is None or self._taken < self._left:
            result = self._started.get()
            if result is None:
                continue
            self._taken += 1
            if isinstance(result, BaseException):
                raise result
            if self._room is not None:
                self._room.release()
            return result.get()
        raise StopIteration


# --- concurrent.futures -------------------------------------------------------------------------------------


class _FutureProxy:
    """An AsyncResult as a future. `concurrent.futures.wait` and `as_completed` take it if `threading` is patched, or it is
    done: else they would block the thread, the loop with it; `gevent.wait` does not."""

    def __init__(self, asyncresult: AsyncResult) -> None:
        self.asyncresult = asyncresult

    @property
    def _condition(self) -> Any:
        known = self.__dict__.get("_own_condition")
        if known is None:
            if not monkey.is_module_patched("threading") and not self.done():
                raise AttributeError("_condition")
            import threading

            known = self._own_condition = threading.Condition()
        return known

    @Lazy
    def _waiters(self) -> list[Any]:
        waiters: list[Any] = []

        def tell(_: object) -> None:
            for waiter in waiters:
                if self.asyncresult.successful():
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)

        self.asyncresult.rawlink(tell)
        return waiters

    @property
    def _state(self) -> str:
        return _futures.FINISHED if self.done() else _futures.RUNNING

    def done(self) -> bool:
        """Whether there is a result."""
        return self.asyncresult.ready()

    def set_running_or_notify_cancel(self) -> None:
        """Nothing: it runs."""

    def _wait(self, timeout: float | None) -> None:
        self.asyncresult.wait(timeout)
        if not self.done():
            raise concurrent.futures.TimeoutError

    def result(self, timeout: float | None = None) -> Any:
        """The result, waiting for it."""
        self._wait(timeout)
        return self.asyncresult.get()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What it failed with, waiting for that, or None."""
        self._wait(timeout)
        return self.asyncresult.exception

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        """Have `fn(self)` called when it is done; at once, if it is."""
        if self.done():
            fn(self)
            return

        def call(_: object) -> None:
            try:
                fn(self)
            except Exception:
                get_hub().print_exception((fn, self), *sys.exc_info())

        self.asyncresult.rawlink(call)

    def rawlink(self, fn: Callable[[Any], Any]) -> None:
        """Have the hub call `fn(self)` when it is done."""
        self.asyncresult.rawlink(_ForFuture(self, fn))

    def unlink(self, fn: Callable[[Any], Any]) -> None:
        """Do not call it."""
        self.asyncresult.unlink(_ForFuture(self, fn))

    def __str__(self) -> str:
        return str(self.asyncresult)

    def __getattr__(self, name: str) -> Any:
        if name == "_condition":
            raise AttributeError(
                "_condition: concurrent.futures.wait() would block the thread; use gevent.wait()"
            )
        return getattr(self.asyncresult, name)


class _ForFuture:
    """A link of the AsyncResult that calls the future's."""

    def __init__(self, future: _FutureProxy, function: Callable[[Any], Any]) -> None:
        self._future = future
        self._function = function

    def __call__(self, _: object) -> None:
        self._function(self._future)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ForFuture) and other._function == self._function

    def __hash__(self) -> int:
        return hash(self._function)


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
