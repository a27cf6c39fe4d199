"""What `ps` and `top` call the processes that weft starts for itself: `weft-worker`, `weft-manager` (and, by the engine, `weft-template`
and `weft-spare`).

What the program forks off them has its own name again.
"""

from __future__ import annotations

import os

from weft._native import _process

__all__ = ["call_manager", "call_worker"]

_seen_to = False


def call_worker() -> None:
    """This process is a worker of a pool or an executor."""
    if _process.take_title_of_worker():
        _see_to_forks()


def call_manager() -> None:
    """This process is the server of a manager."""
    if _process.take_title_of_manager():
        _see_to_forks()


def _see_to_forks() -> None:
    global _seen_to
    if not _seen_to:
        _seen_to = True
        os.register_at_fork(after_in_child=_process.give_title_back)
