"""Ctrl-C during every blocking call: KeyboardInterrupt there and then, and all is usable afterwards."""

from __future__ import annotations

import arena
import pytest
from interruption import interrupt

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


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("call", CALLS)
def test_interrupted(call: str, method: str, weft: arena.Side) -> None:
    interrupt(weft, "interrupt.py", call, method)


@pytest.mark.parametrize("call", CALLS)
def test_the_script_itself(call: str) -> None:
    """With the standard library, which can be interrupted everywhere as well."""
    interrupt(arena.STOCK, "interrupt.py", call, "fork")
