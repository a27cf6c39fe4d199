"""Traffic of all kinds for a while, and what the process has meanwhile: soak.py SEED SECONDS.

Greenlets are killed, threads with hubs come and go, children are forked, connections are dropped, pools and queues come and go.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import weft
from forks import Traffic, fork_plainly
from stage import belongings, report, say
from threads import Shared, Visit
from weft.coroutines import spawn as spawn_coroutine
from weft.gevent import GreenletExit, Timeout, get_hub, joinall, sleep, spawn
from weft.gevent.pool import Pool
from weft.gevent.queue import Channel, JoinableQueue, PriorityQueue
from weft.gevent.server import StreamServer
from weft.gevent.socket import create_connection

SAMPLES = 40


def stay_in_child(parent: int) -> None:
    """Go no further in a copy that a fork has made."""
    while os.getpid() != parent:
        sleep(1000)


class Soak:
    """Players that go on until they are told to end."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.over = False
        self.parent = os.getpid()
        self.counts: dict[str, int] = {}
        self.shared = Shared()
        self.server = StreamServer(("127.0.0.1", 0), self._echo)
        self.server.start()
        players = (
            self.visit,
            self.connect,
            self.fork,
            self.use_pool,
            self.use_queues,
            self.kill_some,
            self.step,
        )
        self.greenlets = [spawn(self._go_on, player) for player in (*players, self._ring, self._collect)]

    def _go_on(self, player: Callable[[], object]) -> None:
        while not self.over:
            try:
                player()
            except Exception:
                # A copy in a child may find out that it is one.
                stay_in_child(self.parent)
                raise
            stay_in_child(self.parent)
            name = getattr(player, "__name__", "")
            self.counts[name] = self.counts.get(name, 0) + 1
            sleep(self.rng.choice((0, 0.0005, 0.002)))

    def _echo(self, sock: Any, _address: object) -> None:
        try:
            while data := sock.recv(1 << 16):
                sock.sendall(data)
        except ConnectionError:
            return

    def _ring(self) -> None:
        self.shared.bell.set()
        self.shared.bell.clear()

    def _collect(self) -> None:
        while not self.shared.items.empty():
            self.shared.items.get()
        self.shared.put.clear()

    def visit(self) -> None:
        """A thread with a hub."""
        visit = Visit(1, random.Random(self.rng.random()), self.shared, 0)
        visit.thread.start()
        visit.question.set(1)
        assert visit.answer.get(timeout=60) == 1
        get_hub().threadpool.apply(visit.thread.join)
        if visit.error is not None:
            raise visit.error

    def connect(self) -> None:
        with create_connection(("127.0.0.1", self.server.server_port)) as sock:
            data = self.rng.randbytes(self.rng.choice((1, 1000, 200_000)))
            sender = spawn(sock.sendall, data)
            if self.rng.random() < 0.7:
                received = 0
                while received < len(data):
                    received += len(sock.recv(1 << 16))
                sender.get()
            else:
                sender.kill()

    def fork(self) -> None:
        fork_plainly(self._fork, random.Random(self.rng.random()), False)

    def _fork(self) -> int:
        pid = os.fork()
        if pid == 0:
            # A server that is a copy would accept beside its original.
            self.server.stop_accepting()
        return pid

    def use_pool(self) -> None:
        pool = Pool(3)
        assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
        with Timeout(0.001, False):
            pool.map(sleep, [0.0004] * 10)
        pool.kill()
        assert weft.offload(abs, -1) == 1

    def use_queues(self) -> None:
        for make in (PriorityQueue, JoinableQueue, Channel, lambda: weft.Queue(2)):
            queue: Any = make()
            putter = spawn(self._put, queue)
            assert [queue.get() for _ in range(10)] == list(range(10))
            putter.get()

    def _put(self, queue: Any) -> None:
        for number in range(10):
            stay_in_child(self.parent)
            queue.put(number)

    def kill_some(self) -> None:
        victims = [spawn(self.rng.choice((lambda: sleep(100), self.shared.never.wait))) for _ in range(20)]
        sleep(0)
        for victim in victims:
            victim.kill(block=False)
        joinall(victims)
        assert all(isinstance(victim.value, GreenletExit) for victim in victims)

    def step(self) -> None:
        def steps() -> Any:
            yield 0.0001
            yield spawn_coroutine(more())
            return 1

        def more() -> Any:
            yield None

        assert spawn_coroutine(steps()).get() == 1

    def end(self) -> None:
        self.over = True
        joinall(self.greenlets, raise_error=True)
        self.server.stop()


def main() -> None:
    seed, seconds = int(sys.argv[1]), float(sys.argv[2])
    rng = random.Random(seed)
    soak, traffic = Soak(rng), Traffic(rng)
    failed: list[str] = []
    for greenlet in (*soak.greenlets, *traffic.greenlets):
        greenlet.link_exception(lambda ended: failed.append(repr(ended.exception)))
    found = []
    began = time.monotonic()
    for number in range(SAMPLES):
        # What is under way differs; the least of a few looks is what stays.
        looks = []
        while not looks or time.monotonic() < began + seconds * (number + 1) / SAMPLES:
            traffic.pause(min(0.1, seconds / SAMPLES / 4))
            looks.append(belongings())
            assert not failed, failed
        found.append({what: min(look[what] for look in looks) for what in looks[0]})
        say(f"{found[-1]} {soak.counts}")
    soak.end()
    traffic.over = True
    joinall(traffic.greenlets, raise_error=True)
    get_hub().threadpool.kill()
    sleep(0)
    report(
        wrong=traffic.wrong,
        failed=failed,
        counts=soak.counts,
        active=get_hub().loop.activecnt,
        **{what: [each[what] for each in found] for what in found[0]},
    )


if __name__ == "__main__":
    main()
