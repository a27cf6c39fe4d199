"""All that the hub calls raises, into a standard error that is closed or broken, and it goes on."""

from __future__ import annotations

from stagehand import TIMES, outcome

ROUNDS = 10 * TIMES


def test_the_hub_goes_on(seed: int) -> None:
    found = outcome("errors.py", seed, ROUNDS)
    assert found["wrong"] == []
    assert found["moved"] > 0
    for what in ("servers", "finalizers", "untold", "active", "descriptors"):
        assert found[what] == 0, what
