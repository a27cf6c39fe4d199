"""The module `socket`, whose sockets let other greenlets run while they wait. As gevent.socket.

A `socket` is one of the standard library's that never blocks the thread. What it reads and writes goes through a native
*stream*: the descriptor's registration with the loop of the thread that uses it, made when something is first waited for and
kept for the socket's life. Sending and receiving is native down to the park; the other calls are the standard library's, tried,
and tried again when the stream says so. The time limit is kept here: to the standard library's part all calls are
ones that do not wait.
"""

from __future__ import annotations

import os
import socket as __socket__
import time
from _socket import socket as _plain
from _socket import socketpair as _make_pair
from errno import (  # noqa: F401  some are what gevent.socket has for others
    EAGAIN,
    EALREADY,
    EBADF,
    ECONNREFUSED,
    EHOSTUNREACH,
    EINPROGRESS,
    EINTR,
    EINVAL,
    EISCONN,
    EWOULDBLOCK,
)
from socket import (
    AF_UNIX,
    MSG_DONTWAIT,
    SHUT_RD,
    SHUT_WR,
    SOCK_STREAM,
    getdefaulttimeout,
)
from typing import Any

from . import _hub
from ._socketcommon import (
    __dns__ as __dns__,
)
from ._socketcommon import (  # noqa: F401  some are what gevent.socket has for others
    __extensions__,
    _resolve_addr,
    cancel_wait,
    getaddrinfo,
    getfqdn,
    gethostbyaddr,
    gethostbyname,
    gethostbyname_ex,
    getnameinfo,
    wait,
    wait_read,
    wait_readwrite,
    wait_write,
)
from ._util import _NONE, take_over
from .hub import get_hub, get_hub_if_exists, sleep

_recv_into, _send, _wait = _hub.recv_into, _hub.send, _hub.wait
_GLOBAL_DEFAULT_TIMEOUT: Any = __socket__._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]

__implements__ = ["SocketType", "create_connection", "fromfd", "socket", "socketpair", *__dns__]
__imports__ = take_over(
    __socket__,
    globals(),
    sorted({*__socket__.__all__, "close", "dup"} - {*__implements__, "CAPI"}),
)
__all__ = [*__implements__, *__extensions__, *__imports__]

_CONNECTING = (EINPROGRESS, EALREADY, EWOULDBLOCK, EINTR)
_CHUNK = 1 << 20  # what a file is sent in


class socket(__socket__.socket):
    """A socket whose calls wait without keeping other greenlets from running."""

    __slots__ = ("_stream", "_timeout", "_uncounted")

    _stream: _hub.Stream | None
    _timeout: float | None

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        super().__init__(family, type, proto, fileno)
        self._stream = None
        self._uncounted = False
        self._timeout = getdefaulttimeout()
        _plain.settimeout(self, 0.0)

    # --- the stream -------------------------------------------------------------------------------------------

    def _open(self) -> _hub.Stream:
        """The stream, which is made."""
        stream = self._stream
        if stream is None:
            number = self.fileno()
            if number < 0:
                raise OSError(EBADF, os.strerror(EBADF))
            stream = _hub.Stream(get_hub().loop, number)
            if self._uncounted:
                stream.ref = False
            self._stream = stream
        return stream

    def _end_stream(self) -> None:
        """Have nobody wait for it any more."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _await(self, write: bool, error: BlockingIOError) -> None:
        """Park until a call that was refused with `error` can be tried again."""
        if self._timeout == 0.0:
            raise error
        _wait(self._stream or self._open(), write, self._timeout)

    @property
    def hub(self) -> Any:
        """The hub of the thread."""
        return get_hub()

    @property
    def ref(self) -> bool:
        """Whether those who wait for it keep the loop from ending."""
        return not self._uncounted

    @ref.setter
    def ref(self, value: bool) -> None:
        self._uncounted = not value
        if self._stream is not None:
            self._stream.ref = bool(value)

    # What gevent calls its parts: the standard library's socket, which this one is, and the two directions.
    @property
    def _sock(self) -> Any:
        return self

    @property
    def _read_event(self) -> _hub.Stream:
        return self._stream or self._open()

    _write_event = _read_event

    # --- the time limit ---------------------------------------------------------------------------------------

    def settimeout(self, value: float | None, /) -> None:
        """Have calls fail with TimeoutError after so many seconds; 0 is at once, None never."""
        if value is not None:
            if not hasattr(value, "__float__") and not hasattr(value, "__index__"):
                raise TypeError(f"a float is required for a timeout, not {value!r}")
            value = float(value)
            if not value >= 0.0:
                raise ValueError("Timeout value out of range")
        self._timeout = value

    def gettimeout(self) -> float | None:
        """After how many seconds calls fail."""
        return self._timeout

    @property
    def timeout(self) -> float | None:
        """The same as `gettimeout()`."""
        return self._timeout

    @timeout.setter
    def timeout(self, value: float | None) -> None:
        self.settimeout(value)

    def setblocking(self, flag: bool, /) -> None:
        """Whether calls wait: for ever, or not at all."""
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """Whether calls wait."""
        return self._timeout != 0.0

    # --- connections ------------------------------------------------------------------------------------------

    def accept(self) -> tuple[socket, Any]:
        """Wait for a connection: its socket, and the other side's address."""
        while True:
            try:
                descriptor, address = self._accept()  # type: ignore[attr-defined]
                break
            except BlockingIOError as error:
                self._await(False, error)
        return socket(self.family, self.type, self.proto, fileno=descriptor), address

    def connect(self, address: Any, /) -> None:
        """Connect to an address, waiting for that."""
        if self._timeout == 0.0:
            _plain.connect(self, address)
            return
        number = self._connect(address)
        if number:
            raise OSError(number, os.strerror(number))

    def connect_ex(self, address: Any, /) -> int:
        """The same; gives the number of an error of the kernel's, or 0."""
        if self._timeout == 0.0:
            return _plain.connect_ex(self, address)
        try:
            return self._connect(address)
        except TimeoutError:
            return EAGAIN
        except __socket__.gaierror:
            raise
        except OSError as error:
            if error.errno is None:
                raise
            return error.errno

    def _connect(self, address: Any) -> int:
        end = None if self._timeout is None else time.monotonic() + self._timeout
        address = _resolve_addr(self, address)
        pause = 0.001
        while True:
            number = _plain.connect_ex(self, address)
            if number in (0, EISCONN):
                return 0
            if number not in _CONNECTING:
                # What was told of this attempt is not to be taken for the next one's.
                self._end_stream()
                return number
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("timed out")
            if number == EAGAIN and self.family == AF_UNIX:
                # The other side's backlog is full, and the kernel does not tell when it no longer is.
                sleep(pause if left is None else min(pause, left))
                pause = min(pause * 2, 0.05)
                continue
            # To ask again tells what has become of it, and makes the socket fit for another attempt; SO_ERROR does not.
            _wait(self._stream or self._open(), True, left)

    def shutdown(self, how: int, /) -> None:
        """Have the kernel refuse to read, or to write, any more. Whoever waits for that gets an error."""
        if self._stream is not None:
            self._stream.cancel(how != SHUT_WR, how != SHUT_RD)
        _plain.shutdown(self, how)

    def _real_close(self, _ss: Any = _plain) -> None:
        self._end_stream()
        hub = get_hub_if_exists()
        if hub is not None and hub.loop is not None:
            # Others may wait for its descriptor by other ways.
            hub.loop.closing_fd(self.fileno())
        _ss.close(self)

    def detach(self) -> int:
        """Let go of the descriptor, which is not closed."""
        self._end_stream()
        return super().detach()

    # --- receiving --------------------------------------------------------------------------------------------

    # `recv` and `sendall`, which every message goes through, are native, and are added below.

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """The same, into a buffer, up to its end or `nbytes`; how many there were."""
        if nbytes:
            if nbytes < 0:
                raise ValueError("negative buffersize in recv_into")
            view = memoryview(buffer).cast("B")
            if nbytes > len(view):
                raise ValueError("buffer too small for requested bytes")
            buffer = view[:nbytes]
        return _recv_into(self._stream or self._open(), buffer, flags, self._timeout)

    def _receive(self, call: Any, *args: Any) -> Any:
        while True:
            try:
                return call(self, *args)
            except BlockingIOError as error:
                self._await(False, error)

    def recvfrom(self, *args: Any) -> tuple[bytes, Any]:
        """As socket.recvfrom: a message, and whose it is."""
        return self._receive(_plain.recvfrom, *args)  # type: ignore[no-any-return]

    def recvfrom_into(self, *args: Any) -> tuple[int, Any]:
        """As socket.recvfrom_into."""
        return self._receive(_plain.recvfrom_into, *args)  # type: ignore[no-any-return]

    def recvmsg(self, *args: Any) -> Any:
        """As socket.recvmsg."""
        return self._receive(_plain.recvmsg, *args)

    def recvmsg_into(self, *args: Any) -> Any:
        """As socket.recvmsg_into."""
        return self._receive(_plain.recvmsg_into, *args)

    # --- sending ----------------------------------------------------------------------------------------------

    def send(self, data: Any, flags: int = 0, timeout: Any = _NONE) -> int:
        """Send what there is room for, waiting for room; how much that was. `timeout` is for this call alone."""
        if timeout is _NONE:
            timeout = self._timeout
        return _send(self._stream or self._open(), data, flags, timeout)

    def sendto(self, *args: Any) -> int:
        """As socket.sendto: a message to an address."""
        while True:
            try:
                return _plain.sendto(self, *args)
            except BlockingIOError as error:
                if len(args) == 3 and args[1] & MSG_DONTWAIT:
                    raise
                self._await(True, error)

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        """As socket.sendmsg."""
        while True:
            try:
                return _plain.sendmsg(self, buffers, ancdata, flags, address)
            except BlockingIOError as error:
                if flags & MSG_DONTWAIT:
                    raise
                self._await(True, error)

    def _sendfile_use_sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """What `sendfile` tries first: without the bytes' passing through the process."""
        self._check_sendfile_params(file, offset, count)  # type: ignore[attr-defined]
        try:
            source = file.fileno()
            size = os.fstat(source).st_size
        except (AttributeError, OSError) as error:
            raise __socket__._GiveupOnSendfile(error) from error  # type: ignore[attr-defined]
        if not size:
            return 0
        if self._timeout == 0.0:
            raise ValueError("non-blocking sockets are not supported")
        left = count or max(size - offset, 0)
        sent = 0
        try:
            while left > 0:
                try:
                    now = os.sendfile(self.fileno(), source, offset + sent, min(left, _CHUNK))
                except BlockingIOError as error:
                    self._await(True, error)
                    continue
                except OSError as error:
                    if not sent:
                        raise __socket__._GiveupOnSendfile(error) from error  # type: ignore[attr-defined]
                    raise
                if not now:
                    break
                sent += now
                left -= now
            return sent
        finally:
            if sent and hasattr(file, "seek"):
                file.seek(offset + sent)


_hub.add_socket_methods(socket)
SocketType = socket


def fromfd(fd: int, family: int, type: int, proto: int = 0) -> socket:
    """A socket of a copy of the descriptor."""
    return socket(family, type, proto, os.dup(fd))


def socketpair(family: Any = None, type: int = SOCK_STREAM, proto: int = 0) -> tuple[socket, socket]:
    """Two sockets that are connected with each other."""
    if family is None:
        family = AF_UNIX
    near, far = _make_pair(family, type, proto)
    return (
        socket(family, type, proto, near.detach()),
        socket(family, type, proto, far.detach()),
    )


def create_connection(
    address: tuple[Any, Any],
    timeout: Any = _GLOBAL_DEFAULT_TIMEOUT,
    source_address: Any = None,
    *,
    all_errors: bool = False,
) -> socket:
    """As socket.create_connection: connect to the first of the host's addresses that answers."""
    host, port = address
    errors: list[OSError] = []
    found = getaddrinfo(host, port, 0, SOCK_STREAM)
    if not found:
        raise OSError(f"getaddrinfo returns an empty list for {host!r}")
    try:
        for family, kind, proto, _name, number in found:
            made = None
            try:
                made = socket(family, kind, proto)
                if timeout is not _GLOBAL_DEFAULT_TIMEOUT:
                    made.settimeout(timeout)
                if source_address:
                    made.bind(source_address)
                made.connect(number)
                return made
            except BaseException as error:
                if made is not None:
                    made.close()
                if not isinstance(error, OSError):
                    raise
                if not all_errors:
                    errors.clear()
                errors.append(error)
        if not all_errors:
            raise errors[0]
        raise ExceptionGroup("create_connection failed", errors)
    finally:
        # An error holds this frame, which must not hold the error.
        errors.clear()
