"""The scenarios of values and arrays in shared memory: the same program for both sides, where there is one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from itertools import repeat
from typing import Any

from apis import Api, is_weft
from loop import Loop

MIB = 1 << 20


def value() -> Any:
    return multiprocessing.get_context("fork").Value("q", 0)


def locked_increment(api: Api) -> Loop:
    counter = value()

    def run(count: int) -> None:
        for _ in repeat(None, count):
            with counter.get_lock():
                counter.value += 1

    return Loop(run)


def atomic_add(api: Api) -> Loop:
    """Beside the locked increment, which is what the standard library has for it."""
    if not is_weft():
        return locked_increment(api)
    counter = value()

    def run(count: int) -> None:
        for _ in repeat(None, count):
            counter.add(1)

    return Loop(run)


def value_get(api: Api) -> Loop:
    counter = value()

    def run(count: int) -> None:
        for _ in repeat(None, count):
            counter.value  # noqa: B018

    return Loop(run)


def value_life(api: Api) -> Loop:
    def run(count: int) -> None:
        for _ in repeat(None, count):
            value()

    return Loop(run)


def shared_array_life(api: Api) -> Loop:
    """1 MiB made, written to and dropped; with the standard library under a name, as it has no other."""
    make: Callable[[], None] = own_array if is_weft() else named_memory

    def run(count: int) -> None:
        for _ in repeat(None, count):
            make()

    return Loop(run)


def own_array() -> None:
    import weft

    shared: Any = weft
    array = shared.SharedArray(MIB, "u1")
    memoryview(array)[0] = 1


def named_memory() -> None:
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(create=True, size=MIB)
    memory.buf[:] = bytes(MIB)  # as weft does, so that a lack of memory is an error now
    memory.close()
    memory.unlink()
