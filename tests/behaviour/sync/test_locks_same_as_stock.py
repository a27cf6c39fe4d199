"""What programs see of locks, on both sides: the standard library's and weft's."""

from __future__ import annotations

import errno
import inspect
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import crew
import pytest
import weft.multiprocessing

SIDES: dict[str, Any] = {"stock": multiprocessing, "weft": weft.multiprocessing}


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Any:
    return SIDES[request.param]


@pytest.fixture
def fork(side: Any) -> Any:
    return side.get_context("fork")


def in_thread(work: Any) -> Any:
    """What `work` returns or raises in another thread."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="Other")
    thread.start()
    thread.join()
    return outcome[0]


def test_a_lock(fork: Any) -> None:
    lock = fork.Lock()
    assert repr(lock) == "<Lock(owner=None)>"
    assert lock.acquire() is True and lock.acquire(False) is False
    assert repr(lock) == "<Lock(owner=MainProcess)>"
    assert in_thread(lambda: repr(lock)) == "<Lock(owner=SomeOtherThread)>"
    assert in_thread(lock.release) is None  # anybody may
    with pytest.raises(ValueError, match=r"^semaphore or lock released too many times$"):
        lock.release()
    assert in_thread(lambda: lock.acquire() and repr(lock)) == "<Lock(owner=MainProcess|Other)>"
    lock.release()
    with lock as entered:
        assert entered is True
        assert lock.acquire(timeout=0.001) is False
        assert lock.acquire(True, 0.001) is False and lock.acquire(True, -1) is False
    assert repr(lock) == "<Lock(owner=None)>"


def test_an_rlock(fork: Any) -> None:
    lock = fork.RLock()
    assert repr(lock) == "<RLock(None, 0)>"
    with lock, lock:
        assert lock.acquire() is True
        assert repr(lock) == "<RLock(MainProcess, 3)>"
        assert in_thread(lambda: repr(lock)) == "<RLock(SomeOtherThread, nonzero)>"
        assert in_thread(lambda: lock.acquire(False)) is False
        error = in_thread(lock.release)
        assert isinstance(error, AssertionError)
        assert str(error) == "attempt to release recursive lock not owned by thread"
        lock.release()
    with pytest.raises(AssertionError):
        lock.release()
    assert repr(lock) == "<RLock(None, 0)>"


def is_taken(lock: Any) -> bool:
    """Whether another thread cannot acquire it now."""

    def attempt() -> bool:
        if lock.acquire(False):
            lock.release()
            return False
        return True

    return bool(in_thread(attempt))


def test_every_way_to_enter(fork: Any) -> None:
    class Derived(type(fork.RLock())):  # type: ignore[misc]
        entered = 0

        def __enter__(self) -> Any:
            self.entered += 1
            return super().__enter__()

    for lock in (fork.Lock(), fork.RLock(), fork.Semaphore(1), Derived(ctx=fork)):
        for _ in range(2):  # the second time, it may be known from the first
            with lock as entered:
                assert entered is True and is_taken(lock)
            assert not is_taken(lock)
            with ExitStack() as stack:
                assert stack.enter_context(lock) is True and is_taken(lock)
            assert not is_taken(lock)
            assert lock.__enter__() is True and is_taken(lock)
            assert lock.__exit__(None, None, None) is None and not is_taken(lock)
            assert type(lock).__enter__(lock) is True and is_taken(lock)
            assert type(lock).__exit__(lock, None, None, None) is None and not is_taken(lock)
            with pytest.raises(ZeroDivisionError), lock:
                raise ZeroDivisionError
            assert not is_taken(lock)
        with pytest.raises((AttributeError, TypeError)):
            type(lock).__enter__(object())
    assert lock.entered == 10


def test_semaphores(fork: Any) -> None:
    semaphore, bounded = fork.Semaphore(2), fork.BoundedSemaphore(1)
    assert repr(semaphore) == "<Semaphore(value=2)>"
    assert repr(bounded) == "<BoundedSemaphore(value=1, maxvalue=1)>"
    assert semaphore.acquire() and semaphore.acquire() and not semaphore.acquire(False)
    assert semaphore._semlock._is_zero()
    for value in range(5):
        assert semaphore.get_value() == value
        semaphore.release()
    with pytest.raises(ValueError, match="released too many times"):
        bounded.release()
    with bounded:
        assert bounded.get_value() == 0
    for make in (fork.Semaphore, fork.BoundedSemaphore):
        with pytest.raises(OSError) as caught:
            make(-1)
        assert caught.value.args == (errno.EINVAL, "Invalid argument")
    with pytest.raises(OverflowError):
        fork.Semaphore(1 << 40)


@pytest.mark.parametrize("make", [weft.Semaphore, weft.BoundedSemaphore])
def test_what_a_semaphore_cannot_begin_with(make: Callable[[Any], Any]) -> None:
    for value in (-1, 1 << 40):
        with pytest.raises(ValueError, match=f"value must be from 0 to .*, not {value}"):
            make(value)
    for wrong in ("x", None, 1.5):
        with pytest.raises(TypeError, match="value must be an int, not "):
            make(wrong)


@pytest.mark.parametrize("make", [weft.Barrier, weft.multiprocessing.Barrier])
def test_how_many_a_barrier_cannot_be_for(make: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match="parties must be >= 1"):
        make(-1)
    for wrong in ("x", None, 1.5):
        with pytest.raises(TypeError, match="parties must be an int, not "):
            make(wrong)


@pytest.mark.parametrize("arguments", [(1, 2, 3), ("a", "b", "c")])
def test_wrong_arguments(fork: Any, arguments: tuple[object, ...]) -> None:
    lock = fork.Lock()
    with pytest.raises(TypeError):
        lock.acquire(*arguments)
    with pytest.raises(TypeError):
        lock.acquire(blocking=False)
    with pytest.raises(TypeError):
        lock.acquire(True, block=False)
    with pytest.raises(TypeError):
        lock.acquire(True, "soon")
    assert lock.acquire(block=False, timeout=None)


def test_the_inside(fork: Any) -> None:
    lock, rlock, semaphore = fork.Lock(), fork.RLock(), fork.Semaphore(3)
    assert [one._semlock.kind for one in (lock, rlock, semaphore)] == [1, 0, 1]
    most = semaphore._semlock.SEM_VALUE_MAX
    assert [one._semlock.maxvalue for one in (lock, rlock, semaphore)] == [1, 1, most]
    assert most == 2**31 - 1
    assert lock._semlock.name is None
    assert isinstance(lock._semlock.handle, int)
    assert "acquire" in vars(lock) and "release" in vars(lock)
    lock.acquire()
    rebuilt = type(lock._semlock)._rebuild(lock._semlock.handle, 1, 1, None)
    assert rebuilt._get_value() == 0 and rebuilt._count() == 0 and lock._semlock._count() == 1
    assert lock._semlock._is_mine() and not rebuilt._is_mine()
    rebuilt.release()
    assert lock._semlock._get_value() == 1 and lock._semlock._is_mine()
    lock._semlock._after_fork()
    assert not lock._semlock._is_mine()
    del lock.acquire
    lock._make_methods()
    assert lock.acquire(False)
    assert inspect.signature(lock.acquire).parameters["timeout"].default is None


def test_pickled_only_for_a_child(side: Any) -> None:
    context = side.get_context("spawn")
    everything = [context.Lock(), context.RLock(), context.Semaphore(), context.BoundedSemaphore()]
    everything += [context.Condition(), context.Event(), context.Barrier(2)]
    for one in everything:
        with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
            pickle.dumps(one)


def test_a_lock_of_a_fork_context_is_not_for_others(side: Any) -> None:
    lock = side.get_context("fork").Lock()
    process = side.get_context("spawn").Process(target=crew.arrive, args=(lock,))
    with pytest.raises(RuntimeError, match="A SemLock created in a fork context is being shared"):
        process.start()


@pytest.mark.parametrize(
    ("name", "method"),
    # The standard library's fork server leaves files that only the end of the program removes.
    [("stock", "fork"), ("stock", "spawn"), ("weft", "fork"), ("weft", "spawn"), ("weft", "forkserver")],
)
def test_children_have_them(name: str, method: str) -> None:
    context = SIDES[name].get_context(method)
    everything = {
        "lock": context.Lock(),
        "rlock": context.RLock(),
        "semaphore": context.Semaphore(2),
        "condition": context.Condition(),
        "event": context.Event(),
        "barrier": context.Barrier(2),
    }
    answers = context.Queue()
    everything["lock"].acquire()
    everything["rlock"].acquire()
    child = context.Process(target=crew.use_all, args=(everything, answers))
    with everything["condition"]:
        child.start()
        assert everything["condition"].wait(60)
    assert everything["event"].wait(60)
    everything["barrier"].wait(60)
    found = answers.get()
    child.join()
    assert child.exitcode == 0
    assert found == {
        "lock": (False, "<Lock(owner=SomeOtherProcess)>", 0),
        "rlock": (False, "<RLock(SomeOtherProcess, nonzero)>"),
        "rlock release": "attempt to release recursive lock not owned by thread",
        "semaphore": (True, 1, "<Semaphore(value=1)>"),
    }
    assert everything["lock"]._semlock._get_value() == 1
    assert everything["rlock"]._semlock._is_mine()
    everything["rlock"].release()


def test_a_condition(fork: Any) -> None:
    condition = fork.Condition()
    assert repr(condition) == "<Condition(<RLock(None, 0)>, 0)>"
    for method in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises(AssertionError):
            method()
    entered = fork.Semaphore(0)
    woken: list[bool] = []

    def wait() -> None:
        with condition, condition:
            entered.release()
            woken.append(condition.wait(60))
            assert condition._lock._semlock._count() == 2

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
        entered.acquire()
    with condition:
        assert repr(condition) == "<Condition(<RLock(MainProcess, 1)>, 3)>"
        assert condition._sleeping_count.get_value() - condition._woken_count.get_value() == 3
        condition.notify(2)
    while len(woken) < 2:
        time.sleep(0.001)
    with condition:
        condition.notify_all()
    for thread in threads:
        thread.join()
    assert woken == [True] * 3
    assert condition._sleeping_count.get_value() == condition._woken_count.get_value()
    assert condition._wait_semaphore.get_value() == 0
    with condition:
        assert condition.wait(0.001) is False and condition.wait(-1) is False
        assert condition.wait_for(lambda: False, 0.001) is False
        assert condition.wait_for(lambda: "yes") == "yes"


def test_a_condition_with_a_lock_of_its_own(fork: Any) -> None:
    lock = fork.Lock()
    condition = fork.Condition(lock)
    assert condition._lock is lock
    with condition:
        assert lock.acquire(False) is False
        assert condition.wait(0.001) is False
        assert lock.acquire(False) is False
    assert lock.acquire(False)


def test_an_event(fork: Any) -> None:
    event = fork.Event()
    assert not event.is_set() and event.wait(0) is False and event.wait(0.001) is False
    assert repr(event).startswith("<Event at 0x") and repr(event).endswith(" unset>")
    event.set()
    event.set()
    assert event.is_set() and event.wait() is True and event.wait(timeout=0) is True
    assert repr(event).endswith(" set>")
    event.clear()
    assert not event.is_set()


def test_a_barrier(fork: Any) -> None:
    calls: list[int] = []
    barrier = fork.Barrier(2, lambda: calls.append(1), timeout=60)
    assert isinstance(barrier, threading.Barrier)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (2, 0, False)
    assert "waiters=0/2" in repr(barrier)
    numbers: list[int] = []
    thread = threading.Thread(target=lambda: numbers.append(barrier.wait()))
    thread.start()
    numbers.append(barrier.wait())
    thread.join()
    assert sorted(numbers) == [0, 1] and calls == [1]
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0.001)
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken
    barrier.abort()
    assert barrier.broken


def test_an_action_that_fails_breaks_a_barrier(fork: Any) -> None:
    def action() -> None:
        raise LookupError("on purpose")

    barrier = fork.Barrier(1, action)
    with pytest.raises(LookupError, match="on purpose"):
        barrier.wait()
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()


def test_a_plain_fork_leaves_the_lock_to_the_parent(fork: Any) -> None:
    lock = fork.Lock()
    lock.acquire()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if lock.acquire(False) is False else 1)
    assert os.waitpid(pid, 0)[1] == 0
    lock.release()
    assert lock.acquire(False)
