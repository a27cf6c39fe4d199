"""`weft.Queue`: the process queue without the manners that only compatibility asks for."""

from __future__ import annotations

from multiprocessing import get_context
from typing import TypeVar

from weft._unpicklable import UnpicklableError, explained
from weft.multiprocessing import queues

__all__ = ["Queue", "UnpicklableError"]

T = TypeVar("T")


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
        if not isinstance(maxsize, int):
            raise TypeError(f"maxsize must be an int, not {type(maxsize).__name__}")
        super().__init__(maxsize, ctx=get_context())
        self._is_fork_ctx = False

    def _put_failed(self, error: BaseException, obj: object) -> None:
        if not isinstance(error, Exception):
            raise error
        raise explained(error, obj, "cannot put {}, into a queue")
