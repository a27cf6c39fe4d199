"""Echo servers: `servers.py weft | weft-socket | gevent | asyncio | uvloop PORT [--burn]`.

One greenlet a connection, a plain loop of recv and sendall; a protocol on the loops of coroutines.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any


def serve_weft(port: int) -> None:
    from weft._native import _hub
    from weft.gevent import get_hub, spawn_raw

    loop = get_hub().loop
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setblocking(False)
    stream = _hub.Stream(loop, listener.fileno())

    def serve(connection: socket.socket) -> None:
        own = _hub.Stream(loop, connection.fileno())
        recv, sendall = _hub.recv, _hub.sendall
        try:
            while data := recv(own, 65536):
                sendall(own, data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the load has ended
        own.close()
        connection.close()

    print("ready", flush=True)
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            _hub.wait(stream)
            continue
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        spawn_raw(serve, connection)


def serve_weft_socket(port: int) -> None:
    import weft.gevent
    import weft.gevent.socket

    serve_sockets(port, weft.gevent.spawn_raw, weft.gevent.socket.socket)


def serve_gevent(port: int) -> None:
    import gevent
    import gevent.socket

    serve_sockets(port, gevent.spawn_raw, gevent.socket.socket)


def serve_sockets(port: int, spawn_raw: Callable[..., object], socket_class: Any) -> None:
    # create_server() of gevent.socket is the standard library's, and so is its socket.
    listener = socket_class()
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)

    def serve(connection: Any) -> None:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the load has ended
        connection.close()

    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        spawn_raw(serve, connection)


def serve_asyncio(port: int) -> None:
    import asyncio

    class Echo(asyncio.Protocol):
        transport: Any  # uvloop's is not asyncio's

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=1024)
        print("ready", flush=True)
        await server.serve_forever()

    asyncio.run(serve())


def serve_uvloop(port: int) -> None:
    import uvloop

    uvloop.install()
    serve_asyncio(port)


def burn() -> None:
    """Computes for ever, beside the server."""
    count = 0
    while True:
        count += 1


if __name__ == "__main__":
    if "--burn" in sys.argv:
        import threading

        threading.Thread(target=burn, daemon=True).start()
    servers = {
        "weft": serve_weft,
        "weft-socket": serve_weft_socket,
        "gevent": serve_gevent,
        "asyncio": serve_asyncio,
        "uvloop": serve_uvloop,
    }
    servers[sys.argv[1]](int(sys.argv[2]))
