"""Servers that are not there any more, for those who come afterwards or over a network."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import things
import weft
from things import Getters, Remote, connect_and_wait, use_late
from weft.multiprocessing import get_context
from weft.multiprocessing.managers import SyncManager

PEER = Path(__file__).with_name("manager_peer.py")
NETWORK = ("127.0.0.1", 0)


@pytest.fixture(params=["lanes", "tcp"])
def started(request: pytest.FixtureRequest) -> Any:
    """A manager on this machine, reached by either way."""
    manager = SyncManager(None if request.param == "lanes" else NETWORK)
    manager.start()
    yield manager
    manager.shutdown()


def kill(manager: Any) -> int:
    """Kill its server, and wait for it."""
    pid: int = manager._process.pid
    os.kill(pid, signal.SIGKILL)
    manager._process.join()
    return pid


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_process_that_comes_after_the_death(started: Any, method: str) -> None:
    d = started.dict(x=1)
    pid = kill(started)
    context = get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=use_late, args=(d, theirs))
    child.start()
    kinds, named, ended_by, text = ours.recv()
    child.join()
    assert "ManagerDied" in kinds and "EOFError" in kinds and "ConnectionError" in kinds
    assert (named, ended_by) == (pid, signal.SIGKILL)
    assert "SIGKILL" in text


def test_a_proxy_that_is_unpickled_after_the_death(started: Any) -> None:
    data = pickle.dumps(started.dict())
    pid = kill(started)
    with pytest.raises(weft.ManagerDied) as caught:
        pickle.loads(data)
    assert (caught.value.pid, caught.value.signal) == (pid, signal.SIGKILL)
    assert isinstance(caught.value, (FileNotFoundError, ConnectionRefusedError))
    # By a process that never knew the server: who it was is in the pickle.
    program = f"import pickle, weft\ntry: pickle.loads({data!r})\nexcept weft.ManagerDied as error: print(error.pid)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(pid)


def test_an_address_at_which_nobody_serves(tmp_path: Path) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
    nobody_listens = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as placeholder:
        placeholder.bind(str(nobody_listens))
    cases: list[tuple[Any, type[OSError]]] = [
        (("127.0.0.1", port), ConnectionRefusedError),
        (str(nobody_listens), ConnectionRefusedError),
        (str(tmp_path / "nothing"), FileNotFoundError),
    ]
    for address, kind in cases:
        with pytest.raises(weft.ManagerDied) as caught:
            SyncManager(address, b"key").connect()
        assert isinstance(caught.value, kind)
        assert caught.value.pid is None and caught.value.address == address
        assert repr(address) in str(caught.value) and "not started" in str(caught.value)
        again = pickle.loads(pickle.dumps(caught.value))
        assert type(again) is type(caught.value) and str(again) == str(caught.value)


def test_a_death_in_the_middle_of_a_call(started: Any) -> None:
    q = started.Queue()
    getters = Getters(q, 3)
    pid = started._process.pid
    os.kill(pid, signal.SIGKILL)
    getters.join()
    assert len(getters.errors) == 3
    for error in getters.errors:
        assert isinstance(error, weft.ManagerDied) and isinstance(error, EOFError)
        assert (error.pid, error.signal) == (pid, signal.SIGKILL)
    with pytest.raises(weft.ManagerDied, match="SIGKILL"):
        q.qsize()
    with pytest.raises(weft.ManagerDied, match="SIGKILL"):
        started.dict()


@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET"])
def test_a_client_that_only_knows_the_address(family: str) -> None:
    context = get_context("spawn")
    manager = Remote(None if family == "AF_UNIX" else NETWORK, b"key")
    manager.start()
    ours, theirs = context.Pipe()
    child = context.Process(target=connect_and_wait, args=(manager.address, b"key", theirs))
    child.start()
    theirs.close()
    assert ours.recv() == 0
    pid = manager._process.pid
    # It is not waited for before the client has asked the kernel.
    os.kill(pid, signal.SIGKILL)
    kinds, named, ended_by, _text = ours.recv()
    child.join()
    manager.shutdown()
    assert "ManagerDied" in kinds
    assert (named, ended_by) == (pid, signal.SIGKILL)


def test_a_server_without_weft(tmp_path: Path) -> None:
    class Client(SyncManager):
        pass

    Client.register("queue")
    serving = subprocess.Popen(
        [sys.executable, PEER, "serve", "AF_INET"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with serving:
        address = tuple(eval(serving.stdout.readline()))
        manager = Client(address, b"key")
        manager.connect()
        q = manager.queue()
        began = threading.Event()
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                q.qsize()
                began.set()
                q.get()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        began.wait()
        serving.kill()
        thread.join()
    (error,) = errors
    assert isinstance(error, weft.ManagerDied) and isinstance(error, (EOFError, ConnectionError))
    assert error.pid is None and str(address) in str(error)
    with pytest.raises(ConnectionRefusedError) as caught:
        q.qsize()
    assert isinstance(caught.value, weft.ManagerDied)


def test_after_a_shutdown_in_good_order(started: Any) -> None:
    d = started.dict(x=1)
    pid = started._process.pid
    started.shutdown()
    for _ in range(2):
        with pytest.raises(weft.ManagerDied, match="was shut down") as caught:
            d["x"]
        assert (caught.value.pid, caught.value.exitcode) == (pid, 0)


def test_a_server_that_ends_before_it_serves() -> None:
    manager = SyncManager()
    with pytest.raises(weft.ManagerDied) as caught:
        manager.start(os._exit, (3,))
    assert (caught.value.pid, caught.value.exitcode) == (manager._process.pid, 3)


def test_a_connection_that_is_lost_is_no_death() -> None:
    with things.Impatient(NETWORK) as manager:
        d = manager.dict(x=1)
        with pytest.raises((EOFError, ConnectionError)) as caught:
            d["large"] = b"x" * 50_000
        assert not isinstance(caught.value, weft.ManagerDied)
        assert d.copy() == {"x": 1}


# SIGTERM does not reach a process that is stopped, but one that is about to be.
BY_FORCE = (-signal.SIGTERM, -signal.SIGKILL)


@pytest.mark.parametrize("address", [None, NETWORK], ids=["unix", "tcp"])
@pytest.mark.parametrize("serializer", ["pickle", "xmlrpclib"])
def test_a_server_that_is_stopped_is_ended_all_the_same(address: Any, serializer: str) -> None:
    manager = SyncManager(address, serializer=serializer, shutdown_timeout=0.1)
    manager.start()
    os.kill(manager._process.pid, signal.SIGSTOP)
    manager.shutdown()
    assert manager._process.exitcode in BY_FORCE


def test_a_server_that_is_stopped_and_has_a_queue_of_clients() -> None:
    manager = SyncManager(shutdown_timeout=0.1)
    manager.start()
    os.kill(manager._process.pid, signal.SIGSTOP)
    waiting = []
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        waiting.append(client)
        try:
            client.connect(manager.address)
        except BlockingIOError:
            break
    manager.shutdown()
    assert manager._process.exitcode in BY_FORCE
    for client in waiting:
        client.close()


def ignore_requests() -> None:
    """An initializer of servers that do not end when they are told to, by whatever way but one."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Deaf.shutdown = Deaf.stay  # type: ignore[method-assign]


class Deaf(things.Server):
    """Its end takes force."""

    def stay(self, c: Any) -> None:
        c.send(("#RETURN", None))


class Stubborn(SyncManager):
    _Server = Deaf


def test_a_server_that_does_not_want_to_end_is_ended_all_the_same() -> None:
    manager = Stubborn(shutdown_timeout=0.1)
    manager.start(ignore_requests)
    manager.shutdown()
    assert manager._process.exitcode == -signal.SIGKILL


def test_a_manager_that_does_not_serve_says_why() -> None:
    manager = SyncManager()
    # The standard library's class of errors.
    with pytest.raises(AssertionError, match=r"'dict': server not yet started"):
        manager.dict()
    with manager:
        manager.dict()
    for _ in range(2):
        with pytest.raises(AssertionError, match=r"'dict': the manager was shut down"):
            manager.dict()


def test_the_errors_have_names_of_their_own(tmp_path: Path) -> None:
    for name in ("ManagerDied", "ManagerMissing", "ManagerRefused", "OwnerDied"):
        kind = getattr(weft, name)
        assert name in weft.__all__ and (kind.__module__, kind.__qualname__) == ("weft", name)
    with pytest.raises(weft.ManagerMissing):
        SyncManager(str(tmp_path / "nothing"), b"key").connect()
    with socket.socket() as placeholder:
        placeholder.bind(NETWORK)
        address = placeholder.getsockname()
    with pytest.raises(weft.ManagerRefused):
        SyncManager(address, b"key").connect()
