"""Several operations as one."""

from __future__ import annotations

import operator
import queue
import sys
import threading
from collections.abc import Callable

import pytest
import weft
from things import add_up, appended, failing, take_in_a_batch, wait_for
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


def test_attributes_are_set_in_a_batch(manager: SyncManager) -> None:
    space, value = manager.Namespace(a=1, b=2), manager.Value("i", 1)
    with batch(space) as calls:
        calls.a = 3
        calls.a
        del calls.b
        calls.call("__setattr__", "results", 4)
    assert calls.results == [None, 3, None, None]
    assert (space.a, hasattr(space, "b"), space.results) == (3, False, 4)
    with batch(value) as of_value:
        of_value.value = 5
        of_value.value
    assert of_value.results == [None, 5] and value.value == 5
    for own in ("results", "run", "_calls"):
        with pytest.raises(AttributeError, match=f"{own} is the batch's own"):
            setattr(calls, own, 1)
    with pytest.raises(AttributeError, match="no results before it is run"):
        batch(space).results
    with pytest.raises(AttributeError, match="no method 'value'"):
        batch(manager.Queue()).value
    with pytest.raises(AttributeError, match="no attribute 'name' to be set"):
        batch(manager.dict()).name = 1
    with pytest.raises(AttributeError, match="no attribute 'name' to be deleted"):
        del batch(manager.dict()).name


def test_what_is_not_exposed_is_not_updated(manager: SyncManager) -> None:
    event = manager.Event()
    with pytest.raises(Exception, match="no value to be updated"):
        event._callmethod("#UPDATE_WITH", (None, operator.neg, (), ()))


def test_a_batch_that_waits_keeps_nobody_from_containers(manager: SyncManager) -> None:
    q, d = manager.Queue(), manager.dict(n=1)
    calls = batch(q)
    calls.get()
    calls.get()
    calls.qsize()
    answer: list[object] = []
    thread = threading.Thread(target=lambda: answer.append(calls.run()))
    q.put("first")
    thread.start()
    wait_for(lambda: q.qsize() == 0)
    # It waits for the second item.
    assert d.add("n") == 2
    with batch(d) as other:
        other["m"] = 3
    q.put("second")
    q.put("third")
    thread.join()
    assert answer[0][:2] == ["first", "second"]  # type: ignore[index]
    assert d.copy() == {"n": 2, "m": 3}


@pytest.mark.parametrize("way", ["lanes", "tcp"])
def test_a_batch_that_fails_has_the_answers_before_that(way: str) -> None:
    with SyncManager(None if way == "lanes" else ("127.0.0.1", 0)) as manager:
        q = manager.Queue()
        calls = batch(q)
        calls.put(1)
        calls.get_nowait()
        calls.get_nowait()
        calls.put(2)
        with pytest.raises(queue.Empty):
            calls.run()
        assert calls.results == [None, 1]
        assert q.qsize() == 0


@pytest.mark.parametrize("way", ["lanes", "tcp"])
def test_a_batch_of_a_client_that_is_killed_puts_back_what_it_took(way: str) -> None:
    with SyncManager(None if way == "lanes" else ("127.0.0.1", 0)) as manager:
        q = manager.Queue()
        for number in range(3):
            q.put(number)
        ours, theirs = get_context("fork").Pipe()
        process = get_context("fork").Process(target=take_in_a_batch, args=(q, 4, theirs))
        process.start()
        theirs.close()
        ours.recv()
        wait_for(lambda: q.qsize() == 0)
        process.kill()
        process.join()
        assert [q.get() for _ in range(3)] == [0, 1, 2]


def test_what_returns_a_shared_object_is_in_no_batch(manager: SyncManager) -> None:
    d = manager.dict(a=1)
    calls = batch(d)
    calls["a"] = 2
    calls.call("__iter__")
    with pytest.raises(TypeError, match=r"__iter__\(\) returns a shared object"):
        calls.run()
    assert d.copy() == {"a": 1}


@pytest.fixture
def cloudpickle_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)


def test_a_lambda_travels_by_value(manager: SyncManager) -> None:
    pytest.importorskip("cloudpickle")
    d, items, value = manager.dict(n=1), manager.list([1]), manager.Value("i", 1)
    step = 4
    assert d.update_with("n", lambda number: number + step) == 5
    assert items.update_with(0, lambda number, by: number - by, 3) == -2
    assert value.update_with(lambda number: number * 10) == 10


@pytest.mark.usefixtures("cloudpickle_is_missing")
def test_a_lambda_without_cloudpickle(manager: SyncManager) -> None:
    d, value = manager.dict(n=1), manager.Value("i", 1)
    for call in (
        lambda: d.update_with("n", lambda number: number + 1),
        lambda: value.update_with(lambda number: number + 1),
    ):
        with pytest.raises(weft.UnpicklableError, match="pip install cloudpickle") as caught:
            call()
        assert caught.value.path == "function"
        assert "function, a builtins.function, cannot be sent" in str(caught.value)
    assert (d["n"], value.value) == (1, 1)


@pytest.mark.parametrize("way", ["lanes", "tcp"])
def test_what_cannot_be_sent(way: str) -> None:
    bad = threading.Lock()
    with SyncManager(None if way == "lanes" else ("127.0.0.1", 0)) as manager:
        d, q, value = manager.dict(n=1), manager.Queue(), manager.Value("i", 1)
        calls = batch(d)
        calls["n"] = 2
        calls["m"] = {"x": [bad]}
        cases: list[tuple[Callable[[], object], str, str]] = [
            (lambda: d.__setitem__("k", [1, {"x": bad}]), "args[1][1]['x']", "for __setitem__()"),
            (lambda: d.update(k=(bad,)), "kwds['k'][0]", "for update()"),
            (lambda: q.put(bad), "args[0]", "for put()"),
            (lambda: manager.list([0, bad]), "args[0][1]", "for list()"),
            (lambda: d.update_with("n", operator.add, bad), "args[0]", "for update_with()"),
            (lambda: d.add("n", bad), "amount", "for add()"),
            (lambda: value.update_with(operator.add, bad), "args[0]", "for update_with()"),
            (calls.run, "args[1]['x'][0]", "for __setitem__(), call 1 of a batch"),
        ]
        for call, path, what in cases:
            with pytest.raises(
                weft.UnpicklableError, match="cannot be sent to the manager's server"
            ) as caught:
                call()
            assert caught.value.path == path and caught.value.part is bad
            said = f"{path}, a _thread.lock, cannot be sent to the manager's server, {what}: "
            assert str(caught.value).startswith(said)
            # It is what the pickler raises, too; and the way to the server is as it was.
            assert isinstance(caught.value.__cause__, TypeError) and isinstance(caught.value, TypeError)
            assert d.copy() == {"n": 1}
