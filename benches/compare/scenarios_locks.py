"""The scenarios of locks, events and barriers, for the suite multiprocessing: plain programs, the same for both sides."""

from __future__ import annotations

import atexit
import mmap
from collections.abc import Callable
from itertools import repeat
from multiprocessing import get_context
from typing import Any

from apis import Api
from loop import Loop

CROWD = 4


def team(work: Callable[..., None], size: int, *shared: Any) -> Callable[[int], None]:
    """`run(n)` has each of `size` processes do `work(n, place, *shared)` and waits until all are done."""
    context = get_context("fork")
    told, orders = zip(*(context.Pipe(duplex=False) for _ in range(size)), strict=True)
    ended, ends = context.Pipe(duplex=False)

    def member(place: int) -> None:
        while True:
            work(told[place].recv(), place, *shared)
            ends.send(None)

    crew = [context.Process(target=member, args=(place,), daemon=True) for place in range(size)]
    for process in crew:
        process.start()

    def dismiss() -> None:
        for process in crew:
            process.kill()
        for process in crew:
            process.join()

    atexit.register(dismiss)

    def run(count: int) -> None:
        for order in orders:
            order.send(count)
        for _ in orders:
            ended.recv()

    return run


# -- Alone


def acquire_release(lock: Any) -> Loop:
    def run(count: int) -> None:
        for _ in repeat(None, count):
            lock.acquire()
            lock.release()

    return Loop(run)


def with_statement(lock: Any) -> Loop:
    def run(count: int) -> None:
        for _ in repeat(None, count):
            with lock:
                pass

    return Loop(run)


def lock_alone(api: Api) -> Loop:
    return acquire_release(api.processes("fork").Lock())


def lock_with(api: Api) -> Loop:
    return with_statement(api.processes("fork").Lock())


def rlock_alone(api: Api) -> Loop:
    return acquire_release(api.processes("fork").RLock())


def rlock_with(api: Api) -> Loop:
    return with_statement(api.processes("fork").RLock())


def semaphore_alone(api: Api) -> Loop:
    return acquire_release(api.processes("fork").Semaphore())


def lock_life(api: Api) -> Loop:
    context = api.processes("fork")

    def run(count: int) -> None:
        for _ in repeat(None, count):
            context.Lock()

    return Loop(run)


# -- Between processes


def increments(count: int, _place: int, lock: Any, counter: Any) -> None:
    for _ in repeat(None, count):
        with lock:
            counter[0] += 1


def crowded(lock: Any) -> Loop:
    """Processes that all want the lock, to add one to a number in shared memory."""
    counter = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")
    run_all = team(increments, CROWD, lock, counter)

    def run(count: int) -> None:
        counter[0] = 0
        run_all(count)
        if counter[0] != CROWD * count:
            raise RuntimeError(f"{counter[0]} increments, not {CROWD * count}")

    return Loop(run, CROWD)


def lock_crowd(api: Api) -> Loop:
    return crowded(api.processes("fork").Lock())


def rlock_crowd(api: Api) -> Loop:
    return crowded(api.processes("fork").RLock())


def event_turns(count: int, place: int, events: Any) -> None:
    mine, other = events[place], events[1 - place]
    for _ in repeat(None, count):
        if place == 0:
            other.set()
        mine.wait()
        mine.clear()
        if place == 1:
            other.set()


def event_wake(api: Api) -> Loop:
    """Two processes that wake each other in turn."""
    context = api.processes("fork")
    return Loop(team(event_turns, 2, (context.Event(), context.Event())), 2)


def barrier_rounds(count: int, _place: int, barrier: Any) -> None:
    for _ in repeat(None, count):
        barrier.wait()


def barrier_4(api: Api) -> Loop:
    return Loop(team(barrier_rounds, CROWD, api.processes("fork").Barrier(CROWD)))


def condition_turns(count: int, place: int, condition: Any, turn: Any) -> None:
    for _ in repeat(None, count):
        with condition:
            while turn[0] != place:
                condition.wait()
            turn[0] = 1 - place
            condition.notify()


def condition_wake(api: Api) -> Loop:
    """Two processes that take turns under one condition."""
    turn = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")
    return Loop(team(condition_turns, 2, api.processes("fork").Condition(), turn), 2)
