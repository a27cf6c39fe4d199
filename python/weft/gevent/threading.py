"""What of `threading` is replaced so that its threads are greenlets. As gevent.threading.

The classes stay the standard library's: a `Thread` is one of them, made of a lock, an identity and a way to start that are
the greenlets'. Up to Python 3.12 the end of a thread is told by a lock which the interpreter releases (`_set_sentinel`), from 3.13
on by a handle; both are a greenlet's here.
"""

from __future__ import annotations

import sys
import threading as __threading__
import weakref
from typing import Any

from weft.greenlet import getcurrent

from .local import local
from .lock import RLock  # noqa: F401  what gevent.threading has for others
from .thread import (  # noqa: F401  some are what newer versions of `threading` are made of
    _handles,
    _make_thread_handle,
    _ThreadHandle,
    allocate_lock,
    get_ident,
    start_joinable_thread,
    start_new_thread,
)

_allocate_lock = allocate_lock
_get_ident = get_ident
_start_joinable_thread = start_joinable_thread
_start_new_thread = start_new_thread
Lock = allocate_lock

__implements__ = ["Lock", "_DummyThread", "_allocate_lock", "get_ident", "local"]
__extensions__: list[str] = []
if sys.version_info >= (3, 13):
    __implements__ += [
        "_ThreadHandle",
        "_make_thread_handle",
        "_start_joinable_thread",
    ]
else:
    __implements__ += ["_set_sentinel", "_start_new_thread"]

# Locks that the interpreter has made belong to threads; without them `RLock()` is made of the greenlets' locks.
_CRLock = None
if hasattr(__threading__, "_CRLock"):
    __implements__.append("_CRLock")
# Where newer releases keep the stand-in of a thread that `threading` did not start, for as long as it lives.
if hasattr(__threading__, "_thread_local_info"):
    _thread_local_info = local()
    __implements__.append("_thread_local_info")


def main_native_thread() -> __threading__.Thread:
    """The main thread."""
    return __threading__.main_thread()


def _set_sentinel() -> Any:
    """A lock that is released when the current greenlet has ended; whoever asked for it takes it first."""
    lock = allocate_lock()

    def release(_ended: object) -> None:
        if lock.locked():
            lock.release()

    greenlet: Any = getcurrent()
    link = getattr(greenlet, "rawlink", None)
    if link is not None:
        link(release)
    return lock


class _DummyThread(__threading__._DummyThread):
    """What stands for a greenlet that `threading` did not start. It is forgotten with the greenlet."""

    def __init__(self) -> None:
        super().__init__()
        greenlet: Any = getcurrent()
        number = get_ident(greenlet)

        def forget(_ended: object) -> None:
            if __threading__._active.get(number) is self:  # type: ignore[attr-defined]
                del __threading__._active[number]  # type: ignore[attr-defined]

        link = getattr(greenlet, "rawlink", None)
        if link is not None:
            link(forget)

        def forget_freed(ended: object) -> None:
            _watched.pop(number, None)
            forget(ended)

        # A plain greenlet tells nobody of its end, and the reference has to outlive this object.
        _watched[number] = weakref.ref(greenlet, forget_freed)

    _NEEDS_CLASS_FORK_FIXUP = hasattr(__threading__._DummyThread, "_after_fork")

    # In the child of a fork it may become the main thread, whose class is not this one's kin.
    if _NEEDS_CLASS_FORK_FIXUP:

        def _after_fork(self, new_ident: int | None = None) -> None:
            if new_ident is not None:
                self._name = "MainThread"
                self._daemonic = False
            __threading__.Thread._after_fork(self, new_ident=new_ident)  # type: ignore[attr-defined]

    def is_alive(self) -> bool:
        """Whether its greenlet runs."""
        return True


_watched: dict[int, Any] = {}


def _after_fork() -> None:
    """In the child of a fork, once `threading` has seen to it: the greenlet that forked is the main thread, and no other one
    is a thread any more, though it is still there."""
    current = getcurrent()
    for handle in list(_handles):
        if handle._get_greenlet() is not current and handle._had_greenlet:
            handle._set_done(enter_hub=False)
    threading: Any = __threading__
    if isinstance(threading._main_thread, _DummyThread):
        main = threading._MainThread()
        main._ident = get_ident()
        threading._active.clear()
        threading._active[main._ident] = main
        threading._main_thread = main


def _gevent_will_monkey_patch(native_module: Any, items: Any, warn: Any) -> None:
    """Before anything is replaced."""
    if native_module.current_thread() is not main_native_thread():
        warn(
            "Monkey-patching outside the main native thread. Some APIs will not be available. "
            "Expect a KeyError to be printed at shutdown."
        )
