"""Hundreds of threads with hubs of their own, that end with and without destroying them."""

from __future__ import annotations

import pytest
from stagehand import TIMES, outcome

THREADS = 1_200 * TIMES
# After so many batches all that is kept for later has been made. That takes some hundreds of threads: the C library has
# several heaps, and each thread grows the one that it comes by.
SETTLED = 14
MORE = 4096  # kilobytes


@pytest.mark.parametrize("leftovers", [0, 50])
def test_they_leave_nothing_and_lose_nothing(leftovers: int, seed: int) -> None:
    found = outcome("threads.py", seed, THREADS, leftovers)
    assert found["errors"] == ""
    assert found["visits"] == THREADS
    assert not found["forgotten"]
    for what in ("lost", "doubled", "intruders", "inside", "missing", "active", "threads"):
        assert found[what] == 0, what
    assert len({*found["descriptors"], found["open"]}) == 1
    if leftovers:
        return  # what C frames of greenlets own that never go on is lost
    # A hub's own threads have greenlets, which may come one by one.
    objects = found["objects"][SETTLED:]
    assert max(objects) - min(objects) < THREADS // 4
    resident = found["resident"][SETTLED:]
    half = len(resident) // 2
    assert min(resident[half:]) < max(resident[:half]) + MORE
