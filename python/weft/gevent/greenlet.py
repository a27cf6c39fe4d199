"""Greenlets with a result, links, and a hub to start them. As gevent.greenlet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from weft.greenlet import GreenletExit, getcurrent, greenlet

from .exceptions import InvalidSwitchError
from .hub import Hub, Waiter, get_hub
from .timeout import Timeout, start_or_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Greenlet", "iwait", "joinall", "killall", "wait"]


def _exc_info() -> Any:
    return sys.exc_info()


class Greenlet(greenlet):
    """A greenlet that the hub starts, and whose end can be waited for.

    `Greenlet(run, *args, **kwargs)` runs `run(*args, **kwargs)`; a subclass may define `_run` instead.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    value: Any = None
    _error: tuple[Any, ...] | None = None
    _start_event: Any = None
    _notifier: Any = None
    _done = False

    def __init__(self, run: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> None:
        greenlet.__init__(self, None, get_hub())
        if run is not None:
            self._run = run  # type: ignore[method-assign]
        if not callable(self._run):
            raise TypeError("The run argument or self._run must be callable")
        self.args = args
        self.kwargs = kwargs
        self._links: list[Callable[[Any], Any]] = []

    def _run(self) -> Any:
        """What to run, if nothing was given."""

    @property
    def loop(self) -> Any:
        """The loop of its hub."""
        hub = self.parent
        while hub is not None and not isinstance(hub, Hub):
            hub = hub.parent
        return get_hub().loop if hub is None else hub.loop

    # --- start ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Have it started soon. Again does nothing."""
        if self._start_event is None and not self._done and not greenlet.__bool__(self):
            self._start_event = self.loop.run_callback(self.switch)

    def start_later(self, seconds: float) -> None:
        """Have it started in so many seconds."""
        if self._start_event is None and not self._done and not greenlet.__bool__(self):
            timer = self.loop.timer(seconds)
            timer.start(self.switch)
            self._start_event = timer

    @classmethod
    def spawn(cls, *args: Any, **kwargs: Any) -> Self:
        """A new one, which is started."""
        made = cls(*args, **kwargs)
        made.start()
        return made

    @classmethod
    def spawn_later(cls, seconds: float, *args: Any, **kwargs: Any) -> Self:
        """A new one, which is started in so many seconds."""
        made = cls(*args, **kwargs)
        made.start_later(seconds)
        return made

    def _cancel_start(self) -> None:
        event, self._start_event = self._start_event, _STARTED
        if event is not None and event is not _STARTED:
            event.stop()
            event.close()

    # --- run ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """What the greenlet is. Not to be overridden: that is `_run`."""
        self._cancel_start()
        try:
            try:
                result = self._run(*self.args, **self.kwargs)
            except BaseException:
                self._end_with_error(_exc_info())
            else:
                self._end_with_value(result)
        finally:
            self.args = ()
            self.kwargs = {}
            self.__dict__.pop("_run", None)

    def _end_with_value(self, value: Any) -> None:
        self.value = value
        self._done = True
        self._notify()

    def _end_with_error(self, exc_info: tuple[Any, Any, Any]) -> None:
        if isinstance(exc_info[1], GreenletExit):
            self._end_with_value(exc_info[1])
            return
        self._error = exc_info
        self._done = True
        self._notify()
        get_hub().handle_error(self, *exc_info)

    # --- state ----------------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether it was started, or is about to be, and has not ended."""
        return not self._done and (self._start_event is not None or greenlet.__bool__(self))

    def __bool__(self) -> bool:
        return self.started

    @property
    def dead(self) -> bool:
        """Whether it has ended, or will never run."""
        return self._done or bool(greenlet.dead.__get__(self))

    def ready(self) -> bool:
        """Whether it has ended."""
        return self.dead

    def successful(self) -> bool:
        """Whether it has ended with a value, which a GreenletExit is as well."""
        return self._done and self._error is None

    @property
    def exception(self) -> BaseException | None:
        """What it has ended with, if that is an exception."""
        return self._error[1] if self._error is not None else None

    @property
    def exc_info(self) -> tuple[Any, ...]:
        """The same with its type and traceback; empty if there is none."""
        return self._error if self._error is not None else ()

    # --- wait -----------------------------------------------------------------------------------------------

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for so long."""
        if self.ready():
            return
        resume = getcurrent().switch
        self._links.append(resume)
        try:
            with start_or_never(timeout) as timer:
                try:
                    result = get_hub().switch()
                except Timeout as error:
                    if error is not timer:
                        raise
                    return
            if result is not self:
                raise InvalidSwitchError(f"Invalid switch into Greenlet.join(): {result!r}")
        finally:
            self.unlink(resume)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Wait for its end; return its value or raise its exception. Timeout if it has not ended."""
        if not self.ready():
            if not block:
                raise Timeout()
            self.join(timeout)
            if not self.ready():
                raise Timeout(timeout)
        if self._error is not None:
            raise self._error[1].with_traceback(self._error[2])
        return self.value

    # --- end it ---------------------------------------------------------------------------------------------

    def throw(self, *args: Any) -> Any:
        """Switch to it and raise there; one that was not started ends with that."""
        if not greenlet.__bool__(self) and not self._done:
            self._cancel_start()
            self._end_unstarted(*args)
            return None
        return greenlet.throw(self, *args)

    def _end_unstarted(self, *args: Any) -> None:
        error = args[0] if args else GreenletExit
        if isinstance(error, type):
            error = args[1] if len(args) > 1 and isinstance(args[1], error) else error(*args[1:2])
        tb = args[2] if len(args) > 2 else None
        self._end_with_error((type(error), error, tb))

    def kill(self, exception: Any = GreenletExit, block: bool = True, timeout: float | None = None) -> None:
        """Raise the exception in it, soon; with `block`, wait until it has ended, or for so long."""
        self._cancel_start_of_unstarted(exception)
        if self.dead:
            return
        done = Waiter() if block else None
        self.loop.run_callback(_throw_into, self, exception, done)
        if done is not None:
            done.get()
            self.join(timeout)

    def _cancel_start_of_unstarted(self, exception: Any) -> None:
        if not self._done and not greenlet.__bool__(self):
            self._cancel_start()
            self._end_unstarted(exception)

    # --- links ----------------------------------------------------------------------------------------------

    def rawlink(self, callback: Callable[[Any], Any]) -> None:
        """Have the hub call `callback(self)` after its end."""
        if not callable(callback):
            raise TypeError(f"Expected callable: {callback!r}")
        self._links.append(callback)
        if self.ready():
            self._notify()

    def link(self, callback: Any, SpawnedLink: Any = None) -> None:
        """Have a new greenlet run `callback(self)` after its end."""
        self.rawlink((SpawnedLink or _Link)(callback))

    def link_value(self, callback: Any, SpawnedLink: Any = None) -> None:
        """The same, if it ends with a value."""
        self.link(callback, SpawnedLink or _ValueLink)

    def link_exception(self, callback: Any, SpawnedLink: Any = None) -> None:
        """The same, if it ends with an exception."""
        self.link(callback, SpawnedLink or _ErrorLink)

    def unlink(self, callback: Callable[[Any], Any]) -> None:
        """Do not call it."""
        if callback in self._links:
            self._links.remove(callback)

    def unlink_all(self) -> None:
        """Call nobody."""
        self._links.clear()

    def has_links(self) -> int:
        """How many links there are."""
        return len(self._links)

    def _notify(self) -> None:
        if self._links and not self._notifier:
            self._notifier = get_hub().loop.run_callback(self._call_links)

    def _call_links(self) -> None:
        while self._links:
            link = self._links.pop(0)
            try:
                link(self)
            except BaseException:
                get_hub().loop.handle_error((link, self), *_exc_info())

    # --- the rest -------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """A name for people."""
        return f"Greenlet-{id(self):#x}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Wait for its end; kill it first if the block raised."""
        try:
            self.join()
        finally:
            self.kill()

    def __repr__(self) -> str:
        function = getattr(self._run, "__qualname__", None) or repr(self._run)
        state = "dead" if self.dead else "started" if self.started else "not started"
        return f"<{type(self).__name__} at {id(self):#x}: {function} {state}>"


_STARTED: Any = object()


class _Link:
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


class _ValueLink(_Link):
    __slots__ = ()

    def __call__(self, source: Any) -> None:
        if source.successful():
            super().__call__(source)


class _ErrorLink(_Link):
    __slots__ = ()

    def __call__(self, source: Any) -> None:
        if not source.successful():
            super().__call__(source)


def _throw_into(target: Any, exception: Any, done: Waiter | None) -> None:
    """In the hub."""
    if not target.dead:
        try:
            target.throw(exception)
        except BaseException:
            get_hub().loop.handle_error(target, *_exc_info())
    if done is not None:
        done.switch(None)


def iwait(objects: Iterable[Any], timeout: float | None = None, count: int | None = None) -> Iterator[Any]:
    """Yield each of the objects as it becomes ready, until all or `count` were, or for so long."""
    waiting = list(objects)
    left = len(waiting) if count is None else min(count, len(waiting))
    hub = get_hub()
    arrived: list[Any] = []
    parked: list[Any] = []

    def arrive(source: Any) -> None:
        arrived.append(source)
        if parked:
            parked.pop().switch(None)

    for each in waiting:
        each.rawlink(arrive)
    timer = None
    if timeout is not None:
        timer = hub.loop.timer(max(timeout, 0.0))
        timer.start(arrive, _TIME_IS_OVER)
    try:
        while left > 0:
            if not arrived:
                waiter = Waiter(hub)
                parked.append(waiter)
                try:
                    waiter.get()
                finally:
                    parked.clear()
            source = arrived.pop(0)
            if source is _TIME_IS_OVER:
                return
            left -= 1
            yield source
    finally:
        if timer is not None:
            timer.stop()
            timer.close()
        for each in waiting:
            each.unlink(arrive)


_TIME_IS_OVER: Any = object()


def wait(objects: Iterable[Any] | None = None, timeout: float | None = None, count: int | None = None) -> Any:
    """Wait for the objects to become ready, and return those that did; without objects, for the hub to have
    nothing left to do."""
    if objects is None:
        return get_hub().join(timeout=timeout)
    return list(iwait(objects, timeout, count))


def joinall(
    greenlets: Iterable[Any],
    timeout: float | None = None,
    raise_error: bool = False,
    count: int | None = None,
) -> list[Any]:
    """Wait for greenlets to end, and return those that have. With `raise_error`, raise what the first failed with."""
    if not raise_error:
        return list(wait(list(greenlets), timeout=timeout, count=count))
    done = []
    for each in iwait(list(greenlets), timeout, count):
        if getattr(each, "exception", None) is not None:
            each.get()
        done.append(each)
    return done


def killall(
    greenlets: Iterable[Any],
    exception: Any = GreenletExit,
    block: bool = True,
    timeout: float | None = None,
) -> None:
    """Raise the exception in all of them; with `block`, wait until they have ended."""
    targets = list(greenlets)
    for each in targets:
        if isinstance(each, Greenlet):
            each.kill(exception, block=False)
        elif not each.dead:
            get_hub().loop.run_callback(_throw_into, each, exception, None)
    if block:
        waited = joinall([each for each in targets if isinstance(each, Greenlet)], timeout=timeout)
        if len(waited) < sum(isinstance(each, Greenlet) for each in targets):
            raise Timeout(timeout)
