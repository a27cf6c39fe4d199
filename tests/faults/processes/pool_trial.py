"""One storm of signals over the workers of a pool, and the judgement on what became of its jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trial import Trial


@dataclass(frozen=True)
class PoolTrial(Trial):
    """What scripts/pools.py is to do; see there."""

    script: ClassVar[str] = "pools.py"

    api: str = "multiprocessing"
    jobs: str = "mixed"
    method: str = "fork"
    signal: str = "KILL"
    workers: int = 3
    players: int = 2
    retries: int = 0
    lifetime: int = 0
    hits: int = 40

    def __str__(self) -> str:
        more = [f"{name}{value}" for name in ("retries", "lifetime") if (value := getattr(self, name))]
        crowd = f"{self.players}to{self.workers}"
        return "-".join([self.api, self.jobs, self.method, self.signal.lower(), crowd, *more])

    def judge(self, result: dict[str, int]) -> list[str]:
        """What is not as it has to be."""
        limits = {
            # Each of the killed had one task in hand at most, and a task is tried so often.
            "died": result["killed"] // (self.retries + 1),
            "wrong": 0,  # answers
            "lost": 0,  # items of a map that neither came nor were reported
            "uncalled": 0,  # callbacks
            "strangers": 0,  # deaths of workers that nobody killed
            "twice": 0,  # deaths that two jobs report
            "unsigned": 0,  # deaths of another signal, or none
            "undescribed": 0,
            "run_too_often": 0,
            "missing": 0,  # workers at the end
            "failed": 0,  # workers that ended other than well
        }
        complaints = [
            f"{name}: {result[name]}, not {most}" for name, most in limits.items() if result[name] > most
        ]
        if result["uncalled"] < 0:
            complaints.append(f"callbacks called twice: {-result['uncalled']}")
        return complaints
