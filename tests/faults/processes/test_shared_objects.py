"""SIGKILL to the clients of a manager, and to the users of a SharedDict. See shared_trial.py and scripts/shared_objects.py."""

from __future__ import annotations

import arena
import pytest
from shared_trial import ServerTrial, SharedTrial
from trial import attempt

TRIALS = [
    SharedTrial(hits=60),
    SharedTrial(method="forkserver", hits=15),
    SharedTrial(method="spawn", hits=6),
    SharedTrial(clients=1),
    SharedTrial(way="tcp"),
    SharedTrial(way="tcp", method="forkserver", hits=15),
    SharedTrial(of="dict", hits=60),
    SharedTrial(of="dict", method="forkserver", hits=15),
    SharedTrial(of="dict", method="spawn", hits=6),
]


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_nothing_is_half_done_or_lost(trial: SharedTrial, weft: arena.Side, seed: int) -> None:
    report = attempt(trial, seed, weft)
    assert not report.complaints, report


@pytest.mark.parametrize(
    "trial",
    [ServerTrial(), ServerTrial(method="forkserver", hits=6), ServerTrial(method="spawn", hits=2, clients=2)],
    ids=str,
)
def test_all_are_told_that_the_server_died(trial: ServerTrial, weft: arena.Side, seed: int) -> None:
    report = attempt(trial, seed, weft)
    assert not report.complaints, report


GOOD = {
    "failed": 0, "killed": 3, "lost": 0, "invented": 0, "unsure": 3, "halves": 0, "torn": 0, "kept": 0, "doubled": 0,
    "missing": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in GOOD if name != "killed"])
def test_the_judge_sees_what_is_wrong(name: str) -> None:
    assert not SharedTrial().judge(GOOD)
    assert SharedTrial().judge({**GOOD, name: GOOD[name] + 1})


@pytest.mark.parametrize("wrong", [{"told": 7}, {"unnamed": 1}, {"failed": 1}])
def test_the_judge_sees_who_was_not_told(wrong: dict[str, int]) -> None:
    good = {"clients": 8, "told": 8, "unnamed": 0, "failed": 0, "killed": 2}
    assert not ServerTrial().judge(good)
    assert ServerTrial().judge({**good, **wrong})
