"""Servers: what is accepted, by whom it is handled, and how they end."""

from __future__ import annotations

import socket as stdlib
from collections.abc import Callable
from typing import Any

import pytest
from weft.gevent import Timeout, sleep, socket, spawn
from weft.gevent.baseserver import parse_address
from weft.gevent.event import Event
from weft.gevent.pool import Pool
from weft.gevent.server import DatagramServer, StreamServer

HERE = ("127.0.0.1", 0)


def echo(connection: socket.socket, _address: object) -> None:
    while data := connection.recv(1000):
        connection.sendall(data)


def ask(server: StreamServer, word: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        connection.sendall(word)
        connection.shutdown(stdlib.SHUT_WR)
        received = b""
        while data := connection.recv(1000):
            received += data
        return received


@pytest.mark.parametrize("spawned", ["default", 2, Pool, spawn])
def test_connections_are_handled(spawned: Any) -> None:
    with StreamServer(HERE, echo, spawn=Pool(1) if spawned is Pool else spawned) as server:
        server.start()
        assert [ask(server, word) for word in (b"one", b"two")] == [b"one", b"two"]
        assert server.started and not server.closed
    assert server.closed and not server.started
    with pytest.raises(ConnectionRefusedError):
        ask(server, b"three")


def test_a_socket_that_is_bound_already() -> None:
    with socket.socket() as listener:
        listener.bind(HERE)
        listener.listen()
        with pytest.raises(TypeError, match="backlog"):
            StreamServer(listener, echo, backlog=3)
    with stdlib.socket() as listener:
        listener.bind(HERE)
        listener.listen()
        listener.setblocking(False)
        with StreamServer(listener, echo) as server:
            server.start()
            assert ask(server, b"plain") == b"plain"


def test_a_full_pool_leaves_connections_in_the_kernel() -> None:
    handled: list[int] = []
    go = Event()

    def handle(connection: socket.socket, _address: object) -> None:
        handled.append(connection.fileno())
        go.wait()
        echo(connection, None)

    with StreamServer(HERE, handle, spawn=1) as server:
        server.start()
        asking = [spawn(ask, server, word) for word in (b"first", b"second")]
        while not handled:
            sleep(0)
        assert server.full()
        sleep(0.01)
        assert len(handled) == 1
        go.set()
        assert [each.get() for each in asking] == [b"first", b"second"]


def test_an_error_of_a_handler_is_that_connections_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def handle(connection: socket.socket, _address: object) -> None:
        if connection.recv(10) == b"bad":
            raise KeyError("bad")
        connection.sendall(b"good")

    with StreamServer(HERE, handle) as server:
        server.start()
        assert ask(server, b"bad") == b""
        assert ask(server, b"fine") == b"good"
    assert "KeyError" in capsys.readouterr().err


def test_served_until_it_is_stopped() -> None:
    server = StreamServer(HERE, echo)
    serving = spawn(server.serve_forever)
    sleep(0)
    assert ask(server, b"word") == b"word"
    server.stop()
    with Timeout(30):
        serving.get()


def test_handlers_are_waited_for_and_then_ended() -> None:
    ended: list[str] = []

    def handle(connection: socket.socket, _address: object) -> None:
        try:
            connection.recv(1)
        finally:
            ended.append("yes")

    server = StreamServer(HERE, handle, spawn=2)
    server.start()
    with socket.create_connection(("127.0.0.1", server.server_port)):
        while not server.pool:
            sleep(0)
        server.stop(timeout=0.01)
        assert ended == ["yes"]


def test_datagrams_are_handled() -> None:
    class Upper(DatagramServer):
        def handle(self, data: bytes, address: Any) -> None:  # type: ignore[override]
            self.sendto(data.upper(), address)

    with Upper(HERE) as server, socket.socket(type=stdlib.SOCK_DGRAM) as client:
        server.start()
        client.connect(server.address)
        for word in (b"one", b"two"):
            client.send(word)
            assert client.recv(10) == word.upper()


@pytest.mark.parametrize(
    "given, family, address",
    [
        (("127.0.0.1", 80), stdlib.AF_INET, ("127.0.0.1", 80)),
        (("::1", 80), stdlib.AF_INET6, ("::1", 80)),
        (("", 80), stdlib.AF_INET6, ("", 80)),
        (80, stdlib.AF_INET6, ("", 80)),
        ("80", stdlib.AF_INET6, ("", 80)),
        ("*:80", stdlib.AF_INET, ("", 80)),
        ("host:80", stdlib.AF_INET, ("host", 80)),
        ("[::1]:80", stdlib.AF_INET6, ("::1", 80)),
    ],
)
def test_addresses(given: object, family: int, address: object) -> None:
    assert parse_address(given) == (family, address)


@pytest.mark.parametrize("given, error", [("host:port", ValueError), ("port", ValueError), (1.5, TypeError)])
def test_what_is_no_address(given: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_address(given)


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: StreamServer(HERE), TypeError),
        (lambda: StreamServer(1.5, echo), TypeError),
        (lambda: StreamServer("host:port", echo), ValueError),
    ],
)
def test_what_cannot_be_served(make: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_a_pool_that_is_full_for_reasons_of_its_own() -> None:
    class Mine(Pool):
        busy = True

        def full(self) -> bool:
            return self.busy or super().full()

    pool = Mine(5)
    with StreamServer(HERE, echo, spawn=pool) as server:
        server.start()
        asking = spawn(ask, server, b"word")
        sleep(0.01)
        assert not asking.ready()
        pool.busy = False
        assert asking.get(timeout=30) == b"word"
