"""Foreign peers at a live listener and a live client: any bytes end in an error that says so, and nothing is unpickled.

WEFT_SOAK_SECONDS makes it long; WEFT_FUZZ_SEED repeats a run.
"""

from __future__ import annotations

import os
import pickle
import random
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing import AuthenticationError

from weft.multiprocessing.connection import Client, Connection, Listener

KEY = b"the key"
ROUNDS = 60
HARMLESS = (AuthenticationError, EOFError, ConnectionError, OSError)
touched: list[object] = []


class Bomb:
    """Notes that it was unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return touched.append, (1,)


def rounds() -> Iterator[random.Random]:
    seed = int(os.environ.get("WEFT_FUZZ_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"WEFT_FUZZ_SEED={seed}")
    end = time.monotonic() + float(os.environ.get("WEFT_SOAK_SECONDS", "0"))
    dice = random.Random(seed)
    done = 0
    while done < ROUNDS or time.monotonic() < end:
        yield dice
        done += 1


def frame(body: bytes, dice: random.Random) -> bytes:
    length = (
        len(body)
        if dice.random() < 0.7
        else dice.choice([0, 1, -1, -2, 2**31 - 1, -(2**31), dice.randrange(300)])
    )
    return length.to_bytes(4, "big", signed=True) + body


def nonsense(dice: random.Random) -> bytes:
    """What a peer may send that does not know the key."""
    parts = [
        b"#CHALLENGE#" + dice.randbytes(dice.choice([0, 16, 20, 40, 300])),
        b"#CHALLENGE#{sha256}" + dice.randbytes(40),
        b"#CHALLENGE#{" + dice.choice([b"md4", b"sha1", b"}", b"sha256"]) + b"}",
        b"#WELCOME#",
        b"#FAILURE#",
        dice.randbytes(16),
        b"{sha256}" + dice.randbytes(32),
        b"{md5}" + dice.randbytes(16),
        pickle.dumps(Bomb()),
        dice.randbytes(dice.randrange(600)),
    ]
    stream = b"".join(frame(dice.choice(parts), dice) for _ in range(dice.randrange(1, 6)))
    return stream[: dice.randrange(len(stream) + 1)] if dice.random() < 0.3 else stream


def pour(peer: socket.socket, stream: bytes, cut: int) -> None:
    with peer:
        try:
            peer.sendall(stream[:cut])
            peer.sendall(stream[cut:])
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(4096):
                pass
        except OSError:
            return  # it was thrown out, as it should be


def test_clients_without_the_key(tmp_path: object) -> None:
    with Listener(f"{tmp_path}/socket", authkey=KEY) as listener:
        for dice in rounds():
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(listener.address)
            stream = nonsense(dice)
            thread = threading.Thread(target=pour, args=(peer, stream, dice.randrange(len(stream) + 1)))
            thread.start()
            try:
                listener.accept().close()
            except HARMLESS as error:
                error.__traceback__ = None  # it holds the connection
            else:
                raise AssertionError("somebody without the key was let in")
            thread.join()
    assert not touched


def test_listeners_without_the_key(tmp_path: object) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        address = f"{tmp_path}/socket"
        server.bind(address)
        server.listen()
        for dice in rounds():
            stream = nonsense(dice)
            cut = dice.randrange(len(stream) + 1)
            thread = threading.Thread(target=lambda s=stream, c=cut: pour(server.accept()[0], s, c))
            thread.start()
            try:
                Client(address, authkey=KEY).close()
            except HARMLESS as error:
                error.__traceback__ = None
            else:
                raise AssertionError("somebody without the key passed")
            thread.join()
    assert not touched


def test_frames_of_anything() -> None:
    for dice in rounds():
        near, far = socket.socketpair()
        stream = nonsense(dice)
        thread = threading.Thread(target=pour, args=(near, stream, dice.randrange(len(stream) + 1)))
        thread.start()
        with Connection(far.detach()) as connection:
            try:
                while True:
                    connection.recv_bytes(dice.choice([None, 100]))
            except (EOFError, OSError) as error:
                assert str(error) in (
                    "",
                    "bad message length",
                    "got end of file during message",
                ) or isinstance(error, ConnectionError)
        thread.join()
