"""One storm of signals: what a script is to do, whether it came to its end, and how what it says is judged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import arena


@dataclass(frozen=True)
class Trial:
    """What a script is to do: its fields are the script's options. One for each kind of storm derives from it."""

    script: ClassVar[str]

    def options(self, seed: int) -> list[str]:
        """The script's command line; a field that is False is left out, one that is True is a flag."""
        words = []
        for name, value in {**vars(self), "seed": seed}.items():
            if value is True:
                words.append(f"--{name}")
            elif value is not False:
                words += [f"--{name}", str(value)]
        return words

    def judge(self, result: dict[str, int]) -> list[str]:
        """What is not as it has to be."""
        raise NotImplementedError


@dataclass
class Report:
    """How a trial went; no complaint means well."""

    trial: Trial
    seed: int
    hits: int  # signals that the script said it has sent
    result: dict[str, int]
    complaints: list[str]

    def __str__(self) -> str:
        return f"{self.trial}, seed {self.seed}: {self.complaints or 'good'} {self.result}"


def attempt(trial: Trial, seed: int, side: arena.Side, patience: float = arena.PATIENCE) -> Report:
    """Run a trial to its end. A hang is a complaint as well."""
    lines: list[str] = []
    report = Report(trial, seed, 0, {}, [])
    try:
        with arena.Play(side, trial.script, *trial.options(seed), patience=patience) as play:
            for line in play.lines():
                lines.append(line)
                report.hits += line.startswith("hit ")
    except arena.Hang as hang:
        report.complaints.append(f"hangs: {hang}")
        return report
    if play.returncode != 0 or not lines:
        report.complaints.append(f"exit code {play.returncode} after {lines[-1:]}: {play.errors}")
        return report
    report.result = json.loads(lines[-1])
    report.complaints += trial.judge(report.result)
    if play.left:
        report.complaints.append(f"left behind: {play.left}")
    return report
