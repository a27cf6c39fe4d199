"""What the workers of these tests do. Importable, so that every start method finds it."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import weft

STATE: list[object] = []


def square(number: int) -> int:
    """A task that does next to nothing."""
    return number * number


def both(*args: Any, **kwds: Any) -> Any:
    """What it was called with."""
    return args, kwds


def fail(what: object) -> None:
    """A task that raises."""
    raise ValueError(what)


def fail_at(item: int, bad: int = 5) -> int:
    """One of the items raises."""
    if item == bad:
        raise ValueError(f"item {item}")
    return item


def fail_with_notes() -> None:
    """An exception with a cause and a note."""
    error = KeyError("noted")
    error.add_note("a note")
    raise error from OSError("the cause")


def pid(_item: object = None) -> int:
    """Who does this."""
    return os.getpid()


def pid_when(gate: str) -> int:
    """Say who does this when somebody opens the gate."""
    with open(gate, "rb"):
        return os.getpid()


def hold(ready: str, gate: str) -> int:
    """Say so through one fifo, and stay until the other one is opened."""
    with open(ready, "w") as told:
        told.write(str(os.getpid()))
    with open(gate, "rb"):
        return os.getpid()


def hold_stubbornly(ready: str, deaf: tuple[int, ...] = ()) -> None:
    """Say so through a fifo, and stay for ever, whatever signals of `deaf` come."""
    for number in deaf:
        signal.signal(number, signal.SIG_IGN)
    with open(ready, "w") as told:
        told.write(str(os.getpid()))
    while True:
        signal.pause()


def hold_and_clean_up(ready: str, result: str) -> None:
    """As `hold`, and note in a file that it was interrupted."""
    try:
        hold_stubbornly(ready)
    finally:
        with open(result, "w") as file:
            file.write("cleaned up")


def append(path: str, text: str) -> None:
    """Note in a file that this was done."""
    with open(path, "a") as file:
        file.write(f"{text}\n")


def append_to_all(path: str) -> None:
    """As `append`, for a map."""
    append(path, "done")


def fail_at_done(done: int, total: int) -> None:
    """Told of progress, raises at the second."""
    if done == 2:
        raise ValueError(f"{done} of {total}")


def die_if(item: int) -> int:
    """One of the items is the end of its worker."""
    if item == 7:
        die()
    return item


def die(_item: object = None, how: int = signal.SIGKILL) -> None:
    """Be killed."""
    os.kill(os.getpid(), how)
    signal.pause()


def leave(code: int) -> None:
    """End without a word."""
    os._exit(code)


def die_at_first(path: str) -> int:
    """Be killed if nobody was before."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return os.getpid()
    die()
    return 0


def die_and_count(path: str) -> None:
    """Be killed, each time."""
    append(path, "died")
    die()


def fail_to_begin() -> None:
    """An initializer that fails."""
    sys.stderr = open(os.devnull, "w")
    raise RuntimeError("on purpose")


def leave_at_once() -> None:
    """An initializer that ends its worker, in order."""
    sys.exit(0)


def remember(*what: object) -> None:
    """An initializer."""
    STATE[:] = what


def remembered(_item: object = None) -> list[object]:
    """What it left."""
    return STATE


def make_state() -> dict[str, int]:
    """A worker's state."""
    return {"pid": os.getpid(), "calls": 0}


def use_state(_item: object = None) -> tuple[int, int]:
    """What tasks find of it."""
    state = weft.worker_state()
    state["calls"] += 1
    return state["pid"], state["calls"]


def farewell(state: dict[str, Any]) -> None:
    """Called at a worker's end."""
    append(os.environ["WEFT_TEST_FAREWELL"], f"{state['pid']} {state['calls']}")


def grow(nbytes: int) -> int:
    """Take memory that is not given back."""
    STATE.append(bytearray(os.urandom(1)) * nbytes)
    return os.getpid()


def processors(_item: object = None) -> list[int]:
    """Where this may run."""
    return sorted(os.sched_getaffinity(0))


def nested(items: list[int]) -> list[int]:
    """A pool in a worker."""
    with weft.Pool(2) as pool:
        return pool.map(square, items)


def nested_of(method: str, items: list[int]) -> list[int]:
    """A pool of the face in a worker."""
    context: Any = weft.multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        result: list[int] = pool.map(square, items)
        return result


def scale(array: Any, factor: int) -> tuple[bool, Any]:
    """Whether an array arrived writable, and it, changed."""
    writable = bool(array.flags.writeable)
    array *= factor
    return writable, array


def total(shared: Any, item: int) -> tuple[int, int, bool]:
    """Of a shared array: its sum, who it is, and whether it can be written to."""
    return int(shared.sum()) + item, id(shared), bool(shared.flags.writeable)


def rests(seconds: float) -> float:
    """Take some time, for what has to overlap."""
    time.sleep(seconds)
    return seconds


def randoms(_item: object = None) -> tuple[float, float, int]:
    """Numbers of the random generators, and whose."""
    import numpy

    return random.random(), float(numpy.random.random()), os.getpid()


class Unpicklable(Exception):
    """Cannot be made anew from its arguments."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def make_locks() -> dict[str, Any]:
    return {"locks": [0, threading.Lock()]}


def raise_unpicklable() -> None:
    """An exception that does not arrive."""
    raise Unpicklable(1, 2)


class Mapping:
    """What `**` takes, though it is no dict."""

    def keys(self) -> list[str]:
        return ["a", "b"]

    def __getitem__(self, key: str) -> str:
        return key * 2


def counting(upto: int, given: list[int]) -> Iterator[int]:
    """A generator that notes what it gave."""
    for number in range(upto):
        given.append(number)
        yield number


class Evil:
    """Interrupts whoever pickles it."""

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


def pid_and_rest(_item: object = None) -> int:
    """Who does this, slowly enough for others to do something, too."""
    time.sleep(0.03)
    return os.getpid()


def processors_and_rest(_item: object = None) -> list[int]:
    """Where this may run, slowly."""
    time.sleep(0.03)
    return processors()


def randoms_and_rest(_item: object = None) -> tuple[float, float, int]:
    """Random numbers, slowly."""
    time.sleep(0.03)
    return randoms()


def objects_kept() -> int:
    """How many shared objects this process keeps."""
    from weft import _shared_object

    return len(_shared_object._received)
