"""The objects of a manager's server, as the server has to know them.

Most calls are carried out by the one thread that takes them from shared memory. It must never wait, so it calls what cannot
block by itself, *tries* what could, and leaves everything else to the thread of the caller's own, as the standard library
does with all of it. Objects of classes that this table does not have are of the last kind.
"""

from __future__ import annotations

import array
import queue
import threading
import time
from collections import deque
from functools import partial
from multiprocessing import managers as _managers
from typing import Any

# With its private parts, which its type stubs do not have.
_stock: Any = _managers

__all__ = ["CONTAINERS", "WOULD_BLOCK", "CallerGone", "Queue", "Waiting", "direct_methods", "sort_of"]


class _WouldBlock:
    def __repr__(self) -> str:
        return "WOULD_BLOCK"


# What a method that is only tried returns instead of waiting.
WOULD_BLOCK = _WouldBlock()


class CallerGone(Exception):
    """The process for which a thread of the server waits has ended."""


class Waiting(threading.local):
    """The caller for which this thread of the server works; None for all others."""

    caller: Any = None


waiting = Waiting()


class Queue(queue.Queue):  # type: ignore[type-arg]
    """`queue.Queue`, whose waits end when the process that they are for ends, and take nothing along."""

    def _wait(self, condition: threading.Condition, deadline: float | None) -> bool:
        """Wait for the condition, whose lock is held; False if the deadline passed."""
        caller = waiting.caller
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        if caller is None:
            condition.wait(left)
            return True
        # In this order: whoever says that the caller is gone wakes what it waits for afterwards.
        caller.waits_for = condition
        try:
            if caller.gone:
                raise CallerGone
            condition.wait(left)
            if caller.gone:
                # The notification was perhaps another one's.
                condition.notify()
                raise CallerGone
        finally:
            caller.waits_for = None
        return True

    def _closed(self) -> bool:
        return getattr(self, "is_shutdown", False)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        with self.not_full:
            if self._closed():
                raise queue.ShutDown  # type: ignore[attr-defined]
            if self.maxsize > 0 and self._qsize() >= self.maxsize:
                deadline = _deadline(timeout) if block else 0.0
                while self._qsize() >= self.maxsize:
                    if not self._wait(self.not_full, deadline):
                        raise queue.Full
                    if self._closed():
                        raise queue.ShutDown  # type: ignore[attr-defined]
            self._put(item)
            self.unfinished_tasks += 1
            self.not_empty.notify()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        with self.not_empty:
            if not self._qsize():
                if self._closed():
                    raise queue.ShutDown  # type: ignore[attr-defined]
                deadline = _deadline(timeout) if block else 0.0
                while not self._qsize():
                    if not self._wait(self.not_empty, deadline):
                        raise queue.Empty
                    if self._closed() and not self._qsize():
                        raise queue.ShutDown  # type: ignore[attr-defined]
            item = self._get()
            self.not_full.notify()
            return item

    def join(self) -> None:
        with self.all_tasks_done:
            while self.unfinished_tasks:
                self._wait(self.all_tasks_done, None)


def _deadline(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return time.monotonic() + timeout


# -- What is called directly


def _queue_get(this: Queue, block: bool = True, timeout: float | None = None) -> Any:
    with this.mutex:
        items: deque[Any] = this.queue
        if items:
            item = items.popleft()
            if this.maxsize > 0:
                this.not_full.notify()
            return item
    return WOULD_BLOCK


def _queue_put(this: Queue, item: Any, block: bool = True, timeout: float | None = None) -> Any:
    with this.mutex:
        if (this.maxsize > 0 and len(this.queue) >= this.maxsize) or this._closed():
            return WOULD_BLOCK
        this.queue.append(item)
        this.unfinished_tasks += 1
        condition: Any = this.not_empty
        # Finding out that there is nobody to notify takes as long as everything else here.
        if condition._waiters:
            condition.notify()
    return None


def _queue_join(this: Queue) -> Any:
    return WOULD_BLOCK if this.unfinished_tasks else None


def _event_wait(this: threading.Event, timeout: float | None = None) -> Any:
    return True if this.is_set() else WOULD_BLOCK


def _semaphore_acquire(this: threading.Semaphore, blocking: bool = True, timeout: float | None = None) -> Any:
    if this.acquire(False):
        return True
    return False if not blocking and timeout is None else WOULD_BLOCK


def _next_batch(this: Any, most: int) -> list[Any]:
    """Up to `most` items of an iterator that cannot block; raises what the iterator raises before the first."""
    items = [next(this)]
    try:
        while len(items) < most:
            items.append(next(this))
    except StopIteration:
        return items
    except RuntimeError:
        return items  # the next call raises it again
    return items


_TRIED: dict[type, dict[str, Any]] = {
    Queue: {"get": _queue_get, "put": _queue_put, "join": _queue_join},
    threading.Event: {"wait": _event_wait},
    threading.Semaphore: {"acquire": _semaphore_acquire},
    threading.BoundedSemaphore: {"acquire": _semaphore_acquire},
}

# Objects that can only be changed by calls that cannot block: several of these can be made one.
CONTAINERS = frozenset({dict, list, set, array.array, _stock.Namespace, _stock.Value})

_PLAIN = {
    Queue: ("qsize", "empty", "full", "put_nowait", "get_nowait", "task_done"),
    threading.Event: ("is_set", "set", "clear"),
    threading.Semaphore: ("release",),
    threading.BoundedSemaphore: ("release",),
}

_EMPTY: tuple[Any, ...] = (
    {},
    {}.keys(),
    {}.values(),
    {}.items(),
    [],
    (),
    set(),
    "",
    b"",
    range(0),
    array.array("b"),
)
_ITERATORS: frozenset[type] = frozenset(type(iter(empty)) for empty in _EMPTY) | {
    type(reversed([])),
    type(reversed({})),
}


# Classes whose methods the engine knows, and which of those it would not call if somebody had replaced them.
_SORTS: dict[type, str] = {dict: "dict", list: "list", _stock.Namespace: "Namespace", _stock.Value: "Value"}
_VALUE_METHODS = (_stock.Value.get, _stock.Value.set)


def sort_of(obj: Any) -> str:
    """The name of the class of `obj` if its methods are called without running Python code; otherwise nothing."""
    if type(obj) is _stock.Value and (_stock.Value.get, _stock.Value.set) != _VALUE_METHODS:
        return ""
    return _SORTS.get(type(obj), "")


def direct_methods(obj: Any, exposed: Any, made_shared: Any) -> dict[str, Any]:
    """Those of the `exposed` methods of `obj` that the serving thread may call, by name.

    `made_shared` has the names of those whose results become shared objects.
    """
    cls = type(obj)
    names = set(exposed).difference(made_shared or ())
    if cls in CONTAINERS:
        return {name: getattr(obj, name) for name in names if hasattr(obj, name)}
    if cls in _ITERATORS:
        return {"__next__": obj.__next__, "#NEXT": partial(_next_batch, obj)}
    methods = {name: getattr(obj, name) for name in _PLAIN.get(cls, ()) if name in names}
    for name, tried in _TRIED.get(cls, {}).items():
        if name in names:
            methods[name] = partial(tried, obj)
    return methods
