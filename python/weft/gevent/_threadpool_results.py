"""`imap` of thread pools: the results of many tasks, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .greenlet import Greenlet
from .lock import Semaphore
from .queue import Queue

if TYPE_CHECKING:
    from .threadpool import ThreadPool

__all__ = ()  # all of it is for the thread pool


class _Results:
    """Results of many tasks. A greenlet starts these as there is room, and puts what becomes of them into a queue."""

    def __init__(
        self,
        pool: ThreadPool,
        func: Callable[..., Any],
        items: Iterator[Any],
        maxsize: int | None,
        in_order: bool,
    ) -> None:
        self._room = Semaphore(maxsize) if maxsize else None
        self._started: Any = Queue()
        # How many were started; None as long as there may be more.
        self._left: int | None = None
        self._taken = 0
        Greenlet.spawn(self._start, pool, func, items, in_order)

    def _start(
        self, pool: ThreadPool, func: Callable[..., Any], items: Iterator[Any], in_order: bool
    ) -> None:
        count = 0
        try:
            for item in items:
                if self._room is not None:
                    self._room.acquire()
                result = pool.spawn(func, *item)
                count += 1
                if in_order:
                    self._started.put(result)
                else:
                    result.rawlink(self._started.put)
        except BaseException as error:
            count += 1
            self._started.put(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._left = count
            # Who waits already looks again.
            self._started.put(None)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while self._left is None or self._taken < self._left:
            result = self._started.get()
            if result is None:
                continue
            self._taken += 1
            if isinstance(result, BaseException):
                raise result
            if self._room is not None:
                self._room.release()
            return result.get()
        raise StopIteration
