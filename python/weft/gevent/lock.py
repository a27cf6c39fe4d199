"""Locks between the greenlets of a thread. As gevent.lock."""

from __future__ import annotations

from collections import deque
from typing import Any

from weft.greenlet import getcurrent

from .hub import Waiter, get_hub
from .timeout import Timeout, start_or_never

__all__ = ["BoundedSemaphore", "DummySemaphore", "RLock", "Semaphore"]


class Semaphore:
    """A counter that `acquire` takes one from, waiting until it is positive, and `release` adds one to."""

    def __init__(self, value: int = 1, hub: Any = None) -> None:
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        self.counter = value
        self.hub = hub
        self._waiting: deque[Waiter] = deque()

    def locked(self) -> bool:
        """Whether `acquire` would wait."""
        return self.counter <= 0

    def ready(self) -> bool:
        """Whether `acquire` would not wait."""
        return self.counter > 0

    def linkcount(self) -> int:
        """How many greenlets wait."""
        return len(self._waiting)

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take one. False if there was none (in time)."""
        if self.counter > 0:
            self.counter -= 1
            return True
        if not blocking:
            return False
        hub = self.hub = get_hub()
        waiter = Waiter(hub)
        self._waiting.append(waiter)
        given = False
        try:
            with start_or_never(timeout) as timer:
                try:
                    given = waiter.get()
                except Timeout as error:
                    if error is not timer:
                        raise
            return given
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def release(self) -> int:
        """Add one; who has waited longest gets it."""
        self.counter += 1
        if self._waiting:
            self._serve_soon()
        return self.counter

    def _serve_soon(self) -> None:
        hub = self.hub
        post = hub.loop.run_callback if hub is get_hub() else hub.loop.run_callback_threadsafe
        post(self._serve)

    def _serve(self) -> None:
        """In the hub."""
        while self.counter > 0 and self._waiting:
            self.counter -= 1
            self._waiting.popleft().switch(True)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until `acquire` would not wait; return the counter."""
        if self.acquire(timeout=timeout):
            self.release()
        return self.counter

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} counter={self.counter} _links[{len(self._waiting)}]>"


class BoundedSemaphore(Semaphore):
    """A semaphore that refuses to be released more often than it was acquired."""

    _OVER_RELEASE_ERROR = ValueError

    def __init__(self, value: int = 1, hub: Any = None) -> None:
        super().__init__(value, hub)
        self._initial_value = value

    def release(self) -> int:
        """Add one; who has waited longest gets it."""
        if self.counter >= self._initial_value:
            raise self._OVER_RELEASE_ERROR("Semaphore released too many times")
        return super().release()


class DummySemaphore:
    """A semaphore that never makes anybody wait."""

    def __init__(self, value: int | None = None) -> None:
        pass

    def locked(self) -> bool:
        """Never."""
        return False

    def ready(self) -> bool:
        """Always."""
        return True

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """At once."""
        return True

    def release(self) -> None:
        """Nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        pass


class RLock:
    """A lock that its holder, a greenlet, may take again."""

    def __init__(self, hub: Any = None) -> None:
        self._block = Semaphore(1, hub)
        self._owner: Any = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take it. False if another one held it (all the time)."""
        me = getcurrent()
        if self._owner is me:
            self._count += 1
            return True
        taken = self._block.acquire(blocking, timeout)
        if taken:
            self._owner = me
            self._count = 1
        return taken

    def release(self) -> None:
        """Give it back, once for each time it was taken."""
        if self._owner is not getcurrent():
            raise RuntimeError(f"cannot release un-acquired lock: its owner is {self._owner!r}")
        self._count -= 1
        if not self._count:
            self._owner = None
            self._block.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} _count={self._count} _owner={self._owner!r}>"
