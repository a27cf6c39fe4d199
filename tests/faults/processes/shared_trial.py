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
    way: str = "lanes"

    def __str__(self) -> str:
        way = "" if self.way == "lanes" else f"-{self.way}"
        return f"{self.of}-{self.method}-{self.clients}{way}"

    def judge(self, result: dict[str, int]) -> list[str]:
        """What is not as it has to be."""
        limits = dict.fromkeys(("failed", "lost", "invented", "halves", "torn", "kept", "doubled"), 0)
        # What one that was killed had in its hands.
        limits["unsure"] = limits["missing"] = result["killed"]
        return [f"{name}: {result[name]}, not {most}" for name, most in limits.items() if result[name] > most]


@dataclass(frozen=True)
class ServerTrial(Trial):
    """What scripts/manager_deaths.py is to do; see there."""

    script: ClassVar[str] = "manager_deaths.py"

    method: str = "fork"
    clients: int = 4
    hits: int = 20

    def __str__(self) -> str:
        return f"server-{self.method}-{self.clients}"

    def judge(self, result: dict[str, int]) -> list[str]:
        """What is not as it has to be."""
        wrong = [f"{name}: {result[name]}, not 0" for name in ("failed", "unnamed") if result[name]]
        if result["told"] != result["clients"]:
            wrong.append(f"told: {result['told']} of {result['clients']}")
        return wrong
