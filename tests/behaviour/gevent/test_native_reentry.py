"""Python code that runs in the middle of a native call: what was looked at before may have changed since."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import weft.gevent as gevent
from weft.gevent import Greenlet, get_hub
from weft.gevent import _hub as native
from weft.gevent.event import AsyncResult, Event
from weft.gevent.lock import BoundedSemaphore, Semaphore
from weft.gevent.queue import Queue

# --- what comes while a wait is being prepared --------------------------------------------------------------


class Meanwhile:
    """A number of seconds, long ones; the first look at it does something."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function: Callable[[], Any] | None = function

    def __float__(self) -> float:
        function, self._function = self._function, None
        if function is not None:
            function()
        return 600.0


def test_a_release_before_the_wait_begins_is_not_missed() -> None:
    semaphore = Semaphore(0)
    assert semaphore.acquire(timeout=Meanwhile(semaphore.release)) is True
    assert semaphore.counter == 0


@pytest.mark.parametrize("subclass", [False, True])
def test_an_item_put_before_the_wait_begins_is_not_missed(subclass: bool) -> None:
    queue = _queue(subclass)
    assert queue.get(timeout=Meanwhile(lambda: queue.put("item"))) == "item"
    assert queue.qsize() == 0


@pytest.mark.parametrize("subclass", [False, True])
def test_room_made_before_the_wait_begins_is_not_missed(subclass: bool) -> None:
    queue = _queue(subclass, 1)
    queue.put("first")
    queue.put("second", timeout=Meanwhile(queue.get))
    assert queue.get() == "second"


def _queue(subclass: bool, maxsize: int | None = None) -> Any:
    class OfItsOwn(Queue):
        def _put(self, item: Any) -> None:
            self.queue.append(item)

    return (OfItsOwn if subclass else Queue)(maxsize)


def test_an_end_before_the_wait_begins_is_not_missed() -> None:
    greenlet = Greenlet.spawn(lambda: "value")
    greenlet.join(timeout=Meanwhile(lambda: gevent.sleep(0)))
    assert greenlet.value == "value"
    greenlet = Greenlet.spawn(lambda: "value")
    assert greenlet.get(timeout=Meanwhile(lambda: gevent.sleep(0))) == "value"


# --- what is taken away from under a call -------------------------------------------------------------------

# An allocator that overwrites what is freed shows whoever looks there all the same.
_CHECKED = {**os.environ, "PYTHONMALLOC": "debug"}


def _run(script: str) -> str:
    outcome = subprocess.run(
        [sys.executable, "-c", script], env=_CHECKED, capture_output=True, text=True, check=False, timeout=120
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def test_a_comparison_may_unlink_the_links_that_follow() -> None:
    script = """
from weft.gevent.event import Event
from weft.gevent import spawn

class Link:
    def __init__(self, name, others=()):
        self.name, self.others = name, list(others)
    def __call__(self, source): pass
    def __eq__(self, other):
        print(self.name)
        while self.others:
            unlink(self.others.pop())
        return NotImplemented
    __hash__ = None

for source in (Event(), spawn(int)):
    unlink = source.unlink
    second, third = Link("second"), Link("third")
    source.rawlink(Link("first", [second, third]))
    source.rawlink(second)
    source.rawlink(third)
    del second, third
    source.unlink(print)
"""
    assert set(_run(script).split()) == {"first", "second", "third"}


def test_what_is_waited_for_may_end_the_waiting_as_it_is_linked() -> None:
    script = """
from weft.gevent import _hub as native
from weft.gevent.event import Event

class Ends:
    def rawlink(self, gather):
        gather.__exit__(None, None, None)
    def unlink(self, gather):
        pass

event = Event()
iterator = native.WaitIterator([Ends(), event, *[Event() for _ in range(10)]])
assert list(iterator) == []
assert event.linkcount() == 0
"""
    _run(script)


def test_a_greenlet_may_destroy_the_loop_as_it_is_switched_out() -> None:
    script = """
from weft.gevent import Greenlet, get_hub, sleep
from weft.gevent.exceptions import LoopExit

class Destroys(Greenlet):
    def switch_out(self):
        get_hub().loop.destroy()
    def _run(self):
        try:
            sleep(1)
        except ValueError as error:
            print(error)

greenlet = Destroys()
greenlet.start()
try:
    greenlet.join()
except (ValueError, LoopExit):
    pass
"""
    assert _run(script) == "operation on destroyed loop\n"


def test_a_number_of_seconds_may_destroy_the_loop() -> None:
    script = """
from weft.coroutines import spawn
from weft.gevent import get_hub
from weft.gevent.exceptions import LoopExit

class Destroys(int):
    def __float__(self):
        get_hub().loop.destroy()
        return 1.0

def coroutine():
    yield Destroys(1)

made = spawn(coroutine())
try:
    made.join()
except (ValueError, LoopExit):
    pass
"""
    _run(script)


# --- what is refused, and what is let go of -----------------------------------------------------------------


def test_a_greenlet_runs_with_a_tuple_and_a_dict() -> None:
    greenlet = Greenlet(lambda *args, **kwargs: (args, kwargs))
    for wrong in ([1], None, 5):
        with pytest.raises(TypeError, match="a Greenlet runs with a tuple of arguments, not"):
            greenlet.args = wrong
        with pytest.raises(TypeError, match="a Greenlet runs with a dict of keyword arguments, not"):
            greenlet.kwargs = wrong
    greenlet.args, greenlet.kwargs = (1, 2), {"three": 3}
    greenlet.start()
    assert greenlet.get() == ((1, 2), {"three": 3})


def test_a_result_that_was_never_set_up_keeps_nothing() -> None:
    value = object()
    before = sys.getrefcount(value)
    made = AsyncResult.__new__(AsyncResult)
    native.AsyncResultBase.set(made, value)
    assert sys.getrefcount(value) == before


def test_what_one_hub_was_asked_to_tell_is_not_taken_back_from_another() -> None:
    semaphore = BoundedSemaphore(1)
    link = len

    def first() -> None:
        semaphore.hub = get_hub()
        semaphore.acquire()
        semaphore.rawlink(link)
        semaphore.release()  # which posts to this hub, and leaves the semaphore to any other

    def second() -> None:
        event = Event()
        waiting = [gevent.spawn(event.wait) for _ in range(8)]
        gevent.sleep(0)
        semaphore.acquire()
        semaphore.unlink(link)
        event.set()
        gevent.joinall(waiting)
        told.extend(greenlet.value for greenlet in waiting)

    told: list[Any] = []
    # Fresh hubs, so that the places in their queues are the same ones.
    for part in (first, second):
        thread = threading.Thread(target=part)
        thread.start()
        thread.join()
    assert told == [True] * 8
