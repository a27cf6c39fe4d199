"""Greenlets taken together: groups, and groups of limited size. As gevent.pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from weft.greenlet import GreenletExit

from .event import Event
from .greenlet import Greenlet, joinall, killall
from .lock import Semaphore
from .queue import Queue
from .timeout import Timeout

__all__ = ["Group", "Pool", "PoolFull"]


class PoolFull(Exception):
    """There was no room in a pool (in time)."""


class Group:
    """A set of greenlets; each leaves it when it ends."""

    greenlet_class = Greenlet

    def __init__(self, *args: Any) -> None:
        if len(args) > 1:
            raise TypeError(f"{type(self).__name__} takes the greenlets as one iterable")
        self.greenlets: set[Any] = set()
        self.dying: set[Any] = set()
        self._empty = Event()
        self._empty.set()
        for each in args[0] if args else ():
            self.add(each)

    def __len__(self) -> int:
        return len(self.greenlets)

    def __contains__(self, item: object) -> bool:
        return item in self.greenlets

    def __iter__(self) -> Iterator[Any]:
        return iter(self.greenlets)

    # --- members --------------------------------------------------------------------------------------------

    def add(self, greenlet: Any) -> None:
        """Take a greenlet in, until it ends."""
        self.greenlets.add(greenlet)
        self._empty.clear()
        # A plain greenlet has no links: whoever adds one discards it.
        link = getattr(greenlet, "rawlink", None)
        if link is not None:
            link(self._discard)

    def discard(self, greenlet: Any) -> None:
        """Let a greenlet go, as its end does."""
        self._discard(greenlet)
        unlink = getattr(greenlet, "unlink", None)
        if unlink is not None:
            unlink(self._discard)

    def _discard(self, greenlet: Any) -> None:
        self.greenlets.discard(greenlet)
        self.dying.discard(greenlet)
        if not self.greenlets:
            self._empty.set()

    def start(self, greenlet: Any) -> None:
        """Take in a greenlet that was not started, and start it."""
        self.add(greenlet)
        greenlet.start()

    def spawn(self, *args: Any, **kwargs: Any) -> Any:
        """Have a new greenlet run `args[0](*args[1:], **kwargs)`."""
        greenlet = self.greenlet_class(*args, **kwargs)
        self.start(greenlet)
        return greenlet

    # --- waiting, ending ------------------------------------------------------------------------------------

    def join(self, timeout: float | None = None, raise_error: bool = False) -> bool:
        """Wait until all have left. With `raise_error`, raise what the first failed with. Whether all have."""
        members = list(self.greenlets)
        if raise_error:
            joinall(members, timeout=timeout, raise_error=True)
        return self._empty.wait(timeout)

    def kill(self, exception: Any = GreenletExit, block: bool = True, timeout: float | None = None) -> None:
        """Raise the exception in all of them, and in those that they start meanwhile."""
        with Timeout(timeout, False):
            while self.greenlets:
                for each in list(self.greenlets):
                    if each not in self.dying:
                        self.dying.add(each)
                        killall([each], exception, block=False)
                if not block:
                    break
                joinall(self.greenlets)

    def killone(
        self, greenlet: Any, exception: Any = GreenletExit, block: bool = True, timeout: float | None = None
    ) -> None:
        """Raise the exception in one of them."""
        if greenlet in self.greenlets and greenlet not in self.dying:
            self.dying.add(greenlet)
            greenlet.kill(exception, block=block, timeout=timeout)

    def full(self) -> bool:
        """Whether there is no room: never."""
        return False

    def wait_available(self, timeout: float | None = None) -> Any:
        """Wait until there is room: there is."""

    # --- functions over many --------------------------------------------------------------------------------

    def apply(self, func: Callable[..., Any], args: Any = None, kwds: Any = None) -> Any:
        """`func(*args, **kwds)`, in one of its greenlets; wait for the result."""
        return self.spawn(func, *(args or ()), **(kwds or {})).get()

    def apply_async(
        self, func: Callable[..., Any], args: Any = None, kwds: Any = None, callback: Any = None
    ) -> Any:
        """The same without waiting: gives the greenlet; `callback` is called with the result."""
        greenlet = self.greenlet_class(func, *(args or ()), **(kwds or {}))
        if callback is not None:
            greenlet.link_value(lambda source: callback(source.value))
        # Where there is no room yet, another greenlet waits for it.
        if self.full():
            Greenlet.spawn(self.start, greenlet)
        else:
            self.start(greenlet)
        return greenlet

    def map(self, func: Callable[..., Any], iterable: Iterable[Any]) -> list[Any]:
        """The results of `func` for all items, in their order."""
        return list(self.imap(func, iterable))

    def map_async(self, func: Callable[..., Any], iterable: Iterable[Any], callback: Any = None) -> Any:
        """The same without waiting: gives a greenlet with the list for its value."""
        greenlet = Greenlet.spawn(self.map, func, iterable)
        if callback is not None:
            greenlet.link_value(lambda source: callback(source.value))
        return greenlet

    def imap(
        self, func: Callable[..., Any], *iterables: Iterable[Any], maxsize: int | None = None
    ) -> Iterator[Any]:
        """The results one after the other, in the order of the items; at most `maxsize` wait to be taken."""
        started = self._start_all(func, zip(*iterables, strict=False), maxsize, in_order=True)
        return self._results(started)

    def imap_unordered(
        self, func: Callable[..., Any], *iterables: Iterable[Any], maxsize: int | None = None
    ) -> Iterator[Any]:
        """The results one after the other, as they come."""
        started = self._start_all(func, zip(*iterables, strict=False), maxsize, in_order=False)
        return self._results(started)

    def _start_all(
        self, func: Callable[..., Any], items: Iterable[Any], maxsize: int | None, in_order: bool
    ) -> Queue:
        """A queue of greenlets, in the order of the items, or of their ends; None comes last."""
        results = Queue()
        room = Semaphore(maxsize) if maxsize else None

        def start() -> None:
            running = []
            try:
                for item in items:
                    if room is not None:
                        room.acquire()
                    greenlet = self.spawn(func, *item)
                    if in_order:
                        results.put(greenlet)
                    else:
                        running.append(greenlet)
                        greenlet.rawlink(results.put)
            except Exception as error:
                results.put(error)
            joinall(running)
            # Behind the links of the last one.
            results.put(None)

        Greenlet.spawn(start)
        results.room = room  # type: ignore[attr-defined]
        return results

    @staticmethod
    def _results(started: Any) -> Iterator[Any]:
        while (greenlet := started.get()) is not None:
            if started.room is not None:
                started.room.release()
            if isinstance(greenlet, Exception):
                raise greenlet
            yield greenlet.get()


class Pool(Group):
    """A group with room for `size` greenlets: to start another one waits for one of them to end."""

    def __init__(self, size: int | None = None, greenlet_class: Any = None) -> None:
        if size is not None and size < 0:
            raise ValueError(f"size must not be negative: {size!r}")
        super().__init__()
        self.size = size
        if greenlet_class is not None:
            self.greenlet_class = greenlet_class
        self._room: Semaphore | None = None if size is None else Semaphore(size)

    def full(self) -> bool:
        """Whether there is no room."""
        return self.free_count() <= 0

    def free_count(self) -> int:
        """How many more there is room for."""
        return 1 if self.size is None else max(0, self.size - len(self))

    def wait_available(self, timeout: float | None = None) -> Any:
        """Wait until there is room."""
        return None if self._room is None else self._room.wait(timeout=timeout)

    def start(self, greenlet: Any, blocking: bool = True, timeout: float | None = None) -> None:
        """Take in a greenlet and start it, waiting for room; PoolFull if there was none in time."""
        self.add(greenlet, blocking, timeout)
        greenlet.start()

    def add(self, greenlet: Any, blocking: bool = True, timeout: float | None = None) -> None:
        """Take in a greenlet, waiting for room; PoolFull if there was none in time."""
        if self._room is not None and not self._room.acquire(blocking=blocking, timeout=timeout):
            raise PoolFull(f"all {self.size} places of {self!r} are taken")
        super().add(greenlet)

    def _discard(self, greenlet: Any) -> None:
        was_in = greenlet in self.greenlets
        super()._discard(greenlet)
        if was_in and self._room is not None:
            self._room.release()
