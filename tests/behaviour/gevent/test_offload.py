"""Calls that block, in threads beside the hub."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import weft
from weft import offload
from weft.coroutines import Timeout, offload_threads, sleep, spawn
from weft.gevent import GreenletExit, get_hub, joinall
from weft.gevent.exceptions import BlockingSwitchOutError


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end in any case, so that no thread stays in it."""
    made = threading.Event()
    yield made
    made.set()


def test_only_the_caller_waits(gate: threading.Event) -> None:
    def main() -> str:
        return offload(lambda: (gate.wait(), threading.current_thread().name)[1])

    waiting = spawn(main)
    for _ in range(20):
        sleep(0.0005)
    assert not waiting.ready()
    gate.set()
    assert waiting.get() != threading.current_thread().name


def test_in_coroutines_it_is_yielded_or_awaited() -> None:
    def run() -> Generator[Any, Any, list[int]]:
        first = offload(int, "1")
        got = [(yield first), (yield offload(int, "2")), (yield first)]
        try:
            yield offload(int, "x")
        except ValueError:
            got.append(3)
        return got

    async def run_async() -> list[int]:
        got = [await offload(int, "1"), await offload(int, "12", base=3)]
        try:
            await offload(int, "x")
        except ValueError:
            got.append(3)
        return got

    assert spawn(run).get() == [1, 2, 1, 3]
    assert spawn(run_async).get() == [1, 5, 3]


def test_values_errors_and_context_come_along() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("mine")
    assert offload(variable.get) == "mine"
    with pytest.raises(ZeroDivisionError) as caught:
        offload(lambda: 1 / 0)
    assert any(entry.name == "<lambda>" for entry in caught.traceback)
    with pytest.raises(SystemExit):
        offload(sys.exit, 3)
    with pytest.raises(TypeError, match="callable"):
        offload(3)  # type: ignore[arg-type]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = offload_threads()
    assert offload_threads(2) == 2
    yield
    offload_threads(before)


def test_a_bound_on_threads(two_threads: None, gate: threading.Event) -> None:
    inside = []
    most = 0
    lock = threading.Lock()

    def call() -> None:
        nonlocal most
        with lock:
            inside.append(1)
            most = max(most, len(inside))
        gate.wait()
        with lock:
            inside.pop()

    calls = [spawn(offload, call) for _ in range(10)]
    while len(inside) < 2:
        sleep(0.001)
    for _ in range(20):
        sleep(0.0005)
    gate.set()
    joinall(calls, raise_error=True)
    assert most == 2
    with pytest.raises(ValueError, match="at least one"):
        offload_threads(0)


@pytest.mark.parametrize("how", ["greenlet", "generator"])
def test_who_is_killed_goes_on_and_the_call_ends(two_threads: None, gate: threading.Event, how: str) -> None:
    begun, done = [], []

    def call(number: int) -> int:
        begun.append(number)
        gate.wait()
        done.append(number)
        return number

    def function(number: int) -> int:
        return offload(call, number)

    def generator(number: int) -> Generator[Any, Any, int]:
        return (yield offload(call, number))

    calls = [spawn(function if how == "greenlet" else generator, number) for number in range(4)]
    while len(begun) < 2:
        sleep(0.001)
    calls[0].kill()  # under way
    calls[3].kill()  # in line
    assert isinstance(calls[0].value, GreenletExit) and isinstance(calls[3].value, GreenletExit)
    gate.set()
    assert [calls[1].get(), calls[2].get()] == [1, 2]
    while len(done) < 3:
        sleep(0.001)
    assert sorted(done) == [0, 1, 2]
    assert get_hub().loop.activecnt == 0


def test_a_timeout(gate: threading.Event) -> None:
    with Timeout(0.002, False):
        offload(gate.wait)
        raise AssertionError("it is not over")
    assert offload(int, 3) == 3


def test_in_the_hub_it_is_refused() -> None:
    failures = []

    def in_the_hub() -> None:
        try:
            offload(int)
        except BlockingSwitchOutError as error:
            failures.append(error)

    get_hub().loop.run_callback(in_the_hub)
    sleep(0.001)
    assert len(failures) == 1


def test_after_a_fork(gate: threading.Event) -> None:
    waiting = spawn(offload, gate.wait, 60)
    sleep(0)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if offload(int, "7") == 7:
                try:
                    waiting.get()
                except RuntimeError as error:
                    status = 0 if "parent" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    gate.set()
    assert waiting.get() is True


def test_a_hub_of_each_thread() -> None:
    results: list[int] = []

    def in_a_thread() -> None:
        results.extend(each.get() for each in joinall([spawn(offload, int, number) for number in range(5)]))
        get_hub().destroy(destroy_loop=True)

    threads = [threading.Thread(target=in_a_thread) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted([*range(5)] * 4)


def test_a_call_outlives_its_hub(gate: threading.Event) -> None:
    begun, over = threading.Event(), threading.Event()
    spawn(offload, lambda: (begun.set(), gate.wait(), over.set()))
    while not begun.is_set():
        sleep(0.001)
    get_hub().destroy(destroy_loop=True)
    gate.set()
    over.wait()


PROGRAM = """
import time, weft
from weft.coroutines import sleep, spawn

spawn(weft.offload, time.sleep, 3600)
sleep(0.01)
print("ends", flush=True)
"""


def test_the_end_of_the_program_waits_for_no_call() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ends\n", "")


def test_many_calls() -> None:
    def call(number: int) -> int:
        if number % 50 == 0:
            time.sleep(0)
        return number

    run: Callable[..., Any] = weft.spawn
    assert sum(each.get() for each in joinall([run(offload, call, number) for number in range(2000)])) == sum(
        range(2000)
    )
