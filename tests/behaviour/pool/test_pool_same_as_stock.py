"""The pool beside the standard library's: the same programs have the same outcome."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pool_work as work
import pytest
import weft.multiprocessing

STOCK = multiprocessing.get_context("fork")
OURS = weft.multiprocessing.get_context("fork")


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returned, or raised: class, text, and that of its cause."""
    try:
        return call()
    except Exception as error:
        return type(error).__name__, str(error), type(error.__cause__).__name__


def bad_source() -> Iterator[int]:
    yield 1
    yield 2
    raise OSError("the source")


def told(pool: Any, submit: Callable[..., Any], *args: Any, **kwds: Any) -> Any:
    """What callbacks were told, and what the result was."""
    seen: list[Any] = []
    result = submit(
        *args,
        **kwds,
        callback=lambda value: seen.append(("value", value)),
        error_callback=lambda error: seen.append(("error", repr(error))),
    )
    result.wait()
    return seen, result.ready(), result.successful()


def iterated(iterator: Any) -> list[Any]:
    """All that an iterator gives and raises, up to its end."""
    seen = []
    while True:
        try:
            seen.append(next(iterator))
        except StopIteration:
            return seen
        except Exception as error:
            seen.append((type(error).__name__, str(error)))


PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "apply": lambda pool: pool.apply(work.both, (1, 2), {"a": 3}),
    "apply without arguments": lambda pool: pool.apply(work.both),
    "apply with a list": lambda pool: pool.apply(work.both, [1, 2]),
    "apply with a mapping": lambda pool: pool.apply(work.both, (), work.Mapping()),
    "apply raises": lambda pool: pool.apply(work.fail, ("x",)),
    "notes": lambda pool: outcome(lambda: pool.apply(work.fail_with_notes)),
    "map": lambda pool: pool.map(work.square, range(37)),
    "map of nothing": lambda pool: pool.map(work.square, []),
    "map of a generator": lambda pool: pool.map(work.square, (number for number in range(9))),
    "map in chunks": lambda pool: [pool.map(work.square, range(7), size) for size in (1, 2, 3, 6, 7, 8, 99)],
    "map raises": lambda pool: pool.map(work.fail_at, range(9), 2),
    "map of a bad source": lambda pool: pool.map(work.square, bad_source()),
    "map of what is no iterable": lambda pool: pool.map(work.square, 7),
    "starmap": lambda pool: pool.starmap(work.both, [(1, 2), [3], ()], 2),
    "starmap of what has no arguments": lambda pool: pool.starmap(work.both, [1]),
    "imap": lambda pool: list(pool.imap(work.square, range(37))),
    "imap in chunks": lambda pool: list(pool.imap(work.square, range(37), 5)),
    "imap of nothing": lambda pool: list(pool.imap(work.square, [])),
    "imap raises": lambda pool: iterated(pool.imap(work.fail_at, range(9))),
    "imap of a bad source": lambda pool: iterated(pool.imap(work.square, bad_source())),
    "imap of no items a chunk": lambda pool: pool.imap(work.square, [1], 0),
    "imap_unordered": lambda pool: sorted(pool.imap_unordered(work.square, range(37))),
    "imap_unordered in chunks": lambda pool: sorted(pool.imap_unordered(work.square, range(37), 5)),
    "imap_unordered of no items a chunk": lambda pool: pool.imap_unordered(work.square, [1], -1),
    "callback": lambda pool: told(pool, pool.apply_async, work.square, (3,)),
    "error callback": lambda pool: told(pool, pool.apply_async, work.fail, ("x",)),
    "callback of a map": lambda pool: told(pool, pool.map_async, work.square, range(5)),
    "error callback of a map": lambda pool: told(pool, pool.map_async, work.fail_at, range(9), 2),
    "callback of a map of nothing": lambda pool: told(pool, pool.map_async, work.square, []),
    "callback of a starmap": lambda pool: told(pool, pool.starmap_async, work.both, [(1,), (2,)]),
    "not pickled": lambda pool: outcome(lambda: pool.apply(work.square, (threading.Lock(),)))[:2],
    "generator for an argument": lambda pool: outcome(lambda: pool.apply(work.both, (bad_source(),)))[:2],
    "pool for an argument": lambda pool: outcome(lambda: pool.apply(work.square, (pool,)))[:2],
    "timeout": lambda pool: pool.apply_async(work.rests, (0.3,)).get(0.01),
    "timeout of an iterator": lambda pool: pool.imap(work.rests, [0.3]).next(0.01),
    "not ready": lambda pool: outcome(pool.apply_async(work.rests, (0.3,)).successful)[0],
    "twice": lambda pool: [pool.apply_async(work.square, (3,)).get() for _ in range(2)],
    "join before close": lambda pool: pool.join(),
    "closed": lambda pool: (pool.close(), outcome(lambda: pool.apply(work.square, (1,))), pool.join()),
    "terminated": lambda pool: (pool.terminate(), outcome(lambda: pool.map(work.square, (1,)))),
    "with, twice": lambda pool: (pool.__enter__() is pool, pool.__exit__(None, None, None), pool.__enter__()),
    "a result is not passed on": lambda pool: pickle.dumps(pool.apply_async(work.square, (1,))) and None,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_outcome_is_the_same(name: str) -> None:
    outcomes = []
    for context in (STOCK, OURS):
        with context.Pool(2) as pool:
            found = outcome(lambda pool=pool: PROGRAMS[name](pool))
        pool.join()
        outcomes.append(found)
    stock, ours = outcomes
    if name == "a result is not passed on":
        assert ours[0] == "TypeError" and stock[0] in ("TypeError", "NotImplementedError")
        return
    assert ours == stock


def test_the_order_of_callbacks_is_that_of_the_results() -> None:
    for context in (STOCK, OURS):
        seen: list[int] = []
        with context.Pool(1) as pool:
            results = [pool.apply_async(work.square, (i,), callback=seen.append) for i in range(50)]
            [result.wait() for result in results]
            assert seen == [i * i for i in range(50)]


def test_a_result_is_ready_after_its_callback() -> None:
    for context in (STOCK, OURS):
        entered, let_go, ready = threading.Event(), threading.Event(), []
        with context.Pool(1) as pool:

            def callback(_value: int, entered: Any = entered, let_go: Any = let_go) -> None:
                entered.set()
                let_go.wait()

            result = pool.apply_async(work.square, (1,), callback=callback)
            entered.wait()
            ready.append(result.ready())
            let_go.set()
            result.wait()
            ready.append(result.ready())
        assert ready == [False, True]


@pytest.mark.parametrize("arguments", [(0,), (-1,), (1, 3), (1, None, (), 0), (1, None, (), 1.5)])
def test_bad_arguments(arguments: tuple[Any, ...]) -> None:
    found = [outcome(lambda context=context: context.Pool(*arguments)) for context in (STOCK, OURS)]
    assert found[0] == found[1] and found[0][0] in ("ValueError", "TypeError")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_initializer_and_tasks_a_child(method: str) -> None:
    context: Any = weft.multiprocessing.get_context(method)
    with context.Pool(1, work.remember, (1, "two"), maxtasksperchild=2) as pool:
        assert pool.map(work.remembered, range(3), 1) == [[1, "two"]] * 3
        pids = [pool.apply(work.pid) for _ in range(5)]
        assert len(set(pids)) >= 3, pids


def test_chunks_count_as_tasks() -> None:
    with OURS.Pool(1, maxtasksperchild=2) as pool:
        pids = pool.map(work.pid, range(40), 10)
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [20, 20]


def test_large_arrays_arrive_writable() -> None:
    numpy = pytest.importorskip("numpy")
    with OURS.Pool(1) as pool:
        for length in (10, 1 << 10, 1 << 11, 1 << 20):
            sent = numpy.arange(length)
            writable, got = pool.apply(work.scale, (sent, 3))
            assert writable and got.flags.writeable
            got += 1
            assert (got == numpy.arange(length) * 3 + 1).all() and (sent == numpy.arange(length)).all()


def test_a_repr_says_what_a_pool_is() -> None:
    with OURS.Pool(2) as pool:
        assert repr(pool) == "<weft.multiprocessing.pool.Pool state=RUN pool_size=2>"
    pool.join()
    assert repr(pool) == "<weft.multiprocessing.pool.Pool state=TERMINATE pool_size=0>"


def test_chunks_below_one_are_of_one() -> None:
    """The standard library returns a list of None for 0, without a call."""
    with OURS.Pool(1) as pool:
        assert pool.map(work.square, range(4), 0) == pool.map(work.square, range(4), -3) == [0, 1, 4, 9]


def test_what_cannot_be_unpickled_fails_alone() -> None:
    with OURS.Pool(1) as pool:
        with pytest.raises(weft.RemoteError, match="1 and 2") as caught:
            pool.apply(work.raise_unpicklable)
        assert caught.value.kind == "Unpicklable" and "raise Unpicklable(1, 2)" in str(caught.value.__cause__)
        assert pool.apply(work.square, (3,)) == 9
