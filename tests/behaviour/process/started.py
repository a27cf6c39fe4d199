"""Runs programs that start processes, each in a process of its own, and looks at who is left of them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

METHODS = ("fork", "spawn", "forkserver")

STEERING = ("PYTHON", "WEFT_")

# A stuck program is sent SIGABRT after this time, for which faulthandler prints all stacks.
PATIENCE_SECONDS = float(os.environ.get("WEFT_TEST_WATCHDOG", "300"))

PRELUDE = """\
import faulthandler, os, signal, sys, threading, time
faulthandler.enable()
import weft
import weft.multiprocessing as mp
from weft.multiprocessing.forkserver import _forkserver
from weft._native import _process

METHODS = ("fork", "spawn", "forkserver")

"""

MAIN = """

if __name__ == "__main__":
    main()
"""


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what steers Python or weft, then `changes`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(STEERING)}
    return {**kept, **changes}


def script(folder: Path, code: str) -> Path:
    """A main module with the prelude in front of `code` and a call of its `main` behind it."""
    path = folder / "program.py"
    path.write_text(PRELUDE + textwrap.dedent(code) + MAIN)
    return path


def begin(folder: Path, code: str, *options: str, **env: str) -> subprocess.Popen[str]:
    """Start a program, its input and output in pipes."""
    return subprocess.Popen(
        [sys.executable, *options, str(script(folder, code))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(**env),
        start_new_session=True,
    )


def finish(program: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Wait for a program's end: its exit code, the lines it printed, and what it wrote to stderr."""
    try:
        out, err = program.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        program.send_signal(signal.SIGABRT)
        program.wait()
        # What it left behind may still hold its output.
        os.killpg(program.pid, signal.SIGKILL)
        out, err = program.communicate()
        raise AssertionError(f"stuck\n{out}\n{err}") from None
    return program.returncode, out.splitlines(), err


def prints(folder: Path, code: str, *options: str, **env: str) -> list[str]:
    """The lines that a program prints; it must end well and write nothing to stderr."""
    status, lines, err = finish(begin(folder, code, *options, **env))
    assert (status, err) == (0, ""), f"{status}\n{lines}\n{err}"
    return lines


def descendants(pid: int) -> list[int]:
    """All processes below a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except FileNotFoundError:
            continue  # a thread that ended since it was listed
        for child in children:
            found += [int(child), *descendants(int(child))]
    return found


class Watch:
    """Descriptors of processes, taken while they live: their ids may be used again."""

    def __init__(self, pids: list[int]) -> None:
        self.descriptors: dict[int, int] = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                self.descriptors[pid] = os.pidfd_open(pid)

    def wait_for_all(self) -> None:
        """Wait until all have ended; the test's watchdog ends a wait for ever."""
        for descriptor in self.descriptors.values():
            select.select([descriptor], [], [])

    def close(self) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)
