"""Greenlets that are killed, timed out, interrupted by signals and forked away from while they wait for what lies between
processes: nothing is lost, nothing is taken by a copy, and nobody is waited for who is gone."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import pytest
import weft
from weft.gevent import GreenletExit, Timeout, get_hub, joinall, killall, sleep, spawn
from weft.multiprocessing import get_context as weft_context


class Troupe:
    """Greenlets that do the same over and over, each of which is hit now and then and takes up its work again."""

    def __init__(self, chance: random.Random, works: list[Callable[[], None]]) -> None:
        self.chance = chance
        self.over = False
        self.members = [spawn(self._run, work) for work in works]
        self.hits: Counter[str] = Counter()

    def _run(self, work: Callable[[], None]) -> None:
        while not self.over:
            try:
                if self.chance.random() < 0.2:
                    with Timeout(self.chance.choice([0.0001, 0.001, 0.003]), False):
                        work()
                        continue
                    self.hits["timed out"] += 1
                else:
                    work()
            except GreenletExit:
                self.hits["killed"] += 1

    def hit(self) -> None:
        """Kill one where it waits, or where it is about to go on."""
        self.chance.choice(self.members).kill(block=False)

    def end(self) -> None:
        self.over = True
        killall(self.members)
        for each in self.members:
            each.get()


@contextmanager
def signals() -> Iterator[None]:
    """One every two milliseconds, to a handler that does nothing."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fork_and_run_on(chance: random.Random, troupe: Troupe, serves: bool) -> None:
    """A child in which the hub serves for a while. Greenlets that waited for something of its own, such as a timer, go on there as
    well, of which those may make nothing that are in the middle of something; those that waited for what lies between processes
    do not."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            troupe.over = True
            if serves:
                sleep(chance.choice([0, 0.001, 0.06]))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def storm(chance: random.Random, troupe: Troupe, hits: int, forks: int, serves: bool = True) -> None:
    with signals():
        for number in range(hits):
            sleep(chance.choice([0, 0, 0.0005, 0.002]))
            troupe.hit()
            if number % max(hits // max(forks, 1), 1) == 1 and forks:
                fork_and_run_on(chance, troupe, serves)


@pytest.mark.parametrize("maxsize", [0, 1, 5])
def test_queues_keep_what_was_put(chance: random.Random, hits: int, maxsize: int) -> None:
    items: weft.Queue[Any] = weft.Queue(maxsize)
    put: list[int] = []
    got: list[int] = []
    numbers = iter(range(1 << 40))

    def produce() -> None:
        number = next(numbers)
        items.put(number if number % 3 else [number])
        put.append(number)
        if len(put) - len(got) > 50:
            sleep(0.0002)

    def consume() -> None:
        item = items.get()
        got.append(item[0] if isinstance(item, list) else item)

    troupe = Troupe(chance, [produce] * 5 + [consume] * 5)
    storm(chance, troupe, hits, forks=4)
    troupe.end()
    while not items.empty():
        consume()
    assert troupe.hits["killed"] and troupe.hits["timed out"]
    assert sorted(got) == sorted(put)
    assert items.qsize() == 0


def serve(requests: Any, replies: Any, seed: int, hits: int) -> None:
    """In a process: greenlets that answer, some of which are killed."""
    chance = random.Random(seed)
    lost: list[object] = []

    def answer() -> None:
        item = requests.get()
        if item is None:
            troupe.over = True
            lost.append(item)
            raise GreenletExit
        while True:
            # What was taken is answered, whatever comes in between.
            try:
                replies.put(item)
                return
            except (GreenletExit, Timeout):
                continue

    troupe = Troupe(chance, [answer] * 6)
    for _ in range(hits):
        sleep(0.001)
        troupe.hit()
    while not lost:
        sleep(0.001)
    troupe.end()
    for _ in lost[1:]:
        requests.put(None)  # it was another one's


def test_queues_between_processes(chance: random.Random, hits: int) -> None:
    requests: weft.Queue[Any] = weft.Queue(4)
    replies: weft.Queue[Any] = weft.Queue(3)
    put: list[int] = []
    got: list[int] = []
    numbers = iter(range(1 << 40))
    servers = [
        weft_context("fork").Process(target=serve, args=(requests, replies, chance.random(), hits // 4))
        for _ in range(2)
    ]
    for server in servers:
        server.start()

    def ask() -> None:
        number = next(numbers)
        requests.put(number)
        put.append(number)

    def hear() -> None:
        got.append(replies.get())

    troupe = Troupe(chance, [ask] * 4 + [hear] * 4)
    storm(chance, troupe, hits, forks=2)
    troupe.end()
    hearer = spawn(lambda: [got.append(replies.get()) for _ in range(len(put) - len(got))])
    hearer.get()
    for _ in servers:
        requests.put(None)
    for server in servers:
        server.join()
        assert server.exitcode == 0
    assert sorted(got) == sorted(put)
    assert requests.empty() and replies.empty()


def contend(lock: Any, total: Any, seed: float, hits: int) -> None:
    """In a process: greenlets that add to a number under a lock."""
    added = increment_under(lock, total, random.Random(seed), hits, forks=0)
    with total[1].get_lock():
        total[1].value += added


def increment_under(lock: Any, total: Any, chance: random.Random, hits: int, forks: int) -> int:
    added = 0

    def work() -> None:
        nonlocal added
        lock.acquire()
        try:
            before = total[0].value
            if chance.random() < 0.3:
                sleep(chance.choice([0, 0.0002]))
            total[0].value = before + 1
            added += 1
        finally:
            lock.release()
        if chance.random() < 0.3:
            sleep(0)

    troupe = Troupe(chance, [work] * 6)
    storm(chance, troupe, hits, forks, serves=False)
    troupe.end()
    assert troupe.hits["killed"]
    return added


@pytest.mark.parametrize("kind", [weft.Lock, weft.RLock, weft.Semaphore, weft.BoundedSemaphore])
def test_locks_exclude_and_are_free_in_the_end(
    chance: random.Random, hits: int, kind: Callable[[], Any]
) -> None:
    lock = kind()
    context = weft_context("fork")
    total = context.Value("q", 0, lock=False), context.Value("q", 0)
    rival = context.Process(target=contend, args=(lock, total, chance.random(), hits // 2))
    rival.start()
    added = increment_under(lock, total, chance, hits, forks=3)
    rival.join()
    assert rival.exitcode == 0
    assert total[0].value == added + total[1].value
    assert lock.acquire(timeout=30)
    lock.release()
    if hasattr(lock, "get_value"):
        assert lock.get_value() == 1


def test_conditions_lose_no_notification(chance: random.Random, hits: int) -> None:
    condition = weft.Condition()
    stock: list[int] = []
    put: list[int] = []
    got: list[int] = []
    numbers = iter(range(1 << 40))

    def produce() -> None:
        with condition:
            stock.append(next(numbers))
            put.append(stock[-1])
            condition.notify()
        if len(stock) > 20:
            sleep(0.001)

    def consume() -> None:
        with condition:
            while not stock:
                condition.wait()
            got.append(stock.pop())

    troupe = Troupe(chance, [produce] * 2 + [consume] * 6)
    storm(chance, troupe, hits, forks=3)
    troupe.end()
    assert sorted([*got, *stock]) == sorted(put)
    assert condition._waiting() == 0  # no ghost
    assert condition.acquire(timeout=30)
    condition.release()


def test_connections_keep_messages_whole(chance: random.Random, hits: int) -> None:
    near, far = weft.Pipe()
    sent: list[int] = []
    received: list[int] = []
    numbers = iter(range(1 << 40))

    def send() -> None:
        number = next(numbers)
        far.send_bytes(number.to_bytes(8, "little") * chance.choice([1, 1, 200, 9000]))
        sent.append(number)

    def receive() -> None:
        data = near.recv_bytes()
        number = int.from_bytes(data[:8], "little")
        assert data == data[:8] * (len(data) // 8)
        received.append(number)

    with near, far:
        # Only the readers are hit, in short messages: one that is killed in the middle of a long one breaks it off, as a
        # process would.
        members = [spawn(lambda: [send() for _ in range(hits)]) for _ in range(2)]
        readers = [spawn(lambda: [receive() for _ in range(hits)]) for _ in range(2)]
        joinall([*members, *readers], raise_error=True)
        assert sorted(received) == sorted(sent)

        def receive_short() -> None:
            received.append(int.from_bytes(near.recv_bytes(), "little"))

        received.clear()
        sent.clear()

        def send_short() -> None:
            number = next(numbers)
            far.send_bytes(number.to_bytes(8, "little"))
            sent.append(number)
            if len(sent) - len(received) > 100:
                sleep(0.0005)

        troupe = Troupe(chance, [receive_short] * 4)
        sender = spawn(lambda: [send_short() for _ in range(hits * 20)])
        storm(chance, troupe, hits, forks=2, serves=False)
        sender.get()
        while near.poll() or len(received) < len(sent):
            sleep(0.001)
        troupe.end()
        assert sorted(received) == sorted(sent)


def test_barriers_pass_or_break(chance: random.Random, hits: int) -> None:
    barrier = weft.Barrier(3)
    passed = 0

    def arrive() -> None:
        nonlocal passed
        barrier.wait()
        passed += 1

    troupe = Troupe(chance, [arrive] * 7)
    storm(chance, troupe, hits, forks=2)
    troupe.end()
    assert passed and not barrier.broken
    assert barrier.n_waiting == 0  # no ghost
    assert get_context() is not None and get_hub().loop.activecnt == 0
