"""Ctrl-C during every blocking call: KeyboardInterrupt there and then, and all is usable afterwards."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import arena
import pytest

CALLS = [
    "get",
    "get_timeout",
    "join_process",
    "join_queue",
    "join_timeout",
    "put",
    "put_timeout",
    "simple_get",
    "wait_sentinel",
]
TIMES = 3


def until_it_sleeps(pid: int) -> None:
    """Wait until a process's main thread has blocked. What is measured is the kernel's view: no time."""
    stat = Path(f"/proc/{pid}/task/{pid}/stat")
    calm = 0
    while calm < 3:  # a spin before it, or a lock on the way, is no end yet
        state = stat.read_text().rpartition(")")[2].split()[0]
        calm = calm + 1 if state == "S" else 0
        time.sleep(0.01)


def interrupt(side: arena.Side, call: str, method: str) -> None:
    with arena.Play(side, "interrupt.py", "--call", call, "--method", method, "--times", TIMES) as play:
        for _ in range(TIMES):
            play.expect("blocks")
            until_it_sleeps(play.process.pid)
            os.kill(play.process.pid, signal.SIGINT)
            play.expect("interrupted")
        play.expect("usable")
    assert play.returncode == 0, play.errors
    assert not play.left


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("call", CALLS)
def test_interrupted(call: str, method: str, weft: arena.Side) -> None:
    interrupt(weft, call, method)


@pytest.mark.parametrize("call", CALLS)
def test_the_script_itself(call: str) -> None:
    """With the standard library, which can be interrupted everywhere as well."""
    interrupt(arena.STOCK, call, "fork")
