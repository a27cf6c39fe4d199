"""How threads of a manager's server wait: in a way that ends with the process that they wait for.

A thread that works for a client has that one's `Caller` in `waiting.caller`. Before it sleeps it says there how it can be
woken, and then looks whether the client is gone; who learns that the client is gone says so first, and wakes it then. So
none sleeps on for the dead.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Caller", "CallerGone", "Sleeper", "deadline_of", "left_until", "the_caller", "wait_at", "waiting"]

# A process: its id and its start. That of a process that nobody here can know has 0 for its id, and a number of its own.
Owner = tuple[int, int]


class CallerGone(Exception):
    """The process for which a thread of the server waits has ended."""


class Caller:
    """One thread of a client, as the server has it."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.gone = False
        # Ends the sleep of the thread that works for it.
        self.wake: Callable[[], object] | None = None

    def end_wait(self) -> None:
        """The client is gone, or will not call any more: nobody waits for it."""
        self.gone = True
        wake = self.wake
        if wake is not None:
            wake()


class Waiting(threading.local):
    """The caller for which this thread of the server works; None for all others."""

    caller: Caller | None = None


waiting = Waiting()


def _notify_all(condition: threading.Condition) -> None:
    with condition:
        condition.notify_all()


def wait_at(condition: threading.Condition, left: float | None) -> bool:
    """Wait at a condition, whose lock is held, for `left` seconds or, with None, for ever. False if no time is left.

    Raises CallerGone if there is nobody any more to wait for. The lock of the condition must be one that is never held for long.
    """
    if left is not None and left <= 0:
        return False
    caller = waiting.caller
    if caller is None:
        threading.Condition.wait(condition, left)
        return True
    caller.wake = lambda: _notify_all(condition)
    try:
        if caller.gone:
            raise CallerGone
        threading.Condition.wait(condition, left)
        if caller.gone:
            # The notification was perhaps another one's.
            condition.notify()
            raise CallerGone
    finally:
        caller.wake = None
    return True


class Sleeper:
    """One sleep, which anybody can end."""

    def __init__(self) -> None:
        self._bell = threading.Event()
        self.wake = self._bell.set

    def sleep(self, left: float | None) -> bool:
        """Sleep until `wake` is called: True; or until no time is left. Raises CallerGone."""
        caller = waiting.caller
        if caller is None:
            return self._bell.wait(left)
        caller.wake = self.wake
        try:
            if caller.gone:
                raise CallerGone
            woken = self._bell.wait(left)
            if caller.gone:
                raise CallerGone
            return woken
        finally:
            caller.wake = None


def deadline_of(timeout: float | None) -> float | None:
    """When a wait of so many seconds ends, for `left_until`; None: never."""
    return None if timeout is None else time.monotonic() + timeout


def left_until(deadline: float | None) -> float | None:
    """How many seconds are left, for `wait_at`."""
    return None if deadline is None else deadline - time.monotonic()


def the_caller() -> Any:
    """For whom the calling thread works, if that one is still there; the thread itself if it works for nobody."""
    caller = waiting.caller
    if caller is None:
        return threading.get_ident()
    if caller.gone:
        raise CallerGone
    return caller
