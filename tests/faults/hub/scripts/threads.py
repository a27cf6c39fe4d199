"""Threads that have hubs come and go, and are in touch with one another: threads.py SEED THREADS LEFTOVERS.

LEFTOVERS is the share of threads, in hundredths, that end while greenlets of theirs wait for what all threads have.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from stage import belongings, descriptors, report, say
from weft.gevent import Timeout, get_hub, joinall, sleep, spawn
from weft.gevent.event import AsyncResult, Event
from weft.gevent.lock import Semaphore
from weft.gevent.pool import Pool
from weft.gevent.queue import Queue
from weft.gevent.socket import socketpair
from weft.gevent.threadpool import ThreadPool

AT_ONCE = 10
BATCH = 50
PERMITS = 3
PATIENCE = 60.0  # seconds until somebody who waits counts as forgotten


class Shared:
    """What all threads have."""

    def __init__(self) -> None:
        self.items: Any = Queue()
        self.permits = Semaphore(PERMITS)
        self.bell = Event()
        self.never = Event()
        self.inside = 0
        self.intruders = 0
        self.put: list[int] = []
        self.got: list[int] = []
        self.forgotten: list[str] = []


class Visit:
    """What one thread does with a hub of its own."""

    def __init__(self, number: int, rng: random.Random, shared: Shared, leftovers: float) -> None:
        self.number = number
        self.rng = rng
        self.shared = shared
        self.leftovers = rng.random() < leftovers
        self.destroys = rng.random() < 0.3
        self.question: AsyncResult[int] = AsyncResult()  # set by the main thread
        self.answer: AsyncResult[int] = AsyncResult()  # set by this one
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=f"visit {number}")

    def _run(self) -> None:
        try:
            deeds: list[Callable[[], object]] = [
                self._sleep,
                self._talk,
                self._use_threads,
                self._put,
                self._take_a_permit,
                self._hear_the_bell,
            ]
            chosen = self.rng.sample(deeds, self.rng.randint(1, len(deeds)))
            joinall([spawn(deed) for deed in chosen], raise_error=True)
            self._wait_for_another_thread()
            self.answer.set(self.number)
            if self.leftovers:
                self._leave_some()
            if self.destroys:
                get_hub().destroy()
        except BaseException as error:
            self.error = error
            self.answer.set_exception(error)

    def _sleep(self) -> None:
        for _ in range(3):
            sleep(self.rng.choice((0, 0, 0.0005)))

    def _talk(self) -> None:
        near, far = socketpair()
        sent = self.rng.randbytes(self.rng.choice((1, 100, 300_000)))
        writer = spawn(far.sendall, sent)
        received = b""
        while len(received) < len(sent):
            received += near.recv(1 << 16)
        writer.get()
        assert received == sent
        near.close()
        far.close()

    def _use_threads(self) -> None:
        pool = get_hub().threadpool if self.rng.random() < 0.5 else ThreadPool(2)
        assert pool.map(abs, [-1, -2]) == [1, 2]
        if pool is not get_hub().threadpool:
            pool.kill()

    def _put(self) -> None:
        shared = self.shared
        for _ in range(3):
            shared.put.append(self.number)
            shared.items.put(self.number)
            sleep(0)

    def _take_a_permit(self) -> None:
        shared = self.shared
        with shared.permits:
            shared.inside += 1
            shared.intruders += shared.inside > PERMITS
            sleep(self.rng.choice((0, 0.0005)))
            shared.inside -= 1

    def _hear_the_bell(self) -> None:
        if not self.shared.bell.wait(PATIENCE):
            self.shared.forgotten.append(f"{self.number} at the bell")
        # One that gives up beside those of other threads, who must not be taken for it.
        self.shared.never.wait(self.rng.choice((0.0001, 0.001)))

    def _wait_for_another_thread(self) -> None:
        with Timeout(PATIENCE):
            self.question.get()

    def _leave_some(self) -> None:
        shared, rng = self.shared, self.rng
        waits: list[Callable[[], object]] = [
            shared.never.wait,
            lambda: shared.bell.wait(PATIENCE),
            lambda: sleep(PATIENCE),
            AsyncResult().get,
            Event().wait,
            lambda: get_hub().threadpool.apply(abs, (-1,)),
            lambda: Pool(1).map(sleep, [PATIENCE, PATIENCE]),
        ]
        for wait in rng.sample(waits, rng.randint(1, 4)):
            spawn(wait)
        sleep(0)
        spawn(shared.bell.wait)  # never starts


def other_threads() -> int:
    """How many are left. Who joins a thread may go on before the very end of it, so they are waited for."""
    with Timeout(PATIENCE, False):
        while len(os.listdir("/proc/self/task")) > 1:
            sleep(0.001)
    return len(os.listdir("/proc/self/task")) - 1


def main() -> None:
    seed, threads, leftovers = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) / 100
    rng = random.Random(seed)
    shared = Shared()

    def collect() -> None:
        while True:
            shared.got.append(shared.items.get())

    def ring() -> None:
        while True:
            sleep(0.001)
            shared.bell.set()
            shared.bell.clear()

    def take_permits() -> None:
        while True:
            with shared.permits:
                shared.inside += 1
                shared.intruders += shared.inside > PERMITS
                sleep(0)
                shared.inside -= 1
            sleep(0.0005)

    def host(numbers: Any) -> None:
        """One thread after the other, each joined."""
        for number in numbers:
            visit = Visit(number, random.Random(rng.random()), shared, leftovers)
            visit.thread.start()
            if rng.random() < 0.5:
                sleep(rng.choice((0, 0.001, 0.003)))
            visit.question.set(number)
            if visit.answer.get(timeout=PATIENCE) != number:
                shared.forgotten.append(f"the answer of {number}")
            get_hub().threadpool.apply(visit.thread.join)
            if visit.error is not None:
                raise visit.error

    attendants = [spawn(each) for each in (collect, collect, ring, take_permits)]
    found = []
    numbers = iter(range(threads))
    for begun in range(0, threads, BATCH):
        batch = iter([next(numbers) for _ in range(min(BATCH, threads - begun))])
        joinall([spawn(host, batch) for _ in range(AT_ONCE)], raise_error=True)
        while len(shared.got) < len(shared.put):
            sleep(0.001)
        found.append(belongings())
        say(f"{begun} {found[-1]}")
    for each in attendants:
        each.kill()
    get_hub().threadpool.kill()
    report(
        visits=threads,
        lost=sum((Counter(shared.put) - Counter(shared.got)).values()),
        doubled=sum((Counter(shared.got) - Counter(shared.put)).values()),
        intruders=shared.intruders,
        inside=shared.inside,
        missing=PERMITS - shared.permits.counter,
        forgotten=shared.forgotten,
        active=get_hub().loop.activecnt,
        threads=other_threads(),
        descriptors=[each["descriptors"] for each in found],
        objects=[each["objects"] for each in found],
        greenlets=[each["greenlets"] for each in found],
        resident=[each["resident"] for each in found],
        open=descriptors(),
    )


if __name__ == "__main__":
    main()
