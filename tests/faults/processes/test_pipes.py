"""SIGKILL, SIGSTOP with SIGCONT, and Ctrl-C to those that use connections. See pipe_trial.py and scripts/pipes.py."""

from __future__ import annotations

import arena
import pytest
from interruption import interrupt
from pipe_trial import PipeTrial
from trial import attempt

KILLS = [
    PipeTrial(hits=60),
    PipeTrial(call="bytes", duplex=True),
    PipeTrial(method="forkserver", hits=15),
    PipeTrial(method="spawn", hits=6),
    PipeTrial(writers=1, readers=1),
    PipeTrial(victims="readers", sizes="long", call="bytes", writers=1),
    PipeTrial(victims="writers", sizes="short", duplex=True),
    PipeTrial(shown=True),
    PipeTrial(shown=True, victims="writers", call="bytes"),
    PipeTrial(shown=True, victims="readers", sizes="long", duplex=True),
    PipeTrial(shown=True, method="forkserver", writers=1, readers=1, hits=15),
]
STOPS = [
    PipeTrial(signal="STOP"),
    PipeTrial(signal="STOP", shown=True, call="bytes"),
    PipeTrial(signal="STOP", method="forkserver", sizes="long", writers=1, readers=1, hits=15),
]


@pytest.mark.parametrize("trial", [*KILLS, *STOPS], ids=str)
def test_nothing_but_what_was_in_hand_is_lost(trial: PipeTrial, weft: arena.Side, seed: int) -> None:
    report = attempt(trial, seed, weft)
    assert not report.complaints, report


@pytest.mark.parametrize("duplex", [False, True])
def test_the_harness_finds_nothing_where_nothing_is_wrong(duplex: bool, seed: int) -> None:
    """The standard library stands being stopped and continued, with one process at each end."""
    trial = PipeTrial(signal="STOP", writers=1, readers=1, duplex=duplex)
    report = attempt(trial, seed, arena.STOCK)
    assert not report.complaints, report


def test_the_harness_finds_what_is_wrong() -> None:
    """With the standard library's, which mixes the pieces of what several processes send and receive."""
    report = attempt(PipeTrial(hits=1000), 1, arena.STOCK, patience=5)
    assert report.complaints


GOOD = {
    "failed": 0, "duplicates": 0, "invented": 0, "disorder": 0, "left_in_pipe": 0, "unknown": 1, "lost": 2,
    "reported": 0, "false_reports": 0, "gaps": 2, "before": 1, "after": 1,
    "killed_producers": 1, "killed_consumers": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("trial", "change", "complaints"),
    [
        (PipeTrial(), {}, []),
        (PipeTrial(), {"lost": 3}, ["lost: 3, not 2"]),
        (PipeTrial(), {"unknown": 2}, ["unknown: 2, not 1"]),
        (PipeTrial(), {"reported": 1}, ["reported: 1, not 0"]),
        (PipeTrial(), {"after": 2}, ["after: 2, not 1"]),
        (PipeTrial(shown=True), {"lost": 30, "reported": 3}, []),
        (PipeTrial(shown=True), {"gaps": 3}, ["gaps: 3, not 2"]),
        (PipeTrial(shown=True), {"reported": 4}, ["reported: 4, not 3"]),
        (PipeTrial(shown=True), {"killed_consumers": 0}, ["lost: 2, not 0"]),
    ],
)
def test_the_judgement(trial: PipeTrial, change: dict[str, int], complaints: list[str]) -> None:
    assert trial.judge({**GOOD, **change}) == complaints


CALLS = [
    "accept",
    "poll",
    "poll_timeout",
    "recv",
    "recv_bytes",
    "recv_bytes_into",
    "send",
    "send_bytes_large",
    "send_bytes_shown",
    "wait",
    "wait_timeout",
]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("call", CALLS)
def test_interrupted(call: str, method: str, weft: arena.Side) -> None:
    interrupt(weft, "interrupt_pipes.py", call, method)


# The standard library's cannot be used after an interruption in the middle of a message.
@pytest.mark.parametrize("call", [call for call in CALLS if not call.startswith("send_bytes")])
def test_the_interrupt_script_itself(call: str) -> None:
    """With the standard library, which can be interrupted everywhere as well."""
    interrupt(arena.STOCK, "interrupt_pipes.py", call, "fork")
