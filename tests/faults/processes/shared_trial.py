"""One storm of kills over the users of shared objects, and the judgement on what became of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trial import Trial


@dataclass(frozen=True)
class SharedTrial(Trial):
    """What scripts/shared_objects.py is to do; see there."""

    script: ClassVar[str] = "shared_objects.py"

    of: str = "manager"
    method: str = "fork"
    clients: int = 4
    hits: int = 40

    def __str__(self) -> str:
        return f"{self.of}-{self.method}-{self.clients}"

    def judge(self, result: dict[str, int]) -> list[str]:
        """What is not as it has to be."""
        limits = dict.fromkeys(("failed", "lost", "invented", "halves", "torn", "kept"), 0)
        limits["unsure"] = result["killed"]
        return [f"{name}: {result[name]}, not {most}" for name, most in limits.items() if result[name] > most]
