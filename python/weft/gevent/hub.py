"""A thread's hub: the greenlet that runs the loop while all others wait. As gevent.hub."""

from __future__ import annotations

import _thread
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from weft.greenlet import GreenletExit, getcurrent, greenlet

from . import _hub
from ._hub_services import HubServices, after_fork
from ._waiter import Waiter
from ._waits import who_waits
from .exceptions import (
    BlockingSwitchOutError,
    ConcurrentObjectUseError,
    HubDestroyed,
    InvalidSwitchError,
    InvalidThreadUseError,
    LoopExit,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "GreenletExit",
    "Hub",
    "LoopExit",
    "Waiter",
    "get_hub",
    "getcurrent",
    "idle",
    "kill",
    "set_default_hub_class",
    "set_hub",
    "signal",
    "sleep",
    "spawn_raw",
]


class cancel_wait_ex(OSError):
    """Raised where a greenlet waited for a descriptor that another one closed."""

    def __init__(self) -> None:
        super().__init__(9, "File descriptor was closed in another greenlet")


_hub.set_exceptions(InvalidSwitchError, ConcurrentObjectUseError, cancel_wait_ex)
_hub.set_face("invalid_switch", InvalidSwitchError)
_hub.set_face("concurrent_use", ConcurrentObjectUseError)
_hub.set_face("invalid_thread", InvalidThreadUseError)

# Threads as the system knows them: `_thread` and `threading` may be patched, and then mean greenlets.
get_thread_ident = _thread.get_ident
_main_thread = threading.main_thread().ident


def _after_fork() -> None:
    global _main_thread
    _main_thread = get_thread_ident()


os.register_at_fork(after_in_child=_after_fork)


class _Waiting:
    """The greenlets and coroutines of a hub that wait, as lines; they are looked for when somebody wants to
    see them, as that takes a while."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def __iter__(self) -> Iterator[str]:
        return iter(who_waits(self._hub))

    def __repr__(self) -> str:
        return repr(list(self))


class Hub(HubServices, greenlet):
    """The greenlet that runs a thread's loop. There is one a thread; `get_hub` makes it.

    Whoever waits switches to it, and is switched back to when what it waits for has come.
    """

    # What ends a greenlet without being worth a traceback, and what is passed on to the main greenlet.
    NOT_ERROR: tuple[type[BaseException], ...] = (GreenletExit, SystemExit)
    SYSTEM_ERROR: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit, SystemError)

    def __init__(self, loop: Any = None, default: bool | None = None) -> None:
        greenlet.__init__(self, None, None)
        self.thread_ident = get_thread_ident()
        if default is None:
            default = self.main_hub
        if loop is None or not hasattr(loop, "run"):
            spare = spare_loop() if default else None
            if spare is not None:
                leave_loop(None)
            loop = spare if spare is not None and not spare.destroyed else self.loop_class(loop, default)
        self.loop = loop
        self.loop.ended = False
        self.loop.error_handler = self
        self.loop.set_greenlet(self)
        if not self.main_hub:
            _here.farewell.hubs.append(self)

    @property
    def main_hub(self) -> bool:
        """Whether it is the main thread's."""
        return self.thread_ident == _main_thread

    def run(self) -> None:
        """Run the loop; when it has nothing left to do, tell the main greenlet. Never returns."""
        assert self is getcurrent(), "only the hub itself runs its loop"
        self.start_periodic_monitoring_thread()
        while True:
            self.loop.error_handler = self
            main: Any = self.parent
            try:
                _hub.run(self.loop)
            except OSError as error:
                # The child of a fork has no descriptors for a set of its own, say. There may be some by the next wait.
                main.throw(error)
                continue
            loop = self.loop
            if loop is None or loop.ended:
                return  # another thread has destroyed it, or its own has
            main = self.parent
            main.throw(LoopExit("This operation would block forever", self, _Waiting(self)))
            # It waits again.

    def switch(self, *args: object, **kwargs: object) -> Any:
        """Switch away from the current greenlet, which is to be switched back to by what it waits for.

        A hub's class with a method of its own in this one's place sees every wait; then all of them go
        through the hub.
        """
        if args or kwargs or getcurrent() is self:
            if getcurrent() is self:
                self.switch_out()
            return greenlet.switch(self, *args, **kwargs)
        return _hub.switch(self.loop)

    def switch_out(self) -> None:
        """Called when a blocking function is called in the hub."""
        message = "Impossible to call blocking function in the event loop callback"
        if _hub.current_coroutine() is not None:
            message += (
                "; a coroutine awaits or yields what it waits for: `yield x`, or `await until(x)` in an `async def` function"
                " (weft.coroutines.until); other calls that block, it gives to `offload`, or to a greenlet: `spawn(function)`"
            )
        raise BlockingSwitchOutError(message)

    def wait(self, watcher: Any) -> None:
        """Park the current greenlet until the watcher, which is not started, is told of something."""
        waiter: Waiter = Waiter(self)
        watcher.start(waiter.switch, waiter)
        try:
            result = waiter.get()
            if result is not waiter:
                raise InvalidSwitchError(
                    f"Invalid switch into {getcurrent()!r}: got {result!r} "
                    f"(expected {waiter!r}; waiting on {self!r} with {watcher!r})"
                )
        finally:
            watcher.stop()

    def cancel_wait(self, watcher: Any, error: Any, close_watcher: bool = False) -> None:
        """Raise `error`, a class or an instance, in the greenlet that waits for the watcher."""
        if watcher is None:
            raise ValueError("The watcher must not be None")
        if watcher.callback is not None:
            self.loop.run_callback(self._cancel_wait, watcher, error, close_watcher)
        elif close_watcher:
            watcher.close()

    def _cancel_wait(self, watcher: Any, error: Any, close_watcher: bool) -> None:
        active = watcher.active
        callback = watcher.callback
        if close_watcher:
            watcher.close()
        if active:
            waiter = getattr(callback, "__self__", None)
            if waiter is not None:
                waiter.throw(error)

    def join(self, timeout: float | None = None) -> bool:
        """Run the loop from the main greenlet until nothing is left, or for so long. Whether nothing is left."""
        assert getcurrent() is self.parent, "only possible from the MAIN greenlet"
        if self.dead:
            return True
        waiter: Waiter = Waiter(self)
        timer = None
        if timeout is not None:
            timer = self.loop.timer(timeout, ref=False)
            timer.start(waiter.switch, None)
        try:
            try:
                waiter.get()
            except LoopExit:
                return True
        finally:
            if timer is not None:
                timer.stop()
                timer.close()
        return False

    def destroy(self, destroy_loop: bool | None = None) -> None:
        """End the hub: what it has beside the loop, its greenlet, then the loop, unless `destroy_loop` is False.

        By default the main thread's loop is left to the thread's next hub.
        """
        if destroy_loop is None:
            destroy_loop = self.loop is not None and not self.loop.default
        self.end_services()
        # Another thread's greenlet cannot be switched to.
        if self.thread_ident == get_thread_ident():
            if self and getcurrent() is not self:
                # It ends here, and not in the main greenlet.
                self.parent = getcurrent()
                greenlet.throw(self, HubDestroyed(destroy_loop))
            if self in _here.farewell.hubs:
                _here.farewell.hubs.remove(self)
        if get_hub_if_exists() is self:
            set_hub(None)
        if self.loop is not None and not self.loop.destroyed:
            self.loop.error_handler = None
            self.loop.set_greenlet(None)
            if destroy_loop:
                self.loop.destroy()
            else:
                leave_loop(self.loop)
        self.loop = None

    def _leave(self) -> None:
        """At the end of the thread, which nobody may hold up: end without running anybody's code. Greenlets that wait never go
        on, nor are they unwound; threads of the pool end after their tasks."""
        loop = self.loop
        if loop is None:
            return
        self.end_services(wait=False)
        if not self.dead:
            loop.ended = True
            if not loop.destroyed:
                loop.break_()
            self.parent = getcurrent()
            # One that never ran ends without running.
            greenlet.throw(self, HubDestroyed(True) if self else GreenletExit)
        loop.error_handler = None
        self.loop = None
        if get_hub_if_exists() is self:
            loop.leave()
        else:
            loop.destroy()

    # --- errors ---------------------------------------------------------------------------------------------

    def handle_error(
        self,
        context: object,
        kind: type[BaseException],
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Called with what ended a greenlet, or came out of a callback, and where that was."""
        if value is None:
            value = kind()
        try:
            if not issubclass(kind, self.NOT_ERROR):
                self.print_exception(context, kind, value, tb)
        finally:
            # Also if standard error is closed, or broken.
            if context is None or issubclass(kind, self.SYSTEM_ERROR):
                self.handle_system_error(kind, value, tb)

    def handle_system_error(
        self, kind: type[BaseException], value: BaseException, tb: TracebackType | None = None
    ) -> None:
        """Raise it in the main greenlet."""
        current = getcurrent()
        main: Any = self.parent
        if current is self or current is main or self.loop is None:
            main.throw(kind, value, tb)
            return
        again = self.loop.run_callback(current.switch)
        try:
            main.throw(kind, value, tb)
        finally:
            again.stop()

    def print_exception(
        self,
        context: object,
        kind: type[BaseException],
        value: BaseException,
        tb: TracebackType | None,
    ) -> None:
        """Write the traceback, and whose it is, to `exception_stream`, or standard error."""
        stream = self.exception_stream or sys.stderr
        if stream is None:
            return
        traceback.print_exception(kind, value, tb, file=stream)
        if context is not None:
            try:
                text = context if isinstance(context, str) else repr(context)
            except Exception as error:
                text = f"<{type(context).__name__}, whose repr raised {type(error).__name__}>"
            stream.write(f"{text} failed with {kind.__name__}\n\n")

    def __repr__(self) -> str:
        parts = [f"<{type(self).__name__} {self.name!r} at {id(self):#x}"]
        parts.append("destroyed" if self.loop is None else self.loop._format())
        if self._resolver is not None:
            parts.append(f"resolver={self._resolver!r}")
        if self._threadpool is not None:
            parts.append(f"threadpool={self._threadpool!r}")
        return f"{' '.join(parts)} thread_ident={self.thread_ident:#x}>"


def _exc_info() -> Any:
    return sys.exc_info()


# --- the hub of each thread ---------------------------------------------------------------------------------


class _Farewell:
    """What a thread that ends lets go of: the hubs that were made in it, so that none outlives it."""

    def __init__(self) -> None:
        self.hubs: list[Hub] = []
        self._thread_ident = get_thread_ident()
        self._process = os.getpid()

    def __del__(self) -> None:
        if sys.is_finalizing():
            return
        # In the child of a fork, where it does not exist, another thread lets go of what it had.
        gone = os.getpid() != self._process
        if gone or get_thread_ident() == self._thread_ident:
            while self.hubs:
                hub = self.hubs.pop()
                if gone and hub.loop is not None:
                    hub.loop.leave()
                elif not gone:
                    hub._leave()


class _Here(threading.local):
    loop: Any = None

    def __init__(self) -> None:
        self.farewell = _Farewell()


_here = _Here()
_default_class: type[Hub] = Hub


def set_default_hub_class(hub_class: type[Hub]) -> None:
    """Choose the class of hubs that are made from now on, in every thread."""
    global _default_class
    _default_class = hub_class


def _make() -> Hub:
    return _default_class()


_hub.set_hub_class(Hub, _make)


def hub_class_here() -> type[Hub]:
    """What this thread's hub is made of."""
    return _default_class


def spare_loop() -> Any:
    """The loop that a hub which was destroyed left to the next one of this thread, or None."""
    return _here.loop


def leave_loop(loop: Any) -> None:
    """Leave a loop to the next hub of this thread."""
    _here.loop = loop


get_hub: Callable[[], Hub] = _hub.get_hub
get_hub_if_exists: Callable[[], Hub | None] = _hub.get_hub_if_exists
set_hub: Callable[[Hub | None], None] = _hub.set_hub


# --- functions ----------------------------------------------------------------------------------------------


sleep = _hub.pause


def idle(priority: int = 0) -> None:
    """Park the current greenlet until nobody else has anything to do."""
    hub = get_hub()
    watcher = hub.loop.idle()
    if priority:
        watcher.priority = priority
    try:
        hub.wait(watcher)
    finally:
        watcher.close()


def kill(greenlet: Any, exception: Any = GreenletExit) -> None:
    """Throw an exception into a greenlet, soon; not into one that has ended."""
    if not greenlet.dead:
        if hasattr(greenlet, "kill"):
            greenlet.kill(exception=exception, block=False)
        else:
            get_hub().loop.run_callback(greenlet.throw, exception)


spawn_raw = _hub.spawn_raw


class signal:
    """Have a greenlet run `handler(*args, **kwargs)` each time the signal comes, until `cancel()`."""

    def __init__(self, signalnum: int, handler: Callable[..., Any], *args: object, **kwargs: object) -> None:
        if not callable(handler):
            raise TypeError("signal handler must be callable.")
        self.hub = get_hub()
        self.watcher = self.hub.loop.signal(signalnum, ref=False)
        self.handler = handler
        self.args = args
        self.kwargs = kwargs
        self.watcher.start(self._start)

    @property
    def ref(self) -> bool:
        """Whether it keeps the loop from ending."""
        return bool(self.watcher.ref)

    @ref.setter
    def ref(self, value: bool) -> None:
        self.watcher.ref = value

    def cancel(self) -> None:
        """Let the signal do again what it did before."""
        self.watcher.stop()

    def _start(self) -> None:
        greenlet(self._handle, self.hub).switch()

    def _handle(self) -> None:
        try:
            self.handler(*self.args, **self.kwargs)
        except BaseException:
            self.hub.handle_error(None, *_exc_info())


def reinit(hub: Hub | None = None) -> None:
    """In the child of a fork. Not needed: a loop notices by itself."""
    if hub is None:
        hub = get_hub_if_exists()
    if hub is not None:
        hub.loop.reinit()
        after_fork(hub)


# What gevent's own tests and others call them.
_get_hub = get_hub_if_exists
_get_hub_noargs = get_hub
