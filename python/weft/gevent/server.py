"""Servers for streams and for datagrams. As gevent.server."""

from __future__ import annotations

from _socket import AF_INET, MSG_DONTWAIT, SO_REUSEADDR, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET
from _socket import socket as _plain
from collections.abc import Callable
from typing import Any

from .baseserver import BaseServer
from .lock import Semaphore
from .socket import socket as _Socket

__all__ = ["DatagramServer", "StreamServer"]


class StreamServer(BaseServer):
    """A server for connections: `handle(socket, address)` is called for each, which is closed when that returns."""

    # How many connections wait in the kernel.
    backlog = 128
    reuse_addr: int | None = 1

    def __init__(
        self,
        listener: Any,
        handle: Callable[..., Any] | None = None,
        backlog: int | None = None,
        spawn: Any = "default",
        **ssl_args: Any,
    ) -> None:
        super().__init__(listener, handle=handle, spawn=spawn)
        try:
            self.ssl_args = self._prepare_tls(ssl_args) if ssl_args else None
            if backlog is not None:
                if hasattr(self, "socket"):
                    raise TypeError("backlog must be None when a socket instance is passed")
                self.backlog = backlog
        except BaseException:
            self.close()
            raise

    def _prepare_tls(self, options: dict[str, Any]) -> dict[str, Any]:
        options = {"server_side": True, **options}
        context = options.pop("ssl_context", None)
        if context is not None:
            self.wrap_socket = context.wrap_socket
        else:
            # Says what there is, as long as there is none.
            from .ssl import wrap_socket

            self.wrap_socket = wrap_socket
        return options

    @property
    def ssl_enabled(self) -> bool:
        """Whether connections are encrypted."""
        return self.ssl_args is not None

    def init_socket(self) -> None:
        """Make the listener, if there is only an address."""
        if not hasattr(self, "socket"):
            self.socket = self.get_listener(self.address, self.backlog, self.family)
            self.address = self.socket.getsockname()
        self._handle = self.wrap_socket_and_handle if self.ssl_args else self.handle

    @classmethod
    def get_listener(cls, address: Any, backlog: int | None = None, family: Any = None) -> Any:
        """A socket that listens at an address."""
        made = _bound(address, cls.reuse_addr, family, SOCK_STREAM)
        made.listen(cls.backlog if backlog is None else backlog)
        made.setblocking(False)
        return made

    def do_read(self) -> Any:
        """A connection that waits, and its address; None if there is none."""
        listener = self.socket
        try:
            descriptor, address = listener._accept()
        except BlockingIOError:
            return None
        return _Socket(listener.family, listener.type, listener.proto, fileno=descriptor), address

    def do_close(self, sock: Any, *args: Any) -> None:
        """Close the connection."""
        sock.close()

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> Any:
        """What is called for encrypted connections."""
        with self.wrap_socket(client_socket, **(self.ssl_args or {})) as encrypted:
            return self.handle(encrypted, address)


class DatagramServer(BaseServer):
    """A server for datagrams: `handle(data, address)` is called for each."""

    reuse_addr: int | None = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._writelock = Semaphore()

    def init_socket(self) -> None:
        """Make the socket, if there is only an address."""
        if not hasattr(self, "socket"):
            self.socket = self.get_listener(self.address, self.family)
            self.address = self.socket.getsockname()

    @classmethod
    def get_listener(cls, address: Any, family: Any = None) -> Any:
        """A socket that is bound to an address."""
        return _bound(address, cls.reuse_addr, family, SOCK_DGRAM)

    def do_read(self) -> Any:
        """A datagram and its sender's address; None if there is none."""
        try:
            return _plain.recvfrom(self.socket, 8192, MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def sendto(self, *args: Any) -> None:
        """Send a datagram, one greenlet at a time."""
        with self._writelock:
            self.socket.sendto(*args)


def _bound(address: Any, reuse: int | None, family: Any, kind: int) -> Any:
    made = _Socket(family=AF_INET if family is None else family, type=kind)
    try:
        if reuse is not None:
            made.setsockopt(SOL_SOCKET, SO_REUSEADDR, reuse)
        made.bind(address)
    except OSError as error:
        made.close()
        if error.strerror is not None:
            error.strerror = f"{error.strerror}: {address!r}"
        raise
    return made
