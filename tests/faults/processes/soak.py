"""The long form of the storms: thousands of kills on weft's queues and pipes, all kinds in turn.

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
from pipe_trial import PipeReport, PipeTrial, attempt_pipe
from trial import Report, Trial, attempt

HITS = 300  # in one storm


def trials() -> list[Trial]:
    """Every kind with every victim, and what else can differ spread over them."""
    chosen = []
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
                chosen.append(Trial(kind, method, victims, "KILL", size, producers, consumers, HITS, api))
        chosen.append(Trial(signal="STOP", hits=HITS, api=api))
    return chosen


def pipe_trials() -> list[PipeTrial]:
    """The same for pipes, with descriptors that were shown and that were not."""
    chosen = []
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


def storm(trial: Trial | PipeTrial, seed: int) -> Report | PipeReport:
    if isinstance(trial, PipeTrial):
        return attempt_pipe(trial, seed, arena.WEFT)
    return attempt(trial, seed, arena.WEFT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--kills", type=int, default=9000)
    limit.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--only", choices=("queues", "pipes"))
    options = parser.parse_args()
    print(f"--seed {options.seed}", flush=True)
    started = time.monotonic()
    kills = bad = 0
    chosen: list[Trial | PipeTrial] = []
    if options.only != "pipes":
        chosen += trials()
    if options.only != "queues":
        chosen += pipe_trials()
    for number, trial in enumerate(itertools.cycle(chosen)):
        report = storm(trial, options.seed + number)
        kills += report.result.get("killed_producers", 0) + report.result.get("killed_consumers", 0)
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
