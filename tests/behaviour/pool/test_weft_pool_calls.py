"""What `weft.Pool` is called with: functions and arguments that travel or do not, progress, what makes no sense."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
import threading
from multiprocessing.pool import MaybeEncodingError
from pathlib import Path
from typing import Any

import pool_work as work
import pytest
import weft

METHODS = ("template", "spawn", "fork")


class Box:
    """Something with a part that cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Refuses:
    """Raises what it is given when it is pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda pool, box: pool.apply(work.both, (1, box)), "args[1].lock"),
        (lambda pool, box: pool.apply_async(work.both, (), {"a": [box]}), "kwds['a'][0].lock"),
        (lambda pool, box: pool.apply_async(work.both, (box,), priority=1), "args[0].lock"),
        (lambda pool, box: pool.apply(box.lock.acquire), "func"),
        (lambda pool, box: pool.map(work.square, [1, box], 1), "iterable[1].lock"),
        (lambda pool, box: pool.map_async(work.square, [1, box], 2), "iterable[1].lock"),
        (lambda pool, box: pool.map(work.square, [1] * 7 + [box], 3), "iterable[7].lock"),
        (lambda pool, box: pool.starmap(work.both, [(1,), (1, box)], 1), "iterable[1][1].lock"),
        (lambda pool, box: pool.starmap_async(work.both, [(1,), (2, box)], 2, print), "iterable[1][1].lock"),
        (lambda pool, box: pool.map(box.lock.acquire, [1, 2], 2), "func"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once(call: Any, path: str) -> None:
    with weft.Pool(1) as pool:
        with pytest.raises(weft.UnpicklableError, match="cannot be sent to a worker, for ") as caught:
            call(pool, Box())
        assert isinstance(caught.value, TypeError) and isinstance(caught.value.__cause__, TypeError)
        assert caught.value.path == path and str(caught.value).startswith(f"{path}, a ")
        assert pool.map(work.square, [1, 2]) == [1, 4]
        pool.close()
        pool.join()  # nobody is to be told of anything
        assert pool.stats().outstanding == 0


def test_what_cannot_be_sent_of_an_iterator_comes_in_its_turn() -> None:
    with weft.Pool(1) as pool:
        results = pool.imap(work.both, [1, threading.Lock(), 3])
        assert next(results) == ((1,), {})
        with pytest.raises(weft.UnpicklableError, match=r"iterable\[1\], a _thread\.lock"):
            next(results)
        assert list(results) == [((3,), {})]
        results = pool.imap_unordered(work.both, [*range(5), threading.Lock()], 2)
        with pytest.raises(weft.UnpicklableError, match=r"iterable\[5\], a _thread\.lock"):
            list(results)


def test_a_result_that_cannot_be_sent_is_named() -> None:
    with weft.Pool(1) as pool, pytest.raises(weft.UnpicklableError) as caught:
        pool.apply(work.make_locks)
    assert caught.value.path == "result['locks'][1]"
    assert str(caught.value).endswith("; it is result['locks'][1], a _thread.lock")
    assert isinstance(caught.value, MaybeEncodingError) and "cannot pickle" in caught.value.exc
    with weft.Executor(1) as executor, pytest.raises(weft.UnpicklableError) as caught:
        executor.submit(work.make_locks).result()
    assert caught.value.path == "result['locks'][1]" and isinstance(caught.value, TypeError)


def test_without_cloudpickle_the_error_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with weft.Pool(1) as pool:
        with pytest.raises(
            weft.UnpicklableError, match=r"^func, a builtins.function, .*pip install cloudpickle"
        ):
            pool.apply(lambda: 0)
        with pytest.raises(
            weft.UnpicklableError, match=r"^args\[0\], .*; only functions and classes at the top"
        ):
            pool.apply(work.square, (lambda: 0,))
    with (
        weft.multiprocessing.Pool(1) as pool,
        pytest.raises((AttributeError, pickle.PicklingError)) as caught,
    ):
        pool.apply(lambda: 0)
    assert "weft.Pool and weft.Executor take lambdas" in caught.value.__notes__[0]


def test_the_refusal_can_be_sent_itself() -> None:
    with pytest.raises(weft.UnpicklableError) as caught:
        weft.Pipe()[0].send([weft.Lock()])
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, weft.UnpicklableError) and isinstance(again, RuntimeError)
    assert (str(again), again.path, again.part) == (str(caught.value), "obj[0]", None)


class Childless(Exception):
    """Nothing can be derived from it."""

    def __init_subclass__(cls) -> None:
        raise RuntimeError("on purpose")


@pytest.mark.parametrize("kind", [AttributeError, KeyError, OSError, pickle.PicklingError, Childless])
def test_the_refusal_is_what_the_pickler_raises_too(kind: type[Exception]) -> None:
    error = kind("on purpose")
    with weft.Pool(1) as pool, pytest.raises(weft.UnpicklableError) as caught:
        pool.apply(work.both, (Refuses(error),))
    assert caught.value.__cause__ is error and caught.value.path == "args[0]"
    assert isinstance(caught.value, kind) is (kind is not Childless)


@pytest.mark.parametrize(
    ("call", "task"),
    [
        (lambda pool: pool.apply(work.die), "pool_work.die()"),
        (lambda pool: pool.apply(work.die, (None,)), "pool_work.die(None)"),
        (lambda pool: pool.apply(work.die, ("x" * 99,)), f"pool_work.die('{'x' * 17}...{'x' * 18}')"),
        (lambda pool: pool.apply(work.die, ([],)), "pool_work.die()"),
        (lambda pool: pool.apply(work.die, (), {"_item": 1}), "pool_work.die()"),
        (lambda pool: pool.map(work.die, [5], 1), "pool_work.die(5), item 0"),
        (lambda pool: pool.map(work.die, [(1, 2)], 1), "pool_work.die((1, 2)), item 0"),
        (lambda pool: pool.map(work.die_if, range(10), 4), "pool_work.die_if(), items 4 to 7"),
        (lambda pool: list(pool.imap(work.die_if, range(9))), "pool_work.die_if(7), item 7"),
        (lambda pool: pool.starmap(work.die, [(None, 9)]), "pool_work.die(None, 9), item 0"),
    ],
)
def test_a_death_says_whose_call_it_was(call: Any, task: str) -> None:
    with weft.Pool(1) as pool:
        with pytest.raises(weft.WorkerDied) as caught:
            call(pool)
        assert caught.value.task == task


GUARDED = """
import sys
import weft
if __name__ == "__main__":
    factor = 3

    def scaled(number):
        return number * factor

    with weft.Pool(1, context=sys.argv[1]) as pool, weft.Executor(1, sys.argv[1]) as executor:
        print(pool.map(scaled, range(3)), pool.apply(scaled, (5,)), executor.submit(scaled, 7).result())
"""


@pytest.mark.parametrize("method", METHODS)
def test_functions_below_the_guard_of_the_main_module(method: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    script = tmp_path / "script.py"
    script.write_text(GUARDED)
    ran = subprocess.run([sys.executable, str(script), method], capture_output=True, text=True)
    assert ran.stdout == "[0, 3, 6] 15 21\n", ran.stderr


@pytest.mark.parametrize("method", METHODS)
def test_what_is_called_at_the_start_and_the_end_needs_no_name(method: str) -> None:
    pytest.importorskip("cloudpickle")
    options = weft.PoolOptions(worker_state=lambda: {"pid": 0, "calls": 6}, worker_exit=lambda state: None)
    with weft.Pool(1, lambda *what: work.remember(*what), [1, 2], context=method, options=options) as pool:
        assert pool.apply(work.use_state) == (0, 7)
        assert pool.apply(work.remembered) == [1, 2]


def test_arrays_of_a_shared_object_are_read_only_however_small() -> None:
    numpy = pytest.importorskip("numpy")
    for size in (1, 5, 9, 1000):
        array = weft.share(numpy.arange(size)).get()
        assert array.tolist() == list(range(size)) and not array.flags.writeable


def test_functions_without_a_name() -> None:
    pytest.importorskip("cloudpickle")
    factor = 3
    with weft.Pool(2) as pool:
        scaled = lambda number: number * factor  # noqa: E731
        assert pool.map(scaled, range(5)) == [0, 3, 6, 9, 12]
        factor = 4  # the function is sent as it is now
        assert pool.map(scaled, range(5)) == [0, 4, 8, 12, 16]
        assert pool.apply(scaled, (2,)) == 8 and list(pool.imap(scaled, [2], timeout=9)) == [8]
        assert pool.apply(functools.partial(work.both, 1), (2,)) == ((1, 2), {})
        with pytest.raises(weft.WorkerDied, match="<lambda>"):
            pool.apply(lambda: os.kill(os.getpid(), 9))


@pytest.mark.parametrize("method", METHODS)
def test_pools_in_workers(method: str) -> None:
    with weft.Pool(2, context=method) as pool:
        assert pool.map(work.nested, [[1, 2], [3], []], 1) == [[1, 4], [9], []]


def test_a_shared_object() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1 << 17)
    shared = weft.share(array)
    assert shared.nbytes >= array.nbytes and (shared.get() == array).all()
    with weft.Pool(1) as pool:
        seen = [pool.apply(work.total, (shared, i)) for i in range(5)]
    assert [one for one, _, _ in seen] == [int(array.sum()) + i for i in range(5)]
    assert len({address for _, address, _ in seen}) == 1, "each worker gets it once"
    assert not any(writable for _, _, writable in seen)
    with pytest.raises(TypeError):
        weft.share(threading.Lock())
    for part, kind in ((threading.Lock(), TypeError), (weft.Lock(), RuntimeError)):
        with pytest.raises(weft.UnpicklableError, match=r"cannot share obj\['x'\]\[1\], a ") as caught:
            weft.share({"x": [0, part]})
        assert caught.value.part is part and isinstance(caught.value, kind)


def test_a_worker_lets_go_of_what_is_no_longer_shared() -> None:
    with weft.Pool(1) as pool:
        kept = weft.share([0])
        assert pool.apply(work.both, (kept,)) == (([0],), {})
        for number in range(1, 6):
            shared = weft.share([number])
            assert pool.apply(work.both, (shared,)) == (([number],), {})
            del shared
        assert pool.apply(work.objects_kept) == 2
        assert kept.get() == [0]


def test_progress_told() -> None:
    told: list[tuple[int, int]] = []
    note: Any = lambda done, total: told.append((done, total))  # noqa: E731
    with weft.Pool(2) as pool:
        assert pool.map(work.square, range(10), progress=note) == [n * n for n in range(10)]
        assert told == [(n + 1, 10) for n in range(10)]
        told.clear()
        assert pool.map(work.square, [], progress=note) == [] and told == []
        unknown = (n for n in range(3))
        assert list(pool.imap(work.square, unknown, progress=note)) == [0, 1, 4]
        assert told == [(1, -1), (2, -1), (3, -1)]
        told.clear()
        assert sorted(pool.imap_unordered(work.square, range(3), progress=note)) == [0, 1, 4]
        assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("chunk", [1, 4, None])
def test_progress_of_all_kinds(chunk: int | None) -> None:
    told: list[tuple[int, int]] = []
    note: Any = lambda done, total: told.append((done, total))  # noqa: E731
    with weft.Pool(2) as pool:
        assert pool.starmap(pow, [(n, 2) for n in range(10)], chunk, progress=note) == [
            n * n for n in range(10)
        ]
        assert told == [(n + 1, 10) for n in range(10)]
        for submit, task, items in (
            (pool.map_async, work.square, range(10)),
            (pool.starmap_async, pow, [(n, 2) for n in range(10)]),
        ):
            told.clear()
            called: list[Any] = []
            result = submit(task, items, chunk, called.append, progress=note)  # type: ignore[operator]
            assert result.get() == [n * n for n in range(10)] == called[0]
            # Each part has been told before the whole was there.
            assert told == sorted(told) and told[-1] == (10, 10) and len(told) == -(-10 // (chunk or 2))
        told.clear()
        with pytest.raises(ValueError, match="item 5"):
            pool.map_async(work.fail_at, range(10), 1, progress=note).get()
        assert [done for done, _ in told] == list(range(1, 11))


def test_progress_that_raises_is_reported() -> None:
    noted: list[Any] = []
    before, sys.unraisablehook = sys.unraisablehook, noted.append
    try:
        with weft.Pool(1) as pool:
            assert pool.map_async(work.square, range(3), 1, progress=work.fail_at_done).get() == [0, 1, 4]
    finally:
        sys.unraisablehook = before
    assert [str(note.exc_value) for note in noted] == ["2 of 3"]


def test_progress_shown(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    with weft.Pool(1) as pool:
        assert pool.map(work.square, range(4), progress=True) == [0, 1, 4, 9]
        assert "4/4" in capfd.readouterr().err
        assert pool.map_async(work.square, range(5), progress=True).get() == [0, 1, 4, 9, 16]
        assert "5/5" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"retries": -1}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"context": "threads"}, ValueError),
        ({"processes": 0}, ValueError),
        ({"initializer": 7}, TypeError),
        ({"initializer": print, "initargs": 7}, TypeError),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"{[*arguments][-1]} must be|cannot start|of processes must be"):
        weft.Pool(**arguments)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"idle_timeout": 0}, ValueError),
        ({"memory_limit": -1}, ValueError),
        ({"grace": 0}, ValueError),
        ({"worker_state": 7}, TypeError),
        ({"worker_exit": "x"}, TypeError),
        ({"affinity": 7}, TypeError),
        ({"affinity": [0, 1]}, TypeError),
        ({"affinity": [{0}, {"1"}]}, TypeError),
        ({"affinity": [{0}, set()]}, ValueError),
        ({"affinity": [{-1}]}, ValueError),
        ({"affinity": [{0, 1 << 20}]}, ValueError),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"{next(iter(options))} must be "):
        weft.PoolOptions(**options)


def test_bad_wishes() -> None:
    with weft.Pool(1) as pool:
        for wishes in ({"timeout": 0}, {"timeout": -1.0}, {"timeout": float("nan")}):
            with pytest.raises(ValueError, match="timeout must be more than"):
                pool.apply(work.square, (1,), **wishes)
        for priority, error in (("1", TypeError), (1.5, TypeError), (None, TypeError), (1 << 63, ValueError)):
            for call in (pool.apply, pool.map, pool.starmap_async, pool.imap_unordered):
                with pytest.raises(error, match="priority must be"):
                    call(work.square, [1], priority=priority)  # type: ignore[operator]
        with pytest.raises(ValueError, match="read_ahead"):
            pool.imap(work.square, [1], read_ahead=0)
        assert pool.stats().outstanding == 0
