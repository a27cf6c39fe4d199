"""What gevent's own primitives promise beyond the plain case: order, links, threads, subclasses."""

from __future__ import annotations

import collections
import gc
import sys
import threading
import weakref
from typing import Any

import pytest
import weft.gevent as gevent
from weft.gevent import Greenlet, GreenletExit, Timeout, get_hub, getcurrent, joinall, sleep, spawn, spawn_raw
from weft.gevent import _hub as native
from weft.gevent.event import AsyncResult, Event
from weft.gevent.exceptions import InvalidSwitchError
from weft.gevent.hub import Hub, set_default_hub_class
from weft.gevent.lock import BoundedSemaphore, Semaphore
from weft.gevent.queue import Channel, Empty, Full, LifoQueue, PriorityQueue, Queue, ShutDown, SimpleQueue

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


# --- greenlets ----------------------------------------------------------------------------------------------


def test_who_made_whom() -> None:
    def inner() -> Greenlet:
        return spawn(int)

    def outer() -> tuple[Greenlet, object]:
        return inner(), getcurrent()

    first, other = spawn(outer), spawn(outer)
    child, me = first.get()
    assert child.spawning_greenlet() is me is first
    assert child.spawn_tree_locals is first.spawn_tree_locals is not other.spawn_tree_locals
    first.spawn_tree_locals["mine"] = 1
    assert child.spawn_tree_locals == {"mine": 1}
    assert not hasattr(getcurrent(), "spawn_tree_locals")
    frame = child.spawning_stack
    assert (frame.f_code.co_name, frame.f_back.f_code.co_name) == ("inner", "outer")
    assert frame.f_lineno == inner.__code__.co_firstlineno + 1
    raw = spawn_raw(int)
    assert raw.spawning_greenlet() is getcurrent() and raw.spawn_tree_locals == {}
    native.track_tree(False)
    try:
        untracked = spawn(int)
        assert untracked.spawning_stack is None is untracked.spawn_tree_locals
    finally:
        native.track_tree(True)
    joinall([child, other, untracked])


def test_numbers_and_names() -> None:
    named = spawn(sleep, 0)
    assert named.minimal_ident == named.minimal_ident and named.name == f"Greenlet-{named.minimal_ident}"
    assert f'"{named.name}"' in repr(named)
    named.name = "mine"
    assert repr(named).startswith('<Greenlet "mine" at 0x') and repr(named).endswith("(0)>")
    named.join()
    number = named.minimal_ident
    del named
    gc.collect()
    assert spawn(int).minimal_ident <= number
    sleep(0)


def test_a_subclass_runs_its_own_or_what_it_was_given() -> None:
    class Own(Greenlet):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.started_by = "own"

        def _run(self, *args: object) -> object:  # type: ignore[override]
            return ("own", args)

    assert Own.spawn(None, 1).get() == ("own", (1,))
    assert Own.spawn(lambda *args: ("given", args), 2).get() == ("given", (2,))
    assert Own().started_by == "own"

    class Started(Own):
        def start(self) -> None:
            self.started_by = "start"
            super().start()

    started = Started.spawn(None)
    assert started.started_by == "start" and started.get() == ("own", ())
    assert Greenlet(run=divmod, *()).args == ()  # noqa: B026
    assert spawn(int, "11", base=2).get() == 3
    assert Greenlet.spawn(run=lambda: 4).get() == 4


def test_every_start_is_told() -> None:
    seen: list[Greenlet] = []
    Greenlet.add_spawn_callback(seen.append)
    try:
        first = spawn(int)
        later = gevent.spawn_later(0.001, int)
    finally:
        Greenlet.remove_spawn_callback(seen.append)
    third = spawn(int)
    joinall([first, later, third])
    assert seen == [first, later]


def test_states_from_birth_to_death() -> None:
    made = Greenlet(sleep, 0)
    assert (bool(made), made.started, made.dead, made.ready()) == (False, False, False, False)
    made.start()
    assert (bool(made), made.dead, made.successful()) == (True, False, False)
    made.join()
    assert (bool(made), made.dead, made.ready(), made.successful()) == (False, True, True, True)
    assert made.args == () and made.kwargs == {} and made.exc_info is None
    never = Greenlet(int)
    never.kill()
    assert (bool(never), never.dead, never.successful()) == (False, True, True)
    assert isinstance(never.value, GreenletExit)
    never.start()
    sleep(0)
    assert isinstance(never.value, GreenletExit)
    with pytest.raises(Timeout):
        spawn(sleep, 1).get(block=False)


def test_an_exception_comes_out_as_often_as_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise LookupError("on purpose")

    failed = spawn(fail)
    lengths = set()
    for _ in range(3):
        with pytest.raises(LookupError) as caught:
            failed.get()
        lengths.add(len(caught.traceback))
    assert len(lengths) == 1
    assert failed.exc_info[0] is LookupError and failed.exc_info[1] is failed.exception
    assert "fail" in capsys.readouterr().err


def test_going_through_those_that_end() -> None:
    slow, fast = spawn(sleep, 3600), spawn(int)
    with gevent.iwait([slow, fast]) as ended:
        assert next(ended) is fast
    assert slow.has_links() == 0
    assert gevent.wait([slow], timeout=0.001) == [] and slow.has_links() == 0
    assert list(gevent.iwait([slow], timeout=0.001)) == []
    waiting = spawn(joinall, [slow])
    sleep(0)
    assert slow.has_links() == 1
    waiting.kill()
    assert slow.has_links() == 0
    slow.kill()

    class Foreign:
        """Something else that has links."""

        def rawlink(self, callback: Any) -> None:
            get_hub().loop.run_callback(callback, self)

    foreign = Foreign()
    assert gevent.wait([foreign]) == [foreign]


def test_a_greenlet_is_not_held_by_who_started_it() -> None:
    """One that parks starts the next one; it may be away for long."""
    keep = spawn(sleep, 3600)
    gone = weakref.ref(spawn(sleep, 0))
    for _ in range(3):
        sleep(0)
    gc.collect()
    assert gone() is None
    keep.kill()


def test_a_hub_that_counts_sees_every_wait() -> None:
    class Counting(Hub):
        switches = 0

        def switch(self, *args: Any) -> Any:
            self.switches += 1
            return super().switch(*args)

    get_hub().destroy()
    set_default_hub_class(Counting)
    try:
        hub: Any = get_hub()
        sleep(0)
        spawn(sleep, 0.001).join()
        Event().wait(0.001)
        with pytest.raises(Empty):
            Queue().get(timeout=0.001)
        assert hub.switches == 5
        hub.destroy()
    finally:
        set_default_hub_class(Hub)


def test_who_is_switched_out_is_told() -> None:
    class Told(Greenlet):
        count = 0

        def switch_out(self) -> None:
            self.count += 1

    told = Told.spawn(lambda: (sleep(0), Event().wait(0.001)))
    told.join()
    assert told.count == 2


# --- queues -------------------------------------------------------------------------------------------------


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
