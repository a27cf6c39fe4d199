"""Signals under traffic, and Ctrl-C in every kind of wait."""

from __future__ import annotations

from stagehand import TIMES, outcome

KINDS = 14  # of traffic
HUNDREDTHS = 200 * TIMES
ROUNDS = 2 * TIMES


def test_traffic_goes_on_under_signals(seed: int) -> None:
    found = outcome("signals.py", seed, HUNDREDTHS)
    assert found["wrong"] == []
    assert len(found["seen"]) == KINDS
    assert all(found["counts"].values()), found["counts"]
    assert found["raising"] == 0
    assert set(found["shown"]) == {"Raised"}
    assert found["active"] == found["descriptors"] == 0


def test_ctrl_c_arrives_in_the_main_greenlet(seed: int) -> None:
    found = outcome("interrupts.py", seed, ROUNDS)
    assert found["wrong"] == []
    assert found["kinds"] > 25
    assert found["descriptors"] == 0
