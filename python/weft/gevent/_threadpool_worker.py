"""The threads of a pool, and how they post something to the loop of its hub."""

from __future__ import annotations

import sys
import traceback
from _queue import Empty
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from weft.greenlet import getcurrent, greenlet

from . import monkey
from .hub import get_hub_if_exists

if TYPE_CHECKING:
    from .threadpool import ThreadPool, ThreadResult

__all__ = ()  # all of it is for the thread pool

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


def _post(hub: Any, function: Callable[..., Any], *args: Any) -> None:
    """Have the hub's loop call a function, unless it is gone."""
    loop = None if hub is None else hub.loop
    if loop is not None:
        try:
            loop.run_callback_threadsafe(function, *args)
        except ValueError:
            return  # destroyed: nobody waits there any more


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
