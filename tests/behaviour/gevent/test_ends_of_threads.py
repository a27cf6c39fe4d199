"""Threads that end without `get_hub().destroy()`: their loops are closed, and what others wait for is not lost with them."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from weft.gevent import Timeout, get_hub, sleep, spawn
from weft.gevent.event import AsyncResult, Event
from weft.gevent.lock import Semaphore
from weft.gevent.queue import Queue
from weft.gevent.threadpool import ThreadPool


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def in_a_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "use",
    [
        get_hub,
        lambda: sleep(0),
        lambda: get_hub().threadpool.apply(abs, (-1,)),
        lambda: (spawn(Event().wait), spawn(sleep, 100), sleep(0)),
        lambda: get_hub().loop.timer(100).start(int),
    ],
)
def test_the_loop_is_closed_with_the_thread(use: Callable[[], object]) -> None:
    before = descriptors()
    loops: list[Any] = []

    def work() -> None:
        use()
        loops.append(get_hub().loop)

    in_a_thread(work)
    assert descriptors() == before
    assert loops.pop().destroyed


def test_a_hub_that_nobody_destroyed_is_garbage() -> None:
    hubs: list[weakref.ref[Any]] = []

    def work() -> None:
        sleep(0)
        hubs.append(weakref.ref(get_hub()))

    in_a_thread(work)
    # Who joins a thread may go on before the very end of it.
    with Timeout(30):
        while gc.collect() >= 0 and hubs[0]() is not None:
            sleep(0.001)


def test_the_end_of_a_thread_runs_no_greenlet() -> None:
    ran: list[str] = []

    def stubborn() -> None:
        while True:
            try:
                sleep(100)
            except BaseException:
                ran.append("unwound")

    def work() -> None:
        spawn(stubborn)
        sleep(0)

    in_a_thread(work)
    gc.collect()
    assert ran == []


def test_threads_of_a_pool_end_with_their_hubs_thread() -> None:
    workers = []

    def work() -> None:
        pool = get_hub().threadpool
        workers.append(pool.apply(os.open, (f"/proc/self/task/{threading.get_native_id()}", os.O_RDONLY)))
        native = pool.apply(threading.get_native_id)
        workers.append(native)

    in_a_thread(work)
    os.close(workers[0])
    while os.path.exists(f"/proc/self/task/{workers[1]}"):
        threading.Event().wait(0.001)


def of_another_thread(use: Callable[[], object], then: Callable[[], object]) -> Callable[[], None]:
    """A thread that uses something, waits until what is returned is called, and ends with `then`, after which its loop does not
    run any more."""
    used, go_on = threading.Event(), threading.Event()

    def work() -> None:
        use()
        used.set()
        go_on.wait()
        then()

    thread = threading.Thread(target=work)
    thread.start()
    used.wait()

    def end() -> None:
        go_on.set()
        thread.join()

    return end


@pytest.mark.parametrize("kind", ["event", "result", "semaphore", "queue"])
def test_what_it_was_about_to_tell_is_told(kind: str) -> None:
    made: Any = {"event": Event, "result": AsyncResult, "semaphore": lambda: Semaphore(0)}.get(kind, Event)()
    queue: list[Any] = []

    def use() -> None:
        get_hub()
        queue.append(Queue())
        if kind == "result":
            made.wait(timeout=0.001)
        elif kind == "semaphore":
            assert not made.acquire(timeout=0.001)
        else:
            assert not made.wait(0.001)

    tell = {
        "event": lambda: made.set(),
        "result": lambda: made.set(True),
        "semaphore": lambda: made.release(),
        "queue": lambda: queue[0].put(True),
    }[kind]
    end = of_another_thread(use, tell)
    wait = {
        "event": lambda: made.wait(30),
        "result": lambda: made.get(timeout=30),
        "semaphore": lambda: made.acquire(timeout=30),
        "queue": lambda: queue[0].get(timeout=30),
    }[kind]
    waiter = spawn(wait)
    sleep(0)
    end()
    assert waiter.get() is True


@pytest.mark.parametrize("make", [Event, AsyncResult, lambda: Semaphore(0)])
def test_objects_of_a_thread_that_is_gone_are_those_of_others(make: Callable[[], Any]) -> None:
    made = make()

    def wait() -> None:
        spawn(made.wait if not isinstance(made, Semaphore) else made.acquire)
        sleep(0)

    in_a_thread(wait)
    waiter = spawn(made.acquire if isinstance(made, Semaphore) else made.wait)
    sleep(0)
    if isinstance(made, AsyncResult):
        made.set(1)
    elif isinstance(made, Event):
        made.set()
    else:
        made.release()
    assert waiter.get(timeout=30)


@pytest.mark.parametrize("kind", ["event", "semaphore", "queue", "putters", "join"])
def test_who_gives_up_is_not_taken_for_one_of_another_thread(kind: str) -> None:
    event, semaphore = Event(), Semaphore(0)
    items: Any = Queue()
    full: Any = Queue(1)
    full.put(0)
    joined = spawn(event.wait)
    sleep(0)

    def wait(seconds: float | None) -> object:
        match kind:
            case "event":
                return event.wait(seconds)
            case "semaphore":
                return semaphore.acquire(timeout=seconds)
            case "queue":
                return items.get(timeout=seconds)
            case "putters":
                return full.put(1, timeout=seconds)
        return joined.join(seconds)

    waiting = threading.Event()
    ended = threading.Event()

    def wait_on() -> None:
        def tell() -> None:
            waiting.set()

        get_hub().loop.run_callback(tell)
        wait(None)
        ended.set()

    # Each in a new hub, so that their keys are the same.
    other = threading.Thread(target=wait_on)
    other.start()
    waiting.wait()

    def give_up() -> None:
        for _ in range(20):
            try:
                wait(0.0001)
            except Exception as error:
                assert type(error).__name__ in ("Empty", "Full"), error

    in_a_thread(give_up)
    event.set()
    semaphore.release()
    items.put(1)
    assert full.get() == 0
    joined.join()
    with Timeout(30):
        while not ended.is_set():
            sleep(0.001)
    other.join()


def test_a_task_of_a_pool_outlives_its_hub() -> None:
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def task() -> None:
        begun.set()
        go_on.wait()
        over.set()

    def work() -> None:
        ThreadPool(1).spawn(task)
        get_hub().threadpool.spawn(task)
        begun.wait()

    in_a_thread(work)
    go_on.set()
    assert over.wait(30)
