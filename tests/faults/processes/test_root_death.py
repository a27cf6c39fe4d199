"""SIGKILL of the program itself: nothing may be left of it, whatever its descendants were doing."""

from __future__ import annotations

import signal

import arena
import pytest


def kill_root(side: arena.Side, *options: str) -> arena.Play:
    with arena.Play(side, "root.py", *options) as play:
        line = play.line()
        assert line is not None and line.startswith("ready "), (line, play.stacks())
        play.process.kill()
    assert play.returncode == -signal.SIGKILL
    return play


@pytest.mark.parametrize("daemon", [(), ("--daemon",)], ids=["", "daemon"])
@pytest.mark.parametrize("threads", [0, 4])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_nothing_is_left(method: str, threads: int, daemon: tuple[str, ...], weft: arena.Side) -> None:
    play = kill_root(weft, "--method", method, "--threads", str(threads), *daemon)
    assert not play.left


def test_the_harness_finds_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library leaves its children, and the fork server's socket."""
    monkeypatch.setattr(arena, "GRACE", 1.0)
    play = kill_root(arena.STOCK, "--method", "forkserver")
    assert len(play.left.processes) >= 5
    assert any("listener-" in name for name in play.left.files)
