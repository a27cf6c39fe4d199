"""Who runs, and since when: functions for greenlet.settrace. As gevent._tracer."""

from __future__ import annotations

import sys
import traceback
from time import perf_counter
from typing import Any

from weft.greenlet import getcurrent, settrace

from ._util import gmctime
from .util import format_run_info

__all__ = ["GreenletTracer", "HubSwitchTracer", "MaxSwitchTracer"]


class GreenletTracer:
    """Counts switches, and notes who was switched to. It is the thread's trace function until `kill()`."""

    active_greenlet: Any = None
    greenlet_switch_counter = 0

    def __init__(self) -> None:
        self._killed = False
        self.previous_trace_function: Any = None
        self.previous_trace_function = settrace(self)

    def kill(self) -> None:
        """Give the thread back the trace function it had."""
        if not self._killed:
            self._killed = True
            settrace(self.previous_trace_function)
            self.previous_trace_function = None

    def __call__(self, event: str, args: Any) -> None:
        self.note(event, args)
        if self.previous_trace_function is not None:
            self.previous_trace_function(event, args)

    def note(self, event: str, args: Any) -> None:
        """A greenlet was switched to."""
        self.greenlet_switch_counter += 1
        self.active_greenlet = args[1] if event in ("switch", "throw") else None

    def did_block_hub(self, hub: Any) -> Any:
        """Whether nobody was switched to since this was asked last, though the hub does not run; then with who does."""
        switched = self.greenlet_switch_counter
        self.greenlet_switch_counter = 0
        active = self.active_greenlet
        if switched or active is None or active is hub:
            return False
        return True, active

    def ignore_current_greenlet_blocking(self) -> None:
        """Let the current greenlet block: until the next switch, nobody does."""
        self.active_greenlet = None

    def monitor_current_greenlet_blocking(self) -> None:
        """Take the current greenlet for one that was just switched to."""
        self.active_greenlet = getcurrent()

    def did_block_hub_report(
        self, hub: Any, active_greenlet: Any, format_kwargs: dict[str, Any]
    ) -> list[str]:
        """Lines that say who blocks the hub, and where."""
        frame = sys._current_frames().get(hub.thread_ident)
        if frame is None:
            stack = f"Unknown: No thread found for hub {hub!r}\n"
        else:
            stack = "".join(traceback.format_stack(frame))
        return [
            "=" * 80,
            f"\n{gmctime()} : Greenlet {active_greenlet} appears to be blocked",
            f"    Reported by {self}",
            f"Blocked Stack (for thread id {hub.thread_ident:#x}):",
            stack,
            "Info:",
            *format_run_info(**format_kwargs),
        ]


class _TimedTracer(GreenletTracer):
    def __init__(self, hub: Any, max_blocking_time: float) -> None:
        self.hub = hub
        self.max_blocking_time = max_blocking_time
        super().__init__()

    def kill(self) -> None:
        """Give the thread back the trace function it had."""
        self.hub = None
        super().kill()


class HubSwitchTracer(_TimedTracer):
    """Notes when the hub ran last."""

    last_entered_hub = 0.0

    def note(self, event: str, args: Any) -> None:
        """A greenlet was switched to."""
        super().note(event, args)
        if self.active_greenlet is self.hub:
            self.last_entered_hub = perf_counter()

    def did_block_hub(self, hub: Any) -> Any:
        """Whether the hub has not run for too long; then with who does."""
        if perf_counter() - self.last_entered_hub > self.max_blocking_time:
            return True, self.active_greenlet
        return False


class MaxSwitchTracer(_TimedTracer):
    """Notes the longest time that one greenlet, other than the hub, has run."""

    def __init__(self, hub: Any, max_blocking_time: float) -> None:
        self.last_switch = perf_counter()
        self.max_blocking = 0.0
        super().__init__(hub, max_blocking_time)

    def note(self, event: str, args: Any) -> None:
        """A greenlet was switched to."""
        before = self.active_greenlet
        super().note(event, args)
        now = perf_counter()
        if before is not None and before is not self.hub:
            self.max_blocking = max(self.max_blocking, now - self.last_switch)
        self.last_switch = now

    def did_block_hub(self, hub: Any) -> Any:
        """Whether somebody ran for too long; then with who runs."""
        if not self.max_blocking:
            self.max_blocking = perf_counter() - self.last_switch
        if self.max_blocking > self.max_blocking_time:
            return True, self.active_greenlet
        return False
