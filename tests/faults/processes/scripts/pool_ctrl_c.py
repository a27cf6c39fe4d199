"""A program that knows nothing of Ctrl-C, in the middle of a map: all its processes get SIGINT.

    pool_ctrl_c.py --work sleep --method fork [--managed]

Prints `blocks` when all workers have a task. The tasks are longer than any patience.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import multiprocessing
import time
from typing import Any

WORKERS = 3
TASKS = 300
FOR_EVER = 10_000  # seconds


class Worker:
    begun: Any


def begin(begun: Any) -> None:
    Worker.begun = begun


def sleep(_number: int) -> None:
    Worker.begun.release()
    time.sleep(FOR_EVER)


def spin(_number: int) -> None:
    Worker.begun.release()
    while True:
        pass


WORKS = {"sleep": sleep, "spin": spin}


def work(pool: Any, begun: Any, kind: str) -> None:
    result = pool.map_async(WORKS[kind], range(TASKS), chunksize=5)
    for _ in range(WORKERS):
        begun.acquire()
    stage.say("blocks")
    result.get()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", choices=WORKS, default="sleep")
    parser.add_argument("--method", default="fork")
    parser.add_argument("--managed", action="store_true", help="the pool is used in a with statement")
    options = parser.parse_args()
    context = multiprocessing.get_context(options.method)
    begun = context.Semaphore(0)
    pool = context.Pool(WORKERS, begin, (begun,))
    if options.managed:
        with pool:
            work(pool, begun, options.work)
    else:
        work(pool, begun, options.work)


if __name__ == "__main__":
    main()
