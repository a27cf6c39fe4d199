"""Shared arrays whose users are killed, and shared memory that is not to be had."""

from __future__ import annotations

import json
import os

import arena
import pytest

HITS = {"fork": 300, "forkserver": 200, "spawn": 30}
# The long form: so many kills of each kind.
MANY = os.environ.get("WEFT_FAULTS_HITS")


@pytest.mark.parametrize("method", HITS)
def test_killed_holders(method: str, weft: arena.Side, seed: int) -> None:
    judge(weft, seed, "--method", method, "--hits", int(MANY or HITS[method]))


@pytest.mark.skipif(not MANY, reason="what is left by a kill in the middle of a fork waits for a minute")
def test_killed_holders_that_fork(weft: arena.Side, seed: int) -> None:
    judge(weft, seed, "--method", "fork", "--hits", int(MANY or 0), "--forks")


def judge(side: arena.Side, seed: int, *options: object) -> None:
    play, lines = arena.run(side, "holders.py", "--seed", seed, *options)
    assert play.returncode == 0, (lines[-1:], play.errors)
    result = json.loads(lines[-1])
    assert (result["wrong"], result["failed"]) == (0, 0), (result, play.errors)
    assert result["after"] == result["before"], result
    assert not play.left


@pytest.mark.parametrize("method", HITS)
@pytest.mark.parametrize("what", ["address-space", "file-size", "machine"])
def test_exhausted(what: str, method: str, weft: arena.Side) -> None:
    play, lines = arena.run(weft, "exhaust_shared.py", "--what", what, "--method", method)
    assert play.returncode == 0, (lines, play.errors)
    assert lines[-1] == "usable" and len(lines) > 1
    assert all(line.startswith("refused: MemoryError") for line in lines[:-1]), lines
    assert not play.left
