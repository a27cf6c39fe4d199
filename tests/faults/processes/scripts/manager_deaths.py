"""Managers that are killed at random instants under load, and what their clients are told.

    manager_deaths.py --method fork --hits 20 --seed 1

Each manager has clients in this process, in children over lanes or TCP by turns, and one that is started after its death.
All of them have to get `weft.ManagerDied` with its pid and SIGKILL, whatever they are at. At the end one line of JSON says how
many were told, and how many not.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import json
import multiprocessing
import os
import random
import signal
import threading
import time
import traceback
from typing import Any

import weft
from weft.multiprocessing.managers import SyncManager

LONGEST_CALM = 0.02  # seconds before a hit

# How a client ends.
TOLD, UNNAMED, FAILED = 0, 3, 4


def make_calls(shared: dict[str, Any], began: Any, dice: random.Random) -> None:
    """Calls of all kinds, for ever."""
    d, items, lock, values = shared["dict"], shared["list"], shared["lock"], shared["queue"]
    began()
    while True:
        match dice.randrange(7):
            case 0:
                d["large"] = bytes(60_000)
                d["large"]
            case 1:
                items.append(1)
                items.pop()
            case 2:
                with lock:
                    d.add("total")
            case 3:
                values.get()  # of which there is none
            case 4:
                d.copy()
            case 5:
                shared["condition"].acquire()
                shared["condition"].wait(0.001)
                shared["condition"].release()
            case 6:
                d["made"] = shared["list"]


def outcome(call: Any, pid: int) -> int:
    """What a client was told."""
    try:
        call()
    except weft.ManagerDied as error:
        if (error.pid, error.signal) == (pid, signal.SIGKILL):
            return TOLD
        traceback.print_exc()
        return UNNAMED
    except Exception:
        traceback.print_exc()
    return FAILED


def work(shared: dict[str, Any], pid: int, began: Any, seed: str) -> None:
    os._exit(outcome(lambda: make_calls(shared, began.release, random.Random(seed)), pid))


def come_late(shared: dict[str, Any], pid: int) -> None:
    os._exit(outcome(lambda: shared["dict"].copy(), pid))


def one_death(options: argparse.Namespace, number: int, found: dict[str, int]) -> None:
    dice = random.Random(f"{options.seed}/{number}")
    context = multiprocessing.get_context(options.method)
    manager = SyncManager(("127.0.0.1", 0) if number % 2 else None, ctx=context)
    manager.start()
    pid = manager._process.pid
    shared: dict[str, Any] = {
        "dict": manager.dict(),
        "list": manager.list(),
        "lock": manager.Lock(),
        "queue": manager.Queue(),
        "condition": manager.Condition(),
    }
    began = context.Semaphore(0)
    seeds = [f"{options.seed}/{number}/{client}" for client in range(options.clients)]
    processes = [context.Process(target=work, args=(shared, pid, began, seed)) for seed in seeds]
    for process in processes:
        process.start()
    ends: list[int] = []

    def here() -> None:
        ends.append(outcome(lambda: make_calls(shared, began.release, random.Random(f"{number}")), pid))

    thread = threading.Thread(target=here)
    thread.start()
    for _ in range(options.clients + 1):
        began.acquire()
    time.sleep(dice.uniform(0, LONGEST_CALM))
    os.kill(pid, signal.SIGKILL)
    thread.join()
    for process in processes:
        process.join()
        ends.append(process.exitcode)
    late = context.Process(target=come_late, args=(shared, pid))
    late.start()
    late.join()
    ends.append(late.exitcode)
    manager.shutdown()
    found["clients"] += len(ends)
    found["told"] += ends.count(TOLD)
    found["unnamed"] += ends.count(UNNAMED)
    found["failed"] += len(ends) - ends.count(TOLD) - ends.count(UNNAMED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=("fork", "spawn", "forkserver"), default="fork")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--hits", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = dict.fromkeys(("clients", "told", "unnamed", "failed", "killed"), 0)
    for number in range(options.hits):
        one_death(options, number, found)
        found["killed"] += 1
        stage.say(f"hit {number}")
    stage.say(json.dumps(found))


if __name__ == "__main__":
    main()
