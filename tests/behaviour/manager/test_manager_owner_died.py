"""The locks of clients that are killed, over lanes and over connections."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import weft
from things import (
    acquire_and_drop_dead,
    acquire_and_leave,
    acquire_and_stay,
    wait_at_barrier,
    wait_at_condition,
    wait_for,
)
from weft.multiprocessing import get_context
from weft.multiprocessing.managers import SyncManager

FORK = get_context("fork")


@pytest.fixture(params=["lanes", "tcp"])
def manager(request: pytest.FixtureRequest) -> Any:
    address = None if request.param == "lanes" else ("127.0.0.1", 0)
    with SyncManager(address) as started:
        yield started


@pytest.fixture
def lanes() -> Any:
    with SyncManager() as started:
        yield started


def begin(target: Any, *arguments: Any) -> tuple[Any, Any]:
    """A process, and what it says."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=target, args=(*arguments, theirs))
    process.start()
    theirs.close()
    ours.recv()
    return process, ours


def kill(process: Any) -> None:
    process.kill()
    process.join()


def known_to_have_ended(manager: Any) -> None:
    """Until the server has let go of what the other processes had."""
    wait_for(lambda: "refcount=2" not in manager._debug_info())


@pytest.mark.parametrize(
    ("kind", "times"), [("Lock", 1), ("RLock", 1), ("RLock", 3), ("Semaphore", 1), ("BoundedSemaphore", 1)]
)
def test_a_killed_owner_is_reported_once(manager: Any, kind: str, times: int) -> None:
    lock = getattr(manager, kind)()
    process, _ = begin(acquire_and_stay, lock, times)
    assert not lock.acquire(False)
    process.kill()
    # It is not waited for yet, so every kernel can say how it ended.
    with pytest.raises(weft.OwnerDied, match="killed by SIGKILL") as caught:
        lock.acquire()
    assert (caught.value.pid, caught.value.signal) == (process.pid, signal.SIGKILL)
    process.join()
    assert lock.acquire(False)
    lock.release()
    assert lock.acquire(True, 60)
    lock.release()


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_an_owner_that_was_waited_for_before_the_server_could_look(lanes: Any, kind: str) -> None:
    lock = getattr(lanes, kind)()
    process, _ = begin(acquire_and_stay, lock, 1)
    server = lanes._process.pid
    os.kill(server, signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    kill(process)
    os.kill(server, signal.SIGCONT)
    with pytest.raises(weft.OwnerDied) as caught:
        lock.acquire()
    kernel = tuple(int(part) for part in os.uname().release.split(".")[:2])
    known = signal.SIGKILL if kernel >= (6, 15) else None
    assert (caught.value.pid, caught.value.signal) == (process.pid, known)


def test_an_owner_that_ended_itself_in_the_middle(manager: Any) -> None:
    lock = manager.Lock()
    process = FORK.Process(target=acquire_and_drop_dead, args=(lock, 7))
    process.start()
    with pytest.raises(weft.OwnerDied, match="exit code 7") as caught:
        while lock.acquire(False):
            lock.release()
        lock.acquire()
    process.join()
    assert (caught.value.pid, caught.value.exitcode, caught.value.signal) == (process.pid, 7, None)


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_one_of_those_who_wait_is_told_and_all_get_on(manager: Any, kind: str) -> None:
    lock = getattr(manager, kind)()
    process, _ = begin(acquire_and_stay, lock, 1)
    told: list[int] = []

    def work() -> None:
        while True:
            try:
                with lock:
                    return
            except weft.OwnerDied:
                told.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    kill(process)
    for thread in threads:
        thread.join()
    assert told == [1]


def test_a_semaphore_gets_back_what_the_dead_had(lanes: Any) -> None:
    semaphore = lanes.BoundedSemaphore(3)
    semaphore.acquire()
    process, _ = begin(acquire_and_stay, semaphore, 2)
    assert not semaphore.acquire(False)
    kill(process)
    with pytest.raises(weft.OwnerDied):
        semaphore.acquire()
    assert semaphore.acquire(False) and semaphore.acquire(False) and not semaphore.acquire(False)
    for _ in range(3):
        semaphore.release()
    with pytest.raises(ValueError, match="too many"):
        semaphore.release()


def test_a_semaphore_that_tells_of_something_is_left_alone(lanes: Any) -> None:
    semaphore = lanes.Semaphore(0)
    for _ in range(2):
        semaphore.release()
    process, _ = begin(acquire_and_stay, semaphore, 2)
    kill(process)
    known_to_have_ended(lanes)
    assert not semaphore.acquire(False)
    semaphore.release()
    assert semaphore.acquire(False)


def test_what_another_process_released_is_not_given_back_again(lanes: Any) -> None:
    semaphore = lanes.Semaphore(1)
    process, _ = begin(acquire_and_stay, semaphore, 1)
    semaphore.release()
    assert semaphore.acquire(False)
    kill(process)
    known_to_have_ended(lanes)
    assert not semaphore.acquire(False)


@pytest.mark.parametrize("kind", ["Lock", "Semaphore"])
def test_one_that_ends_normally_leaves_it_taken(manager: Any, kind: str) -> None:
    lock, other = getattr(manager, kind)(), manager.RLock()
    process = FORK.Process(target=acquire_and_leave, args=(lock,))
    process.start()
    process.join()
    # Whoever is killed after it is known to have ended after it.
    process, _ = begin(acquire_and_stay, other, 1)
    kill(process)
    with pytest.raises(weft.OwnerDied):
        other.acquire()
    assert not lock.acquire(False)
    lock.release()
    assert lock.acquire(False)


def test_an_rlock_of_one_that_ended_normally(manager: Any) -> None:
    lock = manager.RLock()
    process = FORK.Process(target=acquire_and_leave, args=(lock,))
    process.start()
    process.join()
    with pytest.raises(weft.OwnerDied) as caught:
        lock.acquire()
    assert caught.value.pid == process.pid


def test_the_rlock_is_what_it_was(lanes: Any) -> None:
    lock = lanes.RLock()
    with pytest.raises(RuntimeError, match="un-acquired"):
        lock.release()
    assert lock.acquire() and lock.acquire(False) and lock.acquire(True, 5)
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(lock.acquire(False)))
    thread.start()
    thread.join()
    assert results == [False]
    with pytest.raises(ValueError, match="non-blocking"):
        lock.acquire(False, 5)
    for _ in range(3):
        lock.release()
    with pytest.raises(RuntimeError, match="un-acquired"):
        lock.release()


def test_a_killed_waiter_takes_no_notification_along(lanes: Any) -> None:
    condition = lanes.Condition()
    victim, _ = begin(wait_at_condition, condition)
    with condition:
        pass  # it waits
    other, ours = begin(wait_at_condition, condition)
    with condition:
        pass
    kill(victim)
    with condition:
        condition.notify(1)
    assert ours.recv() is True
    other.join()


def test_one_that_is_killed_with_its_notification_passes_it_on(lanes: Any) -> None:
    condition = lanes.Condition()
    victim, _ = begin(wait_at_condition, condition)
    with condition:
        pass
    other, ours = begin(wait_at_condition, condition)
    with condition:
        condition.notify(1)  # the one that has waited for longest
        kill(victim)
        wait_for(lambda: "refcount=3" not in lanes._debug_info())
    assert ours.recv() is True
    other.join()


def test_a_condition_is_as_its_lock(manager: Any) -> None:
    condition = manager.Condition()
    owner, _ = begin(acquire_and_stay, condition, 1)
    kill(owner)
    with pytest.raises(weft.OwnerDied):
        condition.acquire()
    with condition:
        condition.notify_all()
    for call in (condition.wait, condition.notify, condition.notify_all, condition.release):
        with pytest.raises(RuntimeError, match="un-acquired"):
            call()


def test_a_waiter_is_told_with_the_lock_held(lanes: Any) -> None:
    condition = lanes.Condition()
    outcome: list[str] = []
    waits = threading.Event()

    def wait() -> None:
        with condition:
            waits.set()
            try:
                condition.wait()
            except weft.OwnerDied:
                outcome.append("told")

    thread = threading.Thread(target=wait)
    thread.start()
    waits.wait()
    owner, _ = begin(acquire_and_stay, condition, 1)
    kill(owner)
    while not outcome:
        try:
            with condition:
                condition.notify_all()
        except weft.OwnerDied:
            outcome.append("this one was told")
    with condition:
        condition.notify_all()
    thread.join()
    assert len(outcome) == 1


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_condition_under_a_lock_of_the_server(lanes: Any, kind: str) -> None:
    lock = getattr(lanes, kind)()
    condition = lanes.Condition(lock)
    process, ours = begin(wait_at_condition, condition)
    with lock:
        condition.notify()
    assert ours.recv() is True
    process.join()


def test_a_wait_that_is_in_vain(lanes: Any) -> None:
    condition = lanes.Condition()
    with condition:
        assert condition.wait(0.01) is False
    assert lanes.Event().wait(0.01) is False


def test_a_barrier_breaks(manager: Any) -> None:
    barrier = manager.Barrier(2)
    process, _ = begin(wait_at_barrier, barrier)
    wait_for(lambda: barrier.n_waiting == 1)
    kill(process)
    wait_for(lambda: barrier.broken)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    threads = [threading.Thread(target=barrier.wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_client_without_weft_that_is_killed(lanes: Any) -> None:
    lock, other = lanes.RLock(), lanes.Lock()
    program = f"""
import multiprocessing.managers as m, multiprocessing, sys
multiprocessing.current_process().authkey = {bytes(lanes._authkey)!r}
for ident in ({lock._id!r}, {other._id!r}):
    m.AcquirerProxy(m.Token("Lock", {lanes.address!r}, ident), "pickle").acquire()
print("held", flush=True)
sys.stdin.read()
"""
    client = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("WEFT")},
    )
    with client:
        assert client.stdout.readline() == "held\n"
        assert not lock.acquire(False)
        client.kill()
        # It is not waited for yet, so the kernel can still say that it was killed.
        for each in (lock, other):
            with pytest.raises(weft.OwnerDied) as caught:
                each.acquire()
            assert caught.value.pid == client.pid
            assert each.acquire(False)


def test_a_client_that_cannot_import_weft_is_told_in_words(lanes: Any) -> None:
    lock = lanes.Lock()
    process, _ = begin(acquire_and_stay, lock, 1)
    program = f"""
import sys
sys.modules["weft"] = None
import multiprocessing.managers as m, multiprocessing
multiprocessing.current_process().authkey = {bytes(lanes._authkey)!r}
proxy = m.AcquirerProxy(m.Token("Lock", {lanes.address!r}, {lock._id!r}), "pickle")
print("ready", flush=True)
sys.stdin.read()
try:
    proxy.acquire()
except m.RemoteError as error:
    print("SIGKILL" in str(error), proxy.acquire())
"""
    client = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with client:
        assert client.stdout.readline() == "ready\n"
        process.kill()
        said, _ = client.communicate("")
    process.join()
    assert said == "True True\n"
