"""What a hub has beside its loop: a resolver, a pool of threads, a thread that looks after it. Made when first asked for."""

from __future__ import annotations

import itertools
import sys
from typing import Any

from ._config import config
from ._ident import IdentRegistry
from ._util import Lazy, readproperty

__all__ = ["HubServices", "after_fork"]

_numbers = itertools.count(1)


class HubServices:
    """A hub's resolver, pool of threads and monitoring thread."""

    threadpool_size = 10
    periodic_monitoring_thread: Any = None
    name = ""
    thread_ident: int
    _resolver: Any = None
    _threadpool: Any = None

    @property
    def main_hub(self) -> bool:
        """Whether it is the main thread's."""
        raise NotImplementedError

    @Lazy
    def ident_registry(self) -> IdentRegistry:
        """The small numbers of its greenlets."""
        return IdentRegistry()

    @Lazy
    def minimal_ident(self) -> int:
        """A small number of its own."""
        return next(_numbers)

    @property
    def loop_class(self) -> Any:
        """What makes its loop."""
        return config.loop

    @property
    def backend(self) -> Any:
        """What was asked for as the backend of a loop; there is one."""
        return config.libev_backend

    @readproperty
    def format_context(self) -> Any:
        """How what failed is shown beside a traceback."""
        return config.format_context

    @readproperty
    def exception_stream(self) -> Any:
        """Where tracebacks go; None at the end of the interpreter."""
        return sys.stderr if sys else None

    def _normalize_exception(self, kind: Any, value: Any, tb: Any) -> Any:
        if kind is None and value is None and tb is None:
            kind, value, tb = sys.exc_info()
        if isinstance(value, str):
            value = kind(value)
        return kind, value, tb

    # --- names of hosts, and threads ----------------------------------------------------------------------------

    @property
    def resolver(self) -> Any:
        """What looks up names of hosts for this thread's greenlets."""
        if self._resolver is None:
            self._resolver = config.resolver(hub=self)
        return self._resolver

    @resolver.setter
    def resolver(self, value: Any) -> None:
        self._resolver = value

    @resolver.deleter
    def resolver(self) -> None:
        self._resolver = None

    @property
    def threadpool(self) -> Any:
        """Threads for calls that would block this one."""
        if self._threadpool is None:
            self._threadpool = config.threadpool(
                self.threadpool_size, hub=self, idle_task_timeout=config.threadpool_idle_task_timeout
            )
        return self._threadpool

    @threadpool.setter
    def threadpool(self, value: Any) -> None:
        self._threadpool = value

    @threadpool.deleter
    def threadpool(self) -> None:
        self._threadpool = None

    # --- the thread that looks after it -----------------------------------------------------------------------

    def start_periodic_monitoring_thread(self) -> Any:
        """The monitoring thread, if the settings want one; it is started by the hub's own thread, when it first runs."""
        if self.periodic_monitoring_thread is None and config.monitor_thread:
            from ._monitor import PeriodicMonitoringThread
            from .events import PeriodicMonitorThreadStartedEvent, notify_and_call_entry_points

            monitor = self.periodic_monitoring_thread = PeriodicMonitoringThread(self)
            if self.main_hub:
                monitor.install_monitor_memory_usage()
            notify_and_call_entry_points(PeriodicMonitorThreadStartedEvent(monitor))
        return self.periodic_monitoring_thread

    def end_services(self, wait: bool = True) -> None:
        """End all of it; threads are waited for, unless `wait` is false. What is asked for afterwards is made anew."""
        if self.periodic_monitoring_thread is not None:
            self.periodic_monitoring_thread.kill()
            self.periodic_monitoring_thread = None
        if self._resolver is not None:
            self._resolver.close()
            self._resolver = None
        if self._threadpool is not None:
            # Somebody else's pool has only `kill()`.
            forsake = None if wait else getattr(self._threadpool, "forsake", None)
            (forsake or self._threadpool.kill)()
            self._threadpool = None


def after_fork(hub: Any) -> None:
    """In the child of a fork, where this thread alone exists: have a hub's services find that out."""
    for service in (hub._threadpool, hub._resolver, hub.periodic_monitoring_thread):
        notice = getattr(service, "_on_fork", None)
        if notice is not None:
            notice()
