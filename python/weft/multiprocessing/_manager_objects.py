"""The objects of a manager's server, as the server has to know them.

Most calls are carried out by the one thread that takes them from shared memory. It must never wait, so it calls what cannot
block by itself, *tries* what could, and leaves everything else to the thread of the caller's own, as the standard library
does with all of it. Objects of classes that this table does not have are of the last kind.
"""

from __future__ import annotations

import array
import queue
from collections import deque
from functools import partial
from multiprocessing import managers as _managers
from typing import TYPE_CHECKING, Any

from weft.multiprocessing import _manager_locks as locks
from weft.multiprocessing._manager_waits import Caller, deadline_of, left_until, wait_at, waiting

if TYPE_CHECKING:
    from collections.abc import Callable

# With its private parts, which its type stubs do not have.
_stock: Any = _managers

__all__ = ["CONTAINERS", "WOULD_BLOCK", "Queue", "direct_methods", "foreign_in", "sort_of"]


class _WouldBlock:
    def __repr__(self) -> str:
        return "WOULD_BLOCK"


# What a method that is only tried returns instead of waiting.
WOULD_BLOCK = _WouldBlock()


class Queue(queue.Queue):  # type: ignore[type-arg]
    """`queue.Queue`, whose waits end when the process that they are for ends, and take nothing along."""

    def _closed(self) -> bool:
        return getattr(self, "is_shutdown", False)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        with self.not_full:
            if self._closed():
                raise queue.ShutDown  # type: ignore[attr-defined]
            if self.maxsize > 0 and self._qsize() >= self.maxsize:
                deadline = _deadline(timeout) if block else 0.0
                while self._qsize() >= self.maxsize:
                    if not wait_at(self.not_full, left_until(deadline)):
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
                    if not wait_at(self.not_empty, left_until(deadline)):
                        raise queue.Empty
                    if self._closed() and not self._qsize():
                        raise queue.ShutDown  # type: ignore[attr-defined]
            item = self._get()
            self.not_full.notify()
            return item

    def join(self) -> None:
        with self.all_tasks_done:
            while self.unfinished_tasks:
                wait_at(self.all_tasks_done, None)

    def put_back(self, item: Any) -> None:
        """Put an item that nobody got in front of all others. It counts as never taken."""
        with self.mutex:
            self.queue.appendleft(item)
            self.not_empty.notify()


def _deadline(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return deadline_of(timeout)


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


def _queue_get_nowait(this: Queue) -> Any:
    item = _queue_get(this)
    if item is WOULD_BLOCK:
        raise queue.Empty
    return item


def _event_wait(this: locks.Event, timeout: float | None = None) -> Any:
    return True if this.is_set() else WOULD_BLOCK


def _acquire(caller: Callable[[], Caller], this: Any, blocking: bool = True, timeout: Any = None) -> Any:
    """Of what is owned by callers: the serving thread says for whom it works, for the moment."""
    if timeout is not None and not (blocking and type(timeout) in (int, float) and timeout >= 0):
        return WOULD_BLOCK  # to be waited for in vain, or told that it makes no sense
    waiting.caller = caller()
    try:
        if this.acquire(False):
            return True
    finally:
        waiting.caller = None
    return WOULD_BLOCK if blocking else False


def _release(caller: Callable[[], Caller], this: Any, *args: Any, **kwds: Any) -> None:
    waiting.caller = caller()
    try:
        this.release(*args, **kwds)
    finally:
        waiting.caller = None


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
    Queue: {"get": _queue_get, "get_nowait": _queue_get_nowait, "put": _queue_put, "join": _queue_join},
    locks.Event: {"wait": _event_wait},
}

# Their methods have to know for whom they are called.
_OWNED: dict[str, Any] = {"acquire": _acquire, "release": _release}
_OWNED_TYPES = frozenset({locks.RLock, locks.Semaphore, locks.BoundedSemaphore})

# What they return is gone from the object: it goes back if nobody gets it.
TAKING = frozenset({"get", "get_nowait"})

# Objects that can only be changed by calls that cannot block: several of these can be made one.
CONTAINERS = frozenset({dict, list, set, array.array, _stock.Namespace, _stock.Value})

_PLAIN = {
    Queue: ("qsize", "empty", "full", "put_nowait", "task_done"),
    locks.Event: ("is_set", "set", "clear"),
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


def direct_methods(obj: Any, exposed: Any, made_shared: Any, caller: Callable[[], Caller]) -> dict[str, Any]:
    """Those of the `exposed` methods of `obj` that the serving thread may call, by name.

    A method that takes something away comes with one that puts it back. `made_shared` has the names of those whose results become
    shared objects; `caller()` says for whom the serving thread works.
    """
    cls = type(obj)
    names = set(exposed).difference(made_shared or ())
    if cls in CONTAINERS:
        return {name: getattr(obj, name) for name in names if hasattr(obj, name)}
    if cls in _ITERATORS:
        return {"__next__": obj.__next__, "#NEXT": partial(_next_batch, obj)}
    if cls in _OWNED_TYPES:
        return {name: partial(_OWNED[name], caller, obj) for name in names.intersection(_OWNED)}
    methods = {name: getattr(obj, name) for name in _PLAIN.get(cls, ()) if name in names}
    for name, tried in _TRIED.get(cls, {}).items():
        if name in names:
            method = partial(tried, obj)
            methods[name] = (method, obj.put_back) if name in TAKING else method
    return methods


# -- What the serving thread leaves alone, because it might run code of somebody's

_SCALARS = frozenset({int, str, bytes, float, bool, type(None)})
_COLLECTIONS = frozenset({tuple, list, set, frozenset})
# Of lists: methods that compare items.
_COMPARING = frozenset({"__contains__", "count", "index", "remove", "sort"})
# So many parts of a value are looked at.
_PATIENCE = 10_000


def _is_plain(value: Any, left: list[int]) -> bool:
    """Whether comparing and hashing the value runs nobody's code."""
    cls = type(value)
    if cls in _SCALARS:
        return True
    left[0] -= 1
    if left[0] < 0:
        return False
    if cls in _COLLECTIONS:
        return all(_is_plain(part, left) for part in value)
    if cls is dict:
        return all(_is_plain(part, left) for item in value.items() for part in item)
    return False


def _all_plain(values: Any) -> bool:
    if _SCALARS.issuperset(map(type, values)):
        return True
    left = [_PATIENCE]
    return all(_is_plain(value, left) for value in values)


def foreign_in(obj: Any, method: str, args: Any) -> frozenset[str] | None:
    """Which methods of a container may run somebody's `__eq__` or `__hash__` after a call; None: all of them.

    `method` with `args` is what is to be called; "" if the container is new.
    """
    cls = type(obj)
    if cls is dict:
        if not method:
            safe = _all_plain(obj)
        elif method in ("__setitem__", "setdefault"):
            safe = _all_plain(args[:1])
        elif method == "update" and all(type(arg) is dict for arg in args):
            safe = all(_all_plain(arg) for arg in args)
        else:
            safe = _all_plain(args)
        return frozenset() if safe else None
    if cls is set:
        return frozenset() if _all_plain(args if method else obj) else None
    if cls is list:
        return frozenset() if _all_plain(args if method else obj) else _COMPARING
    return frozenset()
