"""What may happen to a future at once, many times over."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tasks
import weft
from weft._executor import Executor

ROUNDS = 2000


@pytest.fixture
def executor() -> Iterator[Executor]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with weft.Executor(2) as made:
            made.submit(tasks.same, 0).result()
            yield made
    finally:
        sys.setswitchinterval(interval)


def together(*works: Callable[[], object]) -> None:
    """Run them at once; what one raises is raised here."""
    start = threading.Barrier(len(works))
    failed: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        start.wait()
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_watched_while_the_outcome_comes(executor: Executor) -> None:
    """Each callback is called once, and each waiter told, whoever collects the results."""
    futures = [executor.submit(tasks.same, number) for number in range(ROUNDS)]
    called: Counter[Any] = Counter()

    def collect() -> None:
        assert [future.result() for future in futures] == list(range(ROUNDS))

    def watch() -> None:
        for future in reversed(futures):
            future.add_done_callback(lambda done: called.update([done.result()]))

    def wait() -> None:
        assert concurrent.futures.wait(futures).not_done == set()

    together(collect, watch, wait, watch)
    executor.shutdown()
    assert called == Counter(dict.fromkeys(range(ROUNDS), 2))


def test_cancelled_while_it_is_taken(executor: Executor) -> None:
    """It is cancelled or done, never both, and its callback is called once."""
    futures = [executor.submit(tasks.same, number) for number in range(ROUNDS)]
    called: Counter[Any] = Counter()
    cancelled: list[set[int]] = [set(), set()]

    def cancel(into: set[int]) -> None:
        for number, future in enumerate(futures):
            if future.cancel():
                into.add(number)

    def watch() -> None:
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, number=number: called.update([number]))  # type: ignore[misc]

    together(lambda: cancel(cancelled[0]), watch, lambda: cancel(cancelled[1]))
    executor.shutdown()
    assert called == Counter(range(ROUNDS))
    assert cancelled[0] == cancelled[1] == {n for n, future in enumerate(futures) if future.cancelled()}
    rest = set(range(ROUNDS)) - cancelled[0]
    assert all(futures[number].result() == number for number in rest)


def test_many_threads_ask_for_one_result(executor: Executor) -> None:
    for _ in range(200):
        future = executor.submit(tasks.same, {"an": ["object", "that", "is", "unpickled"]})
        found: list[Any] = []
        together(*[lambda: found.append(future.result())] * 4)  # noqa: B023
        assert all(one is found[0] for one in found)


def test_others_wait_while_one_unpickles(executor: Executor) -> None:
    for _ in range(50):
        tasks.begun.clear()
        tasks.go_on.clear()
        future = executor.submit(tasks.slow)
        found: list[Any] = []

        def first() -> None:
            tasks.begun.wait()
            tasks.go_on.set()

        # Whoever is first unpickles, also to watch it: that must not be the thread that lets it go on.
        watch = lambda: future.add_done_callback(tasks.same)  # noqa: B023, E731
        together(first, watch, *[lambda: found.append(future.result())] * 3)  # noqa: B023
        assert found == ["unpickled"] * 3


def test_many_threads_submit(executor: Executor) -> None:
    results: list[list[Any]] = [[], [], [], []]

    def submit(into: list[Any], first: int) -> None:
        futures = [executor.submit(tasks.same, first + number) for number in range(500)]
        into.extend(future.result() for future in futures)

    works = [lambda into=into, first=first: submit(into, first) for first, into in enumerate(results)]
    together(*works)
    assert results == [list(range(first, first + 500)) for first in range(4)]


def test_shut_down_while_others_submit(executor: Executor) -> None:
    """What was taken is done; the rest is refused."""
    futures: list[Any] = []

    def submit() -> None:
        try:
            while True:
                futures.append(executor.submit(tasks.same, 1))
        except RuntimeError:
            pass

    def end() -> None:
        while len(futures) < 500:
            futures[0].result() if futures else None
        executor.shutdown()

    together(submit, submit, end)
    assert {future.result() for future in futures} == {1}


def test_shut_down_in_the_moment_of_the_first_task() -> None:
    """It was taken, but its workers were not started yet: they are all the same."""
    executor = weft.Executor(2)
    crew = executor._crew
    futures: list[Any] = []
    first = threading.Thread(target=lambda: futures.append(executor.submit(tasks.same, 5)))
    with crew._lock:  # workers are started under it
        first.start()
        while not crew.core.outstanding():
            pass
        executor.shutdown(wait=False)
    first.join()
    assert futures[0].result(60) == 5
    executor.shutdown()
