"""Waits for what lies between processes, in greenlets: they park the greenlet that waits, and no other."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import weft
from weft import gevent
from weft.gevent import GreenletExit, Timeout, get_hub, joinall, sleep, spawn
from weft.gevent.event import Event


class Ticker:
    """A greenlet that counts as long as others leave it time to."""

    def __init__(self) -> None:
        self.count = 0
        self.greenlet = spawn(self._run)

    def _run(self) -> None:
        while True:
            self.count += 1
            sleep(0.001)

    def __enter__(self) -> Ticker:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.greenlet.kill()

    def ticks(self, more: int) -> None:
        """Wait until it has counted so many more."""
        goal = self.count + more
        while self.count < goal:
            sleep(0.001)


def echo(inbox: Any, outbox: Any) -> None:
    for item in iter(inbox.get, None):
        outbox.put(item)


def test_others_run_while_one_waits_at_a_queue() -> None:
    items: weft.Queue[Any] = weft.Queue()
    with Ticker() as ticker:
        waiter = spawn(items.get)
        ticker.ticks(20)
        assert not waiter.ready()
        items.put("item")
        assert waiter.get() == "item"


def test_others_run_while_one_waits_for_room() -> None:
    items: weft.Queue[int] = weft.Queue(1)
    items.put(0)
    with Ticker() as ticker:
        waiter = spawn(items.put, 1)
        ticker.ticks(20)
        assert not waiter.ready()
        assert items.get() == 0
        waiter.join()
    assert items.get() == 1


def test_a_conversation_with_a_process() -> None:
    inbox: weft.Queue[Any] = weft.Queue()
    outbox: weft.Queue[Any] = weft.Queue()
    child = weft.Process(target=echo, args=(inbox, outbox))
    child.start()
    with Ticker() as ticker:
        waiters = [spawn(outbox.get) for _ in range(20)]
        sleep(0)
        for number in range(20):
            inbox.put(number)
        assert sorted(each.get() for each in joinall(waiters)) == list(range(20))
        joiner = spawn(child.join)
        ticker.ticks(10)
        assert not joiner.ready()
        inbox.put(None)
        joiner.join()
        assert child.exitcode == 0


@pytest.mark.parametrize("kind", [weft.Lock, weft.RLock, weft.Semaphore, weft.BoundedSemaphore])
def test_others_run_while_one_waits_for_a_lock(kind: Callable[[], Any]) -> None:
    lock = kind()
    lock.acquire()
    with Ticker() as ticker:
        waiter = spawn(lambda: (lock.acquire(), lock.release())[0])
        ticker.ticks(20)
        assert not waiter.ready()
        lock.release()
        assert waiter.get() is True
    assert lock.acquire(timeout=10)
    lock.release()


def test_a_recursive_lock_belongs_to_a_greenlet() -> None:
    lock = weft.RLock()
    order = []

    def hold(name: str) -> None:
        with lock, lock:
            order.append(f"{name} in")
            sleep(0.002)
            order.append(f"{name} out")

    joinall([spawn(hold, name) for name in "abc"], raise_error=True)
    assert order[1::2] == [entry.replace("in", "out") for entry in order[::2]]
    assert sorted(order[::2]) == ["a in", "b in", "c in"]
    lock.acquire()
    stranger = spawn(lock.release)
    stranger.join()
    assert isinstance(stranger.exception, AssertionError)
    lock.release()


def test_an_event_a_condition_and_a_barrier() -> None:
    event, condition, barrier = weft.Event(), weft.Condition(), weft.Barrier(3)
    notified = []

    def await_notification(number: int) -> None:
        with condition:
            assert condition.wait(60)
            notified.append(number)

    with Ticker() as ticker:
        waits = [spawn(event.wait)]
        waits += [spawn(await_notification, number) for number in range(3)]
        waits += [spawn(barrier.wait) for _ in range(2)]
        ticker.ticks(20)
        assert not any(each.ready() for each in waits)
        event.set()
        with condition:
            condition.notify(1)
        ticker.ticks(20)
        assert len(notified) == 1
        with condition:
            condition.notify_all()
        barrier.wait()
        joinall(waits, raise_error=True)
    assert sorted(notified) == [0, 1, 2]


def test_connections() -> None:
    near, far = weft.Pipe()
    large = bytes(range(256)) * 40_000
    with near, far, Ticker() as ticker:
        poller = spawn(near.poll, 60)
        ticker.ticks(20)
        assert not poller.ready()
        far.send("small")
        assert poller.get() is True and near.recv() == "small"
        receiver = spawn(near.recv)
        ticker.ticks(20)
        assert not receiver.ready()
        far.send("another")
        assert receiver.get() == "another"
        # Neither end has a thread of its own.
        sender, receiver = spawn(far.send_bytes, large), spawn(near.recv_bytes)
        joinall([sender, receiver], raise_error=True)
        assert receiver.value == large
        # Many greenlets at one end.
        receivers = [spawn(near.recv_bytes) for _ in range(8)]
        senders = [spawn(far.send_bytes, bytes([number]) * 300_000) for number in range(8)]
        joinall([*receivers, *senders], raise_error=True)
        assert sorted(each.value[0] for each in receivers) == list(range(8))
        assert all(len(set(each.value)) == 1 and len(each.value) == 300_000 for each in receivers)


def test_wait_for_many_connections() -> None:
    from weft.multiprocessing.connection import wait

    pairs = [weft.Pipe() for _ in range(4)]
    with Ticker() as ticker:
        waiter = spawn(wait, [near for near, _ in pairs])
        ticker.ticks(20)
        assert not waiter.ready()
        pairs[2][1].send(1)
        assert waiter.get() == [pairs[2][0]]
        assert wait([pairs[0][0]], 0.001) == []
    for pair in pairs:
        for end in pair:
            end.close()


def double(number: int) -> int:
    return 2 * number


def doze(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_results_of_pools() -> None:
    with weft.Pool(2) as pool, Ticker() as ticker:
        started = ticker.count
        waits = [spawn(pool.apply, double, (number,)) for number in range(50)]
        naps = [spawn(pool.apply, doze, (0.05,)) for _ in range(2)]
        assert [each.get() for each in joinall(waits)] and sorted(each.value for each in waits) == list(
            range(0, 100, 2)
        )
        joinall(naps, raise_error=True)
        assert ticker.count > started + 5
        assert spawn(lambda: sum(pool.imap_unordered(double, range(100)))).get() == 9900


def test_calls_of_managers() -> None:
    with weft.Manager() as manager, Ticker() as ticker:
        items, numbers = manager.Queue(), manager.dict()
        waiters = [spawn(items.get) for _ in range(3)]
        ticker.ticks(20)
        assert not any(each.ready() for each in waiters)
        numbers["one"] = 1
        joinall([spawn(numbers.update, {number: number}) for number in range(20)], raise_error=True)
        assert len(numbers) == 21
        for number in range(3):
            items.put(number)
        assert sorted(each.get() for each in joinall(waiters)) == [0, 1, 2]


def test_the_lock_of_a_manager_belongs_to_a_greenlet() -> None:
    with weft.Manager() as manager:
        lock, items = manager.RLock(), manager.Queue()

        def hold() -> None:
            with lock:
                waiter = spawn(items.get)
                sleep(0.002)
                items.put("x")
                assert waiter.get() == "x"

        joinall([spawn(hold) for _ in range(5)], raise_error=True)


def test_time_is_over_and_so_is_the_wait() -> None:
    items: weft.Queue[int] = weft.Queue()
    lock = weft.Lock()
    lock.acquire()

    def get() -> None:
        with pytest.raises(queue.Empty):
            items.get(timeout=0.01)
        with Timeout(0.01, False):
            items.get()
            raise AssertionError("there is nothing")
        assert lock.acquire(timeout=0.01) is False
        with Timeout(0.01, False):
            lock.acquire()
            raise AssertionError("it is taken")

    spawn(get).get()
    items.put(5)
    assert items.get() == 5
    lock.release()
    assert lock.acquire(block=False)


def test_a_killed_waiter_takes_nothing() -> None:
    items: weft.Queue[int] = weft.Queue()
    victim, heir = spawn(items.get), spawn(items.get)
    sleep(0.001)
    # It is woken, or about to be, and killed before it runs.
    items.put(7)
    victim.kill(block=False)
    assert heir.get() == 7 or victim.value == 7
    assert {victim.value.__class__, heir.ready() and heir.value.__class__} <= {GreenletExit, int, False}
    if not heir.ready():
        heir.kill()
    assert items.empty()


def test_a_killed_waiter_of_a_condition_gives_its_notification_up() -> None:
    condition = weft.Condition(weft.Lock())
    woken = []

    def wait(number: int) -> None:
        with condition:
            condition.wait()
            woken.append(number)

    first, second = spawn(wait, 1), spawn(wait, 2)
    sleep(0.002)
    with condition:
        condition.notify(1)
        # It has to take the lock again, which is held here, and is killed while it waits for that.
        sleep(0.002)
        first.kill(block=False)
        sleep(0.002)
    joinall([first], raise_error=True)
    if 1 in woken:
        with condition:
            condition.notify(1)
    second.join()
    assert 2 in woken
    assert condition._lock.acquire(timeout=10)  # nobody kept it


def test_a_signal_is_handled_while_all_wait() -> None:
    items: weft.Queue[str] = weft.Queue()
    before = signal.signal(signal.SIGUSR1, lambda *_: items.put("signal"))
    try:
        waiter = spawn(items.get)
        sleep(0.001)
        sender = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
        sender.start()
        assert waiter.get() == "signal"
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_interruption_reaches_the_main_greenlet() -> None:
    items: weft.Queue[str] = weft.Queue()
    other = spawn(items.get)
    sleep(0.001)
    sender = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        items.get()
    sender.join()
    items.put("still there")
    assert other.get() == "still there"


def test_in_the_hub_and_without_one_the_thread_waits() -> None:
    items: weft.Queue[int] = weft.Queue()
    got = []
    get_hub().loop.run_callback(lambda: got.append(items.get()))
    thread = threading.Timer(0.01, items.put, (3,))
    thread.start()
    sleep(0.001)
    assert got == [3]
    thread.join()

    def in_a_thread() -> None:
        got.append(items.get(timeout=60))

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    items.put(4)
    thread.join()
    assert got == [3, 4]


def test_waits_go_on_after_a_fork_and_the_copies_do_not() -> None:
    items: weft.Queue[str] = weft.Queue()
    answers: weft.Queue[str] = weft.Queue()
    condition = weft.Condition()
    told = Event()

    def wait() -> None:
        with condition:
            condition.wait()
        told.set()

    def get() -> None:
        answers.put(f"{os.getpid()} got {items.get()}")

    waiters = [spawn(get), spawn(wait)]
    sleep(0.002)

    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                # The hub serves here, also with waits of its own kind; nothing of the parent's is taken.
                own: weft.Queue[int] = weft.Queue()
                waiter = spawn(own.get)
                sleep(0.01)
                own.put(1)
                status = 0 if waiter.get() == 1 else 2
                waiters[1].kill(block=False)
                sleep(0.005)
            finally:
                os._exit(status)
        return pid

    pid = spawn(fork).get()
    child = spawn(os.waitpid, pid, 0)
    assert child.get()[1] == 0
    items.put("item")
    assert answers.get() == f"{os.getpid()} got item"
    with condition:
        assert condition._waiting() == 1
        condition.notify()
    assert told.wait(60)


def test_a_process_that_was_forked_in_a_greenlet() -> None:
    from weft.multiprocessing import get_context

    items: weft.Queue[str] = weft.Queue()
    thief = spawn(items.get)
    sleep(0.001)

    def start() -> int | None:
        child = get_context("fork").Process(target=gevent.sleep, args=(0.01,))
        child.start()
        child.join()
        return child.exitcode

    assert spawn(start).get() == 0
    items.put("ours")
    assert thief.get() == "ours"


def test_a_destroyed_hub_ends_the_waits() -> None:
    items: weft.Queue[str] = weft.Queue()
    waiter = spawn(items.get)
    sleep(0.001)
    get_hub().destroy(destroy_loop=True)
    waiter.switch()
    assert isinstance(waiter.exception, ValueError) and "destroyed" in str(waiter.exception)
    items.put("later")
    assert items.get() == "later"
