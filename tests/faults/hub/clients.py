"""Clients of scripts/server.py that behave badly, on the standard library's sockets, in the order of a seed."""

from __future__ import annotations

import json
import random
import socket
import struct
from typing import Any

PATIENCE = 120.0  # seconds until a silent server counts as hung
RESET = struct.pack("ii", 1, 0)
LONG = 1 << 20


class Questions:
    """The connection to the server that says how the process is."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._file = self._socket.makefile("r")

    def __enter__(self) -> Questions:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, question: str) -> dict[str, Any]:
        self._socket.sendall(question.encode() + b"\n")
        found = json.loads(self._file.readline())
        assert isinstance(found, dict)
        return found


def connect(port: int, rng: random.Random) -> socket.socket:
    """A connection to one of many addresses of this machine, or the kernel would run out of pairs of ports."""
    made = socket.create_connection((f"127.0.0.{rng.randint(1, 250)}", port), PATIENCE)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def message(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def receive(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size and (part := sock.recv(size - len(received))):
        received += part
    return received


def check_echo(sock: socket.socket, body: bytes) -> None:
    sent = message(body)
    sock.sendall(sent)
    assert receive(sock, len(sent)) == sent


def drop(sock: socket.socket, reset: bool) -> None:
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


class Crowd:
    """Connections that are opened and dropped at random. `opened` counts them, `echoed` the messages that came back."""

    HELD = 60  # connections that are kept in the middle of something, at most

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.rng = random.Random(seed)
        self.opened = 0
        self.echoed = 0
        self._held: list[socket.socket] = []

    def one(self) -> None:
        """Open one, have something happen to it, and perhaps drop one that was kept."""
        rng = self.rng
        sock = connect(self.port, rng)
        self.opened += 1
        what = rng.choice((self._nothing, self._part, self._well, self._half_closed, self._deaf))
        if rng.random() < 0.9:
            what(sock)
        else:
            # One in the middle of a message that is finished well.
            body = rng.randbytes(rng.randint(2, 5000))
            sent = message(body)
            sock.sendall(sent[: len(sent) // 2])
            sock.sendall(sent[len(sent) // 2 :])
            assert receive(sock, len(sent)) == sent
            self.echoed += 1
        if rng.random() < 0.3:
            self._held.append(sock)
        else:
            drop(sock, rng.random() < 0.5)
        if len(self._held) > self.HELD:
            drop(self._held.pop(rng.randrange(len(self._held))), rng.random() < 0.5)

    def drop_all(self) -> None:
        while self._held:
            drop(self._held.pop(), self.rng.random() < 0.5)

    def _nothing(self, sock: socket.socket) -> None:
        """It is dropped before it is accepted, or before anything comes."""

    def _part(self, sock: socket.socket) -> None:
        sent = message(self.rng.randbytes(self.rng.randint(2, 5000)))
        sock.sendall(sent[: self.rng.randrange(1, len(sent))])

    def _well(self, sock: socket.socket) -> None:
        for _ in range(self.rng.randint(1, 4)):
            check_echo(sock, self.rng.randbytes(self.rng.choice((0, 1, 100, 20_000))))
            self.echoed += 1

    def _half_closed(self, sock: socket.socket) -> None:
        sent = message(self.rng.randbytes(self.rng.randint(0, 3000)))
        left_out = self.rng.choice((0, 0, 1, len(sent) // 2))
        sock.sendall(sent[: len(sent) - left_out])
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock, len(sent) + 1) == (b"" if left_out else sent)
        self.echoed += not left_out

    def _deaf(self, sock: socket.socket) -> None:
        """It sends as much as goes and reads nothing, so that the server's handler is in the middle of sending."""
        sock.setblocking(False)
        sent = message(bytes(LONG))
        try:
            for _ in range(4):
                sock.send(sent)
        except BlockingIOError:
            return
        finally:
            sock.settimeout(PATIENCE)
