"""SIGKILL, SIGSTOP with SIGCONT, and Ctrl-C to those that hold locks or wait. See lock_trial.py and scripts/locks.py."""

from __future__ import annotations

import arena
import pytest
from interruption import interrupt
from lock_trial import KINDS, LockTrial
from trial import attempt

KILLS = [
    *(LockTrial(kind) for kind in KINDS),
    LockTrial("lock", method="forkserver"),
    LockTrial("condition", method="forkserver", hits=15),
    LockTrial("rlock", method="spawn", hits=8),
    LockTrial("barrier", method="spawn", hits=6),
]
STOPS = [LockTrial(kind, signal="STOP", hits=10) for kind in KINDS]


@pytest.mark.parametrize("trial", [*KILLS, *STOPS], ids=str)
def test_nobody_waits_for_ever(trial: LockTrial, weft: arena.Side, seed: int) -> None:
    report = attempt(trial, seed, weft)
    assert not report.complaints, report


@pytest.mark.parametrize("trial", STOPS, ids=str)
def test_the_harness_finds_nothing_where_nothing_is_wrong(trial: LockTrial, seed: int) -> None:
    """The standard library stands being stopped and continued."""
    report = attempt(trial, seed, arena.STOCK)
    assert not report.complaints, report


@pytest.mark.parametrize("kind", ["lock", "rlock", "condition", "barrier"])
def test_the_harness_finds_a_hang(kind: str) -> None:
    """Of the standard library's, which some few kills bring to a stand."""
    report = attempt(LockTrial(kind, hits=1000), 1, arena.STOCK, patience=5)
    (complaint,) = report.complaints
    assert complaint.startswith("hangs: silent") and f"in use_{kind.removeprefix('r')}" in complaint, (
        complaint
    )


GOOD = {"failed": 0, "killed": 5, "reported": 3, "intruders": 0, "turns": 900}


@pytest.mark.parametrize(
    ("change", "complaints"),
    [
        ({}, []),
        ({"torn": 5, "value": 1}, []),
        ({"torn": 6}, ["torn: 6, not 0 to 5"]),
        ({"reported": 6}, ["reported: 6, not 0 to 5"]),
        ({"intruders": 1}, ["intruders: 1, not 0 to 0"]),
        ({"gone": 1, "had": 2}, ["gone: 1, not 2 to 5"]),
        ({"missing": -6}, ["missing: -6, not -5 to 5"]),
        ({"waiting": 1, "pending": 1}, ["waiting: 1, not 0 to 0", "pending: 1, not 0 to 0"]),
    ],
)
def test_the_judgement(change: dict[str, int], complaints: list[str]) -> None:
    assert LockTrial().judge({**GOOD, **change}) == complaints


CALLS = [
    "barrier",
    "barrier_timeout",
    "condition",
    "condition_timeout",
    "condition_wait_for",
    "event",
    "event_timeout",
    "lock",
    "lock_timeout",
    "lock_with",
    "rlock",
    "rlock_with",
    "semaphore",
]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("call", CALLS)
def test_interrupted(call: str, method: str, weft: arena.Side) -> None:
    interrupt(weft, "interrupt_locks.py", call, method)


@pytest.mark.parametrize("call", CALLS)
def test_the_interrupt_script_itself(call: str) -> None:
    """With the standard library, which can be interrupted everywhere as well."""
    interrupt(arena.STOCK, "interrupt_locks.py", call, "fork")
