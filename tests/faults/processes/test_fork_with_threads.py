"""Children started while threads of the program are in the middle of everything."""

from __future__ import annotations

import arena
import pytest


@pytest.mark.parametrize("how", ["process", "os.fork", "forkserver", "spawn"])
def test_children_use_all_queues(how: str, weft: arena.Side) -> None:
    forks = 10 if how == "spawn" else 50
    play, lines = arena.run(weft, "threads.py", "--how", how, "--forks", forks)
    assert play.returncode == 0, play.errors
    assert lines[-1] == "done"
    assert not play.left
