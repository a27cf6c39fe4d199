"""One storm of signals over one queue, and the judgement on what became of its messages."""

from __future__ import annotations

import json
from dataclasses import dataclass

import arena


@dataclass(frozen=True)
class Trial:
    """What storm.py is to do; see there."""

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

    def options(self, seed: int) -> list[str]:
        given = {**vars(self), "seed": seed}
        return [word for name, value in given.items() for word in (f"--{name}", str(value))]


@dataclass
class Report:
    """How a trial went; no complaint means well."""

    trial: Trial
    seed: int
    result: dict[str, int]
    complaints: list[str]

    def __str__(self) -> str:
        return f"{self.trial}, seed {self.seed}: {self.complaints or 'good'} {self.result}"


def attempt(trial: Trial, seed: int, side: arena.Side, patience: float = arena.PATIENCE) -> Report:
    """Run a trial to its end. A hang is a complaint as well."""
    try:
        play, lines = arena.run(side, "storm.py", *trial.options(seed), patience=patience)
    except arena.Hang as hang:
        return Report(trial, seed, {}, [f"hangs: {hang}"])
    if play.returncode != 0 or not lines:
        return Report(trial, seed, {}, [f"exit code {play.returncode} after {lines[-1:]}: {play.errors}"])
    result = json.loads(lines[-1])
    complaints = judge(trial, result)
    if play.left:
        complaints.append(f"left behind: {play.left}")
    return Report(trial, seed, result, complaints)


def judge(trial: Trial, result: dict[str, int]) -> list[str]:
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
    if trial.kind == "JoinableQueue":
        # A killed producer may have put its last, a killed consumer may have counted its last.
        least = result["put"] - result["task_done_most"]
        most = result["put"] + result["unknown"] - result["task_done_least"]
        if not least <= result["unfinished"] <= most:
            complaints.append(f"unfinished: {result['unfinished']}, not {least} to {most}")
    return complaints
