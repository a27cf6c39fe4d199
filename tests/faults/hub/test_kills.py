"""Thousands of greenlets killed at random while they wait, and nothing lost of what they waited for."""

from __future__ import annotations

import pytest
from stagehand import TIMES, outcome

KILLS = 2000 * TIMES


FIRST = ("queues", "semaphores", "waits", "sockets")
MORE = ("connections", "channels", "queues", "locks", "pools", "lookups", "process_waits")


@pytest.mark.parametrize(
    ("script", "kind"),
    [*(("kills.py", kind) for kind in FIRST), *(("more_kills.py", kind) for kind in MORE)],
)
def test_nothing_is_lost(script: str, kind: str, seed: int) -> None:
    found = outcome(script, seed, KILLS, kind)
    assert found.pop("moved") > 0
    assert found.pop("errors") == ""
    assert found == dict.fromkeys(found, 0)
