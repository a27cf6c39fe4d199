"""`weft.Lock` and the others: those of `weft.multiprocessing`, made without a context, and with what only weft has."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

from weft.multiprocessing import synchronize

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "Semaphore"]

# Only says that they may be passed on to processes however started; asking for the default one would settle it.
_CONTEXT = get_context("spawn")


class _Recovering(synchronize.SemLock):
    """A lock that can be handed over when its owner dies."""

    @property
    def recovered(self) -> bool:
        """Whether the last `acquire` in this process took the lock over from a process that died with it."""
        return self._semlock.recovered_from is not None

    @property
    def recovered_from(self) -> int | None:
        """The id of that process; None if `recovered` is false."""
        return self._semlock.recovered_from


class Lock(_Recovering, synchronize.Lock):
    """A lock between processes. Any process or thread may release it, whoever acquired it.

    It is passed on to a child as an argument, or inherited by a fork. `acquire(block=True, timeout=None)` says whether
    it was acquired; `timeout` is in seconds. `release()` raises ValueError if it is not taken.

    When a process that holds it is killed, one `acquire` raises `weft.OwnerDied`, and the lock is free. With `recover`
    true (default: false) that `acquire` gets the lock instead, and `recovered` is true: what it protects may be half
    done. What a process holds when it ends normally stays taken until another one releases it.
    """

    __module__ = "weft"

    def __init__(self, *, recover: bool = False) -> None:
        synchronize.Lock.__init__(self, ctx=_CONTEXT)
        self._semlock.recovers = recover


class RLock(_Recovering, synchronize.RLock):
    """A lock between processes that the thread which holds it may acquire again, and must release as often.

    `release()` raises AssertionError if the calling thread does not hold it. Otherwise as `weft.Lock`, but any end of
    a process that holds it counts, for nobody else may release it.
    """

    __module__ = "weft"

    def __init__(self, *, recover: bool = False) -> None:
        synchronize.RLock.__init__(self, ctx=_CONTEXT)
        self._semlock.recovers = recover


def _checked(value: int) -> int:
    """What a semaphore begins with, if it can."""
    if not isinstance(value, int):
        raise TypeError(f"value must be an int, not {type(value).__name__}")
    if not 0 <= value <= synchronize.SEM_VALUE_MAX:
        raise ValueError(f"value must be from 0 to {synchronize.SEM_VALUE_MAX}, not {value}")
    return value


class Semaphore(synchronize.Semaphore):
    """A count between processes: `acquire` waits until it is above zero and lowers it, `release` raises it.

    `value` (default: 1) is what it begins with; ValueError if it is below 0. It has no owner, and what a process took that dies is not given back.
    """

    __module__ = "weft"

    def __init__(self, value: int = 1) -> None:
        super().__init__(_checked(value), ctx=_CONTEXT)


class BoundedSemaphore(synchronize.BoundedSemaphore):
    """A `weft.Semaphore` that never rises above the `value` (default: 1) that it began with: `release` raises
    ValueError then.
    """

    __module__ = "weft"

    def __init__(self, value: int = 1) -> None:
        super().__init__(_checked(value), ctx=_CONTEXT)


class Condition(synchronize.Condition):
    """A condition variable between processes, under `lock` (default: a `weft.RLock` of its own).

    See `threading.Condition` for `wait(timeout=None)`, `wait_for(predicate, timeout=None)`, `notify(n=1)` and
    `notify_all()`. A waiter that is killed takes no notification along.
    """

    __module__ = "weft"

    def __init__(self, lock: Any = None) -> None:
        super().__init__(lock or RLock(), ctx=_CONTEXT)


class Event(synchronize.Event):
    """A flag between processes: `is_set()`, `set()`, `clear()`, and `wait(timeout=None)`.

    `wait` says whether the flag is set, or was meanwhile; False after `timeout` seconds (None: never).
    """

    __module__ = "weft"

    def __init__(self) -> None:
        super().__init__(ctx=_CONTEXT)


class Barrier(synchronize.Barrier):
    """So many `parties`, of any process, that wait for each other; see `threading.Barrier`.

    `action` is called by one of them before all go on, `timeout` (seconds; None: for ever) is the default of `wait`, which
    raises `threading.BrokenBarrierError` when the barrier is broken: also when one that waits in it is killed.
    """

    __module__ = "weft"

    def __init__(
        self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None
    ) -> None:
        super().__init__(parties, action, timeout, ctx=_CONTEXT)
