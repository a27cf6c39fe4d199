"""What the scenarios of processes and queues are written against, for each package.

The two sides have the same one, on `import multiprocessing`. The rivals' queues and processes
have other constructors and defaults; here they are made to do the same.
"""

from __future__ import annotations

import multiprocessing
from typing import Any, Protocol

FOR_EVER = 1e6  # seconds
ROOM = 256 << 20  # bytes: faster-fifo's queues have a fixed size


class Queue(Protocol):
    def put(self, item: object) -> None: ...

    def get(self) -> Any: ...


class Api:
    """Queues and processes of `multiprocessing`, whose ever that is."""

    def queue(self, maxsize: int = 0, room: int = ROOM) -> Queue:
        queue: Queue = multiprocessing.get_context("fork").Queue(maxsize)
        return queue

    def own_queue(self) -> Queue:
        """The best queue that the package has."""
        if is_weft():
            import weft

            own: Any = weft
            queue: Queue = own.Queue()
            return queue
        return self.queue()

    def processes(self, method: str) -> Any:
        """A context whose processes start as `method` says: under weft, from the template."""
        if is_weft() and method != "fork":
            method = "forkserver"
        return multiprocessing.get_context(method)


class FasterFifo(Api):
    def queue(self, maxsize: int = 0, room: int = ROOM) -> Queue:
        return PatientFifo(maxsize, room)

    def own_queue(self) -> Queue:
        return self.queue()


class PatientFifo:
    """faster-fifo's queue with the defaults of the standard library: it waits as long as it takes."""

    def __init__(self, maxsize: int, room: int) -> None:
        from faster_fifo import Queue

        self._queue = Queue(max_size_bytes=room, **({"maxsize": maxsize} if maxsize else {}))

    def put(self, item: object) -> None:
        self._queue.put(item, timeout=FOR_EVER)

    def get(self) -> Any:
        return self._queue.get(timeout=FOR_EVER)


class Loky(Api):
    def processes(self, method: str) -> Any:
        # The one of its two that imports the main module, as the others do.
        from loky.backend import get_context

        return get_context("loky_init_main")


RIVALS: dict[str, type[Api]] = {"faster-fifo": FasterFifo, "loky": Loky}


def is_weft() -> bool:
    """Whether `multiprocessing` is weft's in this process."""
    import multiprocessing.queues as queues

    return queues.Queue.__module__.startswith("weft.")
