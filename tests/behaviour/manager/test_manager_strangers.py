"""Peers that say nothing, or too much, or not what they should; and garbage in a lane."""

from __future__ import annotations

import os
import pickle
import random
import re
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from things import Impatient, call_until_told, few_descriptors, wait_for
from weft import _native
from weft.multiprocessing import connection, get_context
from weft.multiprocessing.managers import SyncManager

NETWORK = ("127.0.0.1", 0)


@pytest.fixture
def dice() -> random.Random:
    """Another one each time; a test that fails shows the seed."""
    seed = int(os.environ.get("WEFT_MANAGER_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"WEFT_MANAGER_SEED={seed}")
    return random.Random(seed)


def reach(address: Any) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    peer.connect(address)
    return peer


def until_turned_out(peer: socket.socket) -> bytes:
    """What the server says before it ends the connection."""
    said = b""
    try:
        while more := peer.recv(4096):
            said += more
    except ConnectionResetError:
        pass
    peer.close()
    return said


@pytest.mark.parametrize("address", [None, NETWORK], ids=["unix", "tcp"])
def test_who_says_nothing_is_turned_out(address: Any) -> None:
    with Impatient(address) as manager:
        silent, half, late = (reach(manager.address) for _ in range(3))
        half.sendall(struct.pack("!i", 60) + b"half of an answer")
        # This one proves that it has the key, and asks for nothing.
        proven = connection.Client(manager.address, authkey=manager._authkey)
        late.sendall(struct.pack("!i", 7) + b"nothing")
        assert b"CHALLENGE" in until_turned_out(silent)
        assert b"CHALLENGE" in until_turned_out(half)
        until_turned_out(late)
        with pytest.raises((EOFError, ConnectionResetError)):
            proven.recv()
        proven.close()
        assert manager.dict(x=1)["x"] == 1


def test_one_that_has_begun_is_not_turned_out() -> None:
    with Impatient(NETWORK) as manager:
        d = manager.dict(x=1)
        assert d["x"] == 1  # over a connection that is used again much later
        silent = reach(manager.address)
        until_turned_out(silent)
        until_turned_out(reach(manager.address))
        assert d["x"] == 1


@pytest.mark.parametrize("address", [None, NETWORK], ids=["unix", "tcp"])
def test_many_who_say_nothing_keep_nobody_out(address: Any) -> None:
    class Patient(Impatient):
        handshake_timeout = 3600.0

    with Patient(address) as manager:
        silent = [reach(manager.address) for _ in range(60)]
        for number in range(5):
            with connection.Client(manager.address, authkey=manager._authkey) as peer:
                peer.send((None, "dummy", (), {}))
                assert peer.recv() == ("#RETURN", None)
            silent.extend(reach(manager.address) for _ in range(number))
        # Those that came first had to go: ten may stay.
        for peer in silent[:40]:
            until_turned_out(peer)
        assert manager.list([1])[:] == [1]
        for peer in silent[40:]:
            peer.close()


def test_a_server_without_descriptors_goes_on() -> None:
    manager = SyncManager(NETWORK)
    manager.start(few_descriptors, (64,))
    with manager:
        d = manager.dict(x=1)
        silent = [reach(manager.address) for _ in range(100)]
        with connection.Client(manager.address, authkey=manager._authkey) as peer:
            peer.send((None, "dummy", (), {}))
            assert peer.recv() == ("#RETURN", None)
        assert d["x"] == 1
        for peer in silent:
            peer.close()


@pytest.mark.parametrize(
    "announced", [struct.pack("!i", 257), struct.pack("!i", 0x7FFFFFFF), struct.pack("!iQ", -1, 1 << 62)]
)
def test_messages_before_the_proof_are_short(manager: SyncManager, announced: bytes) -> None:
    peer = reach(manager.address)
    peer.sendall(announced)
    # Nothing follows, and nothing is waited for.
    until_turned_out(peer)


def test_messages_after_the_proof_are_as_long_as_allowed() -> None:
    with Impatient(NETWORK) as manager:
        for size, fits in ((9_000, True), (11_000, False)):
            with connection.Client(manager.address, authkey=manager._authkey) as peer:
                peer.send((None, "create", ("list", [b"x" * size]), {}))
                if fits:
                    assert peer.recv()[0] == "#RETURN"
                else:
                    with pytest.raises((EOFError, ConnectionResetError)):
                        peer.recv()


class Canary:
    """Says that it was unpickled."""

    def __reduce__(self) -> object:
        return os.mkdir, (os.environ["WEFT_TEST_CANARY"],)


@pytest.mark.parametrize("address", [None, NETWORK], ids=["unix", "tcp"])
def test_nothing_is_unpickled_before_the_proof(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, dice: random.Random, address: Any
) -> None:
    place = str(tmp_path / "unpickled")
    monkeypatch.setenv("WEFT_TEST_CANARY", place)
    canary = pickle.dumps((None, "create", (Canary(),), {}))

    def frame(body: bytes) -> bytes:
        return struct.pack("!i", len(body)) + body

    pieces = [
        frame(canary),
        frame(canary[:256]),
        frame(b"#WELCOME#"),
        frame(b"#CHALLENGE#" + bytes(20)),
        frame(b"#CHALLENGE#{sha256}" + bytes(32)),
        frame(b"{md5}" + bytes(16)),
        frame(b"{sha256}" + bytes(32)),
        frame(b""),
        struct.pack("!i", -1),
        struct.pack("!iQ", -1, len(canary)) + canary,
        struct.pack("!i", -5),
        canary,
    ]
    with SyncManager(address) as manager:
        d = manager.dict(x=1)
        for _ in range(150):
            peer = reach(manager.address)
            sent = b"".join(dice.choice(pieces) for _ in range(dice.randrange(1, 6)))
            if dice.random() < 0.3:
                spoilt = bytearray(sent or b"x")
                spoilt[dice.randrange(len(spoilt))] ^= 1 << dice.randrange(8)
                sent = bytes(spoilt)
            try:
                peer.sendall(sent[: dice.randrange(len(sent) + 1)] if dice.random() < 0.3 else sent)
                peer.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError, OSError):
                peer.close()
                continue
            until_turned_out(peer)
        assert d["x"] == 1
        assert not os.path.exists(place)
        # That it would have been seen:
        with connection.Client(manager.address, authkey=manager._authkey) as peer:
            peer.send_bytes(canary)
            assert peer.recv()[0] == "#TRACEBACK"
        assert os.path.isdir(place)


def test_spoilt_requests_of_one_that_has_the_key(manager: SyncManager, dice: random.Random) -> None:
    d = manager.dict(x=1)
    good = [
        pickle.dumps((None, "create", ("dict", {"a": [1, 2.5, None, b"x"]}), {})),
        pickle.dumps((None, "number_of_objects", (), {})),
        pickle.dumps((d._token.id, "__getitem__", ("x",), {})),
    ]

    def spoilt() -> bytes:
        data = bytearray(dice.choice(good))
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        # What a pickle does is its sender's doing; these are not to call anything.
        return bytes(data).replace(b"\x93", b"N").replace(b"c", b"d").replace(b"i", b"j").replace(b"R", b"N")

    for _ in range(100):
        with connection.Client(manager.address, authkey=manager._authkey) as peer:
            peer.send_bytes(spoilt())
            assert peer.recv()[0] in {"#RETURN", "#TRACEBACK"}
    with connection.Client(manager.address, authkey=manager._authkey) as peer:
        peer.send((None, "accept_connection", ("x",), {}))
        assert peer.recv() == ("#RETURN", None)
        for _ in range(200):
            peer.send_bytes(spoilt())
            assert peer.recv()[0] in {"#RETURN", "#TRACEBACK", "#ERROR", "#PROXY"}
    assert d["x"] == 1


ROOM = 1900  # of a lane, for a message


def test_garbage_in_a_lane_is_its_callers_alone(manager: SyncManager, dice: random.Random) -> None:
    d = manager.dict(x=1)
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=call_until_told, args=(d, theirs))
    process.start()
    assert ours.recv() == process.pid
    arena = manager_arena(d)
    message = message_with(arena, b"marker-of-the-lane")
    for _ in range(3_000):
        reach_of_it = dice.choice([16, 64, ROOM])
        for _ in range(dice.randrange(1, 8)):
            os.pwrite(arena, dice.randbytes(1), message + dice.randrange(reach_of_it))
        assert d["x"] == 1
    ours.send("enough")
    assert ours.recv() > 0, "nothing was spoilt"
    process.join()
    assert process.exitcode == 0
    d["y"] = [1, {"z": 2}]
    assert d.pop("y") == [1, {"z": 2}]


def manager_arena(proxy: Any) -> int:
    """The descriptor of the shared memory in which the proxy's lane lies."""
    from weft.multiprocessing import _manager_client

    place = _manager_client._desks[proxy._token.address].desk.handle()
    return _native.arena_descriptor(place[0])


def message_with(arena: int, marker: bytes) -> int:
    """Where messages begin in the lane in which a call with this marker is made again and again."""
    found: list[int] = []
    # A call begins with the identity and the method, each behind its length.
    begins = re.compile(rb"[\x09-\x11][0-9a-f]{9,17}\x0b__setitem__(?=.{0,64}" + marker + rb")", re.DOTALL)

    def look() -> bool:
        for start, content in pieces(arena):
            found.extend(start + match.start() for match in begins.finditer(content))
        return bool(found)

    wait_for(look)
    return found[0]


def pieces(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """What there is of a file with holes."""
    end = os.fstat(descriptor).st_size
    start = 0
    while start < end:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError:
            return
        stop = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, os.pread(descriptor, stop - start, start)
        start = stop
