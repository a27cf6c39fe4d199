"""Ctrl-C in the middle of a call that blocks, again and again, and what must be true afterwards."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import arena

TIMES = 3


def until_it_sleeps(pid: int) -> None:
    """Wait until a process's main thread has blocked. What is measured is the kernel's view: no time."""
    stat = Path(f"/proc/{pid}/task/{pid}/stat")
    calm = 0
    while calm < 3:  # a spin before it, or a lock on the way, is no end yet
        state = stat.read_text().rpartition(")")[2].split()[0]
        calm = calm + 1 if state == "S" else 0
        time.sleep(0.01)


def interrupt(side: arena.Side, script: str, call: str, method: str) -> None:
    """Play a script that blocks in `call` (see scripts/stage.py), and interrupt it each time."""
    with arena.Play(side, script, "--call", call, "--method", method, "--times", TIMES) as play:
        for _ in range(TIMES):
            play.expect("blocks")
            until_it_sleeps(play.process.pid)
            os.kill(play.process.pid, signal.SIGINT)
            play.expect("interrupted")
        play.expect("usable")
    assert play.returncode == 0, play.errors
    assert not play.left
