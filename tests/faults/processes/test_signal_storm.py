"""SIGKILL, and SIGSTOP with SIGCONT, to producers and consumers at random instants. See trial.py and storm.py."""

from __future__ import annotations

import arena
import pytest
from queue_trial import QueueTrial
from trial import attempt

KILLS = [
    QueueTrial(hits=60),
    QueueTrial(method="forkserver"),
    QueueTrial(method="spawn", hits=10),
    QueueTrial(victims="producers", maxsize=1),
    QueueTrial(victims="consumers", maxsize=7),
    QueueTrial(producers=1, consumers=1),
    QueueTrial(kind="JoinableQueue"),
    QueueTrial(kind="JoinableQueue", maxsize=3, method="forkserver", hits=20),
    QueueTrial(kind="SimpleQueue"),
    QueueTrial(api="weft", method="forkserver"),
]
STOPS = [
    QueueTrial(signal="STOP"),
    QueueTrial(signal="STOP", maxsize=1, producers=1, consumers=1),
    QueueTrial(signal="STOP", kind="JoinableQueue", method="forkserver"),
    QueueTrial(signal="STOP", kind="SimpleQueue"),
]


@pytest.mark.parametrize("trial", [*KILLS, *STOPS], ids=str)
def test_nothing_but_what_was_in_hand_is_lost(trial: QueueTrial, weft: arena.Side, seed: int) -> None:
    report = attempt(trial, seed, weft)
    assert not report.complaints, report


@pytest.mark.parametrize("trial", STOPS, ids=str)
def test_the_harness_finds_nothing_where_nothing_is_wrong(trial: QueueTrial, seed: int) -> None:
    """The standard library stands being stopped and continued."""
    report = attempt(trial, seed, arena.STOCK)
    assert not report.complaints, report


def test_the_harness_finds_a_hang() -> None:
    """Of the standard library's queue, which some few kills bring to a stand."""
    trial = QueueTrial(victims="consumers", hits=1000)
    report = attempt(trial, 1, arena.STOCK, patience=5)
    (complaint,) = report.complaints
    assert complaint.startswith("hangs: silent"), complaint
    assert "in consume" in complaint and "in produce" in complaint, complaint


GOOD = {
    "put": 10, "unknown": 0, "failed": 0, "duplicates": 0, "invented": 0, "disorder": 0, "lost": 0,
    "killed_producers": 1, "killed_consumers": 1, "left_in_queue": 0, "unfinished": 1,
    "task_done_least": 9, "task_done_most": 9,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "complaints"),
    [
        ({}, []),
        ({"lost": 1, "unknown": 1, "unfinished": 2}, []),
        ({"lost": 2}, ["lost: 2"]),
        ({"duplicates": 1}, ["duplicates: 1"]),
        ({"left_in_queue": -1}, ["left_in_queue: -1"]),
        ({"unfinished": 0}, ["unfinished: 0, not 1 to 1"]),
        ({"unfinished": 0, "task_done_most": 10}, []),
    ],
)
def test_the_judgement(change: dict[str, int], complaints: list[str]) -> None:
    assert QueueTrial(kind="JoinableQueue").judge({**GOOD, **change}) == complaints
