"""One storm of signals over the users of a lock, condition, event or barrier, and the judgement on it.

python tests/faults/processes/lock_trial.py --kills 2000          # the long form, all kinds
python tests/faults/processes/lock_trial.py --stock --runs 7      # how soon the standard library's stand still
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import dataclass
from statistics import median

import arena

KINDS = ("lock", "rlock", "nested", "semaphore", "condition", "event", "barrier")


@dataclass(frozen=True)
class Trial:
    """What scripts/locks.py is to do; see there."""

    kind: str = "lock"
    method: str = "fork"
    signal: str = "KILL"
    hits: int = 25

    def __str__(self) -> str:
        return f"{self.kind}-{self.method}-{self.signal.lower()}"

    def options(self, seed: int) -> list[str]:
        given = {**vars(self), "seed": seed}
        return [word for name, value in given.items() for word in (f"--{name}", str(value))]


@dataclass
class Report:
    """How a trial went; no complaint means well."""

    trial: Trial
    seed: int
    hits: int
    result: dict[str, int]
    complaints: list[str]

    def __str__(self) -> str:
        return f"{self.trial}, seed {self.seed}: {self.complaints or 'good'} {self.result}"


def attempt(trial: Trial, seed: int, side: arena.Side, patience: float = arena.PATIENCE) -> Report:
    """Run a trial to its end. A hang is a complaint as well."""
    lines: list[str] = []

    def hits() -> int:
        return sum(line.startswith("hit ") for line in lines)

    try:
        with arena.Play(side, "locks.py", *trial.options(seed), patience=patience) as play:
            for line in play.lines():
                lines.append(line)
    except arena.Hang as hang:
        return Report(trial, seed, hits(), {}, [f"hangs: {hang}"])
    if play.returncode != 0 or not lines:
        return Report(
            trial, seed, hits(), {}, [f"exit code {play.returncode} after {lines[-1:]}: {play.errors}"]
        )
    result = json.loads(lines[-1])
    complaints = judge(trial, result)
    if play.left:
        complaints.append(f"left behind: {play.left}")
    return Report(trial, seed, hits(), result, complaints)


def judge(trial: Trial, result: dict[str, int]) -> list[str]:
    """What is not as it has to be."""
    killed = result["killed"]
    # What must be between two numbers.
    limits: dict[str, tuple[int, int]] = {
        "failed": (0, 0),  # processes that ended other than well, though nobody killed them
        "intruders": (0, 0),
        "reported": (0, killed),
        # Each who died between the two numbers left them one apart.
        "torn": (0, killed),
        "value": (0, 1),
        # What the killed had for certain; not more than each could have had.
        "gone": (result.get("had", 0), killed),
        "waiting": (0, 0),
        "pending": (0, 0),
        "missing": (-killed, killed),
        "broken": (0, 0),
    }
    return [
        f"{name}: {result[name]}, not {least} to {most}"
        for name, (least, most) in limits.items()
        if name in result and not least <= result[name] <= most
    ]


def long_run(kills: int, seed: int) -> int:
    """All kinds in turn until so many were killed; how many trials went badly."""
    done = bad = 0
    while done < kills:
        for kind in KINDS:
            report = attempt(Trial(kind, hits=50), seed, arena.WEFT)
            print(report, flush=True)
            done += report.hits
            bad += bool(report.complaints)
        seed += 1
    print(f"{done} kills, {bad} trials with complaints")
    return bad


def stock_table(runs: int, kills: int, silence: float) -> None:
    print("| kind | kills until it stands (median) | range | stood them all |")
    print("| :--- | ---: | :--- | ---: |")
    for kind in KINDS:
        reports = [
            attempt(Trial(kind, hits=kills), seed, arena.STOCK, patience=silence)
            for seed in range(1, runs + 1)
        ]
        ended = [report.hits + 1 for report in reports if report.complaints]
        every = sorted(ended + [kills] * (runs - len(ended)))
        over = "over " if median(every) >= kills else ""
        print(
            f"| {kind} | {over}{median(every):g} | {every[0]} … {every[-1]} | {runs - len(ended)} of {runs} |",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--stock", action="store_true", help="the standard library's, until they stand still")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--silence", type=float, default=5, help="seconds that count as a hang, with --stock")
    options = parser.parse_args()
    if options.stock:
        stock_table(options.runs, min(options.kills, 300), options.silence)
        return 0
    print(f"seed {options.seed}")
    return 1 if long_run(options.kills, options.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
