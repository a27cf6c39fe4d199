"""What gevent's own queues promise beyond the plain case: turns, classes with methods of their own, shutdown."""

from __future__ import annotations

import collections
from typing import Any

import pytest
from weft.gevent import Timeout, get_hub, joinall, sleep, spawn
from weft.gevent import _hub as native
from weft.gevent.queue import Channel, Empty, Full, LifoQueue, PriorityQueue, Queue, ShutDown, SimpleQueue


def test_a_queue_with_methods_of_its_own() -> None:
    class Unique(Queue):
        def _init(self, maxsize: object) -> None:  # type: ignore[override]
            self.queue = {}

        def _put(self, item: Any) -> None:
            self.queue[item] = None
            self._did_put_task()

        def _get(self) -> Any:
            return self.queue.popitem()[0]

    queue = Unique()
    for item in (1, 1, 1):
        queue.put(item)
    assert queue.qsize() == 1 == len(queue)
    assert queue.get() == 1
    getter = spawn(queue.get)
    sleep(0)
    queue.put(2)
    assert getter.get() == 2

    class Refuses(Queue):
        def _put(self, item: Any) -> None:
            raise ValueError(item)

    bounded = Refuses(1)
    bounded.queue.append(0)
    putter = spawn(bounded.put, "item")
    sleep(0)
    assert bounded.get() == 0
    with pytest.raises(ValueError, match="item"):
        putter.get()


def test_the_items_of_a_queue_can_be_looked_at() -> None:
    queue = SimpleQueue(None, [1, 2])
    assert queue.queue == collections.deque([1, 2])
    queue.queue.appendleft(0)
    queue.put(3)
    assert [queue.get() for _ in range(4)] == [0, 1, 2, 3]
    assert queue.copy().qsize() == 0 and bool(queue)
    assert str(Queue(2, [1])).startswith("<Queue maxsize=2 queue=deque([1]) tasks=1")
    assert list(Queue(None, [1, StopIteration, 2])) == [1]
    assert PriorityQueue(None, [3, 1, 2]).get() == 1 and LifoQueue(None, [1, 2]).get() == 2
    with pytest.warns(DeprecationWarning, match=r"Queue\(0\)"):
        assert Queue(0).maxsize is None
    assert issubclass(Queue[int].__origin__, SimpleQueue)


def test_putters_and_getters_are_served_in_turns() -> None:
    queue, log = SimpleQueue(1), []

    def put(item: int) -> None:
        queue.put(item)
        log.append(("put", item))

    putters = [spawn(put, item) for item in range(4)]
    sleep(0)
    assert log == [("put", 0)] and queue._waiting() == (0, 3)
    got = []
    for _ in range(4):
        got.append(queue.get())
        sleep(0)
    assert got == [0, 1, 2, 3] and [item for _, item in log] == [0, 1, 2, 3]
    joinall(putters)


def test_in_the_hub_queues_do_not_wait() -> None:
    queue, seen = Queue(1), []

    def in_the_hub() -> None:
        with pytest.raises(Empty):
            queue.get()
        queue.put(1)
        with pytest.raises(Full):
            queue.put(2)
        seen.append(queue.get())

    get_hub().loop.run_callback(in_the_hub)
    sleep(0)
    assert seen == [1]
    full = Queue(1, ["first"])
    putter = spawn(full.put, "second")
    sleep(0)
    got: list[str] = []
    get_hub().loop.run_callback(lambda: got.extend([full.get(), full.get()]))
    putter.join()
    assert got == ["first", "second"]


def test_a_callback_goes_on_before_anybody_else_does() -> None:
    """What it switches to comes back to it when that waits, or ends."""
    order: list[str] = []
    waiter = native.WaiterBase()

    def wait() -> None:
        waiter.get()
        order.append("waited")

    def callback() -> None:
        waiter.switch(None)
        order.append("callback")

    first = spawn(wait)
    first.rawlink(lambda source: order.append("link"))
    second = spawn(lambda: (sleep(0), order.append("second")))
    sleep(0)
    get_hub().loop.run_callback(callback)
    joinall([first, second])
    assert order == ["second", "waited", "callback", "link"]


def test_a_queue_is_shut_down() -> None:
    queue = Queue(1, [1])
    getters = Queue()
    putter, getter = spawn(queue.put, 2), spawn(getters.get)
    sleep(0)
    queue.shutdown()
    getters.shutdown()
    for waiter in (putter, getter):
        with pytest.raises(ShutDown):
            waiter.get()
    assert queue.get() == 1
    for use in (queue.get, lambda: queue.put(1)):
        with pytest.raises(ShutDown):
            use()
    dropped = Queue(None, [1, 2])
    joined = spawn(dropped.join)
    sleep(0)
    dropped.shutdown(immediate=True)
    assert joined.get() is True


def test_a_channel_makes_both_meet() -> None:
    channel, order = Channel(), []
    putter = spawn(lambda: (channel.put("item"), order.append("put")))
    sleep(0)
    assert order == [] and channel.balance == 1
    assert channel.get() == "item"
    putter.join()
    assert order == ["put"]
    with pytest.raises(Empty):
        channel.get(timeout=0.001)
    with pytest.raises(Full):
        channel.put(1, timeout=0.001)
    assert channel.balance == 0


def test_who_uses_a_channel_all_the_time_leaves_turns_to_others() -> None:
    channel = Channel()
    over = False

    def give() -> None:
        while not over:
            channel.put(1)

    def take() -> None:
        while not over:
            channel.get()

    users = [spawn(give), spawn(take)]
    with Timeout(30):
        sleep(0.001)
    over = True
    for user in users:
        user.kill()
