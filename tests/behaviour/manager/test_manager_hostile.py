"""Peers that do not keep to the protocol, with and without the key, and calls in shared memory that nobody would make."""

from __future__ import annotations

import os
import pickle
import random
import socket
import struct
import threading

import pytest
from things import wait_for
from weft.multiprocessing import _manager_client, connection
from weft.multiprocessing.managers import RemoteError, SyncManager


@pytest.fixture
def dice() -> random.Random:
    """Another one each time; a test that fails shows the seed."""
    seed = int(os.environ.get("WEFT_MANAGER_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"WEFT_MANAGER_SEED={seed}")
    return random.Random(seed)


class Bomb:
    """Says that it was unpickled."""

    def __reduce__(self) -> object:
        return os.mkdir, (os.environ["WEFT_TEST_BOMB"],)


def frame(body: bytes) -> bytes:
    return struct.pack("!i", len(body)) + body


def test_nothing_is_unpickled_without_the_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, dice: random.Random
) -> None:
    place = os.path.join(str(tmp_path), "unpickled")
    monkeypatch.setenv("WEFT_TEST_BOMB", place)
    bomb = pickle.dumps((None, "create", (Bomb(),), {}))
    with SyncManager() as manager:
        d = manager.dict(x=1)
        for _ in range(40):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(manager.address)
                sent = dice.choice(
                    (
                        frame(bomb),
                        frame(b"#WELCOME#") + frame(bomb),
                        frame(dice.randbytes(dice.randrange(64))) + frame(bomb) * 3,
                        dice.randbytes(dice.randrange(1, 200)),
                        struct.pack("!i", 0x7FFFFFFF) + bomb,
                        struct.pack("!iQ", -1, 1 << 60) + bomb,
                        b"",
                    )
                )
                try:
                    peer.sendall(sent)
                    peer.shutdown(socket.SHUT_WR)
                    while peer.recv(4096):
                        continue
                except (BrokenPipeError, ConnectionResetError):
                    continue
        assert d["x"] == 1
        assert not os.path.exists(place)


def test_a_peer_with_the_key_that_sends_anything(manager: SyncManager, dice: random.Random) -> None:
    d = manager.dict(x=1)
    requests = [
        None,
        (),
        (1, 2, 3),
        (None, "create", ("dict",), {}),
        (None, "nothing", (), {}),
        (None, "create", ("nothing",), {}),
        (None, "incref", ("ffffffffff",), {}),
        (None, "decref", ("1",), {}),
        (None, "__init__", (), {}),
        (None, "goodbye", (), {}),
        (None, ["x"], (), {}),
        (None, "accept_connection", ("x",), {}),
    ]
    for _ in range(100):
        with connection.Client(manager.address, authkey=manager._authkey) as peer:
            if dice.random() < 0.8:
                peer.send(dice.choice(requests))
            else:
                peer.send_bytes(dice.randbytes(dice.randrange(1, 100)))
            assert peer.recv()[0] in {"#RETURN", "#TRACEBACK"}
    with connection.Client(manager.address, authkey=manager._authkey) as peer:
        peer.send((None, "accept_connection", ("x",), {}))
        assert peer.recv() == ("#RETURN", None)
        for _ in range(100):
            if dice.random() < 0.5:
                peer.send_bytes(dice.randbytes(dice.randrange(1, 100)))
            else:
                ident = dice.choice((d._token.id, "0", "", None, 5, "zz", "f" * 40))
                method = dice.choice(
                    ("__getitem__", "nothing", "#NEXT", "#BATCH", "#ADD", "#GETVALUE", 7, None)
                )
                peer.send((ident, method, dice.choice(((), ("x",), 3)), dice.choice(({}, {"a": 1}, 4))))
            assert peer.recv()[0] in {"#RETURN", "#TRACEBACK", "#ERROR"}
    assert d["x"] == 1


def test_calls_through_a_lane_that_nobody_would_make(manager: SyncManager, dice: random.Random) -> None:
    d = manager.dict(x=1)
    assert d["x"] == 1
    lane = d._tls.connection
    idents = (d._token.id, "", "0", "100000009", "f" * 16, "f" * 17, "zz", "-1", "ü")
    methods = (
        "__getitem__",
        "",
        "x" * 255,
        "#NEXT",
        "#BATCH",
        "#ADD",
        "#UPDATE_WITH",
        "__class__",
        "shut",
        "create",
    )
    seen = set()
    for _ in range(500):
        args = dice.choice(((), ("x",), (1, 2, 3), ([("pop", (), {})],), (None,) * 200))
        kwds = dice.choice(({}, {"a": 1}))
        answer = lane.call(dice.choice(idents), dice.choice(methods), args, kwds, lambda kind, value: kind)
        seen.add(answer if isinstance(answer, str) else "#RETURN")
    assert {"#TRACEBACK", "#ERROR"} <= seen
    with pytest.raises(RuntimeError, match="255"):
        lane.call("x" * 256, "y", (), {}, None)
    assert d["x"] == 1


def test_an_identity_never_means_another_object(manager: SyncManager) -> None:
    old = manager.list()
    token = old._token
    assert len(old) == 0
    lane = old._tls.connection
    keep = manager.dict()
    del old
    others = [manager.list([1]) for _ in range(20)]
    with pytest.raises(RemoteError, match="KeyError"):
        lane.call(token.id, "__len__", (), {}, _manager_client._failed)
    assert token.id not in {other._token.id for other in others}
    assert len(keep) == 0


def test_peers_that_say_nothing_hold_nobody_up(manager: SyncManager) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for peer in silent:
        peer.connect(manager.address)
    d = manager.dict()
    threads = [threading.Thread(target=d.update, args=({number: number},)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: len(d) == 10)
    for peer in silent:
        peer.close()
