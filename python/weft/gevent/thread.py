"""The module `_thread`, whose threads are greenlets. As gevent.thread."""

from __future__ import annotations

import _thread
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

from weft.greenlet import GreenletExit, getcurrent

from ._util import take_over
from .exceptions import LoopExit
from .greenlet import Greenlet
from .hub import get_hub_if_exists, get_thread_ident, sleep
from .local import local as _local  # noqa: F401
from .lock import BoundedSemaphore

__target__ = "_thread"
__implements__ = [
    "LockType",
    "_local",
    "allocate_lock",
    "exit",
    "get_ident",
    "stack_size",
    "start_new_thread",
]
if sys.version_info >= (3, 13):
    __implements__ += ["_ThreadHandle", "_make_thread_handle", "lock", "start_joinable_thread"]
__imports__ = take_over(
    _thread,
    globals(),
    (
        "RLock",
        "TIMEOUT_MAX",
        "allocate",
        "daemon_threads_allowed",
        "error",
        "exit_thread",
        "get_native_id",
        "interrupt_main",
        "set_name",
        "start_new",
    ),
)
__all__ = [*(name for name in __implements__ if name != "_local"), *__imports__]
_native_ident = get_thread_ident
_original_stack_size = _thread.stack_size
_TIMEOUT_MAX = _thread.TIMEOUT_MAX


def get_ident(gr: Any = None) -> int:
    """A number that no other greenlet has as long as this one lives. That of a thread's main greenlet is the thread's own,
    so whatever was noted for the thread before there were others in it still holds."""
    try:
        current = getcurrent()
    except RuntimeError:
        return _native_ident()  # the thread is coming to its end
    if gr is None:
        gr = current
    if gr.parent is not None:
        return id(gr)
    known = gr.__dict__.get("_thread_ident")
    if known is None:
        if gr is not current:
            return id(gr)
        known = gr.__dict__["_thread_ident"] = _native_ident()
    return int(known)


def start_new_thread(function: Callable[..., Any], args: Any = (), kwargs: Any = None) -> int:
    """Have a new greenlet run the function; its `get_ident()`."""
    return get_ident(Greenlet.spawn(function, *args, **(kwargs or {})))


def exit() -> None:
    """End the current greenlet."""
    raise GreenletExit


def stack_size(size: int | None = None) -> int | None:
    """The least that stacks of threads are to have. Those of greenlets are as large as they have to be."""
    if size is None:
        return _original_stack_size()
    if size > _original_stack_size():
        return _original_stack_size(size)
    if size and size < 32768:
        raise ValueError(f"size not valid: {size} bytes")
    return 0


class LockType(BoundedSemaphore):
    """A lock between greenlets, as _thread.lock is between threads."""

    _OVER_RELEASE_ERROR: Any = _thread.error

    def __init__(self) -> None:
        super().__init__()

    def __init_subclass__(cls) -> None:
        raise TypeError("type 'lock' is not an acceptable base type")

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Take it. False if another one held it (all the time). Not to wait lets others run, too."""
        if timeout == -1:
            timeout = None
        if timeout is not None:
            if not blocking:
                raise ValueError("can't specify a timeout for a non-blocking call")
            if timeout < 0:
                raise ValueError("timeout value must be strictly positive")
            if timeout > _TIMEOUT_MAX:
                raise OverflowError("timeout value is too large")
        try:
            acquired = super().acquire(blocking, timeout)
        except LoopExit:
            if blocking:
                raise
            acquired = False
        if not acquired and not blocking and getcurrent() is not get_hub_if_exists():
            # Who tries until it succeeds would otherwise try for ever.
            sleep()
        return bool(acquired)


allocate_lock = LockType
lock = LockType


_handles: weakref.WeakSet[_ThreadHandle] = weakref.WeakSet()


class _ThreadHandle:
    """What `threading.Thread` holds of a thread from Python 3.13 on, for one that is a greenlet."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self._greenlet: weakref.ref[Any] | None = None
        self._had_greenlet = False

    def _set_greenlet(self, greenlet: Any) -> None:
        _handles.add(self)
        self._greenlet = weakref.ref(greenlet)
        self._had_greenlet = True

    def _get_greenlet(self) -> Any:
        return None if self._greenlet is None else self._greenlet()

    @property
    def ident(self) -> int | None:
        """The greenlet's number; None once it is gone."""
        greenlet = self._get_greenlet()
        return None if greenlet is None else get_ident(greenlet)

    def is_done(self) -> bool:
        """Whether it has ended."""
        greenlet = self._get_greenlet()
        return True if greenlet is None else bool(greenlet.dead)

    def join(self, timeout: float | None = -1) -> None:
        """Wait until it has ended."""
        if not self._had_greenlet:
            raise RuntimeError("thread not started")
        greenlet = self._get_greenlet()
        if greenlet is None:
            return
        if greenlet is getcurrent():
            raise RuntimeError("Cannot join current thread")
        if timeout is not None and timeout < 0:
            timeout = None
        if hasattr(greenlet, "join"):
            greenlet.join(timeout)
            return
        # A plain greenlet tells nobody of its end.
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_done() and (end is None or time.monotonic() < end):
            sleep(0.001)

    def _set_done(self, enter_hub: bool = True) -> None:
        if not self._had_greenlet:
            raise RuntimeError("thread not started")
        self._greenlet = None
        if enter_hub:
            # Who waits for it goes on.
            sleep(0.001)

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__}.{kind.__name__} at {id(self):#x} greenlet={self._get_greenlet()!r}>"


def start_joinable_thread(
    function: Callable[[], Any], handle: Any = None, daemon: bool = True
) -> _ThreadHandle:
    """Have a new greenlet run the function; the handle by which to wait for it."""
    if handle is None:
        handle = _ThreadHandle()
    if not isinstance(handle, _ThreadHandle):
        raise AssertionError(f"not a handle of a greenlet: {handle!r}")
    if handle._had_greenlet:
        raise RuntimeError("thread already started")
    handle._set_greenlet(Greenlet.spawn(function))
    return handle


def _make_thread_handle(*_args: Any) -> _ThreadHandle:
    """A handle of the current greenlet."""
    handle = _ThreadHandle()
    handle._set_greenlet(getcurrent())
    return handle
