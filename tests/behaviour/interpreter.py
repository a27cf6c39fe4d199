"""Runs Python programs in processes of their own, with and without `-m weft`."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# What would steer the interpreters under test.
STEERING = ("PYTHON", "WEFT_")


@dataclass(frozen=True)
class Ended:
    """How a program ended; `code` is negative for a signal."""

    code: int
    out: str
    err: str


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what steers Python or weft, then `changes`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(STEERING)}
    return {**kept, **changes}


def python(
    *arguments: str | Path,
    stdin: str = "",
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> Ended:
    """Run the interpreter of the tests to its end."""
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)],
        input=stdin,
        cwd=cwd,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def prints(*arguments: str | Path, **options: object) -> list[str]:
    """The lines that a program prints; it must end well and write nothing to stderr."""
    ended = python(*arguments, **options)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out.splitlines()
