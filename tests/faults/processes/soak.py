"""The long form of the storms: thousands of kills on weft's queues, pipes, locks, pools and shared objects.

    python tests/faults/processes/soak.py --kills 9000
    python tests/faults/processes/soak.py --seconds 600 --seed 7

It ends at the fifth storm that goes wrong; what it prints repeats each of them.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time

import arena
from lock_trial import KINDS, LockTrial
from pipe_trial import PipeTrial
from pool_trial import PoolTrial
from queue_trial import QueueTrial
from shared_trial import ServerTrial, SharedTrial
from trial import Report, Trial, attempt

HITS = 300  # in one storm


def queue_trials() -> list[Trial]:
    """Every kind with every victim, and what else can differ spread over them."""
    chosen: list[Trial] = []
    variations = itertools.cycle(
        [
            ("fork", 0, 3, 3),
            ("forkserver", 0, 1, 1),
            ("fork", 1, 3, 3),
            ("forkserver", 9, 1, 4),
            ("fork", 0, 4, 1),
        ]
    )
    for api in ("multiprocessing", "weft"):
        for kind in ("Queue", "JoinableQueue", "SimpleQueue"):
            for victims in ("both", "consumers", "producers"):
                method, maxsize, producers, consumers = next(variations)
                size = 0 if kind == "SimpleQueue" else maxsize
                if api == "weft" and kind != "Queue":
                    continue
                chosen.append(
                    QueueTrial(kind, method, victims, "KILL", size, producers, consumers, HITS, api)
                )
        chosen.append(QueueTrial(signal="STOP", hits=HITS, api=api))
    return chosen


def pipe_trials() -> list[Trial]:
    """The same for pipes, with descriptors that were shown and that were not."""
    chosen: list[Trial] = []
    variations = itertools.cycle(
        [
            ("fork", "mixed", "objects", 3, 3),
            ("forkserver", "mixed", "bytes", 1, 1),
            ("fork", "long", "bytes", 1, 3),
            ("fork", "short", "objects", 2, 3),
            ("forkserver", "long", "objects", 3, 2),
        ]
    )
    for shown in (False, True):
        for victims in ("both", "readers", "writers"):
            method, sizes, call, writers, readers = next(variations)
            chosen.append(
                PipeTrial(method, victims, "KILL", sizes, call, shown, not shown, writers, readers, HITS)
            )
        chosen.append(PipeTrial(signal="STOP", shown=shown, hits=HITS))
    return chosen


def lock_trials() -> list[Trial]:
    """Every kind of lock, among forked and among template's children."""
    return [LockTrial(kind, method, hits=50) for kind in KINDS for method in ("fork", "forkserver")]


def shared_trials() -> list[Trial]:
    """Managers, by either way, and dictionaries in shared memory, among forked and among template's children; and the managers
    themselves."""
    chosen: list[Trial] = [
        SharedTrial(of, method, clients, HITS, way)
        for of, way in (("manager", "lanes"), ("dict", "lanes"), ("manager", "tcp"))
        for method, clients in (("fork", 4), ("forkserver", 2), ("fork", 8))
    ]
    return [*chosen, ServerTrial(hits=HITS // 3), ServerTrial("forkserver", hits=HITS // 6)]


def pool_trials() -> list[Trial]:
    """Every kind of job on every kind of pool, and what else can differ spread over them."""
    chosen: list[Trial] = []
    variations = itertools.cycle(
        [
            ("fork", 3, 2, 0),
            ("forkserver", 2, 3, 0),
            ("fork", 1, 1, 0),
            ("forkserver", 4, 2, 30),
        ]
    )
    for api in ("multiprocessing", "weft", "executor"):
        for jobs in ("mixed", "single", "map", "imap"):
            method, workers, players, lifetime = next(variations)
            if api == "executor" and jobs == "imap":
                continue
            retries = 2 if api == "weft" and jobs == "single" else 0
            chosen.append(PoolTrial(api, jobs, method, "KILL", workers, players, retries, lifetime, HITS))
        chosen.append(PoolTrial(api, signal="STOP", hits=HITS))
    return chosen


def kills_in(report: Report) -> int:
    counts = ("killed_producers", "killed_consumers", "killed")
    return sum(report.result.get(name, 0) for name in counts)


PARTS = {
    "queues": queue_trials,
    "pipes": pipe_trials,
    "locks": lock_trials,
    "pools": pool_trials,
    "shared": shared_trials,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--kills", type=int, default=9000)
    limit.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--only", choices=PARTS)
    options = parser.parse_args()
    print(f"--seed {options.seed}", flush=True)
    started = time.monotonic()
    kills = bad = 0
    chosen = [trial for part, trials in PARTS.items() if options.only in (None, part) for trial in trials()]
    for number, trial in enumerate(itertools.cycle(chosen)):
        report = attempt(trial, options.seed + number, arena.WEFT)
        kills += kills_in(report)
        bad += bool(report.complaints)
        print(f"{time.monotonic() - started:7.0f} s, {kills} kills: {report}", flush=True)
        if bad >= 5:
            break
        if time.monotonic() - started >= options.seconds if options.seconds else kills >= options.kills:
            break
    print(f"{kills} kills, {bad} bad storms")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
