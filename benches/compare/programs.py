"""The C programs of the suites, compiled when they are first needed in a run."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).parent
# Where the programs of a run are. Its processes have it from `run.py`.
FOLDER = "BENCH_PROGRAMS"


@contextmanager
def folder() -> Iterator[None]:
    """A place for the programs of a run, which goes with it."""
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as path:
        os.environ[FOLDER] = path
        try:
            yield
        finally:
            del os.environ[FOLDER]


def program(name: str) -> str:
    """The path of a program, whose source is the C file of its name here.

    Raises subprocess.CalledProcessError if it cannot be compiled, and FileNotFoundError without a compiler.
    """
    path = Path(os.environ[FOLDER], name)
    if not path.exists():
        source = SOURCES / f"{name}.c"
        subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", str(path), str(source)], check=True)
    return str(path)
