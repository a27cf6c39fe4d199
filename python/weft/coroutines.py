"""Coroutines without a stack of their own, beside greenlets, on one hub: generators and `async def` functions.

`spawn` starts a function as a greenlet, and a generator, a coroutine object or a function that makes one as a `Coroutine`.
What a generator yields is what it waits for; the result is sent back:

* `None`: lets all others that are ready run first;
* a number: so many seconds;
* an `Event`, an `AsyncResult`, a greenlet of `spawn` or another `Coroutine`: its value; what it failed with is raised;
* a queue, of greenlets or of processes: its next item;
* a socket, a file, anything with `fileno()`: that it can be read from; `readable` and `writable` say it of a number, too.

An `async def` function awaits `sleep(…)`, `until(…)` of any of these, what `spawn` returned, `offload(…)`, `readable(…)`, `writable(…)`.
For everything else that waits there are greenlets: `yield spawn(lock.acquire)`.

A coroutine runs until it yields; a call that blocks stops the thread, as in any event loop: `offload` such calls.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from weft import gevent as _gevent
from weft._coroutine_waits import READ, WRITE, All, Readiness, Until, _descriptor_of, _Seconds
from weft._offload import Call, offload, offload_threads
from weft.gevent import Greenlet, Timeout, _hub, get_hub, getcurrent, iwait, wait
from weft.gevent.exceptions import InvalidThreadUseError
from weft.gevent.greenlet import FailureSpawnedLink, SpawnedLink, SuccessSpawnedLink
from weft.greenlet import GreenletExit

__all__ = [
    "Coroutine",
    "Timeout",
    "current",
    "iwait",
    "joinall",
    "killall",
    "offload",
    "offload_threads",
    "readable",
    "sleep",
    "spawn",
    "until",
    "wait",
    "writable",
]


def current() -> Any:
    """The `Coroutine` that runs; None in a greenlet, and outside of all."""
    return _hub.current_coroutine()


class Coroutine(_hub.Coroutine):
    """A generator, or what an `async def` function returned, that the hub runs. As a `Greenlet`, where that makes sense.

    Whoever waits for it gets its value, or has its exception raised; one that nobody waits for is reported as well, as a
    greenlet's is.
    """

    __slots__ = ()

    @property
    def dead(self) -> bool:
        """Whether it has ended."""
        return self.ready()

    @property
    def started(self) -> bool:
        """Whether it was started, and has not ended."""
        return self.state_name in ("waiting", "running")

    def __bool__(self) -> bool:
        return self.started

    @property
    def exc_info(self) -> tuple[Any, ...]:
        """The type, the exception and its traceback, if it has failed; else empty."""
        error = self.exception
        return () if error is None else (type(error), error, error.__traceback__)

    @property
    def name(self) -> str:
        """The name of the function that made the generator."""
        return self._name or f"Coroutine-{id(self):#x}"

    # --- wait -------------------------------------------------------------------------------------------

    def join(self, timeout: float | None = None) -> None:
        """In a greenlet: wait until it has ended, or for so long. A coroutine yields it instead."""
        if not self.ready():
            _leave_the_hub()
            if self.loop is not get_hub().loop:
                raise InvalidThreadUseError(f"{self!r} belongs to the hub of another thread")
            self._join(timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """As `join`; then return its value or raise its exception. Timeout if it has not ended."""
        if not self.ready() and block:
            self.join(timeout)
        if not self.ready():
            raise Timeout(timeout if block else None)
        error = self.exception
        if error is not None:
            raise error
        return self.value

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)

    # --- end it -----------------------------------------------------------------------------------------

    def throw(self, exception: Any = GreenletExit, value: Any = None, tb: Any = None) -> None:
        """Have the exception raised where it waits, soon. One that was not started ends with it."""
        if isinstance(exception, type):
            exception = (
                value if isinstance(value, exception) else exception(*(() if value is None else (value,)))
            )
        self._throw(exception if tb is None else exception.with_traceback(tb))

    def kill(self, exception: Any = GreenletExit, block: bool = True, timeout: float | None = None) -> None:
        """As `throw`; with `block`, wait until it has ended, or for so long."""
        if self.ready():
            return
        if block:
            _leave_the_hub()
        self.throw(exception)
        if block:
            self.join(timeout)

    # --- links ------------------------------------------------------------------------------------------

    def rawlink(self, callback: Callable[[Any], Any]) -> None:
        """Have the hub call `callback(self)` after its end."""
        if not callable(callback):
            raise TypeError(f"Expected callable: {callback!r}")
        self._links().append(callback)
        if self.ready():
            self._notify()

    def link(self, callback: Callable[[Any], Any]) -> None:
        """Have a new greenlet run `callback(self)` after its end."""
        self.rawlink(SpawnedLink(callback))

    def link_value(self, callback: Callable[[Any], Any]) -> None:
        """The same, if it ends with a value."""
        self.rawlink(SuccessSpawnedLink(callback))

    def link_exception(self, callback: Callable[[Any], Any]) -> None:
        """The same, if it ends with an exception."""
        self.rawlink(FailureSpawnedLink(callback))

    def unlink(self, callback: Callable[[Any], Any]) -> None:
        """Do not call it."""
        links = self._links()
        if callback in links:
            links.remove(callback)

    def unlink_all(self) -> None:
        """Call nobody."""
        self._links().clear()

    def has_links(self) -> int:
        """How many links there are."""
        return len(self._links())

    def _notify(self) -> None:
        get_hub().loop.run_callback(self._call_links)

    def _call_links(self) -> None:
        links = self._links()
        while links:
            link = links.pop(0)
            try:
                link(self)
            except BaseException as error:
                get_hub().loop.handle_error((link, self), type(error), error, error.__traceback__)

    def __repr__(self) -> str:
        waits_for = self.waits_for
        of = "" if waits_for is None else f" for {waits_for!r}"
        return f"<{type(self).__name__} at {id(self):#x}: {self.name} {self.state_name}{of}>"


def _leave_the_hub() -> None:
    """Raise what every call does that would block the hub itself."""
    hub = get_hub()
    if getcurrent() is hub:
        hub.switch_out()


# --- start ----------------------------------------------------------------------------------------------

_MAKES_ONE = 0x20 | 0x80  # CO_GENERATOR, CO_COROUTINE
_MAKES_ASYNC_GENERATOR = 0x200  # CO_ASYNC_GENERATOR


def _makes_coroutines(function: Any) -> bool:
    given = function
    while hasattr(function, "func") and not hasattr(function, "__code__"):
        function = function.func  # a functools.partial
    code = getattr(function, "__code__", None)
    if code is None:
        code = getattr(type(function).__call__, "__code__", None)
    if code is None:
        return False
    if code.co_flags & _MAKES_ASYNC_GENERATOR:
        raise _not_to_be_run(given)
    return bool(code.co_flags & _MAKES_ONE)


def _not_to_be_run(what: Any) -> TypeError:
    """The error for what `spawn` does not take."""
    if callable(what) or isinstance(what, AsyncGeneratorType):
        return TypeError(
            f"cannot spawn the async generator {getattr(what, '__qualname__', what)}, which runs only as far as somebody "
            "iterates over it: spawn an `async def` function that does so by `async for`"
        )
    return TypeError(f"spawn needs a function, a generator or a coroutine, not {type(what).__name__}")


def spawn(what: Any, *args: Any, **kwargs: Any) -> Any:
    """Have the hub run it, soon: a function as a `Greenlet`, a generator or coroutine as a `Coroutine`.

    `what` may be a function, which is called with the arguments, or a generator or coroutine object, which takes none. A
    function that makes these when it is called is called at once.
    """
    kind = type(what)
    if kind is not GeneratorType and kind is not CoroutineType:
        if not callable(what):
            try:
                _hub.check_generator(what)
            except TypeError:
                raise _not_to_be_run(what) from None
        elif _makes_coroutines(what):
            what = what(*args, **kwargs)
            args, kwargs = (), {}
        else:
            return Greenlet.spawn(what, *args, **kwargs)
    if args or kwargs:
        raise TypeError(f"{what!r} runs already made: it takes no arguments")
    made = Coroutine(what)
    made.start()
    return made


def sleep(seconds: float = 0) -> Any:
    """In a greenlet: wait for at least so long; 0 lets all others that are ready run first. In a coroutine: what to
    yield or await for that."""
    if _hub.current_coroutine() is not None:
        return _Seconds(seconds)
    _gevent.sleep(seconds)
    return None


def until(what: Any) -> Any:
    """What a coroutine can yield, as something that an `async def` function can await: `item = await until(queue)`."""
    if what is None:
        return _Seconds(0)
    if isinstance(what, (Coroutine, Until, Call, _Seconds)):
        return what
    if isinstance(what, (int, float)) and not isinstance(what, bool):
        return _Seconds(what)
    return Until(what)


def _ready(what: Any, events: int) -> Any:
    if current() is not None:
        return Readiness(what, events)
    hub = get_hub()
    watcher = hub.loop.io(_descriptor_of(what), events)
    try:
        hub.wait(watcher)
    finally:
        watcher.close()
    return what


def readable(what: Any) -> Any:
    """In a greenlet: wait until `what`, a descriptor or something with `fileno()`, can be read from, and return it. In a
    coroutine: what to yield or await for that."""
    return _ready(what, READ)


def writable(what: Any) -> Any:
    """As `readable`, until it can be written to."""
    return _ready(what, WRITE)


def joinall(
    objects: Iterable[Any],
    timeout: float | None = None,
    raise_error: bool = False,
    count: int | None = None,
) -> Any:
    """Wait for greenlets and coroutines to end, and return those that have. With `raise_error`, raise what the first failed with.

    In a coroutine: what to yield or await for that, without the options.
    """
    objects = objects if isinstance(objects, (list, tuple)) else list(objects)
    _check_spawned(objects)
    if current() is None:
        return _gevent.joinall(objects, timeout=timeout, raise_error=raise_error, count=count)
    if timeout is not None or raise_error or count is not None:
        raise TypeError(
            "in a coroutine, joinall takes no options: use Timeout, and yield each of the objects"
        )
    return All(list(objects))


def _check_spawned(objects: Iterable[Any]) -> None:
    """TypeError if one of them is nothing whose end one can wait for."""
    for kind in set(map(type, objects)):
        if not hasattr(kind, "rawlink"):
            wrong: Any = next(each for each in objects if type(each) is kind)
            if not hasattr(wrong, "rawlink"):
                raise TypeError(
                    f"joinall needs what spawn returned, not {wrong!r}"
                    + (": spawn it first" if callable(wrong) or hasattr(wrong, "send") else "")
                )


def killall(
    objects: Iterable[Any], exception: Any = GreenletExit, block: bool = True, timeout: float | None = None
) -> None:
    """Raise the exception in all of them; with `block`, wait until they have ended."""
    all_of_them = list(objects)
    if block:
        _leave_the_hub()
    for each in all_of_them:
        each.kill(exception, block=False)
    if block and len(_gevent.joinall(all_of_them, timeout=timeout)) < len(all_of_them):
        raise Timeout(timeout)
