"""Locks that are not weft's in places where weft's usually are, as a late install or a subclass brings about."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest
import weft
import weft.multiprocessing
from weft.multiprocessing import synchronize

FORK: Any = weft.multiprocessing.get_context("fork")
STOCK: Any = multiprocessing.get_context("fork")


@pytest.mark.parametrize("make", [STOCK.Lock, STOCK.RLock, FORK.Lock, FORK.RLock])
def test_a_condition_under_any_lock(make: Any) -> None:
    condition = FORK.Condition(make())
    for method in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises(AssertionError):
            method()
    ready: list[str] = []
    woken = threading.Event()

    def wait() -> None:
        with condition:
            ready.append("begun")
            assert condition.wait(60) is True
            woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    while not ready or condition._sleeping_count.get_value() == 0:
        pass
    with condition:
        condition.notify()
        assert not woken.is_set()
    thread.join()
    with condition:
        assert condition.wait(0.001) is False


def test_a_lock_whose_methods_were_replaced() -> None:
    calls: list[str] = []

    class Logged(synchronize.RLock):
        def _make_methods(self) -> None:
            super()._make_methods()
            release = self.release

            def logged() -> None:
                calls.append("release")
                release()

            self.release = logged

    condition = FORK.Condition(Logged(ctx=FORK))
    with condition:
        assert condition.wait(0.001) is False
    assert calls == ["release"]


def test_another_lock_in_its_place() -> None:
    lock = FORK.Lock()
    other = STOCK.Lock()
    lock._semlock = other._semlock
    lock._make_methods()
    with lock:
        assert other.acquire(False) is False
    # What `with` found before is not what it finds now.
    ours = FORK.Lock()
    with ours:
        assert ours.acquire(False) is False
    for placed in (other._semlock, FORK.Lock()._semlock, STOCK.Lock()._semlock):
        ours._semlock = placed
        with ours:
            assert placed.acquire(False) is False
        assert placed.acquire(False)
    with pytest.raises(AttributeError, match="_semlock"):
        synchronize.Lock.__new__(synchronize.Lock).__enter__()
    with pytest.raises(RuntimeError, match="was not initialised"):
        synchronize._SemLock().acquire()


def test_nothing_keeps_a_lock() -> None:
    gc.disable()
    try:
        for make in (
            weft.Lock,
            weft.RLock,
            weft.Semaphore,
            weft.Condition,
            weft.Event,
            lambda: weft.Barrier(2),
        ):
            made: Any = make()
            if hasattr(made, "__enter__"):
                with made:
                    pass
            gone = weakref.ref(made)
            del made
            assert gone() is None
    finally:
        gc.enable()


PROGRAM = """
import multiprocessing, weft
made = weft.Lock(), weft.RLock(), weft.Semaphore(), weft.Condition(), weft.Event(), weft.Barrier(2)
multiprocessing.set_start_method("spawn")
print(multiprocessing.get_start_method())
"""


def test_no_start_method_is_settled() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("spawn\n", "")
