"""Traffic of all kinds at once, after which the process has no more than before."""

from __future__ import annotations

from stagehand import TIMES, outcome

SECONDS = 12 * TIMES
MORE = {"greenlets": 60, "objects": 3000, "descriptors": 10, "resident": 4096}  # what is under way differs


def test_memory_and_descriptors_stay_flat(seed: int) -> None:
    found = outcome("soak.py", seed, SECONDS)
    assert found["wrong"] == found["failed"] == []
    assert found["active"] == 0
    assert min(found["counts"].values()) > 0
    for what, more in MORE.items():
        samples = found[what]
        quarter = len(samples) // 4
        second, fourth = samples[quarter : 2 * quarter], samples[3 * quarter :]
        # The middle one: what is under way makes it go up and down.
        assert sorted(fourth)[quarter // 2] < sorted(second)[quarter // 2] + more, what
