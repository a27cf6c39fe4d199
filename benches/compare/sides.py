"""The two sides, and one measurement in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

WORKER = Path(__file__).with_name("worker.py")
# What would make a side something else than it is: weft's own switch, tuning of the packages.
# PYTHON* is ignored by the interpreter's option -E.
FOREIGN = ("WEFT", "GREENLET", "GEVENT", "LIBEV", "MALLOC")
TIMEOUT = 900  # seconds


@dataclass(frozen=True)
class Side:
    key: str
    package: str
    command: tuple[str, ...]

    @property
    def version(self) -> str:
        return version(self.package)


STOCK = Side("stock", "greenlet", (sys.executable, "-E"))
WEFT = Side("weft", "weft", (sys.executable, "-E", "-m", "weft", "--only", "greenlet"))
SIDES = (STOCK, WEFT)


@dataclass(frozen=True)
class Effort:
    """How long a process measures: `repeats` times about `seconds`."""

    seconds: float
    repeats: int


class MeasurementError(Exception):
    """A worker ended badly, or measured something else than it was asked to."""


def measure(side: Side, scenario: str, effort: Effort) -> float:
    """The value of `scenario` on `side`, from a fresh process."""
    arguments = [str(WORKER), scenario, str(effort.seconds), str(effort.repeats)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    try:
        ended = subprocess.run(
            [*side.command, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"{scenario} on {side.key}: no result after {TIMEOUT} s") from None
    if ended.returncode != 0:
        raise MeasurementError(
            f"{scenario} on {side.key}: exit code {ended.returncode}\n{ended.stderr.strip()}"
        )
    answer = json.loads(ended.stdout.splitlines()[-1])
    expected = {"name": side.package, "version": side.version}
    if answer["implementation"] != expected:
        raise MeasurementError(
            f"{scenario} on {side.key}: measured {answer['implementation']}, not {expected}"
        )
    return float(answer["value"])
