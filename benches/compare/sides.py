"""The two sides of a suite and their rivals, and one measurement in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from catalogue import Scenario, Suite
from rivals import version_of

HERE = Path(__file__).parent
# What would make a side something else than it is: weft's own switch, tuning of the packages.
# PYTHON* is ignored by the interpreter's option -E.
FOREIGN = ("WEFT", "GREENLET", "GEVENT", "LIBEV", "MALLOC", "OPENBLAS", "OMP_")
TIMEOUT = 900  # seconds


@dataclass(frozen=True)
class Side:
    """One column: `key` is stock, weft or the name of a rival."""

    key: str
    package: str
    command: tuple[str, ...]

    @property
    def version(self) -> str:
        return version_of(self.package)

    @property
    def rival(self) -> list[str]:
        return [] if self.key in ("stock", "weft") else [self.key]


def sides(suite: Suite, scenario: Scenario) -> tuple[Side, ...]:
    plain = (sys.executable, "-E")
    under_weft = (*plain, "-m", "weft", "--only", suite.face)
    rivals = (Side(rival, rival, plain) for rival in scenario.rivals)
    return Side("stock", suite.stock, plain), Side("weft", "weft", under_weft), *rivals


@dataclass(frozen=True)
class Effort:
    """How long a process measures: `repeats` times about `seconds`."""

    seconds: float
    repeats: int


@dataclass(frozen=True)
class Measurement:
    value: float
    subject: str | None  # what was measured, where that is not plain from the side
    busy: float | None  # the share of a processor that the server under load used, if there was one


class MeasurementError(Exception):
    """A worker ended badly, or measured something else than it was asked to."""


def measure(side: Side, suite: Suite, scenario: str, effort: Effort) -> Measurement:
    """The value of `scenario` on `side`, from a fresh process."""
    worker = "worker_numpy.py" if "numpy" in scenario else "worker.py"
    arguments = [suite.name, scenario, str(effort.seconds), str(effort.repeats), *side.rival]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    # A session of its own: after a failure, the processes of the scenario have to go as well.
    process = subprocess.Popen(
        [*side.command, str(HERE / worker), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise MeasurementError(f"{scenario} on {side.key}: no result after {TIMEOUT} s") from None
    if process.returncode != 0 or not output:
        raise MeasurementError(f"{scenario} on {side.key}: exit code {process.returncode}\n{errors.strip()}")
    answer = json.loads(output.splitlines()[-1])
    expected = {"name": side.package, "version": side.version}
    if answer["implementation"] != expected:
        raise MeasurementError(
            f"{scenario} on {side.key}: measured {answer['implementation']}, not {expected}"
        )
    return Measurement(float(answer["value"]), answer["subject"], answer["busy"])
