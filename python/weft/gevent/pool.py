"""Greenlets taken together: groups, and groups of limited size. As gevent.pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from weft.greenlet import GreenletExit, getcurrent

from ._imap import IMap, IMapUnordered
from .event import Event
from .greenlet import Greenlet, joinall
from .hub import kill as _kill
from .lock import DummySemaphore, Semaphore
from .queue import Full
from .timeout import Timeout

__all__ = ["Group", "Pool", "PoolFull"]


class PoolFull(Full):
    """There was no room in a pool (in time)."""


class GroupMappingMixin:
    """Functions over many, for whatever has a `spawn` that gives something with `get()` and `rawlink()`."""

    __slots__ = ()

    def spawn(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Have `func(*args, **kwargs)` run; gives what its result is got from."""
        raise NotImplementedError

    def _apply_immediately(self) -> bool:
        """Whether who calls `apply` is to call the function himself."""
        raise NotImplementedError

    def _apply_async_use_greenlet(self) -> bool:
        """Whether `spawn` would wait, so that another greenlet has to do it."""
        raise NotImplementedError

    def _apply_async_cb_spawn(self, callback: Callable[[Any], Any], result: Any) -> None:
        """Call the callback, now or soon."""
        raise NotImplementedError

    def apply_cb(
        self, func: Callable[..., Any], args: Any = None, kwds: Any = None, callback: Any = None
    ) -> Any:
        """As `apply`; the callback is called with the result."""
        result = self.apply(func, args, kwds)
        if callback is not None:
            self._apply_async_cb_spawn(callback, result)
        return result

    def apply_async(
        self, func: Callable[..., Any], args: Any = None, kwds: Any = None, callback: Any = None
    ) -> Any:
        """As `apply` without waiting: gives the greenlet; `callback` is called with the result."""
        args, kwds = args or (), kwds or {}
        if self._apply_async_use_greenlet():
            return Greenlet.spawn(self.apply_cb, func, args, kwds, callback)
        greenlet = self.spawn(func, *args, **kwds)
        if callback is not None:
            greenlet.link(pass_value(callback))
        return greenlet

    def apply(self, func: Callable[..., Any], args: Any = None, kwds: Any = None) -> Any:
        """`func(*args, **kwds)`, as a rule in one of its greenlets; wait for the result."""
        args, kwds = args or (), kwds or {}
        if self._apply_immediately():
            return func(*args, **kwds)
        return self.spawn(func, *args, **kwds).get()

    def _map(self, func: Callable[..., Any], iterable: Iterable[Any]) -> list[Any]:
        return [each.get() for each in [self.spawn(func, item) for item in iterable]]

    def map(self, func: Callable[..., Any], iterable: Iterable[Any]) -> list[Any]:
        """The results of `func` for all items, in their order."""
        return list(Greenlet.spawn(self._map, func, iterable).get())

    def map_cb(self, func: Callable[..., Any], iterable: Iterable[Any], callback: Any = None) -> Any:
        """The same; the callback is called with the list."""
        result = self.map(func, iterable)
        if callback is not None:
            callback(result)
        return result

    def map_async(self, func: Callable[..., Any], iterable: Iterable[Any], callback: Any = None) -> Any:
        """The same without waiting: gives a greenlet with the list for its value."""
        return Greenlet.spawn(self.map_cb, func, iterable, callback)

    def imap(
        self, func: Callable[..., Any], *iterables: Iterable[Any], maxsize: int | None = None
    ) -> Iterator[Any]:
        """The results one after the other, in the order of the items; at most `maxsize` wait to be taken."""
        items = zip(*iterables, strict=False)
        return IMap.spawn(func, items, spawn=self.spawn, _zipped=True, maxsize=maxsize)

    def imap_unordered(
        self, func: Callable[..., Any], *iterables: Iterable[Any], maxsize: int | None = None
    ) -> Iterator[Any]:
        """The results one after the other, as they come."""
        items = zip(*iterables, strict=False)
        return IMapUnordered.spawn(func, items, spawn=self.spawn, _zipped=True, maxsize=maxsize)


class Group(GroupMappingMixin):
    """A set of greenlets; each leaves it when it ends."""

    greenlet_class: Any = Greenlet

    def __init__(self, *args: Any) -> None:
        if len(args) > 1:
            raise TypeError(f"{type(self).__name__} takes the greenlets as one iterable")
        self.greenlets: set[Any] = set(*args)
        self.dying: set[Any] = set()
        self._empty_event = Event()
        if not self.greenlets:
            self._empty_event.set()
        for each in self.greenlets:
            each.rawlink(self._discard)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {self.greenlets}>"

    def __len__(self) -> int:
        return len(self.greenlets)

    def __contains__(self, item: object) -> bool:
        return item in self.greenlets

    def __iter__(self) -> Iterator[Any]:
        return iter(self.greenlets)

    # --- members --------------------------------------------------------------------------------------------

    def add(self, greenlet: Any) -> None:
        """Take a greenlet in, until it ends."""
        # A plain greenlet has no links: whoever adds one discards it.
        if hasattr(greenlet, "rawlink"):
            greenlet.rawlink(self._discard)
        self.greenlets.add(greenlet)
        self._empty_event.clear()

    def _discard(self, greenlet: Any) -> None:
        greenlets = self.greenlets
        greenlets.discard(greenlet)
        if self.dying:
            self.dying.discard(greenlet)
        if not greenlets:
            self._empty_event.set()

    def discard(self, greenlet: Any) -> None:
        """Let a greenlet go, as its end does."""
        self._discard(greenlet)
        unlink = getattr(greenlet, "unlink", None)
        if unlink is not None:
            unlink(self._discard)

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
        """Wait until all have left. With `raise_error`, raise what one failed with. Whether all have left."""
        members = list(self.greenlets) if raise_error else ()
        result = self._empty_event.wait(timeout)
        for each in members:
            if each.exception is not None:
                if hasattr(each, "_raise_exception"):
                    each._raise_exception()
                raise each.exception
        return result

    def kill(self, exception: Any = GreenletExit, block: bool = True, timeout: float | None = None) -> None:
        """Raise the exception in all of them, and in those that they start meanwhile."""
        timer = Timeout._start_new_or_dummy(timeout)
        try:
            while self.greenlets:
                for each in list(self.greenlets):
                    if each in self.dying:
                        continue
                    kill = getattr(each, "kill", None)
                    if kill is None:
                        _kill(each, exception)
                    else:
                        kill(exception, block=False)
                    self.dying.add(each)
                if not block:
                    break
                joinall(self.greenlets)
        except Timeout as error:
            if error is not timer:
                raise
        finally:
            timer.cancel()

    def killone(
        self, greenlet: Any, exception: Any = GreenletExit, block: bool = True, timeout: float | None = None
    ) -> None:
        """Raise the exception in one of them."""
        if greenlet in self.greenlets and greenlet not in self.dying:
            greenlet.kill(exception, block=False)
            self.dying.add(greenlet)
            if block:
                greenlet.join(timeout)

    def full(self) -> bool:
        """Whether there is no room: never."""
        return False

    def wait_available(self, timeout: float | None = None) -> Any:
        """Wait until there is room: there is."""

    def _apply_immediately(self) -> bool:
        # A pool whose members wait for its members could wait for ever.
        return getcurrent() in self

    def _apply_async_cb_spawn(self, callback: Callable[[Any], Any], result: Any) -> None:
        Greenlet.spawn(callback, result)

    def _apply_async_use_greenlet(self) -> bool:
        return self.full()


class Pool(Group):
    """A group with room for `size` greenlets: to start another one waits for one of them to end."""

    def __init__(self, size: int | None = None, greenlet_class: Any = None) -> None:
        if size is not None and size < 0:
            raise ValueError(f"size must not be negative: {size!r}")
        super().__init__()
        self.size = size
        if greenlet_class is not None:
            self.greenlet_class = greenlet_class
        self._semaphore: Any = DummySemaphore(size) if size is None else Semaphore(size)

    def full(self) -> bool:
        """Whether there is no room."""
        return self.free_count() <= 0

    def free_count(self) -> int:
        """How many more there is room for."""
        return 1 if self.size is None else max(0, self.size - len(self))

    def wait_available(self, timeout: float | None = None) -> Any:
        """Wait until there is room; gives for how many."""
        return self._semaphore.wait(timeout=timeout)

    def start(self, greenlet: Any, blocking: bool = True, timeout: float | None = None) -> None:
        """Take in a greenlet and start it, waiting for room as `add` does."""
        self.add(greenlet, blocking, timeout)
        greenlet.start()

    def add(self, greenlet: Any, blocking: bool = True, timeout: float | None = None) -> None:
        """Take in a greenlet, waiting for room; PoolFull if there was none in time."""
        if not self._semaphore.acquire(blocking, timeout):
            raise PoolFull(f"all {self.size} places of {self!r} are taken")
        # As a group does, here for its speed: this and `_discard` are what a member costs.
        try:
            if hasattr(greenlet, "rawlink"):
                greenlet.rawlink(self._discard)
            self.greenlets.add(greenlet)
            self._empty_event.clear()
        except BaseException:
            self._semaphore.release()
            raise

    def _discard(self, greenlet: Any) -> None:
        greenlets = self.greenlets
        greenlets.discard(greenlet)
        if self.dying:
            self.dying.discard(greenlet)
        if not greenlets:
            self._empty_event.set()
        self._semaphore.release()


class pass_value:
    """A link that calls a function with the value, if there is one."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[Any], Any]) -> None:
        self.callback = callback

    def __call__(self, source: Any) -> None:
        if source.successful():
            self.callback(source.value)

    def __hash__(self) -> int:
        return hash(self.callback)

    def __eq__(self, other: object) -> bool:
        return bool(self.callback == getattr(other, "callback", other))

    def __str__(self) -> str:
        return str(self.callback)

    def __repr__(self) -> str:
        return repr(self.callback)
