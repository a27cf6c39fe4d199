"""Small numbers for objects, as long as they live."""

from __future__ import annotations

import heapq
import weakref

__all__ = ["IdentRegistry"]


class IdentRegistry:
    """Gives each object the least number that no other living object has."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()
        self._free: list[int] = []
        self._next = 0

    def get_ident(self, obj: object) -> int:
        """The object's number."""
        known = self._known.get(obj)
        if known is not None:
            return known
        if self._free:
            ident = heapq.heappop(self._free)
        else:
            ident, self._next = self._next, self._next + 1
        self._known[obj] = ident
        weakref.finalize(obj, heapq.heappush, self._free, ident).atexit = False
        return ident

    def __len__(self) -> int:
        return len(self._known)
