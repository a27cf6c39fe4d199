"""For all tests: a watchdog for each, and a look whether anything was left behind.

What is there after a test and was not before is noted with the test's name; what of it is still there at the
end fails the run. In between it may go: a process that is still ending, a cache that the next test uses.

The watchdog prints every thread's stack and ends the run; set its seconds by `WEFT_TEST_WATCHDOG`. It is generous:
no test is expected to be anywhere near it.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

# A shell without job control starts what runs in its background with SIGINT ignored, and so are our children's then, of whom
# tests expect that they can be interrupted.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

WATCHDOG_SECONDS = float(os.environ.get("WEFT_TEST_WATCHDOG", "900"))


def children() -> set[int]:
    """Process ids of this process's children, ended ones that nobody waited for included."""
    found: set[int] = set()
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
    found: set[str] = set()
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


first_seen: dict[tuple[str, object], str] = {}  # after which test something was there


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails the run if child processes, shared memory, temporary files or sockets are left at its end."""
    before = belongings()
    yield
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    if tracker is not None:
        tracker._resource_tracker._stop()  # the standard library's, which otherwise ends with this process
    gc.collect()  # what exceptions that tests kept refer to
    after = belongings()
    left = [
        f"{kind}: {thing} (since {first_seen.get((kind, thing), 'the end')})"
        for kind, things in after.items()
        for thing in things - before[kind]
    ]
    assert not left, "left behind by the tests: " + "; ".join(left)


@pytest.fixture(autouse=True)
def noted_by_name(request: pytest.FixtureRequest, nothing_left_behind: None) -> Iterator[None]:
    """Notes after each test what was not there before it."""
    before = belongings()
    yield
    for kind, things in belongings().items():
        for thing in things - before[kind]:
            first_seen[kind, thing] = request.node.nodeid


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest) -> Iterator[None]:
    """Prints all stacks and ends the run if a test takes for ever."""
    # Not `sys.__stderr__`: what is written there is captured, and gone when the run ends so.
    terminal = request.config.stash[fault_handler_stderr_fd_key]
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True, file=terminal)
    yield
    faulthandler.cancel_dump_traceback_later()
