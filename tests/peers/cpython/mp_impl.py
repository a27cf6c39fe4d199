"""Whose multiprocessing this process has: asked by the runner's guard, and again by every process
that imports a wrapper, children included.
"""

from __future__ import annotations

import os
import sys

VARIABLE = "PEERS_IMPL"  # what the run is about, for the children


def wrong_multiprocessing(impl: str) -> str | None:
    """Why the multiprocessing of this process is not that of `impl`, or None."""
    import multiprocessing.queues as queues

    classes = (queues.Queue, queues.JoinableQueue, queues.SimpleQueue)
    if impl == "weft":
        import weft
        import weft.multiprocessing.queues as ours

        home = os.path.dirname(weft.__file__)
        for known in classes:
            name = known.__name__
            if getattr(ours, name) is not known:
                return f"multiprocessing.queues.{name} is not weft's"
            source = source_of(known, "put")
            if source is not None and not source.startswith(home):
                return f"multiprocessing.queues.{name} is made in {source!r}, outside weft"
    else:
        if "weft" in sys.modules:
            return "weft is imported in a run of the stock"
        home = os.path.dirname(os.__file__)
        for known in classes:
            source = source_of(known, "put")
            if source is None or not source.startswith(home) or "site-packages" in source:
                return f"{known.__name__} is made in {source!r}, not the standard library"
    return None


def source_of(known: type, method: str) -> str | None:
    """The file that defines a method of a class; None if that is native."""
    code = getattr(vars(known).get(method, getattr(known, method, None)), "__code__", None)
    return None if code is None else str(code.co_filename)


def check() -> None:
    """Ends the import of a wrapper in a process that has the wrong multiprocessing."""
    impl = os.environ.get(VARIABLE)
    complaint = impl and wrong_multiprocessing(impl)
    if complaint:
        raise RuntimeError(f"guard: {complaint}")
