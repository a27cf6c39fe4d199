"""Nobody holds up the thread that serves all lanes; and what nobody got goes back."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
from things import Custom, Stuck, StuckKey, alarm, take, wait_for
from weft.multiprocessing import get_context
from weft.multiprocessing.managers import SyncManager

FORK = get_context("fork")


@pytest.fixture
def custom() -> Any:
    with Custom() as manager:
        yield manager


def held_up(manager: Any, call: Any) -> None:
    """While `call` cannot go on, others can."""
    porter, other = manager.Porter(), manager.dict(x=1)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    for number in range(100):
        other["x"] = number
        assert other["x"] == number
    porter.open()
    thread.join()
    assert len(results) == 1


def test_a_value_whose_unpickling_takes_long(custom: Any) -> None:
    d = custom.dict()
    held_up(custom, lambda: d.update(key=Stuck()))
    assert d["key"] == "passed"


def test_an_object_that_is_made_of_what_takes_long(custom: Any) -> None:
    held_up(custom, lambda: custom.list([Stuck()]))


def test_a_key_that_takes_long_to_compare(custom: Any) -> None:
    d = custom.dict()
    d[StuckKey()] = 1
    held_up(custom, lambda: d.get(5, "nothing"))


def test_keys_that_came_with_a_new_object(custom: Any) -> None:
    d = custom.dict({StuckKey(): 1})
    held_up(custom, lambda: d.get(5, "nothing"))


def test_an_item_that_takes_long_to_compare(custom: Any) -> None:
    items = custom.list()
    items.append(StuckKey())
    items.append("x")
    held_up(custom, lambda: items.index("x"))
    assert len(items) == 2


def test_a_key_that_update_with_brought(custom: Any) -> None:
    d = custom.dict()
    d.update_with(StuckKey(), int, default=0)
    held_up(custom, lambda: d.get(5, "nothing"))


# -- What nobody got


def test_a_message_for_one_that_never_read_the_answer(custom: Any) -> None:
    porter, q = custom.Porter(), custom.Queue()
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=take, args=(q, theirs))
    process.start()
    assert ours.recv() == "begun"
    wait_for(lambda: porter.waiting(q) == 1)
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    q.put("first")
    wait_for(lambda: q.qsize() == 0)
    q.put("second")
    process.kill()
    process.join()
    wait_for(lambda: q.qsize() == 2)
    assert [q.get(), q.get()] == ["first", "second"]
    assert q.empty()
    q.task_done()
    q.task_done()
    q.join()
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()


@pytest.mark.parametrize("item", [7, "text", b"x" * 100_000, {"a": [1, (2, 3)]}])
def test_whatever_the_message_is(custom: Any, item: Any) -> None:
    porter, q = custom.Porter(), custom.Queue()
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=take, args=(q, theirs))
    process.start()
    ours.recv()
    wait_for(lambda: porter.waiting(q) == 1)
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    q.put(item)
    wait_for(lambda: q.qsize() == 0)
    process.kill()
    process.join()
    assert q.get() == item


def test_a_get_that_is_interrupted_takes_nothing_along(custom: Any) -> None:
    q = custom.Queue()

    with alarm(), pytest.raises(InterruptedError):
        q.get()
    q.put("message")
    assert q.get() == "message"


def test_over_a_connection() -> None:
    with SyncManager(("127.0.0.1", 0)) as manager:
        q = manager.Queue()
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=take, args=(q, theirs))
        process.start()
        ours.recv()
        process.kill()
        process.join()
        q.put("message")
        assert q.get() == "message"
