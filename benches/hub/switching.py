"""What greenlets cost between themselves: weft.gevent beside gevent, each in processes of its own, in turns.

    python benches/hub/switching.py [--rounds 3]

Microseconds an operation, the least of all rounds, and how many times quicker weft is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


def scenarios(gevent: Any, event: Any, queue: Any) -> dict[str, tuple[Callable[[int], None], int]]:
    """Name: what does it so many times, and how often."""

    def spawn_and_join(count: int) -> None:
        gevent.joinall([gevent.spawn(int) for _ in range(count)])

    def sleep_zero(count: int) -> None:
        def run() -> None:
            for _ in range(count // 2):
                gevent.sleep(0)

        gevent.joinall([gevent.spawn(run), gevent.spawn(run)])

    def ping_pong(count: int) -> None:
        there, back = queue.Queue(), queue.Queue()

        def answer() -> None:
            for _ in range(count):
                back.put(there.get())

        other = gevent.spawn(answer)
        for number in range(count):
            there.put(number)
            back.get()
        other.join()

    def async_result(count: int) -> None:
        for _ in range(count):
            result = event.AsyncResult()
            gevent.spawn_raw(result.set, 1)
            result.get()

    def sleepers(count: int) -> None:
        gevent.joinall([gevent.spawn(gevent.sleep, 0.001) for _ in range(count)])

    def timeouts(count: int) -> None:
        for _ in range(count):
            with gevent.Timeout(10):
                pass

    return {
        "spawn and join": (spawn_and_join, 5000),
        "sleep(0)": (sleep_zero, 50000),
        "queue ping-pong": (ping_pong, 10000),
        "AsyncResult": (async_result, 10000),
        "ten thousand sleepers": (sleepers, 10000),
        "Timeout": (timeouts, 20000),
    }


def measure(side: str) -> None:
    if side == "weft":
        from weft import gevent
        from weft.gevent import event, queue
    else:
        import gevent  # type: ignore[no-redef]
        from gevent import event, queue  # type: ignore[no-redef]
    times = {}
    for name, (run, count) in scenarios(gevent, event, queue).items():
        run(count // 10)
        start = time.perf_counter()
        run(count)
        times[name] = (time.perf_counter() - start) / count * 1e6
    print(json.dumps(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("weft", "gevent"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure(options.side)
        return
    best: dict[str, dict[str, float]] = {"weft": {}, "gevent": {}}
    for _ in range(options.rounds):
        for side, known in best.items():
            answer = subprocess.run(
                [sys.executable, __file__, "--side", side], stdout=subprocess.PIPE, check=True
            )
            for name, took in json.loads(answer.stdout).items():
                known[name] = min(took, known.get(name, took))
    for name, took in best["weft"].items():
        other = best["gevent"][name]
        print(f"{name:24} weft {took:7.2f}  gevent {other:7.2f}  {other / took:5.1f} times")


if __name__ == "__main__":
    main()
