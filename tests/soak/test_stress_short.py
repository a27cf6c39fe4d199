"""The soak program for a short while, with slots that collide all the time and with the default."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = float(os.environ.get("WEFT_SOAK_SECONDS", "20"))
SETTINGS = [("1", "1"), ("2", "3"), (None, "3")]


@pytest.mark.parametrize(("slots", "threads"), SETTINGS, ids=lambda value: str(value))
def test_random_greenlets_leave_nothing(slots: str | None, threads: str) -> None:
    program = Path(__file__).with_name("stress.py")
    share = str(SECONDS / len(SETTINGS))
    command = [sys.executable, str(program), "--seconds", share, "--threads", threads]
    if slots is not None:
        command += ["--slots", slots]
    ended = subprocess.run(command, capture_output=True, text=True)
    print(ended.stdout, ended.stderr)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
