"""c-ares in a loop: its sockets and its clock are watched by the hub, and who asks waits there.

c-ares calls back from inside its own functions, where nobody may switch: an outcome is noted, and whoever waits for it goes on later.
"""

from __future__ import annotations

import _queue
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

try:
    import pycares
except ImportError as _missing:
    raise ImportError(
        "the resolver 'ares' needs pycares, 5 or newer: pip install pycares", name=_missing.name
    ) from _missing

from .. import monkey
from ..event import AsyncResult

__all__ = ["Channel", "errors"]

# What a status means.
errors = pycares.errno

_NO_SOCKET = pycares.ARES_SOCKET_BAD
# So soon, in seconds, it is looked again if c-ares says that something is due now: it rounds down.
_SOONEST = 0.001
_READ, _WRITE = 1, 2


class _Question:
    """What c-ares calls with an outcome: a result and None, or None and a status. Once, or never, if pycares fails to read
    an answer: then it lets go of this, and that is the outcome."""

    __slots__ = ("outcome",)

    def __init__(self, outcome: AsyncResult) -> None:
        self.outcome = outcome

    def __call__(self, result: Any, status: int | None) -> None:
        self.outcome.set((result, status))

    def __del__(self) -> None:
        if not self.outcome.ready():
            self.outcome.set((None, errors.ARES_EBADRESP))


class Channel:
    """A channel of c-ares', made with the options of `pycares.Channel`, for greenlets of one hub."""

    def __init__(self, hub: Any, options: dict[str, Any]) -> None:
        self._hub = hub
        self._options = options
        self._watchers: dict[int, Any] = {}
        self._timer: Any = None
        self._waiting: set[AsyncResult] = set()
        self._pid = os.getpid()
        self._closed = False
        self.cares: Any = self._make()
        # Neither keeps this from being garbage.
        notice = _weakly(self.after_fork)
        self._fork_watcher = hub.loop.fork(ref=False)
        self._fork_watcher.start(notice)

    def _make(self) -> Any:
        _have_destroyer()
        return pycares.Channel(sock_state_cb=_weakly(self._note_socket), **self._options)

    # --- questions ----------------------------------------------------------------------------------------------------

    def ask(self, method: str, *arguments: Any, **options: Any) -> tuple[Any, int | None]:
        """Call a method of c-ares', and park until its outcome is there: a result and None, or None and a status."""
        while True:
            if self._closed:
                raise RuntimeError("the resolver was closed")
            self.after_fork()
            asked = self.cares
            outcome: AsyncResult = AsyncResult()
            with self._waits(outcome):
                getattr(asked, method)(*arguments, callback=_Question(outcome), **options)
                self._set_timer()
                result, status = outcome.get()
            if asked is self.cares or self._closed:
                return result, status
            # This is the child of a fork that happened meanwhile: the answer goes to the parent.

    @contextmanager
    def _waits(self, outcome: AsyncResult) -> Iterator[None]:
        self._waiting.add(outcome)
        if len(self._waiting) == 1:
            self._refer(True)
        try:
            yield
        finally:
            self._waiting.discard(outcome)
            if not self._waiting:
                # A question that nobody waits for any more keeps no loop from ending.
                self._refer(False)

    def _refer(self, value: bool) -> None:
        for watcher in (*self._watchers.values(), self._timer):
            if watcher is not None:
                watcher.ref = value

    # --- what c-ares waits for ------------------------------------------------------------------------------------------

    def _note_socket(self, descriptor: int, readable: bool, writable: bool) -> None:
        """Called by c-ares with what it wants to know of a socket, and before it closes one."""
        if self._closed:
            return  # in the thread that destroys it
        watcher = self._watchers.pop(descriptor, None)
        if watcher is not None:
            watcher.close()
        events = (_READ if readable else 0) | (_WRITE if writable else 0)
        if events:
            watcher = self._hub.loop.io(descriptor, events, ref=bool(self._waiting))
            self._watchers[descriptor] = watcher
            # What happened takes the place of the first argument.
            watcher.start(_weakly(self._process), 0, descriptor, pass_events=True)

    def _process(self, events: int, descriptor: int) -> None:
        if not self._closed:
            self.cares.process_fd(
                descriptor if events & _READ else _NO_SOCKET, descriptor if events & _WRITE else _NO_SOCKET
            )
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        if self._closed or not (self._waiting or self._watchers):
            return
        self._timer = self._hub.loop.timer(max(self.cares.timeout(), _SOONEST), ref=bool(self._waiting))
        self._timer.start(_weakly(self._tick))

    def _tick(self) -> None:
        if not self._closed:
            self.cares.process_fd(_NO_SOCKET, _NO_SOCKET)
            self._set_timer()

    # --- its end ----------------------------------------------------------------------------------------------------------

    def _unwatch(self) -> None:
        for watcher in (*self._watchers.values(), self._timer):
            if watcher is not None:
                watcher.close()
        self._watchers.clear()
        self._timer = None

    def after_fork(self) -> None:
        """In the child of a fork: what was asked is asked again, by sockets of its own."""
        pid = os.getpid()
        if pid == self._pid or self._closed:
            return
        self._pid = pid
        # The parent's sockets are left as they are.
        self._unwatch()
        _forget_destroyer()
        self.cares = self._make()
        for outcome in self._waiting:
            outcome.set((None, None))

    def close(self) -> None:
        """End all questions, with ARES_ECANCELLED."""
        if self._closed:
            return
        # Its sockets are closed with the last question, and then not watched any more.
        self.cares.cancel()
        self._closed = True
        self._unwatch()
        self._fork_watcher.close()
        self.cares.close()
        for outcome in self._waiting:
            if not outcome.ready():
                outcome.set((None, errors.ARES_ECANCELLED))

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method of an object, which is not held by it; nothing once that is gone."""
    known = weakref.WeakMethod(method)

    def call(*arguments: Any) -> None:
        alive = known()
        if alive is not None:
            alive(*arguments)

    return call


# pycares destroys channels in a thread, which it starts by `threading` with the first one. Where that is patched it
# would be a greenlet that waits for its queue, and all others with it.


def _have_destroyer() -> None:
    manager = pycares._shutdown_manager
    if manager._thread is None and monkey.is_module_patched("threading"):
        manager._queue = _queue.SimpleQueue()
        start = monkey.get_original("_thread", "start_new_thread")
        manager._thread = start(manager._run_safe_shutdown_loop, ())


def _forget_destroyer() -> None:
    # It does not exist in the child of a fork, and its queue may be under a lock.
    manager = pycares._shutdown_manager
    manager._queue = _queue.SimpleQueue()
    manager._thread = None
