"""Several operations as one."""

from __future__ import annotations

import operator

import pytest
from things import add_up, appended, failing
from weft.multiprocessing import get_context
from weft.multiprocessing.managers import SyncManager, batch


def test_no_change_is_lost(manager: SyncManager) -> None:
    d = manager.dict()
    processes = [get_context("fork").Process(target=add_up, args=(d, "n", 200)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (d["n"], d["n2"]) == (800, 800)


def test_update_with(manager: SyncManager) -> None:
    d, items, value = manager.dict({"k": [1]}), manager.list([1, 2]), manager.Value("i", 5)
    assert d.update_with("k", appended, 2) == [1, 2]
    assert d.update_with("new", operator.add, 1, default=10) == 11
    assert items.update_with(0, operator.neg) == -1
    assert (value.update_with(operator.mul, 3), value.add(), value.value) == (15, 16, 16)
    assert (d.copy(), [*items]) == ({"k": [1, 2], "new": 11}, [-1, 2])
    with pytest.raises(KeyError):
        d.update_with("nothing", operator.neg)
    with pytest.raises(ZeroDivisionError):
        d.update_with("k", failing)
    with pytest.raises(TypeError, match="defualt"):
        d.update_with("k", operator.neg, defualt=1)
    assert d["k"] == [1, 2]


def test_a_batch(manager: SyncManager) -> None:
    d = manager.dict()
    with batch(d) as calls:
        calls["a"] = 1
        calls["b"] = 2
        calls["a"]
        calls.pop("b")
    assert calls.results == [None, None, 1, 2]
    assert d.copy() == {"a": 1}


def test_a_batch_ends_where_something_is_raised(manager: SyncManager) -> None:
    d = manager.dict()
    calls = batch(d)
    calls["a"] = 1
    calls["nothing"]
    calls["b"] = 2
    with pytest.raises(KeyError):
        calls.run()
    assert d.copy() == {"a": 1}
    with pytest.raises(AttributeError, match="fromkeys"):
        calls.fromkeys
    with pytest.raises(ValueError, match="stop"), batch(d) as given_up:
        given_up["c"] = 1
        raise ValueError("stop")
    assert d.copy() == {"a": 1}


def test_what_is_not_exposed_is_not_updated(manager: SyncManager) -> None:
    event = manager.Event()
    with pytest.raises(Exception, match="no value to be updated"):
        event._callmethod("#UPDATE_WITH", (None, operator.neg, (), ()))
