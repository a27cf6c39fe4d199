"""Limits, ends, errors: what a queue does besides carrying messages."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue as stock
import select
import subprocess
import sys
import threading
from multiprocessing import connection
from typing import Any

import pytest
from weft import _native
from weft.multiprocessing import queues
from weft.multiprocessing.queues import JoinableQueue, Queue, SimpleQueue

FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")


def make(maxsize: int = 0) -> Queue[Any]:
    return Queue(maxsize, ctx=FORK)


def test_full_and_empty() -> None:
    queue = make(2)
    assert queue.empty() and not queue.full()
    with pytest.raises(stock.Empty):
        queue.get_nowait()
    with pytest.raises(stock.Empty):
        queue.get(True, 0.001)
    with pytest.raises(stock.Empty):
        queue.get(False, 100)
    queue.put(1)
    queue.put(2, timeout=None)
    assert queue.full() and queue.qsize() == 2
    with pytest.raises(stock.Full):
        queue.put_nowait(3)
    with pytest.raises(stock.Full):
        queue.put(3, True, 0.001)
    with pytest.raises(stock.Full):
        queue.put(3, timeout=-1)
    assert [queue.get(), queue.get(block=True, timeout=5)] == [1, 2]


def test_a_limit_below_one_is_none() -> None:
    queue = Queue[int](-3, ctx=FORK)
    for number in range(1000):
        queue.put_nowait(number)
    assert not queue.full()


def test_a_get_waits_for_a_put() -> None:
    queue = make()
    received: list[object] = []
    waiter = threading.Thread(target=lambda: received.append(queue.get()))
    waiter.start()
    queue.put("late")
    waiter.join()
    assert received == ["late"]


def test_a_put_waits_for_a_get() -> None:
    queue = make(1)
    queue.put(0)
    waiter = threading.Thread(target=lambda: queue.put(1))
    waiter.start()
    assert queue.get() == 0
    waiter.join()
    assert queue.get() == 1


def test_a_closed_queue_refuses() -> None:
    queue = make()
    with pytest.raises(AssertionError, match="not closed"):
        queue.join_thread()
    queue.close()
    queue.join_thread()
    queue.cancel_join_thread()
    assert queue.empty()
    with pytest.raises(ValueError, match=r"Queue <.*> is closed"):
        queue.put(1)
    with pytest.raises(ValueError, match=r"Queue <.*> is closed"):
        queue.get()


def test_a_used_and_closed_queue_has_no_emptiness() -> None:
    queue = make()
    queue.put(1)
    queue.close()
    with pytest.raises(OSError, match="is closed"):
        queue.empty()


def test_a_closed_simple_queue_refuses() -> None:
    queue = SimpleQueue[int](ctx=FORK)
    queue.close()
    queue.close()
    assert queue._reader.closed and queue._writer.closed
    for use in (queue.empty, queue.get, lambda: queue.put(1)):
        with pytest.raises(OSError, match="is closed"):
            use()


def test_tasks_are_counted() -> None:
    queue = JoinableQueue[int](ctx=FORK)
    with pytest.raises(ValueError, match="called too many times"):
        queue.task_done()
    queue.join()
    for number in range(3):
        queue.put(number)
    waiter = threading.Thread(target=queue.join)
    waiter.start()
    for _ in range(3):
        queue.get()
        assert waiter.is_alive()
        queue.task_done()
    waiter.join()


def test_shutdown_lets_what_is_there_be_got() -> None:
    queue = make()
    queue.put("left")
    queue.shutdown()
    with pytest.raises(queues.ShutDown):
        queue.put("late")
    assert queue.get() == "left"
    with pytest.raises(queues.ShutDown):
        queue.get()


def test_an_immediate_shutdown_throws_away_and_wakes() -> None:
    queue = JoinableQueue[int](1, ctx=FORK)
    queue.put(1)
    outcomes: list[BaseException | None] = []

    def run(method: Any, *arguments: object) -> None:
        try:
            method(*arguments)
            outcomes.append(None)
        except Exception as error:
            outcomes.append(error)

    waiters = [
        threading.Thread(target=run, args=(queue.put, 2)),
        threading.Thread(target=run, args=(queue.join,)),
    ]
    for waiter in waiters:
        waiter.start()
    queue.shutdown(immediate=True)
    for waiter in waiters:
        waiter.join()
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "ShutDown"]
    with pytest.raises(queues.ShutDown):
        queue.get()


def test_an_object_that_cannot_be_pickled_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    reported: list[tuple[BaseException, object]] = []

    class Reports(Queue[Any]):
        @staticmethod
        def _on_queue_feeder_error(e: BaseException, obj: object) -> None:
            reported.append((e, obj))

    lock = threading.Lock()
    queue = Reports(1, ctx=FORK)
    queue.put(lock)
    assert reported[0][1] is lock and isinstance(reported[0][0], TypeError)
    queue.put("room is left")
    assert queue.get() == "room is left"
    plain = make()
    plain.put(lock)
    assert "cannot pickle '_thread.lock' object" in capsys.readouterr().err
    with pytest.raises(TypeError, match="cannot pickle"):
        SimpleQueue[Any](ctx=FORK).put(lock)


def test_a_queue_is_passed_on_only_to_a_child() -> None:
    with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
        pickle.dumps(make())


def test_select_sees_messages() -> None:
    queue = make()
    reader = queue._reader
    assert select.select([reader], [], [], 0) == ([], [], [])
    queue.put(1)
    assert connection.wait([reader], timeout=60) == [reader]
    assert reader.poll() and reader.recv() == 1
    assert select.select([reader], [], [], 0) == ([], [], [])
    assert not reader.poll(0)


def echo(inbox: Any, outbox: Any) -> None:
    for message in iter(inbox.get, None):
        outbox.put((os.getpid(), message))


@pytest.mark.parametrize("context", [FORK, SPAWN], ids=["fork", "spawn"])
@pytest.mark.parametrize("kind", [Queue, SimpleQueue, JoinableQueue])
def test_children_use_queues(context: Any, kind: Any) -> None:
    inbox, outbox = kind(ctx=context), kind(ctx=context)
    child = context.Process(target=echo, args=(inbox, outbox))
    child.start()
    messages = [1, "two", b"3" * 100_000, {"four": 4}]
    for message in messages:
        inbox.put(message)
    readers = connection.wait([outbox._reader], timeout=600)
    assert readers == [outbox._reader]
    assert [outbox.get() for _ in messages] == [(child.pid, message) for message in messages]
    inbox.put(None)
    child.join()
    assert child.exitcode == 0 and outbox.empty()


def hold_and_change(array: Any, go: Any, done: Any) -> None:
    go.get()
    done.put(array.tobytes()[:8])
    array[:] = 9
    done.put("changed")


def test_a_received_array_is_private_after_a_fork() -> None:
    numpy = pytest.importorskip("numpy")
    queue, go, done = make(), make(), make()
    for size in (10_000, 5_000_000):
        queue.put(numpy.zeros(size))
        array = queue.get()
        child = FORK.Process(target=hold_and_change, args=(array, go, done))
        child.start()
        array[:] = 5
        go.put(1)
        assert done.get() == bytes(8)
        assert done.get() == "changed"
        child.join()
        assert (array == 5).all()
        del array, child


def test_a_queue_frees_its_memory() -> None:
    make().put(1)
    before = _native.shared_memory_in_use()
    for _ in range(200):
        queue = make()
        queue.put(b"x" * 500_000)
        del queue
    assert _native.shared_memory_in_use() < before + (80 << 20)


INTERRUPTED = """
import multiprocessing, os, signal, sys, threading
from weft.multiprocessing.queues import JoinableQueue, Queue

signal.signal(signal.SIGINT, signal.default_int_handler)
fork = multiprocessing.get_context("fork")
full, empty, unfinished = Queue(1, ctx=fork), Queue(ctx=fork), JoinableQueue(ctx=fork)
full.put(0)
unfinished.put(0)
waits = {"put": lambda: full.put(1), "get": empty.get, "join": unfinished.join, "poll": lambda: empty._reader.poll(None)}
main = threading.main_thread().native_id
about_to_wait = []

def interrupt():
    # Once the main thread sleeps in the kernel, and no longer for this thread to start.
    while not about_to_wait or open(f"/proc/self/task/{main}/stat").read().rpartition(")")[2].split()[0] != "S":
        pass
    os.kill(os.getpid(), signal.SIGINT)

thread = threading.Thread(target=interrupt)
try:
    thread.start()
    about_to_wait.append(True)
    waits[sys.argv[1]]()
except KeyboardInterrupt:
    print("interrupted", full.qsize(), empty.qsize())
"""


@pytest.mark.parametrize("wait", ["put", "get", "join", "poll"])
def test_an_interrupt_ends_every_wait(wait: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, wait], capture_output=True, text=True, timeout=600, check=False
    )
    assert (ended.stdout, ended.stderr) == ("interrupted 1 0\n", "")
