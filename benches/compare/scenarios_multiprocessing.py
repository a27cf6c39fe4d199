"""The scenarios of processes and queues: plain programs, the same for all.

Producers and consumers are processes that stay for the whole measurement. A producer puts as many
messages as it is told, and an end mark behind them; a consumer that gets an end mark says so.
Messages of one producer stay in order, so that all have been received when all marks have.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections import deque
from collections.abc import Callable
from itertools import repeat
from multiprocessing import get_context
from statistics import median
from typing import Any

from apis import Api, Queue
from loop import Loop
from scenarios_locks import (  # noqa: F401  (found here by their names)
    barrier_4,
    condition_wake,
    event_wake,
    lock_alone,
    lock_crowd,
    lock_life,
    lock_with,
    rlock_alone,
    rlock_crowd,
    rlock_with,
    semaphore_alone,
)
from scenarios_pipes import (  # noqa: F401 - found by their names
    pipe_1m,
    pipe_bytes,
    pipe_int,
    pipe_life,
    pipe_trip,
    pipe_trip_1m,
)

MIB = 1 << 20
SMALL_DICT = {"id": 1234567, "name": "sensor-17", "value": 3.25, "ok": True, "tags": ["a", "b"]}


def touch(message: Any) -> object:
    """Look at a received buffer, as whoever asked for it would."""
    return message[0], message[-1]


# -- Producers and consumers


def produce(queue: Queue, orders: Any, make: Callable[[], object]) -> None:
    message = make()
    while True:
        count = orders.recv()
        for _ in repeat(None, count):
            queue.put(message)
        queue.put(None)


def consume(queue: Queue, ends: Any) -> None:
    while True:
        if queue.get() is None:
            ends.send(None)


def consume_buffers(queue: Queue, ends: Any, kept: int) -> None:
    """As `consume`, with the last few messages kept; the array has no truth value."""
    last: deque[object] = deque(maxlen=kept)
    while True:
        message = queue.get()
        if message is None:
            last.clear()
            ends.send(None)
        else:
            touch(message)
            if kept:
                last.append(message)
            del message


def crowd(
    queue: Queue, make: Callable[[], object], producers: int, consumers: int, consumer: Any, *more: object
) -> Loop:
    """`run(n)` sends n messages in all from the producers to the consumers."""
    context = get_context("fork")
    told, orders = zip(*(context.Pipe(duplex=False) for _ in range(producers)), strict=True)
    ended, ends = context.Pipe(duplex=False)
    crew = [context.Process(target=produce, args=(queue, one, make), daemon=True) for one in told]
    crew += [
        context.Process(target=consumer, args=(queue, ends, *more), daemon=True) for _ in range(consumers)
    ]
    for process in crew:
        process.start()

    def dismiss() -> None:
        for process in crew:
            process.kill()
        for process in crew:
            process.join()

    atexit.register(dismiss)

    def run(count: int) -> None:
        for index, order in enumerate(orders):
            order.send(count // producers + (index < count % producers))
        for _ in range(producers):
            ended.recv()

    return Loop(run)


def ints(api: Api, size: int) -> Loop:
    return crowd(api.queue(), lambda: 1234567, size, size, consume)


def int_1to1(api: Api) -> Loop:
    return ints(api, 1)


def int_2to2(api: Api) -> Loop:
    return ints(api, 2)


def int_3to3(api: Api) -> Loop:
    return ints(api, 3)


def int_4to4(api: Api) -> Loop:
    return ints(api, 4)


def int_8to8(api: Api) -> Loop:
    return ints(api, 8)


def int_16to16(api: Api) -> Loop:
    return ints(api, 16)


def int_own_1to1(api: Api) -> Loop:
    return crowd(api.own_queue(), lambda: 1234567, 1, 1, consume)


def dict_1to1(api: Api) -> Loop:
    return crowd(api.queue(), lambda: SMALL_DICT, 1, 1, consume)


def life(api: Api) -> Loop:
    def run(count: int) -> None:
        for _ in repeat(None, count):
            api.queue(room=MIB)

    return Loop(run)


# -- Large messages: a queue with room for few, so that not the memory for many is measured


def array(size: int) -> Any:
    import numpy

    return numpy.arange(size // 8, dtype="i8")


def buffers(api: Api, make: Callable[[], object], under_way: int, kept: int = 0) -> Loop:
    return crowd(api.queue(under_way), make, 1, 1, consume_buffers, kept)


def bytes_1m(api: Api) -> Loop:
    return buffers(api, lambda: bytes(range(256)) * (MIB // 256), 8)


def array_1m(api: Api) -> Loop:
    return buffers(api, lambda: array(MIB), 8)


def array_64m(api: Api) -> Loop:
    return buffers(api, lambda: array(64 * MIB), 2)


def kept_1m(api: Api) -> Loop:
    return buffers(api, lambda: array(MIB), 8, kept=64)


def kept_64m(api: Api) -> Loop:
    return buffers(api, lambda: array(64 * MIB), 2, kept=4)


# -- Growth: one process fills the queue, then empties it


def backlog(api: Api, size: int) -> float:
    """Seconds a message, from its put to its get with `size` queued in between."""
    queue = api.queue()
    for number in range(100):  # what happens once, as the start of a thread
        queue.put(number)
        queue.get()
    start = time.perf_counter()
    for _ in repeat(None, size):
        queue.put(1234567)
    for _ in repeat(None, size):
        queue.get()
    return (time.perf_counter() - start) / size


def backlog_10000(api: Api) -> float:
    return backlog(api, 10_000)


def backlog_100000(api: Api) -> float:
    return backlog(api, 100_000)


def backlog_1000000(api: Api) -> float:
    return backlog(api, 1_000_000)


def backlog_10000000(api: Api) -> float:
    return backlog(api, 10_000_000)


# -- Start and join


def nothing() -> Callable[[], None]:
    """The main module's function that does nothing."""
    found: Callable[[], None] = sys.modules["__main__"].nothing
    return found


def starts(context: Any) -> Loop:
    def run(count: int) -> None:
        for _ in repeat(None, count):
            process = context.Process(target=nothing())
            process.start()
            process.join()

    return Loop(run)


def start_fork(api: Api) -> Loop:
    return starts(api.processes("fork"))


def start_forkserver(api: Api) -> Loop:
    return starts(api.processes("forkserver"))


def start_spawn(api: Api) -> Loop:
    return starts(api.processes("spawn"))


# The same; that numpy is in `__main__` is up to the worker.
start_numpy_forkserver = start_forkserver
start_numpy_spawn = start_spawn

REST = 0.02  # seconds for the template to make the spares for the next start


def start_spares(api: Api) -> float:
    """Seconds for start() alone, each with a rest before it: the median."""
    context = api.processes("forkserver")
    times = []
    for _ in range(40):
        process = context.Process(target=nothing())
        time.sleep(REST)
        begun = time.perf_counter()
        process.start()
        times.append(time.perf_counter() - begun)
        process.join()
    return median(times)
