"""Starts processes while the helper behind them, fork server or template, is killed at random instants.

    helpers.py --method forkserver --hits 20 --seed 1

Prints a line for every start: `started`, or `refused: ...` with an exception that says what happened.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any


def work(queue: Any, number: int) -> None:
    queue.put(number)


def helpers(workers: set[int]) -> list[int]:
    """Children of this process that are no workers: whatever serves the starting of them."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except OSError:
            continue
    return sorted(found - workers)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", choices=("fork", "spawn", "forkserver"), default="forkserver")
    parser.add_argument("--hits", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    context: Any = multiprocessing.get_context(options.method)
    answers = context.Queue()
    workers: set[int] = set()
    done = threading.Event()
    hits = 0

    def hit() -> None:
        nonlocal hits
        while hits < options.hits and not done.is_set():
            time.sleep(dice.uniform(0, 0.03))
            known = helpers(workers)
            if known:
                try:
                    os.kill(dice.choice(known), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                hits += 1
        done.set()

    # A worker may be a child of this process for an instant before its pid is known here: then it is
    # taken for a helper and killed, which is a death like any other.
    killer = threading.Thread(target=hit)
    killer.start()
    number = started = refused = 0
    while not done.is_set():
        number += 1
        process = context.Process(target=work, args=(answers, number))
        try:
            process.start()
        except (OSError, EOFError, RuntimeError, multiprocessing.ProcessError) as error:
            if not str(error):
                raise
            stage.say(f"refused: {type(error).__name__}: {error}")
            refused += 1
            continue
        workers.add(process.pid)
        process.join()
        if process.exitcode == 0:
            while answers.get() != number:
                pass
        started += 1
        stage.say(f"started {number}: exit code {process.exitcode}")
    killer.join()
    for number in (-1, -2, -3):
        process = context.Process(target=work, args=(answers, number))
        process.start()
        process.join()
        assert process.exitcode == 0, process.exitcode
        while answers.get() != number:
            pass
    stage.say(f"done: {started} started, {refused} refused, {hits} hits")


if __name__ == "__main__":
    main()
