"""What coroutines can wait for, and how each of these is waited for."""

from __future__ import annotations

import select
from collections.abc import Callable, Generator, Iterator
from queue import Empty
from typing import Any

from weft import _native
from weft._offload import Call, warn_of_no_wait
from weft.gevent import Greenlet, _hub, get_hub
from weft.gevent.event import AsyncResult, Event
from weft.gevent.exceptions import InvalidThreadUseError
from weft.gevent.queue import SimpleQueue

READ = 1
WRITE = 2


class _Seconds(float):
    """A number of seconds that can be awaited as well as yielded."""

    __slots__ = ()

    def __await__(self) -> Iterator[Any]:
        return iter((self,))


class Until:
    """What `until` returns: to be awaited or yielded. Dropped without either, it warns."""

    __slots__ = ("waited", "what")

    def __init__(self, what: Any) -> None:
        self.waited = False
        self.what = what

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)

    def __del__(self) -> None:
        if not self.waited:
            warn_of_no_wait(self)

    def __repr__(self) -> str:
        return f"until({self.what!r})"


class Readiness(Until):
    """What `readable` and `writable` return in a coroutine."""

    __slots__ = ("events",)

    def __init__(self, what: Any, events: int) -> None:
        super().__init__(what)
        self.events = events

    def __repr__(self) -> str:
        return f"{'readable' if self.events == READ else 'writable'}({self.what!r})"


class All(Until):
    """What `joinall` returns in a coroutine."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"joinall({self.what!r})"


# Each of these is asked what has come, when the object is yielded and after every wake-up: it returns a tuple with the result, or
# arranges for a wake-up and returns None.

_Came = tuple[Any, ...] | None


def _linked(coroutine: _hub.Coroutine, what: Any) -> _Came:
    if getattr(what, "hub", coroutine) is None:
        # It belongs to nobody yet; set in another thread, it is to be heard in this one.
        what.hub = get_hub()
    wake = coroutine._wake
    what.rawlink(wake)
    coroutine._undo_by(lambda _for_good: what.unlink(wake))
    return None


def _event(coroutine: _hub.Coroutine, event: Event) -> _Came:
    if event.is_set():
        return (True,)
    return _linked(coroutine, event)


def _result(coroutine: _hub.Coroutine, what: Any) -> _Came:
    if what.ready():
        return (what.get(block=False),)
    return _linked(coroutine, what)


def _another_loops(coroutine: _hub.Coroutine, other: _hub.Coroutine) -> _Came:
    raise InvalidThreadUseError(f"{other!r} belongs to the hub of another thread")


def _all(coroutine: _hub.Coroutine, what: All) -> _Came:
    what.waited = True
    for each in what.what:
        if not each.ready():
            return _linked(coroutine, each)
    return (what.what,)


def _greenlets_queue(coroutine: _hub.Coroutine, queue: SimpleQueue) -> _Came:
    try:
        return (queue.get_nowait(),)
    except Empty:
        # Only greenlets stand in line at it. This one takes nothing, so that nothing is lost with it.
        scout = Greenlet(queue.peek)
        scout.rawlink(coroutine._wake)
        scout.start()
        coroutine._undo_by(lambda _for_good: scout.kill(block=False))
        return None


def _process_queue(coroutine: _hub.Coroutine, queue: Any) -> _Came:
    try:
        return (queue.get(block=False),)
    except Empty:
        coroutine._watch(queue._fileno(), READ)
        return None


def _descriptor_of(what: Any) -> int:
    number: int = what if isinstance(what, int) else what.fileno()
    if number < 0:
        raise ValueError(f"{what!r} is closed, and cannot be waited for")
    return number


def _readiness(coroutine: _hub.Coroutine, ready: Readiness) -> _Came:
    ready.waited = True
    return _ready(coroutine, ready.what, ready.events)


def _ready(coroutine: _hub.Coroutine, what: Any, events: int) -> _Came:
    number = _descriptor_of(what)
    poll = select.poll()
    poll.register(number, select.POLLIN if events == READ else select.POLLOUT)
    if poll.poll(0):
        return (what,)
    coroutine._watch(number, events)
    return None


def _call(coroutine: _hub.Coroutine, call: Call) -> _Came:
    if call.ready():
        return (call.result(),)
    call.tell(coroutine._wake)
    coroutine._refer()
    coroutine._undo_by(call.forsake)
    return None


_WAYS: tuple[tuple[Any, Callable[[Any, Any], _Came]], ...] = (
    (All, _all),
    (Readiness, _readiness),
    (Call, _call),
    (Event, _event),
    ((AsyncResult, Greenlet), _result),
    (_hub.Coroutine, _another_loops),
    (SimpleQueue, _greenlets_queue),
    (_native.QueueBase, _process_queue),
)


def _way_of(kind: type) -> Callable[[Any, Any], _Came] | None:
    for known, way in _WAYS:
        if issubclass(kind, known):
            return way
    return None


_known_ways: dict[type, Callable[[Any, Any], _Came]] = {}


def _arrange(coroutine: _hub.Coroutine, what: Any) -> _Came:
    if type(what) is Until:
        what.waited = True
        what = what.what
    kind = type(what)
    way = _known_ways.get(kind)
    if way is None:
        way = _way_of(kind)
        if way is None:
            if not hasattr(what, "fileno"):
                raise TypeError(
                    f"a coroutine cannot wait for {what!r}: it yields None, seconds, an Event, an AsyncResult, a queue, "
                    "a greenlet of spawn(), another coroutine, or something with fileno(); for all else that waits, "
                    "yield spawn(function)"
                )
            way = _descriptor
        _known_ways[kind] = way
    return way(coroutine, what)


def _descriptor(coroutine: _hub.Coroutine, what: Any) -> _Came:
    return _ready(coroutine, what, READ)


_hub.set_arranger(_arrange)
