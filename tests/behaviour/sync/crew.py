"""What the children of these tests do. Importable, so that every start method finds it."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def die() -> None:
    """Be killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def take_and(lock: Any, end: str) -> None:
    """End with the lock: `killed`, by `_exit`, by an exception, or with `return`."""
    lock.acquire()
    if end == "killed":
        die()
    if end == "_exit":
        os._exit(3)
    if end == "error":
        sys.stderr = open(os.devnull, "w")
        raise RuntimeError("on purpose")


def wait_and_die(ready: Any, condition: Any) -> None:
    """Wait at a condition until killed."""
    with condition:
        ready.release()
        condition.wait()


def arrive(barrier: Any) -> None:
    """Wait at a barrier."""
    barrier.wait()


def use_all(everything: dict[str, Any], answers: Any) -> None:
    """Use one of each kind, and say what came of it."""
    found: dict[str, object] = {}
    lock, rlock, semaphore = everything["lock"], everything["rlock"], everything["semaphore"]
    found["lock"] = lock.acquire(False), repr(lock), lock._semlock._count()
    lock.release()  # the parent's
    found["rlock"] = rlock.acquire(False), repr(rlock)
    try:
        rlock.release()
    except AssertionError as error:
        found["rlock release"] = str(error)
    found["semaphore"] = semaphore.acquire(False), semaphore.get_value(), repr(semaphore)
    with everything["condition"]:
        everything["condition"].notify()
    everything["event"].set()
    everything["barrier"].wait()
    answers.put(found)
