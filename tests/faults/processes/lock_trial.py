"""One storm of signals over the users of a lock, condition, event or barrier, and the judgement on it.

python tests/faults/processes/lock_trial.py --runs 7      # how soon the standard library's stand still
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

import arena
from trial import Trial, attempt

KINDS = ("lock", "rlock", "nested", "semaphore", "condition", "event", "barrier")


@dataclass(frozen=True)
class LockTrial(Trial):
    """What scripts/locks.py is to do; see there."""

    script: ClassVar[str] = "locks.py"

    kind: str = "lock"
    method: str = "fork"
    signal: str = "KILL"
    hits: int = 25

    def __str__(self) -> str:
        return f"{self.kind}-{self.method}-{self.signal.lower()}"

    def judge(self, result: dict[str, int]) -> list[str]:
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


def stock_table(runs: int, kills: int, silence: float) -> None:
    print("| kind | kills until it stands (median) | range | stood them all |")
    print("| :--- | ---: | :--- | ---: |")
    for kind in KINDS:
        reports = [
            attempt(LockTrial(kind, hits=kills), seed, arena.STOCK, patience=silence)
            for seed in range(1, runs + 1)
        ]
        ended = [report.hits + 1 for report in reports if report.complaints]
        every = sorted(ended + [kills] * (runs - len(ended)))
        over = "over " if median(every) >= kills else ""
        print(
            f"| {kind} | {over}{median(every):g} | {every[0]} … {every[-1]} | {runs - len(ended)} of {runs} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--kills", type=int, default=300, help="at most, in one run")
    parser.add_argument("--silence", type=float, default=5, help="seconds that count as a hang")
    options = parser.parse_args()
    stock_table(options.runs, options.kills, options.silence)


if __name__ == "__main__":
    main()
