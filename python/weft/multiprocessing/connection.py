"""Connections, as `multiprocessing.connection` has them.

The connection itself is `weft._native.ConnectionBase`; here are the manners of the standard library. What differs from it:

* messages stay whole if several threads or processes use one end of a `Pipe` at once, whoever of them is killed;
* small objects between two processes that talk to each other take no system call, large ones over a `Pipe` travel in
  shared memory;
* `Pipe(duplex=False)` is made of sockets, too;
* closing a connection lets a thread that is using it raise OSError, and never read from another file.

Listeners, clients and authentication are the standard library's, which make connections of this class. On the wire
everything is as there, so either end may be a program without weft. Semantics:
https://docs.python.org/3/library/multiprocessing.html#module-multiprocessing.connection
"""

from __future__ import annotations

import os
import sys
from multiprocessing import connection as _stock
from multiprocessing import context, reduction
from typing import TYPE_CHECKING, Any

from weft import _native, _patches

if TYPE_CHECKING:
    from collections.abc import Iterable

    _StockConnection: Any = object
else:
    _StockConnection = _stock.Connection

_stock_wait: Any = _stock.wait
_stock_Listener: Any = _stock.Listener
_stock_Client: Any = _stock.Client

__all__ = ["Client", "Connection", "Listener", "MessageLost", "Pipe", "wait"]


class MessageLost(OSError):
    """A process was killed in the middle of a message, which is lost. The connection can be used as before."""

    __module__ = "weft"


# What a class derived from the standard library's may replace to work on something else than a descriptor.
_PARTS = frozenset({"_send", "_recv", "_send_bytes", "_recv_bytes", "_poll", "_close"})
_WHOLES = ("send", "send_bytes", "recv", "recv_bytes", "recv_bytes_into", "poll", "close")


class Connection(_native.ConnectionBase, _StockConnection):  # type: ignore[misc]
    """One end of a connection over a descriptor.

    `handle` is the descriptor of a stream socket, a pipe or the like, which now belongs to the connection; `readable` and
    `writable` say what it may be used for. Raises ValueError if the descriptor is negative, or neither is true.
    """

    def __init__(self, handle: int, readable: bool = True, writable: bool = True) -> None:
        handle = handle.__index__()
        if handle < 0:
            raise ValueError("invalid handle")
        if not readable and not writable:
            raise ValueError("at least one of `readable` and `writable` must be True")
        self._open(handle, bool(readable), bool(writable))

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if _PARTS & cls.__dict__.keys():
            # It means to be called by the standard library's methods.
            for name in _WHOLES:
                if name not in cls.__dict__:
                    setattr(cls, name, getattr(_StockConnection, name))

    def __del__(self) -> None:
        self.close()


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Two connected connections. With `duplex` false the first can only receive and the second only send.

    Raises OSError if there is no descriptor left, MemoryError if there is no shared memory.
    """
    return _native.connected_pair(Connection, duplex)


def wait(object_list: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """Those of `object_list` that are ready to be read from, in their order.

    They may be connections, sockets, sentinels of processes, ends of queues, descriptors, and anything with
    a `fileno` method. Waits up to `timeout` seconds for one of them; None: for ever.
    """
    objects = list(object_list)
    ready = _native.wait_ready(objects, timeout)
    # What is wrong with one of them, the standard library says.
    return _stock_wait(objects, timeout) if ready is None else ready


def _ours(connection: Any) -> Any:
    """A connection that the standard library made, as one of ours."""
    if type(connection) is not _StockConnection:
        return connection
    handle, connection._handle = connection._handle, None
    return Connection(handle, connection._readable, connection._writable)


if sys.version_info >= (3, 12):
    answer_challenge: Any = _stock.answer_challenge
    deliver_challenge: Any = _stock.deliver_challenge
else:
    from weft.multiprocessing._challenge import answer_challenge, deliver_challenge


class Listener(_stock_Listener):  # type: ignore[misc]
    """What accepts connections at `address`, a path or a host and port. The standard library's, but for their class."""

    def accept(self) -> Connection:
        """Wait for a client. Raises AuthenticationError if it has not the same key, OSError if this is closed."""
        if self._listener is None:
            raise OSError("listener is closed")
        connection = _ours(self._listener.accept())
        return _proven(connection, self._authkey, (deliver_challenge, answer_challenge))


def Client(address: Any, family: str | None = None, authkey: bytes | None = None) -> Connection:
    """Connect to the `Listener` at `address`. Raises AuthenticationError if it has not the same key."""
    if authkey is not None and not isinstance(authkey, bytes):
        raise TypeError("authkey should be a byte string")
    return _proven(_ours(_stock_Client(address, family)), authkey, (answer_challenge, deliver_challenge))


def _proven(connection: Connection, authkey: bytes | None, steps: tuple[Any, ...]) -> Connection:
    """`connection`, when both ends have shown that they have the key, if there is one. Otherwise it is closed."""
    if authkey is not None:
        try:
            for step in steps:
                step(connection, authkey)
        except BaseException:
            connection.close()
            raise
    return connection


# -- Passing connections on


class _Parcel:
    """The descriptor of an end of a pair and that of the shared memory, on their way to a process that is running.

    The standard library's `resource_sharer` serves them. What both ends share is kept until they have arrived.
    """

    def __init__(self, descriptor: int, arena: int, shared_part: _native.SharedPart) -> None:
        from multiprocessing import resource_sharer

        sharer: Any = resource_sharer
        end, memory = os.dup(descriptor), os.dup(_native.arena_descriptor(arena))
        kept = [shared_part]

        def send(connection: Any, pid: int) -> None:
            reduction.send_handle(connection, end, pid)
            reduction.send_handle(connection, memory, pid)
            connection.recv_bytes(1)
            kept.clear()

        def close() -> None:
            os.close(end)
            os.close(memory)

        self._id = sharer._resource_sharer.register(send, close)

    def open(self, arena: int, attach: Any) -> None:
        """Fetch the descriptors, and call `attach` with that of the end."""
        from multiprocessing import resource_sharer

        sharer: Any = resource_sharer
        with sharer._resource_sharer.get_connection(self._id) as connection:
            end = reduction.recv_handle(connection)
            memory = reduction.recv_handle(connection)
            try:
                _native.attach_arena(arena, lambda: os.dup(memory))
                attach(end)
            finally:
                os.close(memory)
            connection.send_bytes(b".")


class _Inherited:
    """The same for a process that is being started."""

    def __init__(self, starting: Any, descriptor: int, arena: int, shared_part: _native.SharedPart) -> None:
        known: dict[int, Any] = starting.__dict__.setdefault("_weft_segments", {})
        if arena not in known:
            known[arena] = reduction.DupFd(_native.arena_descriptor(arena))
        starting.__dict__.setdefault("_weft_passed_on", []).append(shared_part)
        self._end, self._memory = reduction.DupFd(descriptor), known[arena]

    def open(self, arena: int, attach: Any) -> None:
        """Take the descriptors over, and call `attach` with that of the end."""
        _native.attach_arena(arena, self._memory.detach)
        attach(self._end.detach())


def reduce_connection(conn: Connection) -> tuple[Any, ...]:
    """How a connection is pickled for another process."""
    descriptor, shared = conn._descriptor(), conn._shared_part()
    if shared is None:
        return rebuild_connection, (reduction.DupFd(descriptor), conn.readable, conn.writable)
    place, shared_part = shared
    starting = context.get_spawning_popen()
    parcel: _Inherited | _Parcel
    if starting is None:
        parcel = _Parcel(descriptor, place[0], shared_part)
    else:
        parcel = _Inherited(starting, descriptor, place[0], shared_part)
    return _rebuilt_end, (type(conn), parcel, conn.readable, conn.writable, place)


def rebuild_connection(df: Any, readable: bool, writable: bool) -> Connection:
    """The connection in the other process."""
    return Connection(df.detach(), readable, writable)


def _rebuilt_end(
    cls: type[Connection],
    parcel: _Inherited | _Parcel,
    readable: bool,
    writable: bool,
    place: tuple[int, int, int, int],
) -> Connection:
    connection: Connection = cls.__new__(cls)
    parcel.open(place[0], lambda end: connection._attach(end, readable, writable, place))
    return connection


reduction.register(Connection, reduce_connection)


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(_stock, name)


_patches.finish(__name__)
