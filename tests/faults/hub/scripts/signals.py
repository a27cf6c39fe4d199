"""Signals while there is traffic of all kinds: signals.py SEED HUNDREDTHS of a second."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from typing import Any

from forks import Traffic
from stage import descriptors, report, say
from weft.gevent import get_hub, joinall, sleep, spawn
from weft.gevent.hub import signal as signal_handler

INTERVAL = 0.0004  # seconds from one SIGALRM to the next


class Raised(Exception):
    """Out of a handler."""


def stopper(parent: int, seed: float) -> None:
    """A process that stops the other one and lets it go on, at random."""
    rng = random.Random(seed)
    while os.getppid() == parent:
        time.sleep(rng.choice((0.001, 0.01, 0.03)))
        os.kill(parent, signal.SIGSTOP)
        time.sleep(rng.choice((0, 0.001, 0.01)))
        os.kill(parent, signal.SIGCONT)


def main() -> None:
    seed, length = int(sys.argv[1]), int(sys.argv[2]) / 100
    rng = random.Random(seed)
    counts = dict.fromkeys(("alarms", "children", "handled", "watched", "raised"), 0)

    def count(what: str) -> None:
        counts[what] += 1

    def play(seconds: float) -> Traffic:
        traffic = Traffic(random.Random(rng.random()))
        loop = get_hub().loop
        signal.signal(signal.SIGALRM, lambda *_: count("alarms"))
        signal.signal(signal.SIGCHLD, lambda *_: count("children"))
        handler = signal_handler(signal.SIGUSR2, count, "handled")
        watcher = loop.signal(signal.SIGUSR2)
        watcher.start(count, "watched")
        signal.setitimer(signal.ITIMER_REAL, INTERVAL, INTERVAL)
        until = time.monotonic() + seconds

        def send() -> None:
            while time.monotonic() < until:
                os.kill(os.getpid(), signal.SIGUSR2)
                sleep(0.001)

        sender = spawn(send)
        pid = os.fork()
        if pid == 0:
            signal.setitimer(signal.ITIMER_REAL, 0)
            stopper(os.getppid(), rng.random())
            os._exit(0)
        try:
            sender.get()
        finally:
            os.kill(pid, signal.SIGKILL)
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.kill(os.getpid(), signal.SIGCONT)
            os.waitpid(pid, 0)
        traffic.over = True
        joinall(traffic.greenlets, raise_error=True)
        watcher.close()
        handler.cancel()
        get_hub().threadpool.kill()
        sleep(0)
        return traffic

    play(0.1)
    before = descriptors()
    traffic = play(length)
    say(f"{counts} {traffic.counts}")
    errors: list[Any] = []
    get_hub().print_exception = lambda context, kind, value, tb: errors.append(kind)  # type: ignore[method-assign]
    raising = raise_alone(length, rng, count)
    report(
        wrong=traffic.wrong,
        seen=sorted(traffic.counts),
        counts=counts,
        raising=raising,
        shown=sorted({each.__name__ for each in errors}),
        active=get_hub().loop.activecnt,
        descriptors=descriptors() - before,
    )


def raise_alone(seconds: float, rng: random.Random, count: Any) -> int:
    """A handler that raises while the main greenlet waits, and others wait beside it."""

    def handler(*_: object) -> None:
        raise Raised

    signal.signal(signal.SIGALRM, handler)
    others = [spawn(sleep, 1000) for _ in range(5)]
    until = time.monotonic() + seconds
    sent = came = 0
    while time.monotonic() < until:
        sent += 1
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.choice((0.00001, 0.0005, 0.002)))
            sleep(1000)
        except Raised:
            came += 1
            count("raised")
        sleep(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for other in others:
        other.kill()
    return sent - came


if __name__ == "__main__":
    main()
