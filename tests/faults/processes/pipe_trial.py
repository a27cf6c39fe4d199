"""One storm of signals over the users of a pipe, and the judgement on what became of its messages."""

from __future__ import annotations

import json
from dataclasses import dataclass

import arena


@dataclass(frozen=True)
class PipeTrial:
    """What pipes.py is to do; see there."""

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

    def options(self, seed: int) -> list[str]:
        words = []
        for name, value in {**vars(self), "seed": seed}.items():
            if value is True:
                words.append(f"--{name}")
            elif value is not False:
                words += [f"--{name}", str(value)]
        return words


@dataclass
class PipeReport:
    """How a trial went; no complaint means well."""

    trial: PipeTrial
    seed: int
    result: dict[str, int]
    complaints: list[str]

    def __str__(self) -> str:
        return f"{self.trial}, seed {self.seed}: {self.complaints or 'good'} {self.result}"


def attempt_pipe(
    trial: PipeTrial, seed: int, side: arena.Side, patience: float = arena.PATIENCE
) -> PipeReport:
    """Run a trial to its end. A hang is a complaint as well."""
    try:
        play, lines = arena.run(side, "pipes.py", *trial.options(seed), patience=patience)
    except arena.Hang as hang:
        return PipeReport(trial, seed, {}, [f"hangs: {hang}"])
    if play.returncode != 0 or not lines:
        return PipeReport(trial, seed, {}, [f"exit code {play.returncode} after {lines[-1:]}: {play.errors}"])
    result = json.loads(lines[-1])
    complaints = judge_pipe(trial, result)
    if play.left:
        complaints.append(f"left behind: {play.left}")
    return PipeReport(trial, seed, result, complaints)


def judge_pipe(trial: PipeTrial, result: dict[str, int]) -> list[str]:
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
    if trial.shown:
        limits["reported"] = writers + readers
        if readers:
            # What was on its way behind the message of a killed reader goes with it: from each writer a run at most.
            del limits["lost"]
            limits["gaps"] = readers
    return [f"{name}: {result[name]}, not {most}" for name, most in limits.items() if result[name] > most]
