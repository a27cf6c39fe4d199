"""Timers while the realtime clock steps, which stepping_clock.c makes it do: clock.py SEED TIMERS."""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from typing import Any

from stage import report, say
from weft.gevent import Timeout, get_hub, joinall, sleep, spawn
from weft.gevent.event import Event


def main() -> None:
    if len(sys.argv) > 3:
        # The loader reads this when a program begins.
        os.environ["LD_PRELOAD"] = sys.argv[3]
        os.execv(sys.executable, [sys.executable, "-u", *sys.argv[:3]])
    seed, timers = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    begun = time.monotonic()
    fired: list[tuple[float, int]] = []
    early = 0
    loop = get_hub().loop
    watchers: list[Any] = []

    def fire(number: int, at: float) -> None:
        nonlocal early
        fired.append((at, number))
        early += time.monotonic() < at - 0.0005

    steps = 0
    for number in range(timers):
        after = rng.random() * 0.5
        watcher = loop.timer(after)
        watchers.append(watcher)
        loop.update_now()
        watcher.start(fire, number, loop.now() + after)

    def sleeper() -> None:
        nonlocal early
        for _ in range(20):
            before, seconds = time.monotonic(), rng.random() * 0.02
            sleep(seconds)
            early += time.monotonic() - before < seconds
            before = time.monotonic()
            with Timeout(0.005, False):
                Event().wait()
            early += time.monotonic() - before < 0.005

    sleepers = [spawn(sleeper) for _ in range(20)]
    joinall(sleepers, raise_error=True)
    earlier = time.time()
    while len(fired) < timers:
        sleep(0.01)
        now = time.time()
        steps += abs(now - earlier) > 3600
        earlier = now
    for _ in range(30):
        steps += abs(time.time() - earlier) > 3600
        earlier = time.time()
    sleep(0.05)
    order = [at for at, _ in fired]
    say(f"{len(fired)} in {time.monotonic() - begun:.1f} s")
    report(
        steps=steps,
        early=early,
        missing=timers - len({number for _, number in fired}),
        twice=len(fired) - len({number for _, number in fired}),
        disorder=sum(later < earlier - 0.001 for earlier, later in itertools.pairwise(order)),
    )


if __name__ == "__main__":
    main()
