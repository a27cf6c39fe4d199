"""What an executor gives out: results of a thread pool as futures of `concurrent.futures`."""

from __future__ import annotations

import concurrent.futures
import sys
from collections.abc import Callable
from concurrent.futures import _base as _futures
from typing import Any

from . import monkey
from ._util import Lazy
from .event import AsyncResult
from .hub import get_hub

__all__ = ()  # all of it is for the thread pool


class _FutureProxy:
    """An AsyncResult as a future. `concurrent.futures.wait` and `as_completed` take it if `threading` is patched, or it is
    done: else they would block the thread, the loop with it; `gevent.wait` does not."""

    def __init__(self, asyncresult: AsyncResult) -> None:
        self.asyncresult = asyncresult

    @property
    def _condition(self) -> Any:
        known = self.__dict__.get("_own_condition")
        if known is None:
            if not monkey.is_module_patched("threading") and not self.done():
                raise AttributeError("_condition")
            import threading

            known = self._own_condition = threading.Condition()
        return known

    @Lazy
    def _waiters(self) -> list[Any]:
        waiters: list[Any] = []

        def tell(_: object) -> None:
            for waiter in waiters:
                if self.asyncresult.successful():
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)

        self.asyncresult.rawlink(tell)
        return waiters

    @property
    def _state(self) -> str:
        return _futures.FINISHED if self.done() else _futures.RUNNING

    def done(self) -> bool:
        """Whether there is a result."""
        return self.asyncresult.ready()

    def set_running_or_notify_cancel(self) -> None:
        """Nothing: it runs."""

    def _wait(self, timeout: float | None) -> None:
        self.asyncresult.wait(timeout)
        if not self.done():
            raise concurrent.futures.TimeoutError

    def result(self, timeout: float | None = None) -> Any:
        """The result, waiting for it."""
        self._wait(timeout)
        return self.asyncresult.get()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What it failed with, waiting for that, or None."""
        self._wait(timeout)
        return self.asyncresult.exception

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        """Have `fn(self)` called when it is done; at once, if it is."""
        if self.done():
            fn(self)
            return

        def call(_: object) -> None:
            try:
                fn(self)
            except Exception:
                get_hub().print_exception((fn, self), *sys.exc_info())

        self.asyncresult.rawlink(call)

    def rawlink(self, fn: Callable[[Any], Any]) -> None:
        """Have the hub call `fn(self)` when it is done."""
        self.asyncresult.rawlink(_ForFuture(self, fn))

    def unlink(self, fn: Callable[[Any], Any]) -> None:
        """Do not call it."""
        self.asyncresult.unlink(_ForFuture(self, fn))

    def __str__(self) -> str:
        return str(self.asyncresult)

    def __getattr__(self, name: str) -> Any:
        if name == "_condition":
            raise AttributeError(
                "_condition: concurrent.futures.wait() would block the thread; use gevent.wait()"
            )
        return getattr(self.asyncresult, name)


class _ForFuture:
    """A link of the AsyncResult that calls the future's."""

    def __init__(self, future: _FutureProxy, function: Callable[[Any], Any]) -> None:
        self._future = future
        self._function = function

    def __call__(self, _: object) -> None:
        self._function(self._future)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ForFuture) and other._function == self._function

    def __hash__(self) -> int:
        return hash(self._function)
