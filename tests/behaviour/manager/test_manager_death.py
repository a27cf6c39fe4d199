"""The ends of servers and of clients."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import weft
from things import Custom, Getters, alarm, call_of_dead, hold, hold_and_leave, keep, take, wait_for
from weft.multiprocessing import _manager_client, get_context
from weft.multiprocessing.managers import SyncManager


@pytest.fixture(params=["fork", "forkserver", "spawn"])
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def started(method: str, target: object, *arguments: object) -> tuple[object, object]:
    context = get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs))
    process.start()
    return process, ours


def test_the_death_of_the_server_reaches_all_who_wait(method: str) -> None:
    manager = get_context(method).Manager()
    pid = manager._process.pid
    q = manager.Queue()
    process, ours = started("fork", call_of_dead, q)
    getters = Getters(q, 3)
    assert ours.recv() == "begun"
    os.kill(pid, signal.SIGKILL)
    getters.join()
    name, text, is_eof, is_connection = ours.recv()
    process.join()
    assert (name, is_eof, is_connection) == ("ManagerDied", True, True)
    assert str(pid) in text
    assert len(getters.errors) == 3
    for error in getters.errors:
        assert isinstance(error, weft.ManagerDied)
        assert (error.pid, error.signal) == (pid, signal.SIGKILL)
        assert "SIGKILL" in str(error)
    for _ in range(2):
        with pytest.raises(weft.ManagerDied):
            q.qsize()
    with pytest.raises(weft.ManagerDied, match="SIGKILL"):
        manager.dict()
    manager.shutdown()


def test_a_manager_that_was_shut_down() -> None:
    manager = weft.Manager()
    d = manager.dict()
    d["x"] = 1
    manager.shutdown()
    with pytest.raises(weft.ManagerDied, match="shut down"):
        d["x"]


def test_the_error_can_be_pickled() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(weft.ManagerDied(7, "manager", -9)))
    assert (error.pid, error.name, error.exitcode, error.signal) == (7, "manager", -9, signal.SIGKILL)


@pytest.mark.parametrize(
    "method", ["fork", "forkserver"]
)  # a spawned process has no reference of its own to its arguments
def test_a_killed_client_leaves_nothing(manager: SyncManager, method: str) -> None:
    d = manager.dict()
    process, ours = started(method, keep, d)
    assert ours.recv() == 0
    before = manager.address
    count = manager._debug_info().count("refcount=2")
    assert count == 1, before
    process.kill()
    process.join()
    wait_for(lambda: "refcount=2" not in manager._debug_info())
    assert manager._number_of_objects() == 1


def test_a_killed_client_takes_no_message_along(manager: SyncManager) -> None:
    q = manager.Queue()
    process, ours = started("fork", take, q)
    assert ours.recv() == "begun"
    process.kill()
    process.join()
    # It is gone for the server when its reference is.
    wait_for(lambda: "refcount=1" in manager._debug_info())
    q.put("message")
    assert q.get(timeout=None) == "message"


def test_the_lock_of_a_killed_client(manager: SyncManager) -> None:
    lock = manager.Lock()
    process, ours = started("fork", hold, lock)
    assert ours.recv() == "held"
    assert not lock.acquire(False)
    process.kill()
    with pytest.raises(weft.OwnerDied) as caught:
        lock.acquire()
    assert caught.value.pid == process.pid
    process.join()
    assert lock.acquire(False)
    lock.release()


def test_the_lock_of_a_client_that_ends_normally_stays_taken(manager: SyncManager) -> None:
    lock = manager.Lock()
    process = get_context("fork").Process(target=hold_and_leave, args=(lock,))
    process.start()
    process.join()
    wait_for(lambda: "refcount=1" in manager._debug_info())
    assert not lock.acquire(False)
    lock.release()


def test_an_interrupted_call_spoils_nothing() -> None:
    with Custom() as manager:
        gate, d = manager.Gate(), manager.dict(x=1)

        with alarm(), pytest.raises(InterruptedError):
            gate.pass_through()
        assert d["x"] == 1
        gate.open()
        assert gate.pass_through() == "through"


def test_a_signal_handler_may_call_as_well() -> None:
    with Custom() as manager:
        gate, d = manager.Gate(), manager.dict(x=1)
        seen: list[int] = []

        def handler(*_: object) -> None:
            seen.append(d["x"])
            gate.open()

        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert gate.pass_through() == "through"
        finally:
            signal.signal(signal.SIGALRM, before)
        assert seen == [1]


def _claim_and_die(proxy: object) -> None:
    desk = _manager_client._desks[proxy._token.address]
    lanes = [desk.claim() for _ in range(250)]
    assert None not in lanes
    os.kill(os.getpid(), signal.SIGKILL)


def test_lanes_of_a_process_that_never_called(manager: SyncManager) -> None:
    d = manager.dict(x=1)
    assert d["x"] == 1
    process = get_context("fork").Process(target=_claim_and_die, args=(d,))
    process.start()
    process.join()
    kinds: list[str] = []

    def work() -> None:
        d["x"]
        kinds.append(type(d._tls.connection).__name__)

    for _ in range(2):
        threads = [threading.Thread(target=work) for _ in range(20)]
        held = [_manager_client._desks[manager.address].claim() for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        del held
    assert kinds[-1] == "ManagerLane"


def test_more_threads_than_lanes(manager: SyncManager) -> None:
    d = manager.dict()
    barrier = threading.Barrier(300)
    kinds: list[str] = []

    def work(number: int) -> None:
        barrier.wait()
        d[number] = number
        kinds.append(type(d._tls.connection).__name__)
        barrier.wait()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert d.copy() == {number: number for number in range(300)}
    assert set(kinds) == {"ManagerLane", "_Socket"}
    # The lanes of threads that ended are there for others.
    thread = threading.Thread(target=lambda: kinds.append(str(d[1]) + type(d._tls.connection).__name__))
    thread.start()
    thread.join()
    assert kinds[-1] == "1ManagerLane"
