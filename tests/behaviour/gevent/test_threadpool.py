"""Threads for what would block the hub's."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections.abc import Iterator

import pytest
from weft.gevent import Timeout, get_hub, sleep, spawn, wait
from weft.gevent.exceptions import InvalidThreadUseError
from weft.gevent.threadpool import ThreadPool, ThreadPoolExecutor


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    made = ThreadPool(2)
    yield made
    made.kill()


def fail() -> None:
    raise ZeroDivisionError


def test_a_call_in_a_thread(pool: ThreadPool) -> None:
    go = threading.Event()
    result = pool.spawn(go.wait)
    sleep(0)
    assert not result.ready() and len(pool) == 1
    go.set()
    assert result.get() is True
    assert pool.apply(threading.get_ident) != threading.get_ident()
    assert pool.apply(int, ("12",), {"base": 3}) == 5
    pool.join()
    assert len(pool) == 0


def test_an_error_comes_back(pool: ThreadPool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        pool.apply(fail)
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert pool.apply(int, ("1",)) == 1


def test_who_finds_no_place_waits(pool: ThreadPool) -> None:
    go = threading.Event()
    # Two that run, and one that waits for a thread.
    first = [pool.spawn(go.wait) for _ in range(3)]
    fourth = spawn(pool.spawn, int, "4")
    sleep(0)
    assert not fourth.ready() and len(pool) == 3
    go.set()
    assert fourth.get().get() == 4
    assert all(each.get() for each in first)


def test_places_and_threads_come_and_go(pool: ThreadPool) -> None:
    assert pool.size == 0
    pool.size = 2
    assert pool.size == 2
    pool.size = 1
    assert pool.size == 1
    for wrong in (-1, 3):
        with pytest.raises(ValueError):
            pool.size = wrong
    pool.maxsize = 0
    waiting = spawn(pool.apply, int, ("4",))
    sleep(0.01)
    assert not waiting.ready()
    pool.maxsize = 1
    assert waiting.get() == 4
    with pytest.raises(ValueError):
        pool.maxsize = -1
    with pytest.raises(TypeError):
        pool.maxsize = "2"  # type: ignore[assignment]


def test_places_that_are_taken_are_given_up_when_their_tasks_are_done(pool: ThreadPool) -> None:
    go = threading.Event()
    busy = [pool.spawn(go.wait) for _ in range(3)]
    pool.maxsize = 1
    go.set()
    assert all(each.get() for each in busy)
    again = threading.Event()
    held = [pool.spawn(again.wait) for _ in range(2)]
    waiting = spawn(pool.spawn, int, "5")
    sleep(0)
    assert not waiting.ready()
    again.set()
    assert all(each.get() for each in held) and waiting.get().get() == 5
    assert pool.size <= 1


def test_threads_end_when_they_are_idle() -> None:
    pool = ThreadPool(1, idle_task_timeout=0.001)
    assert pool.apply(int, ("1",)) == 1
    while pool.size:
        pool._changed.clear()
        with Timeout(30):
            pool._changed.wait()
    assert pool.apply(int, ("2",)) == 2
    pool.kill()


def test_many_at_once(pool: ThreadPool) -> None:
    numbers = list(range(100))
    assert pool.map(abs, numbers) == numbers
    assert list(pool.imap(pow, numbers, numbers, maxsize=3)) == [n**n for n in numbers]
    assert sorted(pool.imap_unordered(abs, numbers)) == numbers
    told: list[object] = []
    assert pool.apply_async(abs, (-1,), callback=told.append).get() == 1
    assert pool.map_async(abs, numbers, callback=told.append).get() == numbers
    assert told == [1, numbers]

    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("items")

    with pytest.raises(KeyError, match="items"):
        pool.map(abs, broken())
    with pytest.raises(KeyError, match="items"):
        list(pool.imap_unordered(abs, broken()))


def test_a_pool_belongs_to_a_thread(pool: ThreadPool) -> None:
    other = ThreadPool(1)
    with pytest.raises(InvalidThreadUseError):
        other.apply(pool.spawn, (int,))
    # In another thread, which is not the hub's to block, there is no need for one.
    assert other.apply(pool.apply, (int, ("7",))) == 7
    other.kill()


def test_greenlets_in_a_thread(pool: ThreadPool) -> None:
    def work() -> tuple[int, bool]:
        greenlet = spawn(lambda: (sleep(0.001), 8)[1])
        return greenlet.get(), get_hub().main_hub

    assert pool.apply(work) == (8, False)


def test_futures(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(2) as executor:
        go = threading.Event()
        future = executor.submit(go.wait)
        told: list[object] = []
        future.add_done_callback(told.append)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout=0.001)
        with pytest.raises(AttributeError, match=r"gevent\.wait"):
            concurrent.futures.wait([future])
        go.set()
        assert wait([future]) == [future]
        assert future.result() and future.done() and not future.cancelled() and future.exception() is None
        assert list(concurrent.futures.as_completed([future])) == [future]
        sleep(0)
        assert told == [future]
        assert isinstance(executor.submit(fail).exception(), ZeroDivisionError)
        assert list(executor.map(abs, [-1, 2])) == [1, 2]
    with pytest.raises(RuntimeError):
        executor.submit(int)


def test_in_the_child_of_a_fork_an_outcome_on_its_way_is_not_counted() -> None:
    pool = get_hub().threadpool
    outcome = pool.spawn(abs, -1)
    # The worker has posted it, and this thread's loop has not run since.
    while not get_hub().loop.pendingcnt:
        time.sleep(0.001)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with Timeout(30):
                assert pool.apply(abs, (-2,)) == 2
                assert outcome.get() == 1
            pool.kill()
            status = int(get_hub().loop.activecnt != 0)
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert outcome.get() == 1


def test_threads_have_their_turn_beside_a_hub_that_is_never_idle() -> None:
    computing = threading.Thread(target=lambda: sum(number * number for number in range(2_000_000)))
    computing.start()
    while computing.is_alive():
        sleep(0.001)  # so that the hub has learnt that threads compute beside it
    over = False

    def hurry() -> None:
        while not over:
            sleep(0.0001)

    hurrying = spawn(hurry)
    with Timeout(60):
        for number in range(1000):
            assert get_hub().threadpool.apply(abs, (-number,)) == number
    over = True
    hurrying.join()
