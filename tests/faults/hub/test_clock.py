"""The realtime clock steps by days, and timers know nothing of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from stagehand import TIMES, outcome, script

TIMERS = 2000 * TIMES


def test_timers_take_no_notice_of_steps(seed: int, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path / "stepping_clock.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, script("stepping_clock.c")]
    subprocess.run(command, check=True)
    found = outcome("clock.py", seed, TIMERS, library)
    assert found.pop("steps") > 0
    assert found.pop("errors") == ""
    assert found == dict.fromkeys(found, 0)
