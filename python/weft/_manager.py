"""`weft.Manager`: a server process with shared objects, started."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft.multiprocessing.managers import SyncManager

__all__ = ["Manager"]


def Manager() -> SyncManager:
    """Start a process for shared objects, and return its manager, with `dict()`, `list()`, `set()`, `Queue()`, `Lock()` and more.

    What they return are proxies, which can be passed to other processes. A call takes about a quarter of a microsecond where the server
    has a processor of its own. `d[key] += 1` is two calls: `d.add(key)` and `d.update_with(key, function)` are one, and
    `weft.multiprocessing.managers.batch(d)` makes one of several. If the server dies, every call raises
    `weft.ManagerDied`. What cannot be pickled is refused by `weft.UnpicklableError`. It ends with `shutdown()`, at the end of a `with` block, or when the manager is gone.
    """
    from weft.multiprocessing import context

    return context._default_context.Manager()
