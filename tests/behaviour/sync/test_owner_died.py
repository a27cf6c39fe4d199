"""What happens to locks when processes die, and what only `weft.Lock` and the others have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import crew
import pytest
import weft
import weft.multiprocessing
from weft.multiprocessing import synchronize

METHODS = ("fork", "spawn", "forkserver")
FORK = weft.multiprocessing.get_context("fork")


def end_with(lock: Any, end: str, method: str = "fork", name: str | None = None) -> Any:
    context: Any = weft.multiprocessing.get_context(method)
    process = context.Process(target=crew.take_and, args=(lock, end), name=name)
    process.start()
    process.join()
    return process


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_killed_owner_is_reported_once(kind: str, method: str) -> None:
    lock = getattr(weft.multiprocessing.get_context(method), kind)()
    process = end_with(lock, "killed", method, name="Victim")
    with pytest.raises(weft.OwnerDied) as caught:
        lock.acquire()
    assert (caught.value.pid, caught.value.name) == (process.pid, "Victim")
    assert caught.value.exitcode == -signal.SIGKILL and caught.value.signal is signal.SIGKILL
    assert str(caught.value) == (
        f"process Victim {process.pid} ended while it held the lock (killed by SIGKILL)"
    )
    assert "None" in repr(lock)
    assert lock.acquire(False)
    lock.release()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("end", "orphan"), [("killed", True), ("_exit", True), ("error", False), ("return", False)]
)
def test_a_lock_is_an_orphan_only_if_its_owner_was_killed(end: str, orphan: bool, method: str) -> None:
    lock = weft.Lock()
    end_with(lock, end, method)
    if orphan:
        with pytest.raises(weft.OwnerDied):
            lock.acquire()
    else:
        assert lock.acquire(timeout=0.2) is False
        assert repr(lock) == "<Lock(owner=SomeOtherProcess)>"
        lock.release()  # what the one that ended left it for
    assert lock.acquire(False)


@pytest.mark.parametrize("end", ["killed", "_exit", "error", "return"])
def test_an_rlock_is_one_however_its_owner_ended(end: str) -> None:
    lock = weft.RLock()
    process = end_with(lock, end)
    with pytest.raises(weft.OwnerDied) as caught:
        lock.acquire()
    assert caught.value.exitcode == process.exitcode
    with lock:
        pass


def test_plain_forks_that_end() -> None:
    lock = weft.Lock()
    for end, orphan in ((lambda: None, False), (crew.die, True)):
        program = os.fork()
        if program == 0:
            # As a program of its own: through the interpreter's end.
            lock.acquire()
            end()
            try:
                sys.exit(0)
            finally:
                synchronize.end_normally()
                os._exit(0)
        os.waitpid(program, 0)
        if orphan:
            with pytest.raises(weft.OwnerDied):
                lock.acquire()
        else:
            assert lock.acquire(timeout=0.1) is False
            lock.release()


PROGRAM = """
import os, sys
import weft

lock = weft.Lock()
if os.fork() == 0:
    lock.acquire()
    sys.exit(0)  # an end like any other, through the interpreter
os.wait()
print("left taken" if not lock.acquire(timeout=0.2) else "free")
"""


def test_a_plain_fork_ends_normally_through_the_interpreter() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("left taken\n", "")


def test_an_acquirer_that_only_tries_gets_to_know() -> None:
    lock = weft.Lock()
    end_with(lock, "killed")

    def try_again_and_again() -> None:
        while not lock.acquire(False):
            pass

    with pytest.raises(weft.OwnerDied):
        try_again_and_again()
    assert lock.acquire(False)


def test_one_of_those_that_wait_is_told() -> None:
    lock, begun, end = weft.Lock(), threading.Semaphore(0), threading.Event()
    process = FORK.Process(target=hold_until_killed, args=(lock, holds := FORK.Event()))
    process.start()
    assert holds.wait(60)
    outcomes: list[object] = []

    def want() -> None:
        begun.release()
        try:
            with lock:
                outcomes.append("acquired")
        except weft.OwnerDied as error:
            outcomes.append(error.pid)

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
        begun.acquire()
    process.kill()
    for thread in threads:
        thread.join()
    process.join()
    assert sorted(outcomes, key=str) == [process.pid, "acquired", "acquired", "acquired"]
    end.set()


def hold_until_killed(lock: Any, holds: Any) -> None:
    lock.acquire()
    holds.set()
    while True:
        signal.pause()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [weft.Lock, weft.RLock])
def test_recover(kind: Any, method: str) -> None:
    lock = kind(recover=True)
    assert not lock.recovered
    process = end_with(lock, "killed", method)
    with lock:
        assert lock.recovered and lock.recovered_from == process.pid
        assert lock.acquire(False) is (kind is weft.RLock)
        if kind is weft.RLock:
            lock.release()
    with lock:
        assert not lock.recovered and lock.recovered_from is None


def test_the_option_reaches_children() -> None:
    lock = weft.Lock(recover=True)
    answers = weft.Queue[Any]()
    end_with(lock, "killed", "spawn")
    process = weft.Process(target=recover_there, args=(lock, answers))
    process.start()
    assert answers.get() is True
    process.join()


def recover_there(lock: Any, answers: Any) -> None:
    with lock:
        answers.put(lock.recovered)


def test_a_semaphore_has_no_owner() -> None:
    for semaphore in (weft.Semaphore(1), weft.BoundedSemaphore(1)):
        end_with(semaphore, "killed")
        assert semaphore.acquire(timeout=0.2) is False
        semaphore.release()
        assert semaphore.acquire(False)


def test_a_condition_is_as_its_lock() -> None:
    condition = weft.Condition()
    end_with(condition, "killed")
    with pytest.raises(weft.OwnerDied):
        condition.acquire()
    # One that waits gets the lock back with the news.
    ready = weft.Semaphore(0)
    process = FORK.Process(target=notify_and_die, args=(ready, condition))
    process.start()
    with pytest.raises(weft.OwnerDied), condition:
        ready.release()
        try:
            condition.wait()
        finally:
            assert condition._lock._semlock._is_mine()
    process.join()
    with condition:
        assert condition.wait(0.001) is False


def notify_and_die(ready: Any, condition: Any) -> None:
    ready.acquire()
    condition.acquire()
    condition.notify()
    crew.die()


def test_a_dead_waiter_counts_no_more() -> None:
    condition, ready = weft.Condition(), weft.Semaphore(0)
    process = FORK.Process(target=crew.wait_and_die, args=(ready, condition))
    process.start()
    ready.acquire()
    with condition:
        assert condition._sleeping_count.get_value() == 1
    process.kill()
    process.join()
    assert repr(condition) == "<Condition(<RLock(None, 0)>, 0)>"


def test_a_dead_party_breaks_a_barrier() -> None:
    barrier = weft.Barrier(3)
    process = FORK.Process(target=crew.arrive, args=(barrier,))
    process.start()
    broken: list[bool] = []

    def arrive() -> None:
        try:
            barrier.wait()
        except threading.BrokenBarrierError:
            broken.append(True)

    thread = threading.Thread(target=arrive)
    thread.start()
    while barrier.n_waiting < 2:
        pass
    process.kill()
    thread.join()
    process.join()
    assert broken == [True] and barrier.broken
    barrier.reset()
    assert (barrier.n_waiting, barrier.broken) == (0, False)


def test_what_a_fork_has_is_not_its_parents() -> None:
    lock = weft.RLock()
    with lock:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                lock.release()
            except AssertionError:
                code = 0 if not lock.acquire(False) else 2
            os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    assert repr(lock) == "<RLock(None, 0)>"


def test_memory_is_given_back() -> None:
    native = weft._native

    def make() -> None:
        made = [weft.Lock(), weft.RLock(), weft.Semaphore(), weft.Condition(), weft.Event(), weft.Barrier(5)]
        assert len(made) == 6

    make()
    native.sweep_shared_memory()
    before = native.shared_memory_in_use()
    for _ in range(300):
        make()
    assert native.shared_memory_in_use() <= before + (1 << 20)


def test_a_name_is_made_when_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", NAMED], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("fork None\nspawn True\ngone\n", "")


NAMED = """
import gc, _multiprocessing
import weft.multiprocessing as mp
print("fork", mp.get_context("fork").Lock()._semlock.name)
lock = mp.get_context("spawn").Lock()
name = lock._semlock.name
print("spawn", name == lock._semlock.name and name.startswith("/mp-"))
del lock
gc.collect()
try:
    _multiprocessing.sem_unlink(name)
except FileNotFoundError:
    print("gone")
"""
