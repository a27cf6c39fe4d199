"""A pool under heavy traffic: it is terminated again and again, or waits for the program to be killed.

    pool_traffic.py --end terminate --times 10 --seed 1
    pool_traffic.py --end root

Threads submit tasks with small and large arguments and results all the time. `terminate`: the pool is terminated at a
random instant, and joined; nobody may wait for ever after that. Prints `ended N` for each. `root`: prints `ready`.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import multiprocessing
import random
import threading
import time
from collections.abc import Callable
from typing import Any

WORKERS = 3
PLAYERS = 3
UNDER_WAY = 30
LONGEST_LIFE = 0.3  # seconds
SIZES = (0, 10, 1000, 70_000, 2_000_000)


def answer(size: int, more: bytes) -> bytes:
    return bytes(size + len(more) % 2)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def pool_of(options: argparse.Namespace) -> Any:
    context = multiprocessing.get_context(options.method)
    if options.api == "multiprocessing":
        return context.Pool(WORKERS)
    import weft

    ours: Any = weft
    return ours.Pool(WORKERS, context=context) if options.api == "weft" else ours.Executor(WORKERS, context)


class Traffic:
    """Threads that submit and wait until the pool does not take any more."""

    def __init__(self, pool: Any, seed: str) -> None:
        self.pool = pool
        self.seed = seed
        self.began = threading.Barrier(PLAYERS + 1)
        self.threads = [
            threading.Thread(target=self.play, args=(place,), daemon=True) for place in range(PLAYERS)
        ]
        for thread in self.threads:
            thread.start()
        self.began.wait()

    def play(self, place: int) -> None:
        dice = random.Random(f"{self.seed}/{place}")
        submit(self.pool, answer, 1, b"")()
        self.began.wait()
        running = True
        while running:
            getters = []
            try:
                for _ in range(UNDER_WAY):
                    getters.append(submit(self.pool, answer, dice.choice(SIZES), bytes(dice.choice(SIZES))))
            except (ValueError, RuntimeError):
                running = False  # the pool takes no more
            # At the pool's end these have results or say why not; what they may not do is wait for ever.
            for get in getters:
                try:
                    get()
                except Exception as error:
                    if not str(error):
                        raise


def submit(pool: Any, function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    """How to get the result."""
    if hasattr(pool, "submit"):
        found: Callable[[], object] = pool.submit(function, *arguments).result
    else:
        found = pool.apply_async(function, arguments).get
    return found


def terminate(options: argparse.Namespace) -> None:
    dice = random.Random(options.seed)
    for number in range(1, options.times + 1):
        pool = pool_of(options)
        traffic = Traffic(pool, f"{options.seed}/{number}")
        workers = list(pool._pool)
        time.sleep(dice.uniform(0, LONGEST_LIFE))
        pool.terminate()
        pool.join()
        alive = [process.pid for process in workers if process.is_alive()]
        if alive:
            raise RuntimeError(f"still there after terminate() and join(): {alive}")
        stage.say(f"joined {number}")
        for thread in traffic.threads:
            thread.join()
        stage.say(f"ended {number}")


def await_death(options: argparse.Namespace) -> None:
    """All workers are at work, or all wait for it."""
    pool = pool_of(options)
    if options.idle:
        submit(pool, sleep, 0)()
        stage.say("ready")
        threading.Event().wait()
    traffic = Traffic(pool, str(options.seed))
    stage.say("ready")
    for thread in traffic.threads:
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--end", choices=("terminate", "root"), required=True)
    parser.add_argument("--api", choices=("multiprocessing", "weft", "executor"), default="multiprocessing")
    parser.add_argument("--method", default="fork")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--idle", action="store_true")
    options = parser.parse_args()
    (terminate if options.end == "terminate" else await_death)(options)


if __name__ == "__main__":
    main()
