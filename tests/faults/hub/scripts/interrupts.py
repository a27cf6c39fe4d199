"""Ctrl-C in every kind of wait: interrupts.py SEED ROUNDS.

It arrives in the main greenlet, whoever waits: as gevent has it. Afterwards the hub works.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import weft
from stage import descriptors, report, say
from weft.coroutines import spawn as spawn_coroutine
from weft.gevent import Timeout, get_hub, getcurrent, iwait, joinall, killall, sleep, spawn, wait
from weft.gevent import select as gevent_select
from weft.gevent.event import AsyncResult, Event
from weft.gevent.lock import RLock, Semaphore
from weft.gevent.queue import Channel, Queue
from weft.gevent.socket import socket as Socket
from weft.gevent.socket import socketpair

LONG = 1000.0
PATIENCE = 20.0


class Waits:
    """All kinds of waits that never end by themselves."""

    def __init__(self) -> None:
        self.near, self.far = socketpair()
        self.listener = Socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(1)
        self.poll = gevent_select.poll()
        self.poll.register(self.near.fileno(), 1)
        self.connecting: list[Any] = []
        self.never = Event()
        self.full: Any = Queue(1)
        self.full.put(0)
        self.words: Any = weft.Queue()
        self.full_words: Any = weft.Queue(1)
        self.full_words.put(0)
        self.held = weft.Lock()
        self.ends = weft.Pipe()
        self.go = threading.Event()
        self.taken = RLock()
        self.holder = spawn(self._hold)
        sleep(0)

    def _hold(self) -> None:
        with self.taken:
            self.never.wait()

    def _send(self) -> None:
        while True:
            self.near.sendall(bytes(1 << 20))

    def _connect(self) -> None:
        """Until the backlog is full, and no longer."""
        while True:
            sock = Socket()
            self.connecting.append(sock)
            sock.connect(self.listener.getsockname())

    def _within_timeout(self) -> None:
        with Timeout(LONG):
            self.never.wait()

    def _forever(self) -> Any:
        yield LONG

    def _words(self) -> None:
        self.held.acquire()
        self.held.acquire()

    def all(self) -> dict[str, Callable[[], object]]:
        """By name."""
        return {
            "sleep": lambda: sleep(LONG),
            "join": lambda: spawn(sleep, LONG).join(),
            "get": lambda: spawn(sleep, LONG).get(),
            "joinall": lambda: joinall([spawn(sleep, LONG) for _ in range(3)]),
            "wait": lambda: wait([self.never]),
            "iwait": lambda: list(iwait([self.never])),
            "event": self.never.wait,
            "result": lambda: AsyncResult().get(),
            "semaphore": lambda: Semaphore(0).acquire(),
            "rlock": self.taken.acquire,
            "queue get": lambda: Queue().get(),
            "queue put": lambda: self.full.put(1),
            "channel": lambda: Channel().get(),
            "recv": lambda: self.near.recv(1),
            "send": self._send,
            "accept": lambda: self.listener.accept(),
            "connect": self._connect,
            "select": lambda: gevent_select.select([self.near], [], []),
            "poll": lambda: self.poll.poll(),
            "thread": lambda: get_hub().threadpool.apply(self.go.wait),
            "offload": lambda: weft.offload(self.go.wait),
            "timeout": self._within_timeout,
            "process queue get": lambda: self.words.get(),
            "process queue put": lambda: self.full_words.put(1),
            "process lock": self._words,
            "pipe": lambda: self.ends[0].recv(),
            "coroutine": lambda: spawn_coroutine(self._forever()).get(),
            "hub": lambda: get_hub().switch(),
            "hub's join": _join_hub,
        }

    def end(self) -> None:
        self.go.set()
        self.holder.kill()
        for each in (self.near, self.far, self.listener, *self.connecting, *self.ends):
            each.close()


def _join_hub() -> None:
    # Only the main greenlet may.
    if getcurrent() is get_hub().parent:
        get_hub().join()
    else:
        get_hub().switch()


def interrupted(rng: random.Random, function: Callable[[], object]) -> str:
    """How it ended when Ctrl-C came while the function ran: in the main greenlet, or said otherwise."""
    begun = threading.Event()
    delay = rng.choice((0, 0.0002, 0.002))

    def press() -> None:
        begun.wait()
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    said = ""
    try:
        try:
            begun.set()
            function()
            said = "it ended"
        except Exception as error:
            said = repr(error)
        presser.join()  # where it comes if the function is over
    except KeyboardInterrupt:
        presser.join()
    return said


def check_hub() -> None:
    """That it works."""
    with Timeout(PATIENCE):
        sleep(0.0001)
        assert spawn(abs, -3).get() == 3
        assert get_hub().threadpool.apply(abs, (-4,)) == 4
        near, far = socketpair()
        reader = spawn(near.recv, 2)
        sleep(0)
        far.sendall(b"ok")
        assert reader.get() == b"ok"
        near.close()
        far.close()


def one(rng: random.Random, name: str, others: bool) -> str:
    """One kind of wait, in the main greenlet, or in others while that joins them."""
    waits = Waits()
    function = waits.all()[name]
    started: list[Any] = []

    def have_others_wait() -> None:
        started.append(spawn(function))
        joinall(started)
        get_hub().switch()

    said = interrupted(rng, have_others_wait if others else function)
    killall(started)
    waits.end()
    check_hub()
    return said


def main() -> None:
    seed, rounds = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    get_hub().loop.ref()  # or a wait that nobody could end would be told so, before Ctrl-C comes
    waits = Waits()
    names = [*waits.all()]
    waits.end()
    wrong: list[str] = []
    before = 0
    for number in range(rounds + 1):
        for name in rng.sample(names, len(names)):
            for others in (False, True):
                if said := one(rng, name, others):
                    wrong.append(f"{name}, {'others' if others else 'main'}: {said}")
        killall(alive())
        get_hub().threadpool.kill()
        if number == 0:
            before = descriptors()
        say(f"{number} {wrong}")
    report(wrong=wrong, kinds=len(names), descriptors=descriptors() - before)


def alive() -> list[Any]:
    """Greenlets that were started on the way, and nobody waits for."""
    import gc

    from weft.gevent import Greenlet

    return [each for each in gc.get_objects() if isinstance(each, Greenlet) and not each.dead]


if __name__ == "__main__":
    main()
