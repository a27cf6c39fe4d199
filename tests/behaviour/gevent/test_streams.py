"""Sockets that park the greenlet and nobody else."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest
from weft.gevent import _hub as native
from weft.gevent import get_hub, joinall, kill, sleep, spawn
from weft.gevent.exceptions import ConcurrentObjectUseError

Ends = tuple[native.Stream, native.Stream, socket.socket, socket.socket]


def stream(sock: socket.socket) -> native.Stream:
    sock.setblocking(False)
    return native.Stream(get_hub().loop, sock.fileno())


@pytest.fixture
def ends() -> Iterator[Ends]:
    near, far = socket.socketpair()
    streams = stream(near), stream(far)
    yield (*streams, near, far)
    for each in streams:
        each.close()
    near.close()
    far.close()


def test_who_reads_waits_for_who_writes(ends: Ends) -> None:
    near, far, *_ = ends
    reader = spawn(native.recv, near, 100)
    sleep(0)
    assert not reader.ready()
    assert native.send(far, b"word") == 4
    assert reader.get() == b"word"
    room = bytearray(10)
    filled = spawn(native.recv_into, near, room)
    sleep(0)
    native.sendall(far, b"more")
    assert (filled.get(), bytes(room[:4])) == (4, b"more")


@pytest.mark.parametrize("size", [1, 65536, 65537, 3_000_000])
def test_all_of_it_arrives_whatever_its_size(ends: Ends, size: int) -> None:
    near, far, _, far_socket = ends
    data = random.Random(size).randbytes(size)

    def write() -> None:
        native.sendall(far, data)
        far_socket.shutdown(socket.SHUT_WR)

    writer = spawn(write)
    received = bytearray()
    while piece := native.recv(near, 1 << 20):
        received += piece
    writer.get()
    assert bytes(received) == data


def test_the_end_is_seen_behind_a_short_read(ends: Ends) -> None:
    near, far, _, far_socket = ends
    native.sendall(far, b"last")
    far_socket.shutdown(socket.SHUT_WR)
    assert [native.recv(near, 100) for _ in range(3)] == [b"last", b"", b""]


def test_time_is_over(ends: Ends) -> None:
    near, far, *_ = ends
    with pytest.raises(TimeoutError, match="timed out"):
        native.recv(near, 1, 0, 0.002)
    with pytest.raises(TimeoutError, match="timed out"):
        native.wait(near, False, 0.002)
    with pytest.raises(TimeoutError, match="timed out"):
        native.sendall(far, bytes(10_000_000), 0, 0.002)
    native.recv(near, 1 << 20)


def test_one_reader_at_a_time(ends: Ends) -> None:
    near, far, *_ = ends
    reader = spawn(native.recv, near, 1)
    sleep(0)
    with pytest.raises(ConcurrentObjectUseError, match="already used by another greenlet"):
        native.recv(near, 1)
    native.sendall(far, b"x")
    assert reader.get() == b"x"


def test_closing_wakes_who_waits(ends: Ends) -> None:
    near, *_ = ends
    reader = spawn(native.recv, near, 1)
    sleep(0)
    near.close()
    with pytest.raises(OSError, match="closed in another greenlet"):
        reader.get()
    with pytest.raises(OSError, match="Bad file descriptor"):
        native.recv(near, 1)
    assert near.closed


def test_a_killed_reader_loses_nothing(ends: Ends) -> None:
    near, far, *_ = ends
    reader = spawn(native.recv, near, 1)
    sleep(0)
    kill(reader)
    native.sendall(far, b"x")
    reader.join()
    assert native.recv(near, 10) == b"x"


def test_errors_are_the_kernels(ends: Ends) -> None:
    near, far, _, far_socket = ends
    far.close()
    far_socket.close()
    with pytest.raises(BrokenPipeError):
        for _ in range(10):
            native.send(near, b"x")
    with pytest.raises(ValueError, match="negative"):
        native.recv(near, -1)
    with pytest.raises(TypeError):
        native.recv(None, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        native.recv(near)  # type: ignore[call-arg]


def test_a_thousand_connections_come_and_go() -> None:
    """Opened, used and dropped in any order; every message comes back."""
    chance = random.Random(7)

    def echo(near: native.Stream) -> None:
        while data := native.recv(near, 100):
            native.sendall(near, data)

    def talk(index: int) -> int:
        near, far = socket.socketpair()
        with near, far:
            server, client = stream(near), stream(far)
            served = spawn(echo, server)
            rounds = chance.randrange(4)
            for step in range(rounds):
                word = f"{index}/{step}".encode()
                native.sendall(client, word)
                assert native.recv(client, 100) == word
                if chance.random() < 0.3:
                    sleep(chance.random() / 1000)
            if chance.random() < 0.5:
                client.close()
                far.close()
                served.get()
            else:
                served.kill()
            server.close()
            client.close()
        return rounds

    for _ in range(5):
        talks = joinall([spawn(talk, index) for index in range(200)])
        assert sum(talk.get() for talk in talks) > 0
    assert get_hub().loop.activecnt == 0
