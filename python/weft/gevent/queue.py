"""Queues between greenlets. As gevent.queue."""

from __future__ import annotations

import collections
import heapq
import queue as _standard
import types
import warnings
from collections.abc import Iterable, Iterator
from queue import Empty, Full
from typing import Any

from weft.greenlet import getcurrent

from . import _hub
from .event import Event
from .exceptions import InvalidSwitchError
from .hub import Waiter, get_hub
from .timeout import Timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__implements__ = ["LifoQueue", "PriorityQueue", "Queue", "SimpleQueue"]
__extensions__ = ["Channel", "JoinableQueue"]
__imports__ = ["Empty", "Full"]


class ShutDown(Exception):
    """The queue was shut down: nothing is put in any more, or taken out."""


if hasattr(_standard, "ShutDown"):  # from 3.13 on
    ShutDown = _standard.ShutDown  # type: ignore[misc]
    __imports__.append("ShutDown")
else:
    __extensions__.append("ShutDown")

__all__ = ["Channel", "Empty", "Full", "JoinableQueue", "LifoQueue", "PriorityQueue", "Queue"]
__all__ += ["ShutDown", "SimpleQueue"]

_hub.set_face("empty", Empty)
_hub.set_face("full", Full)
_hub.set_face("shut_down", ShutDown)

# What a subclass may have of its own, as subclasses of the standard library's queues have.
_HOOKS = ("_create_queue", "_get", "_init", "_peek", "_put", "_qsize")


class SimpleQueue(_hub.QueueBase):
    """First in, first out; up to `maxsize` items, or any number if that is None or less than one.

    It has a length, and is always true. To go through it is to `get()` until that gives the class
    `StopIteration`. Subclasses may define `_init`, `_qsize`, `_put`, `_get` and `_peek`.
    """

    __slots__ = ()

    __class_getitem__: Any = classmethod(types.GenericAlias)

    def __init__(self, maxsize: int | None = None, items: Any = (), _warn_depth: int = 2) -> None:
        self._begin(maxsize, items, None, _warn_depth + 1)

    def _begin(self, maxsize: int | None, items: Any, idle: Event | None, depth: int) -> None:
        if maxsize == 0:
            warnings.warn(
                "Queue(0) now equivalent to Queue(None); if you want a channel, use Channel",
                DeprecationWarning,
                stacklevel=depth,
            )
        if maxsize is not None and maxsize <= 0:
            maxsize = None
        self._set_up(maxsize, idle)
        # One that knows of no items, as the standard library's, is called without.
        if items:
            self._init(maxsize, items)
        else:
            self._init(maxsize)

    def _init(self, maxsize: int | None, items: Any = ()) -> None:
        if _has_no_hooks(type(self)):
            self._fill(items)
        else:
            self.queue = self._create_queue(items)

    def _create_queue(self, items: Iterable[Any] = ()) -> Any:
        return collections.deque(items)

    def _qsize(self) -> int:
        return len(self.queue)

    def _get(self) -> Any:
        return self.queue.popleft()

    def _put(self, item: Any) -> None:
        self.queue.append(item)

    def _peek(self) -> Any:
        return self.queue[0]

    def copy(self) -> Self:
        """A new one with the same items."""
        return type(self)(self.maxsize, self.queue)

    def _format(self) -> str:
        result = []
        if self.maxsize is not None:
            result.append(f"maxsize={self.maxsize!r}")
        if getattr(self, "queue", None):
            result.append(f"queue={self.queue!r}")
        getters, putters = self._waiting()
        if getters:
            result.append(f"getters[{getters}]")
        if putters:
            result.append(f"putters[{putters}]")
        return " " + " ".join(result) if result else ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x}{self._format()}>"

    def __str__(self) -> str:
        return f"<{type(self).__name__}{self._format()}>"


class Queue(SimpleQueue):
    """The same, with `join()`, which waits until every item was reported as done, and `shutdown()`."""

    __slots__ = ()

    def __init__(
        self, maxsize: int | None = None, items: Any = (), unfinished_tasks: int | None = None
    ) -> None:
        idle = Event()
        idle.set()
        self._begin(maxsize, items, idle, 3)
        if unfinished_tasks:
            self.unfinished_tasks = unfinished_tasks
        elif items:
            self.unfinished_tasks = len(items)
        if self.unfinished_tasks:
            idle.clear()

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._did_put_task()

    def copy(self) -> Self:
        """A new one with the same items, as many of which are to be done."""
        return type(self)(self.maxsize, self.queue, self.unfinished_tasks)

    def _format(self) -> str:
        result = super()._format()
        if self.unfinished_tasks:
            result += f" tasks={self.unfinished_tasks} _cond={self._cond}"
        return result

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every item that was put is reported as done. False if that was not so in time."""
        return bool(self._cond.wait(timeout=timeout))

    def shutdown(self, immediate: bool = False) -> None:
        """Put nothing in any more: `put` raises ShutDown, and `get` once there are no items.

        With `immediate`, the items that are there are dropped, and count as done.
        """
        self.is_shutdown = True
        if immediate:
            self._drain_for_immediate_shutdown()
        self._wake_all()

    def _drain_for_immediate_shutdown(self) -> None:
        while self.qsize():
            self.get()
            self.task_done()


# The name that it had when Queue could not be joined.
JoinableQueue = Queue

_hub.set_face("simple_queue", SimpleQueue)
_hub.set_face("queue", Queue)


def _has_no_hooks(kind: type[SimpleQueue]) -> bool:
    return kind in (Queue, SimpleQueue) or all(
        getattr(kind, hook) in (getattr(Queue, hook), getattr(SimpleQueue, hook)) for hook in _HOOKS
    )


class UnboundQueue(Queue):
    """A queue that is known to have room always."""

    __slots__ = ()

    def __init__(self, maxsize: None = None, items: Any = ()) -> None:
        if maxsize is not None:
            raise ValueError("UnboundQueue has no maxsize")
        super().__init__(maxsize, items)


class LifoQueue(Queue):
    """Last in, first out."""

    __slots__ = ()

    def _create_queue(self, items: Iterable[Any] = ()) -> Any:
        return list(items)

    def _put(self, item: Any) -> None:
        self.queue.append(item)
        self._did_put_task()

    def _get(self) -> Any:
        return self.queue.pop()

    def _peek(self) -> Any:
        return self.queue[-1]


class PriorityQueue(Queue):
    """The least first."""

    __slots__ = ()

    def _create_queue(self, items: Iterable[Any] = ()) -> Any:
        heap = list(items)
        heapq.heapify(heap)
        return heap

    def _put(self, item: Any) -> None:
        heapq.heappush(self.queue, item)
        self._did_put_task()

    def _get(self) -> Any:
        return heapq.heappop(self.queue)


class Channel:
    """A queue without room: who puts waits for who gets, and the other way round."""

    __slots__ = ("__weakref__", "_event_unlock", "getters", "hub", "putters")

    __class_getitem__: Any = classmethod(types.GenericAlias)

    def __init__(self, maxsize: int = 1) -> None:
        if maxsize != 1:
            raise ValueError("Channels have a maxsize of 1")
        self.getters: collections.deque[Waiter] = collections.deque()
        self.putters: collections.deque[tuple[Any, Waiter]] = collections.deque()
        self.hub = get_hub()
        self._event_unlock: Any = None

    @property
    def balance(self) -> int:
        """How many more wait to put something in than to get something out."""
        return len(self.putters) - len(self.getters)

    def qsize(self) -> int:
        """Never anything."""
        return 0

    def empty(self) -> bool:
        """Always."""
        return True

    def full(self) -> bool:
        """Always."""
        return True

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Hand an item to who gets; Full if nobody did in time."""
        if self.hub is getcurrent():
            if not self.getters:
                raise Full
            self.getters.popleft().switch(item)
            return
        waiter = Waiter()
        entry = (item, waiter)
        self.putters.append(entry)
        limit = Timeout._start_new_or_dummy(timeout if block else 0, Full)
        try:
            if self.getters:
                self._schedule_unlock()
            result = waiter.get()
            if result is not waiter:
                raise InvalidSwitchError(f"Invalid switch into Channel.put: {result!r}")
        except BaseException:
            if entry in self.putters:
                self.putters.remove(entry)
            raise
        finally:
            limit.cancel()

    def put_nowait(self, item: Any) -> None:
        """Hand an item to who gets already; Full if nobody does."""
        self.put(item, False)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an item from who puts; Empty if nobody did in time."""
        if self.hub is getcurrent() and self.putters:
            item, putter = self.putters.popleft()
            self.hub.loop.run_callback(putter.switch, putter)
            return item
        waiter = Waiter()
        limit = Timeout._start_new_or_dummy(timeout if block else 0, Empty)
        try:
            self.getters.append(waiter)
            if self.putters:
                self._schedule_unlock()
            return waiter.get()
        except BaseException:
            if waiter in self.getters:
                self.getters.remove(waiter)
            raise
        finally:
            limit.close()

    def get_nowait(self) -> Any:
        """Take an item from who puts already; Empty if nobody does."""
        return self.get(False)

    def _unlock(self) -> None:
        # Those that are here now: they may come back at once, for ever, and others have to have their turn.
        for _ in range(min(len(self.putters), len(self.getters))):
            if not (self.putters and self.getters):
                break
            getter = self.getters.popleft()
            item, putter = self.putters.popleft()
            getter.switch(item)
            putter.switch(putter)
        if self.putters and self.getters:
            self._schedule_unlock()

    def _schedule_unlock(self) -> None:
        if not self._event_unlock:
            self._event_unlock = self.hub.loop.run_callback(self._unlock)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = self.get()
        if item is StopIteration:
            raise StopIteration
        return item

    def _format(self) -> str:
        result = ""
        if self.getters:
            result += f" getters[{len(self.getters)}]"
        if self.putters:
            result += f" putters[{len(self.putters)}]"
        return result

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {self._format()}>"

    def __str__(self) -> str:
        return f"<{type(self).__name__} {self._format()}>"
