"""Thousands of greenlets killed at random while they wait, and nothing lost of what they waited for."""

from __future__ import annotations

import pytest
from stagehand import TIMES, outcome

KILLS = 2000 * TIMES


@pytest.mark.parametrize("kind", ["queues", "semaphores", "waits", "sockets"])
def test_nothing_is_lost(kind: str, seed: int) -> None:
    found = outcome("kills.py", seed, KILLS, kind)
    assert found.pop("moved") > 0
    assert found.pop("errors") == ""
    assert found == dict.fromkeys(found, 0)
