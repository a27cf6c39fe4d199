"""The end of a manager's server, at the wish of the manager that started it.

The server is asked to end, then told by SIGTERM, then killed, as in the standard library, and each of these has the manager's
`shutdown_timeout`. There the request has none: it is waited for as long as a server that is stopped, or hangs, does not answer.
"""

from __future__ import annotations

import socket
from multiprocessing import managers as _managers
from multiprocessing import util
from typing import TYPE_CHECKING, Any

from weft.multiprocessing import _manager_client as client
from weft.multiprocessing import _manager_ends as ends
from weft.multiprocessing import connection
from weft.multiprocessing._manager_waits import deadline_of, left_until

if TYPE_CHECKING:
    from weft.multiprocessing._stock import AnyProcess

# With its private parts, which its type stubs do not have.
_stock: Any = _managers
_connection: Any = connection

__all__ = ["end_server"]

# So many seconds the request has at least: of a manager without any patience the server is to be asked all the same.
_LEAST = 1.0


def end_server(server: AnyProcess, address: Any, authkey: bytes, connect: Any, patience: float) -> None:
    """Have the process `server` end, and wait for it. `connect` is how managers of this kind connect to `address`."""
    if not server.is_alive():
        return
    util.info("sending shutdown message to manager")
    try:
        _ask(address, authkey, connect, max(patience, _LEAST))
    except Exception as error:
        # It is gone meanwhile, or does not hear: what follows tells the one from the other.
        util.info("the manager's server was not asked to end: %r", error)
        server.join(0)
    else:
        server.join(patience)
    if server.is_alive():
        util.info("manager still alive: trying to terminate its process")
        server.terminate()
        server.join(patience)
    if server.is_alive():
        util.info("manager still alive after terminate: killing its process")
        server.kill()
        server.join()


def _ask(address: Any, authkey: bytes, connect: Any, patience: float) -> None:
    """Send the request, and wait for the answer. TimeoutError if it takes longer than `patience` seconds."""
    if client.speaks_pickle(connect):
        channel: Any = _Patient(address, patience)
    elif ends.answers(address, patience):
        channel = connect(address, authkey=authkey)
    else:
        raise TimeoutError(f"nobody answers at {address!r}")
    try:
        if isinstance(channel, _Patient):
            _connection.answer_challenge(channel, authkey)
            _connection.deliver_challenge(channel, authkey)
        _stock.dispatch(channel, None, "shutdown")
    finally:
        channel.close()


class _Patient:
    """A connection whose other end has `patience` seconds in all for what it says."""

    def __init__(self, address: Any, patience: float) -> None:
        self._until = deadline_of(patience)
        family = socket.AF_UNIX if isinstance(address, (str, bytes)) else socket.AF_INET
        with socket.socket(family) as made:
            # If a server that is stopped has let many wait already, even this takes for ever.
            made.settimeout(patience)
            made.connect(address)
            made.setblocking(True)
            self._connection = connection.Connection(made.detach())
        self.send, self.send_bytes = self._connection.send, self._connection.send_bytes
        self.close = self._connection.close

    def _wait(self) -> None:
        if not self._connection.poll(max(0.0, left_until(self._until) or 0.0)):
            raise TimeoutError("the server does not answer")

    def recv(self) -> Any:
        """As of a connection."""
        self._wait()
        return self._connection.recv()

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """As of a connection."""
        self._wait()
        return self._connection.recv_bytes(maxlength)
