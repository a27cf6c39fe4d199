"""A program in which all kinds of waits are under way forks at random instants."""

from __future__ import annotations

from stagehand import TIMES, outcome

FORKS = 150 * TIMES
KINDS = 14  # of traffic


def test_parents_lose_nothing_and_children_go_on(seed: int) -> None:
    found = outcome("forks.py", seed, FORKS)
    assert found["errors"] == ""
    assert len(found["seen"]) == KINDS
    assert found["wrong"] == []
    assert found["active"] == found["descriptors"] == 0
