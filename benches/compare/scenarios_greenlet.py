"""The scenarios: plain programs on `import greenlet`, the same for both sides.

A timed scenario sets its stage and returns a `Loop`; a memory scenario returns bytes. One
operation of a switch scenario is a pair of switches: into the other greenlet and back. The loops
are those of the standard library's `timeit`: `repeat` makes no numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import NoReturn

from greenlet import getcurrent, greenlet
from loop import Loop
from scenarios_memory import resident


def echo() -> NoReturn:
    """The greenlet at the other end: goes back to main as soon as it is entered."""
    main = getcurrent().parent
    while True:
        main.switch()


def echo_value(value: object) -> NoReturn:
    main = getcurrent().parent
    while True:
        value = main.switch(value)


def pair_with(body: Callable[[], object]) -> Loop:
    """A loop that switches to a greenlet running `body`, which is suspended already."""
    other = greenlet(body)
    other.switch()

    def run(count: int) -> None:
        for _ in repeat(None, count):
            other.switch()

    return Loop(run)


# -- Switch


def pair() -> Loop:
    return pair_with(echo)


def pair_value() -> Loop:
    other = greenlet(echo_value)
    value = object()
    other.switch(value)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            other.switch(value)

    return Loop(run)


def below_frames(depth: int) -> None:
    if depth:
        below_frames(depth - 1)
    else:
        echo()


def pair_frames() -> Loop:
    return pair_with(lambda: below_frames(300))


def below_sorted(depth: int) -> int:
    """Every level is a call from C into Python: it has its part of the C stack, some 5 kB."""
    if depth == 0:
        echo()
    return len(sorted((depth - 1,), key=below_sorted))


def pair_sorted() -> Loop:
    return pair_with(lambda: below_sorted(60))


def below_map(depth: int) -> None:
    """As `below_sorted`, with less stack a level."""
    if depth:
        list(map(below_map, (depth - 1,)))
    else:
        echo()


def pair_map() -> Loop:
    return pair_with(lambda: below_map(60))


class Interruption(Exception):
    """What `throw` throws."""


def echo_interrupted() -> NoReturn:
    main = getcurrent().parent
    while True:
        try:
            main.switch()
        except Interruption:
            pass


def throw() -> Loop:
    other = greenlet(echo_interrupted)
    other.switch()

    def run(count: int) -> None:
        for _ in repeat(None, count):
            other.throw(Interruption)

    return Loop(run)


def current() -> Loop:
    def run(count: int) -> None:
        for _ in repeat(None, count):
            getcurrent()

    return Loop(run)


# -- Life


def nothing() -> None:
    pass


def life() -> Loop:
    def run(count: int) -> None:
        for _ in repeat(None, count):
            greenlet(nothing).switch()

    return Loop(run)


class Job(greenlet):
    def run(self) -> None:
        pass


def life_subclass() -> Loop:
    def run(count: int) -> None:
        for _ in repeat(None, count):
            Job().switch()

    return Loop(run)


# -- Many


def robin(size: int) -> Loop:
    greenlets = [greenlet(echo) for _ in range(size)]
    for one in greenlets:
        one.switch()

    def run(count: int) -> None:
        for _ in repeat(None, count):
            for one in greenlets:
                one.switch()

    return Loop(run, size)


def robin_1000() -> Loop:
    return robin(1000)


def robin_10000() -> Loop:
    return robin(10_000)


# -- Memory


def suspended(size: int) -> float:
    """Resident bytes for each of `size` suspended greenlets; the list of them does not count."""
    greenlets: list[greenlet | None] = [None] * size
    before = resident()
    for index in range(size):
        greenlets[index] = one = greenlet(echo)
        one.switch()
    return (resident() - before) / size


def memory_20000() -> float:
    return suspended(20_000)


def memory_1000000() -> float:
    return suspended(1_000_000)


# -- gevent on top: the package as it is installed


def gevent_spawn() -> Loop:
    import gevent

    def run(count: int) -> None:
        for _ in repeat(None, count):
            gevent.spawn(nothing).join()

    return Loop(run)


def gevent_queue() -> Loop:
    import gevent
    from gevent.queue import Queue

    questions: Queue[object] = Queue()
    answers: Queue[object] = Queue()

    def answer() -> NoReturn:
        while True:
            answers.put(questions.get())

    gevent.spawn(answer)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            questions.put(None)
            answers.get()

    return Loop(run)


def gevent_sleep() -> Loop:
    from gevent import sleep

    def run(count: int) -> None:
        for _ in repeat(None, count):
            sleep(0)

    return Loop(run)
