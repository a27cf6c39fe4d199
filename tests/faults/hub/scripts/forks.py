"""A program with all kinds of waits under way forks at random instants: forks.py SEED FORKS.

What the parent has numbered must come whole and in order, whatever its children do; each child uses its own hub at once.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from _queue import SimpleQueue
from collections.abc import Callable
from typing import Any

import weft
from stage import descriptors, report, say
from weft.gevent import Timeout, get_hub, joinall, sleep, spawn
from weft.gevent import os as gevent_os
from weft.gevent.event import AsyncResult, Event
from weft.gevent.hub import signal as signal_handler
from weft.gevent.lock import Semaphore
from weft.gevent.queue import Queue
from weft.gevent.socket import create_connection, socketpair
from weft.gevent.socket import socket as Socket
from weft.multiprocessing import get_context

# From 3.12 on forks beside threads are warned of, which is what all this is about.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

PATIENCE = 20.0  # seconds until something counts as lost
AT_ONCE = 3
FIRST = 10  # forks until all that is kept for later has been made


class Traffic:
    """What goes on in the parent."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.over = False
        self.counts: dict[str, int] = {}
        self.wrong: list[str] = []
        self.parent = os.getpid()
        kinds = (
            self.stream,
            self.connections,
            self.timers,
            self.threads,
            self.offloaded,
            self.results,
            self.events,
            self.items,
            self.permits,
            self.messages,
            self.locks,
            self.children,
            self.signals,
        )
        self.greenlets = [spawn(self._play, kind) for kind in kinds]

    def _play(self, kind: Callable[[], object]) -> None:
        self.pause(0)
        kind()

    def moved(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def expect(self, what: str, truth: bool) -> None:
        """In a child nobody asks: what copies see there is their own affair, as long as they take nothing."""
        if not truth and os.getpid() == self.parent:
            self.wrong.append(what)

    def pause(self, *seconds: float) -> None:
        """Sleep. A copy in a child, which the time wakes as well, goes no further: it would take part in what is the parent's."""
        sleep(self.rng.choice(seconds))
        while os.getpid() != self.parent:
            sleep(PATIENCE)

    def stream(self) -> None:
        """Numbers through a socket: a byte that somebody else took shows as a gap."""
        near, far = socketpair()

        def write() -> None:
            number = 0
            self.pause(0)
            while not self.over:
                far.sendall(number.to_bytes(8, "big") * self.rng.choice((1, 1, 500)))
                number += 1
                self.pause(0, 0, 0.0005)
            far.close()

        writer = spawn(write)
        last = -1
        while whole := near.recv(8):
            while len(whole) < 8:
                whole += near.recv(8 - len(whole))
            number = int.from_bytes(whole, "big")
            self.expect(f"stream: {number} after {last}", number in (last, last + 1))
            last = number
            self.moved("stream")
        writer.get()
        near.close()

    def connections(self) -> None:
        """Connections that are accepted here, and by nobody's copy."""
        listener = Socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)

        def serve() -> None:
            self.pause(0)
            while True:
                peer, _ = listener.accept()
                spawn(answer, peer)

        def answer(peer: Any) -> None:
            self.pause(0)
            if data := peer.recv(10):
                peer.sendall(data + str(os.getpid()).encode())
            peer.close()

        server = spawn(serve)
        while not self.over:
            with create_connection(listener.getsockname()) as sock:
                sock.sendall(b"I am ")
                answered = b""
                while part := sock.recv(100):
                    answered += part
            self.expect(f"connection: {answered!r}", answered == b"I am " + str(self.parent).encode())
            self.moved("connections")
            self.pause(0, 0.0005)
        server.kill()
        listener.close()

    def timers(self) -> None:
        while not self.over:
            with Timeout(PATIENCE):
                sleep(self.rng.choice((0, 0.0001, 0.002)))
            timeout = Timeout.start_new(0.0005)
            try:
                sleep(PATIENCE)
            except Timeout as error:
                self.expect("timeout", error is timeout)
            self.moved("timers")

    def threads(self) -> None:
        pool = get_hub().threadpool
        number = 0
        while not self.over:
            self.expect("thread", pool.apply(abs, (-number,)) == number)
            number += 1
            self.moved("threads")

    def offloaded(self) -> None:
        number = 0
        while not self.over:
            try:
                self.expect("offloaded", weft.offload(abs, -number) == number)
            except RuntimeError:
                # A copy is told that its call is the parent's.
                self.expect("offloaded", False)
                self.pause(0)
            number += 1
            self.moved("offloaded")

    def results(self) -> None:
        """Set by a thread that is no hub's."""
        asked: Any = SimpleQueue()

        def work() -> None:
            while (result := asked.get()) is not None:
                result.set(os.getpid())

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while not self.over:
            result: AsyncResult[int] = AsyncResult()
            asked.put(result)
            self.expect("result", result.get(timeout=PATIENCE) == self.parent)
            self.moved("results")
        asked.put(None)
        thread.join()

    def events(self) -> None:
        event = Event()

        def ring() -> None:
            while not self.over:
                sleep(0.0005)
                event.set()
                event.clear()

        ringer = spawn(ring)
        while not self.over:
            self.expect("event", event.wait(PATIENCE) or self.over)
            self.moved("events")
        ringer.get()

    def items(self) -> None:
        queue: Any = Queue(2)

        def put() -> None:
            for number in iter(int, 1):
                if self.over:
                    break
                queue.put(number + self.counts.get("items put", 0))
                self.moved("items put")
            queue.put(None)

        putter = spawn(put)
        expected = 0
        while (item := queue.get()) is not None:
            self.expect(f"item {item} for {expected}", item == expected)
            expected += 1
            self.moved("items")
            sleep(0)
        putter.get()

    def permits(self) -> None:
        semaphore = Semaphore(1)
        inside = 0

        def work() -> None:
            nonlocal inside
            while not self.over:
                with semaphore:
                    inside += 1
                    self.expect("permit", inside == 1)
                    sleep(0)
                    inside -= 1
                self.moved("permits")

        joinall([spawn(work) for _ in range(3)], raise_error=True)

    def messages(self) -> None:
        queue: Any = weft.Queue(3)

        def put() -> None:
            number = 0
            self.pause(0)
            while not self.over:
                queue.put(number)
                number += 1
                self.pause(0, 0.0003)
            queue.put(None)

        putter = spawn(put)
        expected = 0
        while (item := queue.get()) is not None:
            self.expect(f"message {item} for {expected}", item == expected)
            expected += 1
            self.moved("messages")
        putter.get()

    def locks(self) -> None:
        lock = weft.Lock()
        inside = 0

        def work() -> None:
            nonlocal inside
            self.pause(0)
            while not self.over:
                lock.acquire()
                inside += 1
                self.expect("lock", inside == 1)
                self.pause(0, 0.0002)
                inside -= 1
                lock.release()
                self.pause(0)
                self.moved("locks")

        joinall([spawn(work) for _ in range(3)], raise_error=True)

    def children(self) -> None:
        """Watched from their birth, whoever forks meanwhile."""
        loop = get_hub().loop
        while not self.over:
            ended: AsyncResult[int] = AsyncResult()
            code = self.rng.randrange(100)
            pid = os.fork()
            if pid == 0:
                os._exit(code)
            watcher = loop.child(pid)
            watcher.start(lambda watcher=watcher, ended=ended: ended.set(watcher.rstatus))
            status = ended.get(timeout=PATIENCE)
            watcher.close()
            self.expect(f"child {status}", os.waitstatus_to_exitcode(status) == code)
            self.moved("children")
            self.pause(0.005)

    def signals(self) -> None:
        came: Any = Queue()
        handler = signal_handler(signal.SIGUSR1, came.put, 1)
        while not self.over:
            os.kill(self.parent, signal.SIGUSR1)
            came.get(timeout=PATIENCE)
            self.moved("signals")
            self.pause(0.001)
        handler.cancel()


def use_own_hub(rng: random.Random) -> None:
    """What a child does at once: all of it in its own hub."""
    deeds: list[Callable[[], object]] = [_sleep, _talk, _spawn, _use_threads, _offload, _use_words]
    rng.shuffle(deeds)
    for deed in deeds[: rng.randint(1, len(deeds))]:
        with Timeout(PATIENCE):
            deed()


def _sleep() -> None:
    sleep(0)
    sleep(0.002)


def _talk() -> None:
    near, far = socketpair()
    reader = spawn(near.recv, 5)
    sleep(0)
    far.sendall(b"hello")
    assert reader.get() == b"hello"
    near.close()
    far.close()


def _spawn() -> None:
    assert [each.get() for each in joinall([spawn(abs, -number) for number in range(5)])] == list(range(5))


def _use_threads() -> None:
    assert get_hub().threadpool.apply(abs, (-3,)) == 3


def _offload() -> None:
    assert weft.offload(abs, -4) == 4


def _use_words() -> None:
    queue: Any = weft.Queue()
    reader = spawn(queue.get)
    sleep(0)
    queue.put("own")
    assert reader.get() == "own"


def in_a_child(seed: float, deep: bool) -> None:
    rng = random.Random(seed)
    use_own_hub(rng)
    if deep:
        # A fork of a fork.
        fork_plainly(os.fork, rng, False)


def fork_plainly(fork: Callable[[], int], rng: random.Random, deep: bool) -> None:
    seed = rng.random()
    pid = fork()
    if pid == 0:
        status = 1
        try:
            in_a_child(seed, deep)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)
    found, status = gevent_os.waitpid(pid, 0)
    assert (found, status) == (pid, 0), f"a child ended with {status}"


def fork_process(kind: Any, rng: random.Random, deep: bool) -> None:
    process = kind(target=in_a_child, args=(rng.random(), deep))
    process.start()
    process.join()
    assert process.exitcode == 0, f"a process ended with {process.exitcode}"


def play(rng: random.Random, forks: int) -> tuple[Traffic, list[str]]:
    """Fork so often while there is traffic; which kinds of it there were at all, and all that was seen."""
    traffic = Traffic(random.Random(rng.random()))
    stock = multiprocessing.get_context("fork").Process
    ways: list[Callable[[random.Random, bool], None]] = [
        lambda rng, deep: fork_plainly(os.fork, rng, deep),
        lambda rng, deep: fork_plainly(gevent_os.fork, rng, deep),
        lambda rng, deep: fork_process(get_context("fork").Process, rng, deep),
        lambda rng, deep: fork_process(lambda **given: weft.Process(**given, start_method="fork"), rng, deep),
        lambda rng, deep: fork_process(stock, rng, deep),
    ]
    left = iter(range(forks))

    def fork_on(chance: random.Random) -> None:
        for number in left:
            traffic.pause(0, 0, 0.0003, 0.002)
            try:
                chance.choice(ways)(chance, chance.random() < 0.2)
            except (ChildProcessError, AssertionError):
                # To a copy it is no child, and copies of others wait for it as well.
                if os.getpid() == traffic.parent:
                    raise
            traffic.pause(0)
            if number % 10 == 0:
                say(f"{number} {traffic.counts}")

    joinall([spawn(fork_on, random.Random(rng.random())) for _ in range(AT_ONCE)], raise_error=True)
    seen = sorted(traffic.counts)
    traffic.over = True
    joinall(traffic.greenlets, raise_error=True)
    get_hub().threadpool.kill()
    sleep(0)
    return traffic, seen


def main() -> None:
    seed, forks = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    play(rng, FIRST)
    before = descriptors()
    traffic, seen = play(rng, forks)
    report(
        forks=forks,
        seen=seen,
        wrong=traffic.wrong,
        active=get_hub().loop.activecnt,
        descriptors=descriptors() - before,
    )


if __name__ == "__main__":
    main()
