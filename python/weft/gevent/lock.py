"""Locks between greenlets. As gevent.lock."""

from __future__ import annotations

from typing import Any

from weft.greenlet import getcurrent

from . import _hub

__all__ = ["BoundedSemaphore", "DummySemaphore", "RLock", "Semaphore"]


class Semaphore(_hub.SemaphoreBase):
    """A counter that `acquire` takes one from, waiting until it is positive, and `release` adds one to.

    Threads may share it, with or without hubs of their own.
    """

    __slots__ = ()

    def _start_notify(self) -> None:
        self._check_and_notify()

    def _py3k_acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        return self.acquire(blocking, timeout)

    def __str__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} counter={self.counter} _links[{self.linkcount()}]>"

    __repr__ = __str__


class BoundedSemaphore(_hub.BoundedSemaphoreBase):
    """A semaphore that refuses to be released more often than it was acquired."""

    __slots__ = ()

    _OVER_RELEASE_ERROR = ValueError

    _start_notify = Semaphore._start_notify
    _py3k_acquire = Semaphore._py3k_acquire
    __str__ = Semaphore.__str__
    __repr__ = Semaphore.__str__


class DummySemaphore:
    """A semaphore that never makes anybody wait."""

    def __init__(self, value: int | None = None) -> None:
        pass

    def __str__(self) -> str:
        return f"<{type(self).__name__}>"

    def locked(self) -> bool:
        """Never."""
        return False

    def ready(self) -> bool:
        """Always."""
        return True

    def rawlink(self, callback: Any) -> None:
        """Nothing."""

    def unlink(self, callback: Any) -> None:
        """Nothing."""

    def wait(self, timeout: float | None = None) -> int:
        """At once."""
        return 1

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

    __slots__ = ("__weakref__", "_block", "_count", "_owner")

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
            raise RuntimeError(
                f"cannot release un-acquired lock. Owner: {self._owner!r} Current: {getcurrent()!r}"
            )
        self._count -= 1
        if not self._count:
            self._owner = None
            self._block.release()

    def locked(self) -> bool:
        """Whether somebody holds it."""
        return self._count > 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    # What conditions do around a wait.

    def _acquire_restore(self, count_owner: tuple[int, Any]) -> None:
        count, owner = count_owner
        self._block.acquire()
        self._count = count
        self._owner = owner

    def _release_save(self) -> tuple[int, Any]:
        saved = (self._count, self._owner)
        self._count, self._owner = 0, None
        self._block.release()
        return saved

    def _is_owned(self) -> bool:
        return self._owner is getcurrent()

    def _at_fork_reinit(self) -> None:
        self._block = Semaphore(1)
        self._owner = None
        self._count = 0

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} at {id(self):#x} _block={self._block} "
            f"_count={self._count!r} _owner={self._owner!r})>"
        )
