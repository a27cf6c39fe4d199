"""SIGKILL of what serves the starting of processes: each start ends well or says what happened, the next is well."""

from __future__ import annotations

import arena
import pytest


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_starts_go_on(method: str, weft: arena.Side, seed: int) -> None:
    # Under fork there is no helper to be killed, unless a start makes one.
    hits = {"fork": 0, "spawn": 10, "forkserver": 20}[method]
    play, lines = arena.run(weft, "helpers.py", "--method", method, "--hits", hits, "--seed", seed)
    assert play.returncode == 0, (lines[-3:], play.errors)
    assert lines[-1].startswith("done: ")
    assert not play.left
