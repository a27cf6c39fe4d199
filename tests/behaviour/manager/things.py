"""Classes and functions that servers and other processes have to find by name."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from weft.multiprocessing.managers import BaseManager, SyncManager


class Counter:
    """A custom shared object."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def up(self, by: int = 1) -> int:
        self.value += by
        return self.value

    def thread(self) -> int:
        return threading.get_ident()

    def process(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise LookupError("as told")

    def unpicklable(self) -> Any:
        return lambda: None

    def _hidden(self) -> None:
        raise AssertionError("it is not exposed")


class Never:
    """A key that is as likely in a dictionary as an integer, and cannot be compared."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


class Caller:
    """Uses other objects of the same server."""

    def append(self, items: Any, item: Any) -> list[Any]:
        items.append(item)
        item.append("mine")
        return list(items[:])

    def wait(self, queue: Any) -> Any:
        return queue.get()

    def count(self, shared: Any) -> int:
        return shared.add("count")


class Gate:
    """Something that blocks until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def pass_through(self) -> str:
        self._open.wait()
        return "through"

    def open(self) -> None:
        self._open.set()


def numbers(most: int) -> Any:
    yield from range(most)


class Custom(SyncManager):
    """A manager with more."""


Custom.register("Counter", Counter)
Custom.register("Gate", Gate)
Custom.register("Caller", Caller)
Custom.register("numbers", numbers, proxytype=SyncManager._registry["Iterator"][-1])


class Remote(BaseManager):
    """Its objects are found by clients that connect."""


_shared: dict[str, Any] = {}
Remote.register("shared", lambda: _shared, SyncManager._registry["dict"][-1])
Remote.register("Iterator", proxytype=SyncManager._registry["Iterator"][-1], create_method=False)


def appended(value: list[Any], item: Any) -> list[Any]:
    return [*value, item]


def failing(value: Any) -> Any:
    raise ZeroDivisionError(value)


def take(queue: Any, answer: Any) -> None:
    answer.send("begun")
    answer.send(queue.get())


def hold(lock: Any, answer: Any) -> None:
    lock.acquire()
    answer.send("held")
    signal.pause()


def hold_and_leave(lock: Any) -> None:
    lock.acquire()


def add_up(shared: Any, key: str, times: int) -> None:
    for _ in range(times):
        shared.add(key)
        shared.update_with(key + "2", int.__add__, 1, default=0)


def wait_for(condition: Any) -> None:
    """Until it is true; the watchdog of the tests ends it otherwise."""
    while not condition():
        time.sleep(0.001)


def keep(proxy: Any, answer: Any) -> None:
    answer.send(len(proxy))
    signal.pause()


def call_of_dead(proxy: Any, answer: Any) -> None:
    try:
        answer.send("begun")
        proxy.get()
    except Exception as error:
        answer.send(
            (
                type(error).__name__,
                str(error),
                isinstance(error, EOFError),
                isinstance(error, ConnectionError),
            )
        )
