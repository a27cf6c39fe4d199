"""Echo servers: `echo_servers.py gevent | streams | asyncio | uvloop PORT [--burn] [--beat]`.

`gevent` is a StreamServer with a plain loop of recv and sendall for each connection, on gevent or, under
`python -m weft --only gevent`, on weft; `streams` is the same on what the sockets of weft are made of. The others are protocols on
loops of coroutines. With `--burn`, a thread computes beside the server. With `--beat` (`gevent` alone), so do greenlets of the same
thread, others wait for timers, and when the last connection has ended, it says how late a greenlet was that sleeps 10 ms
at a time.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

BACKLOG = 1024
SIZE = 65536  # bytes that are read at most
BEAT = 0.01  # seconds
COMPUTING = 10  # greenlets
TIMERS = 100


class Heartbeat:
    """A greenlet that sleeps in a loop while others of its thread compute, wait for timers, and serve."""

    def __init__(self) -> None:
        import gevent

        self._gevent = gevent
        self._serving = 0
        self._late: list[float] = []

    def start(self) -> None:
        for _ in range(COMPUTING):
            self._gevent.spawn(self._compute)
        for _ in range(TIMERS):
            self._gevent.spawn(self._wait)
        self._gevent.spawn(self._beat)

    def _beat(self) -> NoReturn:
        while True:
            due = time.monotonic() + BEAT
            self._gevent.sleep(BEAT)
            if self._serving:
                self._late.append(time.monotonic() - due)

    def _compute(self) -> NoReturn:
        """Some 20 µs at a time."""
        while True:
            sum(range(1000))
            self._gevent.sleep(0)

    def _wait(self) -> NoReturn:
        while True:
            self._gevent.sleep(0.002)

    def connected(self) -> None:
        self._serving += 1

    def ended(self) -> None:
        self._serving -= 1
        if not self._serving:
            print(median(self._late), flush=True)


def serve_gevent(port: int, beat: bool) -> None:
    import gevent
    from gevent.server import StreamServer

    heartbeat = Heartbeat() if beat else None

    def serve(connection: Any, address: object) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if heartbeat is not None:
            heartbeat.connected()
        try:
            while data := connection.recv(SIZE):
                connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the load has ended
        if heartbeat is not None:
            heartbeat.ended()

    server = StreamServer(("127.0.0.1", port), serve, backlog=BACKLOG)
    server.start()
    if heartbeat is not None:
        heartbeat.start()
    ready("weft" if Path(gevent.__file__).parents[1].name == "weft" else "gevent")
    server.serve_forever()


def serve_streams(port: int) -> None:
    from weft._native import _hub
    from weft.gevent import get_hub, spawn_raw

    loop = get_hub().loop
    listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    listener.setblocking(False)
    stream = _hub.Stream(loop, listener.fileno())

    def serve(connection: socket.socket) -> None:
        own = _hub.Stream(loop, connection.fileno())
        recv, sendall = _hub.recv, _hub.sendall
        try:
            while data := recv(own, SIZE):
                sendall(own, data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the load has ended
        own.close()
        connection.close()

    ready("streams")
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            _hub.wait(stream)
            continue
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        spawn_raw(serve, connection)


def serve_asyncio(port: int, name: str = "asyncio") -> None:
    import asyncio

    class Echo(asyncio.Protocol):
        transport: Any  # uvloop's is not asyncio's

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=BACKLOG)
        ready(name)
        await server.serve_forever()

    asyncio.run(serve())


def serve_uvloop(port: int) -> None:
    import uvloop

    uvloop.install()
    serve_asyncio(port, "uvloop")


def ready(whose: str) -> None:
    """Says that it listens, and whose code it runs on."""
    print("ready", whose, flush=True)


def burn() -> NoReturn:
    """Computes for ever, beside the server."""
    count = 0
    while True:
        count += 1


def main(name: str, port: int, burns: bool, beats: bool) -> None:
    if burns:
        import threading

        threading.Thread(target=burn, daemon=True).start()
    if name == "gevent":
        serve_gevent(port, beats)
    else:
        {"streams": serve_streams, "asyncio": serve_asyncio, "uvloop": serve_uvloop}[name](port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), "--burn" in sys.argv, "--beat" in sys.argv)
