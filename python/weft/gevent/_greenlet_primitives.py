"""Which greenlets there are. As far as gevent._greenlet_primitives is used by others."""

from __future__ import annotations

import gc
from typing import Any

from weft.greenlet import greenlet

from .greenlet import TrackedRawGreenlet

__all__ = ["TrackedRawGreenlet", "get_reachable_greenlets"]


def get_reachable_greenlets() -> list[Any]:
    """All greenlets, but those that are marked with `greenlet_tree_is_ignored`."""
    return [
        known
        for known in gc.get_objects()
        if isinstance(known, greenlet) and not getattr(known, "greenlet_tree_is_ignored", False)
    ]
