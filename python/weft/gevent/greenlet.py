"""Greenlets with a result, links, and a hub to start them. As gevent.greenlet."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from weft.greenlet import GreenletExit, greenlet

from . import _hub
from .hub import Hub, get_hub
from .timeout import Timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, TracebackType
    from typing import Self

__all__ = ["Greenlet", "joinall", "killall"]

# As gevent: who made a greenlet, and where, is noted unless that is switched off.
_hub.track_tree(
    os.environ.get("GEVENT_TRACK_GREENLET_TREE", "true").lower() not in ("0", "false", "no", "off", "")
)


class SpawnedLink:
    """A link that has a greenlet of its own call the function."""

    __slots__ = ("callback",)

    def __init__(self, callback: Any) -> None:
        if not callable(callback):
            raise TypeError(f"Expected callable: {callback!r}")
        self.callback = callback

    def __call__(self, source: Any) -> None:
        greenlet(self.callback, get_hub()).switch(source)

    def __eq__(self, other: object) -> bool:
        return bool(self.callback == getattr(other, "callback", other))

    def __hash__(self) -> int:
        return hash(self.callback)

    def __str__(self) -> str:
        return str(self.callback)

    def __repr__(self) -> str:
        return repr(self.callback)

    def __getattr__(self, name: str) -> Any:
        if name == "callback":
            raise AttributeError(name)
        return getattr(self.callback, name)


class SuccessSpawnedLink(SpawnedLink):
    """The same, if the greenlet ended with a value."""

    __slots__ = ()

    def __call__(self, source: Any) -> None:
        if source.successful():
            super().__call__(source)


class FailureSpawnedLink(SpawnedLink):
    """The same, if the greenlet ended with an exception."""

    __slots__ = ()

    def __call__(self, source: Any) -> None:
        if not source.successful():
            super().__call__(source)


class _Frame:
    """Where somebody was when he made a greenlet, as much as a traceback shows."""

    __slots__ = ("f_back", "f_code", "f_lineno")

    f_globals: None = None

    def __init__(self, code: CodeType, line: int, back: _Frame | None) -> None:
        self.f_code = code
        self.f_lineno = line
        self.f_back = back


_spawn_callbacks: set[Callable[[Any], Any]] = set()


class Greenlet(_hub.GreenletBase):
    """A greenlet that the hub starts, and whose end can be waited for.

    `Greenlet(run, *args, **kwargs)` runs `run(*args, **kwargs)`; a subclass may define `_run` instead.
    """

    # How many frames of who makes one are noted.
    spawning_stack_limit = 10

    # --- start ----------------------------------------------------------------------------------------------

    @classmethod
    def spawn_later(cls, seconds: float, *args: Any, **kwargs: Any) -> Self:
        """A new one, which is started in so many seconds."""
        if cls is Greenlet and not args and "run" not in kwargs:
            raise TypeError("spawn_later() takes what to run")
        made = cls(*args, **kwargs)
        made.start_later(seconds)
        return made

    @staticmethod
    def add_spawn_callback(callback: Callable[[Any], Any]) -> None:
        """Have `callback(greenlet)` called with every one that is started."""
        _spawn_callbacks.add(callback)
        _hub.set_spawn_callbacks(_spawn_callbacks)

    @staticmethod
    def remove_spawn_callback(callback: Callable[[Any], Any]) -> None:
        """Do not call it any more."""
        _spawn_callbacks.discard(callback)
        _hub.set_spawn_callbacks(_spawn_callbacks or None)

    # --- who it is ------------------------------------------------------------------------------------------

    @property
    def minimal_ident(self) -> int:
        """A small number that no other living greenlet of its hub has."""
        known = self.__dict__.get("_ident")
        if known is None:
            hub = self.parent
            if not isinstance(hub, Hub):
                raise TypeError(f"Cannot convert {hub!r}, the parent of a Greenlet, to a hub")
            known = self.__dict__["_ident"] = hub.ident_registry.get_ident(self)
        return int(known)

    @property
    def name(self) -> str:
        """A name for people, which can be set."""
        found = self.__dict__.get("name")
        return found if found is not None else f"Greenlet-{self.minimal_ident}"

    @name.setter
    def name(self, value: str) -> None:
        self.__dict__["name"] = value

    @property
    def spawning_stack(self) -> Any:
        """Where it was made: the innermost of a chain of frames; None if that is not noted."""
        frame = None
        for code, line in reversed(self._spawning_frames() or ()):
            frame = _Frame(code, line, frame)
        return frame

    # --- end it ---------------------------------------------------------------------------------------------

    def throw(self, *args: Any) -> None:
        """Switch to it and raise there; one that was not started ends with that. Only the hub should."""
        self._cancel_start()
        try:
            if not self.dead:
                # What comes back is nobody's.
                greenlet.throw(self, *args)
        finally:
            self._end_before_start(args)

    def _end_before_start(self, args: tuple[Any, ...]) -> None:
        if self._ended or not self.dead:
            return
        if len(args) == 1:
            error = args[0]
            if isinstance(error, type) and issubclass(error, BaseException):
                args = (error, error(), None)
            else:
                args = (type(error), error, None)
        elif not args:
            args = (GreenletExit, GreenletExit(), None)
        if not issubclass(args[0], BaseException):
            args = (BaseException, BaseException(args), None)
        self._report(tuple(args))

    def _maybe_kill_before_start(self, exception: Any) -> bool:
        self._cancel_start()
        self._free()
        dead = self.dead
        if dead:
            whole = isinstance(exception, tuple) and len(exception) == 3
            self._end_before_start(exception if whole else (exception,))
        return dead

    def kill(self, exception: Any = GreenletExit, block: bool = True, timeout: float | None = None) -> None:
        """Raise the exception in it, soon; with `block`, wait until it has ended, or for so long."""
        if self._maybe_kill_before_start(exception) or self.ready():
            return
        done = _hub.WaiterBase() if block else None
        self.loop.run_callback(_kill, self, exception, done)
        if done is not None:
            done.get()
            self.join(timeout)

    # --- links ----------------------------------------------------------------------------------------------

    def link(self, callback: Any, SpawnedLink: Any = SpawnedLink) -> None:
        """Have a new greenlet run `callback(self)` after its end."""
        self.rawlink(SpawnedLink(callback))

    def link_value(self, callback: Any, SpawnedLink: Any = SuccessSpawnedLink) -> None:
        """The same, if it ends with a value."""
        self.link(callback, SpawnedLink=SpawnedLink)

    def link_exception(self, callback: Any, SpawnedLink: Any = FailureSpawnedLink) -> None:
        """The same, if it ends with an exception."""
        self.link(callback, SpawnedLink=SpawnedLink)

    # --- the rest -------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, Any, Any]:
        """In a coroutine of weft's: wait until it has ended; its value, or what it failed with."""
        return (yield self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Wait for its end; kill it instead if the block raised."""
        if kind is not None:
            self.kill((kind, value, tb))
            return
        try:
            self.join()
        finally:
            self.kill()

    def __repr__(self) -> str:
        known = self.__dict__.get("name") is not None or self.__dict__.get("_ident") is not None
        name = f' "{self.name}" ' if known else " "
        formatted = self._formatinfo()
        return f"<{type(self).__name__}{name}at {id(self):#x}{': ' + formatted if formatted else ''}>"

    def _formatinfo(self) -> str:
        known = self.__dict__.get("_formatted_info")
        if known is not None:
            return str(known)
        function = self._run
        owner = getattr(function, "__self__", None)
        if owner is self:
            result = "_run"
        elif owner is not None and not isinstance(owner, type(sys)):
            result = repr(function)
        else:
            result = getattr(function, "__name__", "") or repr(function)
        args = [repr(arg)[:50] for arg in self.args]
        args += [f"{key}={repr(value)[:50]}" for key, value in self.kwargs.items()]
        if args:
            result += f"({', '.join(args)})"
        # After its end nobody knows any more what it ran.
        self.__dict__["_formatted_info"] = result
        return result


_hub.set_face("greenlet", Greenlet)


# What `spawn_raw` gives: a plain greenlet that knows who made it.
TrackedRawGreenlet = _hub.TrackedRawGreenlet

_hub.set_face("raw_greenlet", TrackedRawGreenlet)


def _kill(target: Greenlet, exception: Any, done: Any) -> None:
    """In the hub."""
    try:
        if isinstance(exception, tuple) and len(exception) == 3:
            target.throw(*exception)
        else:
            target.throw(exception)
    except BaseException:
        _handle_error(target)
    if done is not None:
        done.switch(None)


def _handle_error(target: Any) -> None:
    hub: Any = target.parent
    hub.handle_error(target, *sys.exc_info())


def iwait(objects: Any, timeout: float | None = None, count: int | None = None) -> Iterator[Any]:
    """Give each of the objects as it becomes ready, until all or `count` were, or for so long.

    Who does not go through all of it does so in a `with` block of what this gives.
    """
    if objects is None:
        return iter([get_hub().join(timeout=timeout)])
    return _hub.WaitIterator(objects, timeout, count)


def wait(objects: Any = None, timeout: float | None = None, count: int | None = None) -> Any:
    """Wait for the objects to become ready, and return those that did; without objects, for the hub to have
    nothing left to do."""
    if objects is None:
        return get_hub().join(timeout=timeout)
    return _hub.wait_all(objects, timeout, count)


def joinall(
    greenlets: Any, timeout: float | None = None, raise_error: bool = False, count: int | None = None
) -> list[Any]:
    """Wait for greenlets to end, and return those that have. With `raise_error`, raise what the first failed with."""
    if not raise_error:
        return _hub.wait_all(greenlets, timeout, count)
    done = []
    with _hub.WaitIterator(greenlets, timeout, count) as ended:
        for each in ended:
            error = getattr(each, "exception", None)
            if error is not None:
                if hasattr(each, "_raise_exception"):
                    each._raise_exception()
                raise error
            done.append(each)
    return done


def _killall(greenlets: list[Any], exception: Any, done: Any) -> None:
    """In the hub."""
    left = []
    for each in greenlets:
        if not each.dead:
            try:
                each.throw(exception)
            except BaseException:
                _handle_error(each)
            if not each.dead:
                left.append(each)
    if done is not None:
        done.switch(left)


def killall(
    greenlets: Iterable[Any],
    exception: Any = GreenletExit,
    block: bool = True,
    timeout: float | None = None,
) -> None:
    """Raise the exception in all of them; with `block`, wait until they have ended, Timeout if they did not in time."""
    running = []
    for each in greenlets:
        # None of those that were not started is started from here on.
        cancel = getattr(each, "_maybe_kill_before_start", None)
        if cancel is None or not cancel(exception):
            running.append(each)
    if not running:
        return
    loop = getattr(running[-1], "loop", None) or get_hub().loop
    if not block:
        loop.run_callback(_killall, running, exception, None)
        return
    done = _hub.WaiterBase()
    loop.run_callback(_killall, running, exception, done)
    limit = Timeout._start_new_or_dummy(timeout)
    try:
        left = done.get()
        if left:
            joinall(left)
    finally:
        limit.cancel()
