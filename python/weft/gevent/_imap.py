"""Functions over many items, whose results are gone through as they come, or in the order of the items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .greenlet import Greenlet
from .lock import Semaphore
from .queue import UnboundQueue

__all__ = ["IMap", "IMapUnordered"]


class _Failure:
    """Something to be raised where a result would be."""

    __slots__ = ("error", "reraise")

    def __init__(self, error: BaseException, reraise: Callable[[], Any] | None = None) -> None:
        self.error = error
        self.reraise = reraise

    def raise_it(self) -> None:
        if self.reraise is not None:
            self.reraise()
        raise self.error


class IMapUnordered(Greenlet):
    """Spawns `func` for each item, and is an iterator over the results as they come.

    At most `maxsize` results wait to be taken; None or 0 is any number.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        spawn: Callable[..., Any],
        maxsize: int | None = None,
        _zipped: bool = False,
    ) -> None:
        super().__init__()
        self.func: Any = func
        self.iterable: Any = iterable
        self._spawn: Any = spawn
        self.queue = UnboundQueue()
        self.finished = False
        self._zipped = _zipped
        # Bounding the queue would not do: a greenlet that waits at it has its result already.
        self._room = Semaphore(maxsize) if maxsize else None
        self._running = 0
        self._last = -1

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._room is not None:
            self._room.release()
        result = self._next()
        if isinstance(result, _Failure):
            result.raise_it()
        return result

    def _next(self) -> Any:
        return self.queue.get()

    def _run(self) -> None:
        try:
            for item in self.iterable:
                self._last += 1
                if self._room is not None:
                    self._room.acquire()
                self._running += 1
                started = self._spawn(self.func, *item) if self._zipped else self._spawn(self.func, item)
                started._imap_task_index = self._last
                started.rawlink(self._on_result)
            if not self.finished and self._running <= 0:
                self._finish(_Failure(StopIteration()))
        except BaseException as error:
            if not self.finished:
                self._finish(_Failure(error, self._raise_exception))
            raise
        finally:
            self._spawn = self.func = self.iterable = self._room = None

    def _finish(self, result: Any) -> None:
        self.finished = True
        self.queue.put(self._numbered(self._last + 1, result))

    def _on_result(self, greenlet: Any) -> None:
        """In the hub."""
        self._running -= 1
        result = (
            greenlet.value
            if greenlet.successful()
            else _Failure(greenlet.exception, greenlet._raise_exception)
        )
        last = self.ready() and self._running <= 0 and not self.finished
        self.queue.put(self._numbered(greenlet._imap_task_index, result))
        if last:
            self._finish(_Failure(StopIteration()))

    def _numbered(self, index: int, result: Any) -> Any:
        return result


class IMap(IMapUnordered):
    """The same in the order of the items."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.index = 0
        self._early: dict[int, Any] = {}
        super().__init__(*args, **kwargs)

    def _numbered(self, index: int, result: Any) -> Any:
        return index, result

    def _next(self) -> Any:
        while self.index not in self._early:
            index, result = self.queue.get()
            self._early[index] = result
        result = self._early.pop(self.index)
        self.index += 1
        return result
