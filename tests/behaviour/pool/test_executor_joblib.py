"""joblib on weft, with joblib itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from math import sqrt

import pytest
import weft

joblib = pytest.importorskip("joblib")


@pytest.fixture(autouse=True)
def _backend() -> Iterator[None]:
    weft.register_joblib()
    with joblib.parallel_config(backend="weft", n_jobs=2):
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_workers_are_kept() -> Iterator[None]:
    yield
    from weft import _joblib

    kept = _joblib._kept
    if kept is not None:
        kept[1].shutdown()


def pid(_item: int) -> int:
    return os.getpid()


def refuse(item: int) -> int:
    if item == 3:
        raise KeyError(item)
    return item


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def total(array: object) -> float:
    return float(array.sum())  # type: ignore[attr-defined]


def inner(item: int) -> list[float]:
    found: list[float] = joblib.Parallel(n_jobs=2)(joblib.delayed(sqrt)(number) for number in range(item))
    return found


def test_results_come_in_order_and_from_weft() -> None:
    parallel = joblib.Parallel()
    assert parallel(joblib.delayed(sqrt)(number**2) for number in range(100)) == list(map(float, range(100)))
    assert type(parallel._backend).__module__ == "weft._joblib"


def test_workers_are_other_processes_and_are_kept() -> None:
    first = set(joblib.Parallel()(joblib.delayed(pid)(item) for item in range(20)))
    second = set(joblib.Parallel()(joblib.delayed(pid)(item) for item in range(20)))
    assert os.getpid() not in first | second
    assert len(first | second) <= 2


def test_functions_without_a_name() -> None:
    offset = 7
    found = joblib.Parallel()(joblib.delayed(lambda item: item + offset)(item) for item in range(10))
    assert found == list(range(7, 17))


def test_an_exception_reaches_the_caller_and_the_backend_goes_on() -> None:
    with pytest.raises(KeyError):
        joblib.Parallel()(joblib.delayed(refuse)(item) for item in range(8))
    assert joblib.Parallel()(joblib.delayed(sqrt)(4) for _ in range(3)) == [2.0] * 3


def test_a_worker_that_dies() -> None:
    with pytest.raises(weft.WorkerDied):
        joblib.Parallel()(joblib.delayed(die)() for _ in range(2))
    assert joblib.Parallel()(joblib.delayed(sqrt)(4) for _ in range(3)) == [2.0] * 3


def test_a_time_limit() -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        joblib.Parallel(timeout=0.05)(joblib.delayed(time.sleep)(60) for _ in range(2))
    assert joblib.Parallel()(joblib.delayed(sqrt)(4) for _ in range(3)) == [2.0] * 3


@pytest.mark.parametrize("manner", ["generator", "generator_unordered"])
def test_results_as_an_iterator(manner: str) -> None:
    found = joblib.Parallel(return_as=manner)(joblib.delayed(sqrt)(number) for number in (1, 4, 9))
    assert sorted(found) == [1.0, 2.0, 3.0]


def test_arrays_and_nested_calls() -> None:
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.full(1 << 18, value, dtype="f8") for value in (1, 2)]
    assert joblib.Parallel()(joblib.delayed(total)(array) for array in arrays) == [2.0**18, 2.0**19]
    assert joblib.Parallel()(joblib.delayed(inner)(item) for item in (1, 2)) == [[0.0], [0.0, 1.0]]


def test_options_of_an_executor() -> None:
    with joblib.parallel_config(backend="weft", n_jobs=2, max_tasks_per_child=1):
        found = joblib.Parallel(batch_size=1)(joblib.delayed(pid)(item) for item in range(4))
    assert len(set(found)) == 4


def test_how_many_workers() -> None:
    with pytest.raises(ValueError):
        joblib.Parallel(n_jobs=0)(joblib.delayed(sqrt)(1) for _ in range(1))
    assert joblib.Parallel(n_jobs=1)(joblib.delayed(pid)(item) for item in range(2)) == [os.getpid()] * 2
