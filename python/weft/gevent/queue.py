"""Queues between the greenlets of a thread. As gevent.queue."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from queue import Empty, Full
from typing import Any

from .event import Event
from .hub import Waiter, get_hub
from .timeout import Timeout, start_or_never

__all__ = ["Empty", "Full", "JoinableQueue", "LifoQueue", "PriorityQueue", "Queue", "SimpleQueue"]


class SimpleQueue:
    """First in, first out; up to `maxsize` items, or any number if that is None or 0."""

    def __init__(self, maxsize: int | None = None, items: Iterable[Any] = ()) -> None:
        if maxsize is not None and maxsize < 0:
            maxsize = None
        self.maxsize = maxsize or None
        self.queue: Any = self._new(items)
        self._getters: deque[Waiter] = deque()
        self._putters: deque[tuple[Waiter, Any]] = deque()

    def _new(self, items: Iterable[Any]) -> Any:
        return deque(items)

    def _push(self, item: Any) -> None:
        self.queue.append(item)

    def _pop(self) -> Any:
        return self.queue.popleft()

    def qsize(self) -> int:
        """How many items there are."""
        return len(self.queue)

    __len__ = qsize

    def __bool__(self) -> bool:
        return True

    def empty(self) -> bool:
        """Whether there is none."""
        return not self.queue

    def full(self) -> bool:
        """Whether there is no room."""
        return self.maxsize is not None and len(self.queue) >= self.maxsize

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item in; Full if there was no room in time."""
        if not self.full():
            self._insert(item)
            return
        if not block:
            raise Full
        waiter = Waiter()
        entry = (waiter, item)
        self._putters.append(entry)
        try:
            with start_or_never(timeout) as timer:
                try:
                    waiter.get()
                except Timeout as error:
                    if error is not timer:
                        raise
                    if entry in self._putters:
                        raise Full from None
        finally:
            if entry in self._putters:
                self._putters.remove(entry)

    def put_nowait(self, item: Any) -> None:
        """Put an item in; Full if there is no room."""
        self.put(item, block=False)

    def _insert(self, item: Any) -> None:
        self._push(item)
        self._wake_getters()

    def _wake_getters(self) -> None:
        """Have as many getters look again as there are items."""
        if self._getters:
            get_hub().loop.run_callback(self._serve)

    def _serve(self) -> None:
        """In the hub: give items to those that wait for them, and room to those that wait for that."""
        while self._getters and self.queue:
            item = self._take()
            self._getters.popleft().switch(item)

    def _take(self) -> Any:
        item = self._pop()
        if self._putters and not self.full():
            waiter, waiting = self._putters.popleft()
            self._insert(waiting)
            get_hub().loop.run_callback(waiter.switch, None)
        return item

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an item out; Empty if there was none in time."""
        # Those that wait already come first.
        if self.queue and len(self.queue) > len(self._getters):
            return self._take()
        if not block:
            if self.queue:
                return self._take()
            raise Empty
        waiter = Waiter()
        self._getters.append(waiter)
        try:
            with start_or_never(timeout) as timer:
                try:
                    return waiter.get()
                except Timeout as error:
                    if error is not timer:
                        raise
                    raise Empty from None
        finally:
            if waiter in self._getters:
                self._getters.remove(waiter)

    def get_nowait(self) -> Any:
        """Take an item out; Empty if there is none."""
        return self.get(block=False)

    def peek(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next item, which stays; Empty if there was none in time."""
        if self.queue:
            return self.queue[0]
        item = self.get(block, timeout)
        self.queue.appendleft(item)
        return item

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = self.get()
        if item is StopIteration:
            raise StopIteration
        return item

    def __repr__(self) -> str:
        size = "" if self.maxsize is None else f" maxsize={self.maxsize!r}"
        return (
            f"<{type(self).__name__} at {id(self):#x}{size} queue={list(self.queue)!r} "
            f"getters[{len(self._getters)}] putters[{len(self._putters)}]>"
        )


class Queue(SimpleQueue):
    """The same, with `join()`, which waits until every item was reported as done."""

    def __init__(
        self, maxsize: int | None = None, items: Iterable[Any] = (), unfinished_tasks: int | None = None
    ) -> None:
        super().__init__(maxsize, items)
        self._idle = Event()
        self._idle.set()
        self.unfinished_tasks = len(self.queue) if unfinished_tasks is None else unfinished_tasks
        if self.unfinished_tasks:
            self._idle.clear()

    def _insert(self, item: Any) -> None:
        self.unfinished_tasks += 1
        self._idle.clear()
        super()._insert(item)

    def task_done(self) -> None:
        """Report an item as done."""
        if self.unfinished_tasks <= 0:
            raise ValueError("task_done() called too many times")
        self.unfinished_tasks -= 1
        if self.unfinished_tasks == 0:
            self._idle.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every item that was put is reported as done. False if that was not so in time."""
        return self._idle.wait(timeout)


JoinableQueue = Queue


class LifoQueue(Queue):
    """Last in, first out."""

    def _new(self, items: Iterable[Any]) -> Any:
        return list(items)

    def _pop(self) -> Any:
        return self.queue.pop()

    def peek(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next item, which stays; Empty if there was none in time."""
        if not self.queue:
            self.queue.append(self.get(block, timeout))
        return self.queue[-1]


class PriorityQueue(Queue):
    """The least first."""

    def _new(self, items: Iterable[Any]) -> Any:
        heap = list(items)
        heapq.heapify(heap)
        return heap

    def _push(self, item: Any) -> None:
        heapq.heappush(self.queue, item)

    def _pop(self) -> Any:
        return heapq.heappop(self.queue)

    def peek(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next item, which stays; Empty if there was none in time."""
        if not self.queue:
            heapq.heappush(self.queue, self.get(block, timeout))
        return self.queue[0]
