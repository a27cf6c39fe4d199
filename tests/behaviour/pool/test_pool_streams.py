"""`imap` and its like: sources of their own pace, bounded read-ahead, ends."""

from __future__ import annotations

import gc
import os
import queue
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pool_work as work
import pytest
import weft
import weft.multiprocessing

FORK = weft.multiprocessing.get_context("fork")


@pytest.fixture(params=["weft", "face"])
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    with weft.Pool(2) if request.param == "weft" else FORK.Pool(2) as made:
        yield made
    made.join()


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_a_source_that_waits_for_the_results(pool: Any, call: str) -> None:
    """Each item comes only when the result of the one before it was seen."""
    items: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    results = getattr(pool, call)(work.square, iter(items.get, None))
    for number in range(20):
        items.put(number)
        assert next(results) == number * number
    items.put(None)
    assert list(results) == []


def test_a_result_does_not_wait_for_the_source(pool: Any) -> None:
    gate = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        gate.wait()
        yield 2

    results = pool.imap(work.square, source())
    assert next(results) == 1
    with pytest.raises(weft.multiprocessing.TimeoutError):
        results.next(0.01)
    gate.set()
    assert list(results) == [4]


def test_all_is_done_though_nobody_reads() -> None:
    with FORK.Pool(2) as pool:
        for source in (range(5000), (number for number in range(5000))):
            results = pool.imap(work.square, source)
            del source
            assert results is not None
        pool.close()
        pool.join()
        assert list(results) == [number * number for number in range(5000)]


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("read_ahead", [1, 4, 50])
def test_a_source_is_not_read_further_than_that(read_ahead: int, chunk: int) -> None:
    given: list[int] = []
    with weft.Pool(2) as pool:
        results = pool.imap(work.square, work.counting(200, given), chunk, read_ahead=read_ahead)
        for number, result in enumerate(results):
            assert result == number * number
            # What was read of the last chunk is out still, and the next one may be under way.
            assert len(given) <= number + max(read_ahead, chunk) + 2 * chunk, (number, len(given))
    assert len(given) == 200


def test_an_endless_source() -> None:
    given: list[int] = []
    with weft.Pool(2) as pool:
        results = pool.imap_unordered(work.square, work.counting(1 << 60, given), read_ahead=8)
        seen = [next(results) for _ in range(100)]
        assert len(set(seen)) == 100 and len(given) <= 120


def test_close_lets_an_iterator_be_read_to_its_end() -> None:
    with weft.Pool(2) as pool:
        ready, slow = (pool.imap(work.square, kind(50), read_ahead=4) for kind in (range, work_items))
        pool.close()
        assert list(ready) == list(slow) == [number * number for number in range(50)]
        pool.join()


def work_items(count: int) -> Iterator[int]:
    yield from range(count)


def test_join_has_the_rest_done() -> None:
    with weft.Pool(2) as pool:
        results = [pool.imap(work.square, kind(50), read_ahead=4) for kind in (range, work_items)]
        pool.close()
        pool.join()
        assert [list(result) for result in results] == [[number * number for number in range(50)]] * 2


def test_an_iterator_that_was_dropped_keeps_nobody() -> None:
    with weft.Pool(2) as pool:
        for kind in (range, work_items):
            next(pool.imap(work.square, kind(1000), read_ahead=4))
        pool.close()
        pool.join()


def test_a_dropped_iterator_lets_go_of_its_source() -> None:
    over = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            over.set()

    with weft.Pool(1) as pool:
        results = pool.imap(work.square, source(), read_ahead=2)
        assert next(results) == 0
        gone = weakref.ref(results)
        del results
        over.wait()
        gc.collect()
        assert gone() is None


def test_termination_ends_the_iterators(pool: Any) -> None:
    blocked, entered = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield 1
        entered.set()
        blocked.wait()
        yield 2

    results = pool.imap(work.square, source())
    assert next(results) == 1
    entered.wait()
    pool.terminate()
    with pytest.raises(weft.PoolTerminated):
        next(results)
    blocked.set()
    assert list(results) == []


def test_what_a_source_raises_is_an_outcome(pool: Any) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise SystemExit(7)

    results = pool.imap(work.square, source())
    assert next(results) == 1
    with pytest.raises(SystemExit):
        next(results)
    assert list(results) == []


def test_iteration_goes_on_after_a_death(pool: Any) -> None:
    results = pool.imap(work.die, [1, 2, 3])
    for _ in range(3):
        with pytest.raises(weft.WorkerDied):
            next(results)
    assert list(results) == []
    assert list(pool.imap(work.square, range(3))) == [0, 1, 4]


def test_many_readers_of_one_iterator(pool: Any) -> None:
    results = pool.imap_unordered(work.square, work_items(3000))
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.extend(results)) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(seen) == [number * number for number in range(3000)]


class Late:
    """Something to iterate over. Who asks for that finds the pool closed, and somebody waiting in `join`, before he has his iterator."""

    def __init__(self, pool: Any, source: Any) -> None:
        self._pool = pool
        self._source = source
        self.joining = threading.Thread(target=self._join)
        self._begun = threading.Event()

    def _join(self) -> None:
        self._begun.set()
        self._pool.join()

    def __iter__(self) -> Iterator[Any]:
        self._pool.close()
        before = sys.getswitchinterval()
        # The other thread has the interpreter from when it begins until it waits, which is in `join`.
        sys.setswitchinterval(1000)
        try:
            self.joining.start()
            self._begun.wait()
        finally:
            sys.setswitchinterval(before)
        return iter(self._source)


@pytest.mark.parametrize("kind", ["at hand", "generator"])
def test_an_iterator_that_is_made_in_the_moment_of_a_join(kind: str, tmp_path: Path) -> None:
    gate, ready = tmp_path / "gate", tmp_path / "ready"
    for fifo in (gate, ready):
        os.mkfifo(fifo)
    with weft.Pool(1) as pool:
        held = pool.apply_async(work.hold, (str(ready), str(gate)))
        ready.read_text()
        numbers = range(1000)
        late = Late(pool, numbers if kind == "at hand" else (number for number in numbers))
        results = pool.imap(work.square, late, read_ahead=1)
        gate.write_bytes(b"")
        # Nobody reads, and all of it is done.
        late.joining.join()
        held.get()
        assert list(results) == [number * number for number in numbers]
