"""One storm of signals over the users of a pipe, and the judgement on what became of its messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trial import Trial


@dataclass(frozen=True)
class PipeTrial(Trial):
    """What scripts/pipes.py is to do; see there."""

    script: ClassVar[str] = "pipes.py"

    method: str = "fork"
    victims: str = "both"
    signal: str = "KILL"
    sizes: str = "mixed"
    call: str = "objects"
    shown: bool = False
    duplex: bool = False
    writers: int = 3
    readers: int = 3
    hits: int = 40

    def __str__(self) -> str:
        flags = [name for name in ("shown", "duplex") if getattr(self, name)]
        crowd = f"{self.writers}to{self.readers}"
        words = ["Pipe", self.method, self.signal.lower(), self.victims, self.sizes, self.call, *flags, crowd]
        return "-".join(words)

    def judge(self, result: dict[str, int]) -> list[str]:
        """What is not as it has to be."""
        writers, readers = result["killed_producers"], result["killed_consumers"]
        limits = {
            "failed": 0,  # processes that ended other than well, though nobody killed them
            "duplicates": 0,
            "invented": 0,
            "disorder": 0,
            "left_in_pipe": 0,
            # One that was about to be sent,
            "unknown": writers,
            # one that was taken and not yet noted.
            "lost": readers,
            # Only of a long message in the descriptor is there a piece that somebody finds.
            "reported": 0,
            "false_reports": 0,  # of somebody whom nobody killed
            "after": result["before"],
        }
        if self.shown:
            limits["reported"] = writers + readers
            if readers:
                # What was on its way behind the message of a killed reader goes with it: from each writer a run at most.
                del limits["lost"]
                limits["gaps"] = readers
        return [f"{name}: {result[name]}, not {most}" for name, most in limits.items() if result[name] > most]
