"""Greenlets with results and links; events, queues, locks and timeouts between them."""

from __future__ import annotations

import pytest
import weft.gevent as gevent
from weft.gevent import Greenlet, Timeout, joinall, killall, sleep, spawn, spawn_later, with_timeout
from weft.gevent.event import AsyncResult, Event
from weft.gevent.lock import BoundedSemaphore, RLock, Semaphore
from weft.gevent.queue import Empty, Full, LifoQueue, PriorityQueue, Queue


def test_a_result_or_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise LookupError("on purpose")

    good, bad = spawn(divmod, 7, 2), spawn(fail)
    assert not good.ready() and good.started
    joinall([good, bad])
    assert (good.get(), good.value, good.successful(), good.exception) == ((3, 1), (3, 1), True, None)
    assert not bad.successful() and bad.value is None
    with pytest.raises(LookupError, match="on purpose"):
        bad.get()
    with pytest.raises(LookupError):
        joinall([bad], raise_error=True)
    assert "LookupError" in capsys.readouterr().err


def test_a_subclass_says_what_to_run() -> None:
    class Adder(Greenlet):
        def _run(self, a: int, b: int) -> int:  # type: ignore[override]
            return a + b

    adder = Adder(None, 1, 2)
    adder.start()
    assert adder.get() == 3
    with pytest.raises(TypeError):
        Greenlet(3)  # type: ignore[arg-type]


def test_links_are_called_after_the_end() -> None:
    seen: list[tuple[str, object]] = []
    result = AsyncResult()
    each = spawn(lambda: 4)
    each.rawlink(lambda source: seen.append(("raw", source.value)))
    each.link(lambda source: (sleep(0), seen.append(("link", source.value))))
    each.link_value(result)
    each.link_exception(lambda source: seen.append(("exception", source)))
    gone = seen.append
    each.rawlink(gone)
    each.unlink(gone)
    assert result.get() == 4
    sleep(0.001)
    each.rawlink(lambda source: seen.append(("late", source.value)))
    sleep(0.001)
    assert seen == [("raw", 4), ("link", 4), ("late", 4)]


def test_later_and_never() -> None:
    late = spawn_later(0.002, lambda: "late")
    never = spawn(lambda: "never")
    never.kill()
    assert isinstance(never.get(), gevent.GreenletExit) and never.dead
    assert late.get() == "late"
    unstarted = Greenlet(lambda: "no")
    unstarted.throw(ValueError("instead"))
    with pytest.raises(ValueError, match="instead"):
        unstarted.get()


def test_many_are_ended_at_once() -> None:
    sleepers = [spawn(sleep, 3600) for _ in range(50)]
    sleep(0)
    killall(sleepers)
    assert all(sleeper.dead for sleeper in sleepers)
    stubborn = spawn(_stubborn)
    sleep(0)
    with pytest.raises(Timeout):
        killall([stubborn], timeout=0.002)
    stubborn.join()


def _stubborn() -> None:
    try:
        sleep(3600)
    except gevent.GreenletExit:
        sleep(0.02)


def test_waiting_for_some_of_many() -> None:
    fast, slow = Event(), Event()
    fast.set()
    assert gevent.wait([fast, slow], count=1) == [fast]
    assert gevent.wait([fast, slow], timeout=0.002) == [fast]
    spawn(slow.set)
    assert set(gevent.iwait([fast, slow])) == {fast, slow}
    assert gevent.wait(timeout=0.01) is True


def test_an_event_wakes_all_who_wait() -> None:
    event = Event()
    waiters = [spawn(event.wait) for _ in range(5)]
    assert event.wait(timeout=0.001) is False
    event.set()
    event.clear()  # who waited was let go all the same
    assert [waiter.get() for waiter in joinall(waiters)] == [True] * 5
    assert not event.is_set()


def test_a_value_that_is_waited_for() -> None:
    result = AsyncResult()
    with pytest.raises(Timeout):
        result.get(block=False)
    with pytest.raises(Timeout):
        result.get(timeout=0.001)
    assert result.wait(timeout=0.001) is None
    spawn(result.set, None)
    assert result.get() is None and result.ready() and result.successful()
    failed = AsyncResult()
    failed.set_exception(KeyError("k"))
    with pytest.raises(KeyError):
        failed.get()


@pytest.mark.parametrize(
    ("kind", "order"), [(Queue, [2, 3, 1]), (LifoQueue, [1, 3, 2]), (PriorityQueue, [1, 2, 3])]
)
def test_queues_have_their_orders(kind: type[Queue], order: list[int]) -> None:
    queue = kind()
    for item in (2, 3, 1):
        queue.put(item)
    assert queue.peek() == order[0] and queue.qsize() == 3
    assert [queue.get() for _ in range(3)] == order
    with pytest.raises(Empty):
        queue.get_nowait()


def test_queues_make_both_sides_wait() -> None:
    queue = Queue(maxsize=2)
    got: list[int] = []

    def consume() -> None:
        for item in queue:
            got.append(item)
            queue.task_done()

    def produce() -> None:
        for number in range(100):
            queue.put(number)
        queue.put(StopIteration)

    joinall([spawn(consume), spawn(produce)])
    assert got == list(range(100))
    queue.task_done()
    assert queue.join() is True
    queue.put(1)
    queue.put(2)
    with pytest.raises(Full):
        queue.put(3, timeout=0.001)
    assert queue.qsize() == 2 and queue.join(timeout=0.001) is False
    with pytest.raises(Empty):
        Queue().get(timeout=0.001)


def test_a_killed_getter_takes_nothing() -> None:
    queue: Queue = Queue()
    first, second = spawn(queue.get), spawn(queue.get)
    sleep(0)
    first.kill()
    queue.put("item")
    assert second.get() == "item"


def test_locks_let_one_in_at_a_time() -> None:
    lock = BoundedSemaphore(1)
    inside, order = [], []

    def work(number: int) -> None:
        with lock:
            inside.append(number)
            sleep(0)
            assert inside == [number]
            inside.clear()
            order.append(number)

    joinall([spawn(work, number) for number in range(5)])
    assert order == list(range(5))
    with pytest.raises(ValueError, match="too many times"):
        lock.release()
    empty = Semaphore(0)
    assert empty.acquire(blocking=False) is False and empty.acquire(timeout=0.001) is False
    again = RLock()
    with again, again:
        assert spawn(again.acquire, False).get() is False
    assert spawn(again.acquire, False).get() is True
    with pytest.raises(RuntimeError, match="un-acquired"):
        again.release()


def test_timeouts_raise_themselves_and_no_other() -> None:
    with pytest.raises(Timeout) as caught, Timeout(0.001) as outer:
        with Timeout(3600):
            sleep(3600)
    assert caught.value is outer
    with Timeout(0.001, False):
        sleep(3600)
    with pytest.raises(KeyError), Timeout(0.001, KeyError("k")):
        sleep(3600)
    with Timeout(None):
        sleep(0)
    assert with_timeout(0.001, sleep, 3600, timeout_value="over") == "over"
    assert with_timeout(3600, lambda: "done") == "done"
    used = Timeout.start_new(3600)
    with pytest.raises(AssertionError, match="already started"):
        used.start()
    used.close()
    assert not used.pending and str(Timeout(1)) == "1 second"
