"""The hub of each thread. As gevent._hub_local."""

from __future__ import annotations

from typing import Any

from . import hub as _hub_module
from .hub import get_hub, get_hub_if_exists, set_default_hub_class, set_hub

__all__ = [
    "get_hub",
    "get_hub_class",
    "get_hub_if_exists",
    "get_hub_noargs",
    "get_loop",
    "set_default_hub_class",
    "set_hub",
    "set_loop",
]

get_hub_noargs = get_hub


def get_hub_class() -> Any:
    """What `get_hub` makes in this thread."""
    return _hub_module.hub_class_here()


def get_loop() -> Any:
    """The loop that a hub which was destroyed left to the next one of this thread, or None."""
    return _hub_module.spare_loop()


def set_loop(loop: Any) -> None:
    """Leave a loop to the next hub of this thread."""
    _hub_module.leave_loop(loop)
