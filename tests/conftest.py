"""For all tests: a watchdog for each, and a look at the end whether anything was left behind.

The watchdog prints every thread's stack and ends the run; set its seconds by `WEFT_TEST_WATCHDOG`. It is generous:
no test is expected to be anywhere near it.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

WATCHDOG_SECONDS = float(os.environ.get("WEFT_TEST_WATCHDOG", "900"))


def children() -> set[int]:
    """Process ids of this process's children, ended ones that nobody waited for included."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(int(pid) for pid in (task / "children").read_text().split())
        except OSError:
            continue
    return found


def names(folder: str) -> set[str]:
    """What lies in a folder that is ours by its name or its owner's process id."""
    ours = ("weft", "pymp-", "psm_", f"sem.{os.getpid()}")
    try:
        return {entry for entry in os.listdir(folder) if entry.startswith(ours)}
    except OSError:
        return set()


def sockets() -> set[str]:
    """This process's own open sockets."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def belongings() -> dict[str, set[object]]:
    """All that a test could leave behind, by kind."""
    return {
        "child processes": set(children()),
        "shared memory": set(names("/dev/shm")),
        "temporary files": set(names(tempfile.gettempdir())),
        "sockets": set(sockets()),
    }


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails the run if child processes, shared memory, temporary files or sockets are left at its end."""
    before = belongings()
    yield
    after = belongings()
    left = {kind: things - before[kind] for kind, things in after.items() if things - before[kind]}
    assert not left, f"left behind by the tests: {left}"


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """Prints all stacks and ends the run if a test takes for ever."""
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()
