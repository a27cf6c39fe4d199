"""What workers do in the tests of executors."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any


def same(item: Any) -> Any:
    return item


def keyword(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def refuse(text: str) -> None:
    raise LookupError(text)


def leave(code: int) -> None:
    raise SystemExit(code)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_unless(path: str) -> str:
    """Dies the first time."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "done"
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hold(begun: str, free: str) -> int:
    """Says that it has begun, by a fifo, and stays until told, by another one."""
    with open(begun, "wb", buffering=0) as pipe:
        pipe.write(b"x")
    with open(free, "rb", buffering=0) as pipe:
        pipe.read(1)
    return os.getpid()


def touch(folder: str, name: str) -> None:
    with open(os.path.join(folder, name), "w"):
        pass


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


class Unreadable:
    """Is pickled, and raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return refuse, ("not to be unpickled",)


def unreadable() -> Unreadable:
    return Unreadable()


def unpicklable() -> Unpicklable:
    return Unpicklable()


class Thing:
    def method(self) -> int:
        return 5


begun, go_on = threading.Event(), threading.Event()


def pause() -> str:
    begun.set()
    go_on.wait()
    return "unpickled"


class Slow:
    """Takes its time when it is unpickled, until `go_on` is set."""

    def __reduce__(self) -> Any:
        return pause, ()


def slow() -> Slow:
    return Slow()
