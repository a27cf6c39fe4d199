"""A thread beside a hub, which looks whether the hub runs, and how much memory is used. As gevent._monitor."""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from collections.abc import Callable
from time import perf_counter
from typing import Any

from weft.greenlet import getcurrent

from . import monkey
from ._compat import get_this_psutil_process
from ._config import config
from ._tracer import GreenletTracer
from .events import (
    EventLoopBlocked,
    IPeriodicMonitorThread,
    MemoryUsageThresholdExceeded,
    MemoryUsageUnderThreshold,
    implementer,
    notify,
)

__all__ = ["PeriodicMonitoringThread"]

start_new_thread, get_ident = monkey.get_original("_thread", ["start_new_thread", "get_ident"])
thread_sleep = monkey.get_original("time", "sleep")


class MonitorWarning(RuntimeWarning):
    """Something cannot be monitored."""


class _Duty:
    """A function that is called with the hub every `period` seconds."""

    __slots__ = ("function", "last_run_time", "period")

    def __init__(self, function: Callable[[Any], Any], period: float) -> None:
        self.function = function
        self.period = period
        self.last_run_time = 0.0

    def __repr__(self) -> str:
        return repr((self.function, self.period, self.last_run_time))


@implementer(IPeriodicMonitorThread)
class PeriodicMonitoringThread:
    """The thread. It ends with its hub, which it does not keep alive."""

    # How long to sleep if nothing has to be looked at, and at least.
    inactive_sleep_time = 2.0
    min_sleep_time = 0.005
    # How often memory is looked at, at most: that takes a while.
    min_memory_monitor_period = 2

    def __init__(self, hub: Any) -> None:
        assert get_ident() == hub.thread_ident, "made by another thread than the hub's"
        self._hub = weakref.ref(hub, lambda _: self.kill())
        self.should_run = True
        self.pid = os.getpid()
        self._memory_exceeded = 0
        self._greenlet_tracer = GreenletTracer()
        self._monitoring_functions = [_Duty(self.monitor_blocking, config.max_blocking_time)]
        self._calculated_sleep_time = config.max_blocking_time
        self.monitor_thread_ident = start_new_thread(self, ())

    def _on_fork(self) -> None:
        """The thread does not exist in the child."""
        if self.pid != os.getpid():
            self.pid = os.getpid()
            self.monitor_thread_ident = start_new_thread(self, ())

    @property
    def hub(self) -> Any:
        """The hub, or None if it is gone."""
        return self._hub()

    # --- what is to be done -------------------------------------------------------------------------------------

    def monitoring_functions(self) -> list[_Duty]:
        """What is called. The first looks whether the hub is blocked."""
        if self._monitoring_functions[0].period != config.max_blocking_time:
            self._monitoring_functions[0].period = config.max_blocking_time
            self._plan()
        return self._monitoring_functions

    def add_monitoring_function(self, function: Callable[[Any], Any], period: float | None) -> None:
        """Have `function(hub)` called in the thread every `period` seconds; never again, if that is None."""
        if not callable(function):
            raise ValueError("function must be callable")
        if period is not None and period <= 0:
            raise ValueError("Period must be positive.")
        known = [duty for duty in self._monitoring_functions if duty.function == function]
        if period is None:
            self._monitoring_functions = [duty for duty in self._monitoring_functions if duty not in known]
        elif known:
            known[0].period = period
        else:
            self._monitoring_functions = [*self._monitoring_functions, _Duty(function, period)]
        self._plan()

    def _plan(self) -> None:
        self._calculated_sleep_time = min(duty.period for duty in self._monitoring_functions)

    def calculate_sleep_time(self) -> float:
        """How long until something is to be done."""
        least = self._calculated_sleep_time
        return self.inactive_sleep_time if least <= 0 else max(least, self.min_sleep_time)

    def kill(self) -> None:
        """Have the thread end. Safe to be called again."""
        if self.should_run:
            self.should_run = False
            self._greenlet_tracer.kill()

    def __call__(self) -> None:
        """What the thread runs."""
        current: Any = getcurrent()
        current.gevent_monitoring_thread = weakref.ref(self)
        try:
            while self.should_run:
                duties = self.monitoring_functions()
                thread_sleep(self.calculate_sleep_time())
                self._do(duties)
        except SystemExit:
            return  # a duty has ended the thread
        except BaseException:
            hub = self.hub
            if hub is None or sys is None or sys.stderr is None:
                return  # the interpreter ends
            hub.handle_error(self, *sys.exc_info())

    def _do(self, duties: list[_Duty]) -> None:
        hub = self.hub
        if not hub:
            self.kill()
            return
        now = perf_counter()
        for duty in duties:
            if not self.should_run:
                return
            if duty.period and duty.last_run_time + duty.period <= now:
                duty.last_run_time = now
                duty.function(hub)

    # --- a blocked hub ------------------------------------------------------------------------------------------

    def monitor_blocking(self, hub: Any) -> Any:
        """Look whether somebody keeps the hub from running; then tell the subscribers of `gevent.events`, and print it."""
        blocked = self._greenlet_tracer.did_block_hub(hub)
        if not blocked:
            return None
        active = blocked[1]
        report = self._greenlet_tracer.did_block_hub_report(
            hub, active, {"greenlet_stacks": False, "current_thread_ident": self.monitor_thread_ident}
        )
        notify(EventLoopBlocked(active, config.max_blocking_time, report, hub=hub))
        if config.print_blocking_reports:
            for line in report:
                print(line, file=hub.exception_stream)
        return active, report

    def ignore_current_greenlet_blocking(self) -> None:
        """Let the current greenlet block until the next switch."""
        self._greenlet_tracer.ignore_current_greenlet_blocking()

    def monitor_current_greenlet_blocking(self) -> None:
        """Take it back."""
        self._greenlet_tracer.monitor_current_greenlet_blocking()

    # --- memory -------------------------------------------------------------------------------------------------

    def _get_process(self) -> Any:
        process = get_this_psutil_process()
        self._get_process = lambda: process  # type: ignore[method-assign]
        return process

    def can_monitor_memory_usage(self) -> bool:
        """Whether psutil is there, and may look."""
        return self._get_process() is not None

    def install_monitor_memory_usage(self) -> None:
        """Look at the use of memory from now on, if possible."""
        if not self.can_monitor_memory_usage():
            warnings.warn("Unable to monitor memory usage. Install psutil.", MonitorWarning, stacklevel=2)
            return
        period = max(config.memory_monitor_period, self.min_memory_monitor_period)
        self.add_monitoring_function(self.monitor_memory_usage, period)

    def monitor_memory_usage(self, _hub: Any) -> Any:
        """Look whether more memory is used than may be, or no longer; the event that was told, if there was one,
        and -1 if there is no limit."""
        limit = config.max_memory_usage
        if not limit:
            return -1
        info = self._get_process().memory_full_info()
        used = getattr(info, "uss", 0) or info.rss
        before, self._memory_exceeded = self._memory_exceeded, used if used > limit else 0
        event: Any = None
        if used > limit and used > before:
            event = MemoryUsageThresholdExceeded(used, limit, info)
        elif used <= limit and before:
            event = MemoryUsageUnderThreshold(used, limit, info, before)
        if event is not None:
            notify(event)
        return event

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} at {id(self):#x} in thread {self.monitor_thread_ident:#x} "
            f"greenlet {getcurrent()!r} for {self.hub!r}>"
        )
