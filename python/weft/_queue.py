"""`weft.Queue`: the process queue without the manners that only compatibility asks for."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator
from multiprocessing import get_context, reduction
from typing import Any, TypeVar

from weft.multiprocessing import queues

T = TypeVar("T")

DEEPEST = 20  # levels of an object that are searched for what cannot be pickled
NAME = "obj"  # what the argument of `put` is called


class UnpicklableError(pickle.PicklingError, TypeError):
    """An object that was to be sent to another process cannot be pickled.

    `path` says which part of the argument it is, as an expression in `obj`; `part` is that part.
    The cause is what the pickler raised.
    """

    __module__ = "weft"

    def __init__(self, message: str, path: str = NAME, part: object = None) -> None:
        super().__init__(message)
        self.path = path
        self.part = part


class Queue(queues.JoinableQueue[T]):
    """A queue of objects between processes, which any process of the program may put into and get from.

    `maxsize` is how many objects it may hold; 0 (the default) or less: any number. It is passed on to a child
    as an argument, or inherited by a fork.

    `put(obj, block=True, timeout=None)` raises `weft.UnpicklableError` if `obj` cannot be pickled, `queue.Full` if there
    was no room within `timeout` seconds (or at once, if `block` is false), ShutDown after `shutdown`, ValueError after
    `close`. `get(block=True, timeout=None)` returns the next object; it raises `queue.Empty` likewise.
    `task_done` and `join` are those of `queue.Queue`, `shutdown(immediate=False)` that of 3.13.

    A process that is killed loses at most the object that it was getting; nobody waits for it.
    """

    __module__ = "weft"

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize, ctx=get_context())
        self._is_fork_ctx = False

    def _put_failed(self, error: BaseException, obj: object) -> None:
        if not isinstance(error, Exception):
            raise error
        path, part = culprit(obj)
        kind = f"{type(part).__module__}.{type(part).__qualname__}"
        raise UnpicklableError(f"cannot put {path}, a {kind}, into a queue: {error}", path, part) from error


def culprit(obj: object) -> tuple[str, object]:
    """The innermost part of `obj` that cannot be pickled, and the way to it."""
    path, seen = NAME, {id(obj)}
    for _ in range(DEEPEST):
        for step, part in parts(obj):
            if id(part) not in seen and not can_be_pickled(part):
                path, obj = path + step, part
                seen.add(id(part))
                break
        else:
            break
    return path, obj


def can_be_pickled(obj: object) -> bool:
    """Whether the pickler takes it."""
    try:
        reduction.ForkingPickler.dumps(obj)
    except Exception:
        return False
    return True


def parts(obj: Any) -> Iterator[tuple[str, object]]:
    """What `obj` consists of for the pickler, each with the expression that leads there.

    Other collections are pickled by their attributes; to go through them could fail, or have no end.
    """
    if isinstance(obj, dict):
        for key, value in obj.items():
            yield f"[{key!r}]", value
            yield f" (the key {key!r})", key
    elif isinstance(obj, (list, tuple, deque)):
        for position, value in enumerate(obj):
            yield f"[{position}]", value
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            yield " (a member)", value
    for name, value in getattr(obj, "__dict__", {}).items():
        yield f".{name}", value
