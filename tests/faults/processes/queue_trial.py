"""One storm of signals over one queue, and the judgement on what became of its messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trial import Trial


@dataclass(frozen=True)
class QueueTrial(Trial):
    """What scripts/storm.py is to do; see there."""

    script: ClassVar[str] = "storm.py"

    kind: str = "Queue"
    method: str = "fork"
    victims: str = "both"
    signal: str = "KILL"
    maxsize: int = 0
    producers: int = 3
    consumers: int = 3
    hits: int = 40
    api: str = "multiprocessing"

    def __str__(self) -> str:
        size = f"({self.maxsize})" if self.maxsize else ""
        api = "" if self.api == "multiprocessing" else f"{self.api}."
        crowd = f"{self.producers}to{self.consumers}"
        return f"{api}{self.kind}{size}-{self.method}-{self.signal.lower()}-{self.victims}-{crowd}"

    def judge(self, result: dict[str, int]) -> list[str]:
        """What is not as it has to be."""
        limits = {
            "failed": 0,  # processes that ended other than well, though nobody killed them
            "duplicates": 0,
            "invented": 0,
            "disorder": 0,
            # Only what was in the hands of the killed: a message taken and not yet noted,
            "lost": result["killed_consumers"],
            # or one that was about to be put.
            "unknown": result["killed_producers"],
            "left_in_queue": 0,
        }
        complaints = [f"{name}: {result[name]}" for name, most in limits.items() if result[name] > most]
        if result["left_in_queue"] < 0:
            complaints.append(f"left_in_queue: {result['left_in_queue']}")
        if self.kind == "JoinableQueue":
            # A killed producer may have put its last, a killed consumer may have counted its last.
            least = result["put"] - result["task_done_most"]
            most = result["put"] + result["unknown"] - result["task_done_least"]
            if not least <= result["unfinished"] <= most:
                complaints.append(f"unfinished: {result['unfinished']}, not {least} to {most}")
        return complaints
