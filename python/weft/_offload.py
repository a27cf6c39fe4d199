"""`weft.offload`: calls that block, in threads beside the hub, while only the caller waits.

A hub has threads of its own for this, as many as there are calls under way and at most `offload_threads()`; calls beyond that
wait in line. An idle thread ends after a while. They are daemonic: the end of the program waits for none, and a call that
blocks for ever does not keep it from ending.

A caller that is killed, or whose Timeout is over, goes on at once; its call, if it has begun, is carried out to its end, and what
it returns or raises is dropped. In the child of a fork there are no such threads, and whoever waited there for one of the
parent's calls gets RuntimeError; new calls have new threads.
"""

from __future__ import annotations

import contextvars
import os
import sys
import warnings
from _queue import Empty, SimpleQueue
from collections.abc import Callable, Generator
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from weft.gevent import _hub, get_hub, getcurrent
from weft.gevent.hub import Hub, Waiter

if TYPE_CHECKING:
    from typing import ParamSpec

    _P = ParamSpec("_P")
    _T = TypeVar("_T")

__all__ = ["Call", "offload", "offload_threads"]

_IDLE_SECONDS = 10.0

_most = min(32, (os.cpu_count() or 1) + 4)


def offload_threads(most: int | None = None) -> int:
    """How many threads a hub has at most for `offload`; with `most`, make it so many from now on.

    The default is four more than there are processors, and 32 at most.
    """
    global _most
    if most is not None:
        if most < 1:
            raise ValueError(f"at least one thread is needed, not {most}")
        _most = most
    return _most


def warn_of_no_wait(what: object) -> None:
    """Say that a coroutine dropped what it should have waited for: by itself, making it does nothing."""
    warnings.warn(
        f"{what!r} was never waited for: await it, or yield it", RuntimeWarning, stacklevel=3, source=what
    )


class Call:
    """A call in a thread: in a coroutine, what `offload` returns, to be awaited or yielded."""

    __slots__ = (
        "_args",
        "_begun",
        "_context",
        "_error",
        "_function",
        "_kwargs",
        "_loop",
        "_over",
        "_tell",
        "_value",
    )

    def __init__(self, loop: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self._loop = loop
        self._function: Any = function
        self._args = args
        self._kwargs = kwargs
        self._context: Any = contextvars.copy_context()
        self._begun = False
        self._over = False
        self._tell: Callable[..., Any] | None = None
        self._value: Any = None
        self._error: BaseException | None = None

    # --- in the hub's thread ----------------------------------------------------------------------------

    def tell(self, callback: Callable[..., Any]) -> None:
        """Have the hub call it when the call is over."""
        self._tell = callback
        if not self._begun:
            self._begun = True
            _threads_of(get_hub()).put(self)

    def ready(self) -> bool:
        """Whether the call is over."""
        return self._over

    def result(self) -> Any:
        """What it has returned; what it has raised is raised."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # or the exception would hold itself, by its traceback
        return self._value

    def forsake(self, for_good: bool = True) -> None:
        """Nobody waits for it; if that is for good, and it has not begun, it is not done."""
        self._tell = None
        if for_good and not self._over:
            self._function = None

    def finish(self, value: Any, error: BaseException | None) -> None:
        """It is over, with this."""
        tell, self._tell = self._tell, None
        self._over = True
        self._value, self._error = (value, error) if tell is not None else (None, None)
        if tell is not None:
            tell(None)

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)

    # --- in a thread of its own -------------------------------------------------------------------------

    def run(self) -> None:
        """Carry it out, and tell the hub."""
        function, args, kwargs, context = self._function, self._args, self._kwargs, self._context
        self._function = self._args = self._kwargs = self._context = None
        if function is None:
            return
        value: Any = None
        error: BaseException | None = None
        try:
            value = context.run(function, *args, **kwargs)
        except BaseException as raised:
            error = raised.with_traceback(raised.__traceback__ and raised.__traceback__.tb_next)
        del function, args, kwargs, context
        loop = self._loop
        if loop.destroyed:
            return
        try:
            loop.run_callback_threadsafe(self.finish, value, error)
        except ValueError:
            if not loop.destroyed:
                raise
            # Destroyed just now: nobody waits.

    def __del__(self) -> None:
        if not self._begun:
            warn_of_no_wait(self)

    def __repr__(self) -> str:
        return f"offload({self._function!r})" if self._function else "<offloaded call>"


def _unpatched(module: str, name: str) -> Any:
    """What a module has by this name, whatever was patched over it: these threads have to be threads."""
    monkey = sys.modules.get("weft.gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(import_module(module), name)


class _Threads:
    """The threads of one hub.

    A thread is started when there are more calls under way than threads. One that found nothing to do for a while ends, unless
    a call came in the last moment: calls come, and threads end, with the lock.
    """

    def __init__(self) -> None:
        self._lock = _unpatched("_thread", "allocate_lock")()
        self._calls: SimpleQueue[Call] = SimpleQueue()
        self._count = 0
        self.under_way: set[Call] = set()

    def put(self, call: Call) -> None:
        with self._lock:
            self.under_way.add(call)
            if self._count < min(len(self.under_way), _most):
                try:
                    _unpatched("_thread", "start_new_thread")(self._work, ())
                except BaseException:
                    if self._count == 0:
                        self.under_way.discard(call)
                        raise
                else:
                    self._count += 1
            self._calls.put(call)

    def _next(self) -> Call | None:
        while True:
            try:
                return self._calls.get(timeout=_IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._calls.empty():
                        self._count -= 1
                        return None

    def _work(self) -> None:
        while True:
            call = self._next()
            if call is None:
                return
            try:
                call.run()
            finally:
                with self._lock:
                    self.under_way.discard(call)
            del call


_of_hubs: WeakKeyDictionary[Hub, _Threads] = WeakKeyDictionary()


def _threads_of(hub: Hub) -> _Threads:
    known = _of_hubs.get(hub)
    if known is None:
        known = _of_hubs[hub] = _Threads()
    return known


def _after_fork_in_child() -> None:
    """The threads are the parent's."""
    for threads in list(_of_hubs.values()):
        for call in list(threads.under_way):
            error = RuntimeError(
                "the call is carried out in the parent of this process, which was forked meanwhile"
            )
            if not call._loop.destroyed:
                call._loop.run_callback(call.finish, None, error)
    _of_hubs.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def offload(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call `function(*args, **kwargs)` in a thread, while only the caller waits; return what it returns, or raise what it raises.

    It has the caller's context variables. A caller that is a coroutine (a generator, an `async def` function) yields or
    awaits what this returns. See `offload_threads` for how many threads there are.
    """
    if not callable(function):
        raise TypeError(f"function must be callable, not {type(function).__name__}")
    hub = get_hub()
    if _hub.current_coroutine() is not None:
        return cast("_T", Call(hub.loop, function, args, kwargs))
    if getcurrent() is hub:
        hub.switch_out()
    call = Call(hub.loop, function, args, kwargs)
    waiter: Waiter = Waiter(hub)
    hub.loop.ref()
    try:
        call.tell(waiter.switch)
        waiter.get()
    finally:
        if not call.ready():
            call.forsake()
        if not hub.loop.destroyed:
            hub.loop.unref()
    return cast("_T", call.result())
