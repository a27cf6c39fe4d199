"""What gevent's own primitives promise beyond the plain case: order, links, threads, subclasses."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import Any

import pytest
import weft.gevent as gevent
from weft.gevent import Timeout, get_hub, getcurrent, sleep, spawn, spawn_raw
from weft.gevent.event import AsyncResult, Event
from weft.gevent.exceptions import InvalidSwitchError
from weft.gevent.lock import BoundedSemaphore, Semaphore
from weft.gevent.queue import Full, Queue, SimpleQueue

# --- links and the order of wake-ups ------------------------------------------------------------------------


def test_those_that_waited_come_before_who_finds_the_event_set() -> None:
    event, order = Event(), []

    def wait(name: int) -> None:
        assert event.wait() is True
        order.append(name)

    spawn(wait, 1)
    spawn(wait, 2)
    gevent.idle()
    assert event.linkcount() == 2
    event.set()
    wait(3)
    assert order == [1, 2, 3]


def test_links_are_called_in_order_once_each_and_by_the_hub() -> None:
    event, seen = Event(), []

    def link(source: Event) -> None:
        seen.append((source, getcurrent()))

    event.rawlink(link)
    event.rawlink(link)
    waiter = spawn(event.wait)
    sleep(0)
    event.rawlink(lambda source: seen.append("last"))
    event.set()
    assert seen == []  # not before the hub runs
    waiter.join()
    sleep(0)
    assert seen == [(event, get_hub()), "last"] and event.linkcount() == 0
    with pytest.raises(TypeError, match="Expected callable"):
        event.rawlink(None)  # type: ignore[arg-type]


def test_a_link_that_is_taken_out_is_not_called_nor_held() -> None:
    event = Event()
    gone = weakref.ref(event)
    called: list[Any] = []
    callback = called.append
    event.rawlink(callback)
    event.set()
    event.unlink(callback)
    event.unlink(callback)  # once more is nothing
    sleep(0)
    assert called == []
    event.rawlink(callback)
    event.unlink(callback)
    del event
    assert gone() is None


def test_a_link_that_raises_is_reported_and_the_next_one_is_called(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result, seen = AsyncResult(), []

    def fail(source: object) -> None:
        raise LookupError("in a link")

    result.rawlink(fail)
    result.rawlink(seen.append)
    result.set(1)
    sleep(0)
    assert seen == [result] and "in a link" in capsys.readouterr().err


def test_links_of_a_greenlet_may_take_each_other_out() -> None:
    target, seen = spawn(int), []
    target.rawlink(lambda source: source.unlink(second))

    def second(source: object) -> None:
        seen.append("second")

    target.rawlink(second)
    target.rawlink(lambda source: seen.append("third"))
    assert target.has_links() == 3
    target.join()
    sleep(0)
    assert seen == ["third"] and target.has_links() == 0


def test_what_is_released_may_be_taken_by_who_asks_before_the_turn() -> None:
    semaphore = Semaphore(0)
    first, second = spawn(semaphore.acquire), spawn(semaphore.acquire, timeout=0.002)
    sleep(0)
    assert semaphore.release() == 1
    assert semaphore.acquire(blocking=False) is True
    assert semaphore.release() == 1  # the turn finds this one
    assert first.get() is True and second.get() is False and semaphore.counter == 0


def test_what_is_waited_for_can_be_switched_to_by_nobody_else() -> None:
    for waiting in (Event().wait, AsyncResult().get, Semaphore(0).acquire, Queue().get, spawn(sleep, 9).join):
        waiter = spawn(waiting)
        sleep(0)
        spawn_raw(waiter.switch, "surprise")
        with pytest.raises(InvalidSwitchError, match="surprise"):
            waiter.get()


# --- limits -------------------------------------------------------------------------------------------------


def test_a_timeout_object_is_the_limit_of_a_wait() -> None:
    class Mine(Exception):
        pass

    for wait in (AsyncResult().get, spawn(sleep, 3600).get, Queue().get):
        limit = Timeout(0.001)
        with pytest.raises(Timeout) as caught:
            wait(timeout=limit)
        assert caught.value is limit and not limit.pending
        with pytest.raises(Mine):
            wait(timeout=Timeout(0.001, Mine))
    limit = Timeout(0.001)
    assert Event().wait(limit) is False and Semaphore(0).acquire(timeout=limit) is False
    full = Queue(1, [0])
    with pytest.raises(Full):
        full.put(1, timeout=0.001)
    with pytest.raises(ValueError, match="non-negative"):
        SimpleQueue().put(1, timeout=-1)


def test_a_timeout_of_ones_own_class() -> None:
    class Mine(Timeout):
        def __init__(self, seconds: float, *args: Any, **kwargs: Any) -> None:
            super().__init__(seconds, *args, **kwargs)
            self.mine = True

    with pytest.raises(Mine) as caught, Mine.start_new(0.001):
        sleep(3600)
    assert caught.value.mine and caught.value.seconds == 0.001
    assert Timeout(0) < 1 and Timeout(1) < Timeout(2)
    assert not Timeout(None).pending
    closed = Timeout(1)
    closed.close()
    with pytest.raises(AssertionError, match="closed"):
        closed.start()
    gone = weakref.ref(caught.value)
    del caught
    gc.collect()
    assert gone() is None


# --- threads ------------------------------------------------------------------------------------------------


def in_a_thread(function: Any) -> tuple[threading.Thread, list[Any]]:
    """Runs it in a thread with a hub of its own, if it makes one."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function())
        finally:
            hub = gevent.hub.get_hub_if_exists()
            if hub is not None:
                hub.destroy()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@pytest.mark.parametrize("kind", ["event", "result", "semaphore"])
def test_a_greenlet_of_another_thread_waits_in_its_own_hub(kind: str) -> None:
    event, result, semaphore = Event(), AsyncResult(), Semaphore(0)
    for each in (event, result, semaphore):
        each.hub = get_hub()
    wait, tell = {
        "event": (event.wait, event.set),
        "result": (result.get, lambda: result.set(True)),
        "semaphore": (semaphore.acquire, semaphore.release),
    }[kind]
    beside: list[int] = []
    began = threading.Event()

    def foreign() -> object:
        ticker = spawn(lambda: beside.extend(sleep(0) or number for number in range(3)))
        spawn_raw(began.set)
        answer = wait()
        ticker.join()
        return answer

    thread, results = in_a_thread(foreign)
    began.wait()
    tell()
    while thread.is_alive():
        sleep(0.001)
    assert results == [True] and beside == [0, 1, 2]
    assert semaphore.counter == 0


@pytest.mark.parametrize("kind", [Semaphore, BoundedSemaphore])
def test_threads_without_hubs_share_a_semaphore(kind: Any) -> None:
    semaphore, inside, most = kind(1), [], []

    def work() -> bool:
        for _ in range(200):
            with semaphore:
                inside.append(1)
                most.append(len(inside))
                sys.setswitchinterval(1e-6)
                inside.pop()
        return gevent.hub.get_hub_if_exists() is None

    interval = sys.getswitchinterval()
    try:
        threads = [in_a_thread(work) for _ in range(4)]
        for thread, _ in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert [results for _, results in threads] == [[True]] * 4
    assert set(most) == {1} and semaphore.counter == 1 and semaphore.linkcount() == 0


def test_a_thread_without_a_hub_gives_up_in_time() -> None:
    semaphore = Semaphore(1)
    semaphore.acquire()
    thread, results = in_a_thread(lambda: semaphore.acquire(timeout=0.002))
    thread.join()
    assert results == [False] and semaphore.linkcount() == 0
    semaphore.release()
    assert semaphore.acquire(blocking=False)


def test_a_queue_is_filled_by_another_thread() -> None:
    queue = Queue()
    keep = get_hub().loop.async_()  # something may come from outside
    keep.start(int)
    getter = spawn(lambda: [queue.get() for _ in range(100)])
    sleep(0)
    thread, _ = in_a_thread(lambda: [queue.put(number) for number in range(100)])
    assert getter.get() == list(range(100))
    thread.join()
    keep.close()


def test_a_loop_that_only_stands_for_one_is_asked_all_the_same() -> None:
    hub = get_hub()
    real, asked = hub.loop, []

    class Proxy:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def run_callback_threadsafe(self, callback: Any, *args: Any) -> Any:
            asked.append(callback)
            return real.run_callback_threadsafe(callback, *args)

    event, linked = Event(), []
    event.hub = hub
    event.rawlink(linked.append)
    hub.loop = Proxy()
    try:
        thread, _ = in_a_thread(event.set)
        thread.join()
    finally:
        hub.loop = real
    sleep(0)  # the loop is asked, and
    sleep(0)  # does it in a turn of its own
    assert linked == [event] and len(asked) == 1
