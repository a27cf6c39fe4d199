"""The module `ssl`, whose sockets let other greenlets run while they wait. As gevent.ssl.

An `SSLSocket` is one of the standard library's over a socket of `socket`: OpenSSL is asked, and where it wants to read or to
write first, that is waited for, and it is asked again. Which class of sockets a context makes is an attribute of its class.
So to patch the standard library is to set that attribute: contexts, and names of classes, that others hold already are
patched with it, whenever that happens.
"""

from __future__ import annotations

import ssl as __ssl__
import types
from collections.abc import Callable
from errno import ENOTCONN
from socket import MSG_DONTWAIT, SO_TYPE, SOCK_STREAM, SOL_SOCKET
from ssl import CERT_NONE, PROTOCOL_TLS, SSLWantReadError, SSLWantWriteError
from typing import Any

from . import _hub
from ._util import reexport
from .socket import create_connection, socket

__implements__ = [
    "SSLContext",
    "SSLSocket",
    "_create_default_https_context",
    "_create_stdlib_context",
    "_create_unverified_context",
    "create_default_context",
    "get_server_certificate",
]
__extensions__ = [] if hasattr(__ssl__, "wrap_socket") else ["wrap_socket"]
if not __extensions__:
    __implements__.append("wrap_socket")
__imports__ = reexport(__ssl__, globals(), without=[*__implements__, "socket", "create_connection"])
__all__ = sorted(
    {*__implements__, *__extensions__, *(name for name in __imports__ if not name.startswith("_"))}
)

orig_SSLContext = __ssl__.SSLContext


class SSLSocket(__ssl__.SSLSocket, socket):  # type: ignore[misc]  # an accepted one is of the class itself
    """A socket that is encrypted. It is made by a context's `wrap_socket`, which takes over the descriptor of another one."""

    # As the standard library's class has them.
    _sslobj: Any
    _context: Any
    _session: Any
    _connected: bool
    do_handshake_on_connect: bool
    suppress_ragged_eofs: bool

    @classmethod
    def _create(
        cls,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: Any = None,
        context: Any = None,
        session: Any = None,
    ) -> SSLSocket:
        """What `SSLContext.wrap_socket` calls."""
        if sock.getsockopt(SOL_SOCKET, SO_TYPE) != SOCK_STREAM:
            raise NotImplementedError("only stream sockets are supported")
        if server_side and server_hostname:
            raise ValueError("server_hostname can only be specified in client mode")
        if server_side and session is not None:
            raise ValueError("session can only be specified in client mode")
        if context.check_hostname and not server_hostname:
            raise ValueError("check_hostname requires server_hostname")
        made = cls.__new__(cls)
        socket.__init__(made, sock.family, sock.type, sock.proto, sock.fileno())
        limit = sock.gettimeout()
        sock.detach()
        made.settimeout(limit)
        made._sslobj = None
        made._context = context
        made._session = session
        made.server_side = server_side
        made.server_hostname = context._encode_hostname(server_hostname)
        made.do_handshake_on_connect = do_handshake_on_connect
        made.suppress_ragged_eofs = suppress_ragged_eofs
        made._connected = False
        try:
            made._begin()
        except BaseException:
            made.close()
            raise
        return made

    def _begin(self) -> None:
        """Encrypt what is connected already."""
        try:
            self.getpeername()
        except OSError as error:
            if error.errno != ENOTCONN:
                raise
            self._refuse_early_bytes()
            return
        self._connected = True
        self._sslobj = self._context._wrap_socket(
            self, self.server_side, self.server_hostname, owner=self, session=self._session
        )
        if self.do_handshake_on_connect:
            if self.gettimeout() == 0.0:
                raise ValueError("do_handshake_on_connect should not be specified for non-blocking sockets")
            self.do_handshake()

    def _refuse_early_bytes(self) -> None:
        """The other side may have sent something, not encrypted, and closed: that is not to be taken for encrypted."""
        try:
            early = socket.recv(self, 1, MSG_DONTWAIT)
        except OSError:
            return  # nothing was sent
        if early:
            error = __ssl__.SSLError("Closed before TLS handshake with data in recv buffer.")
            error.reason = error.library = ""
            raise error

    def _until_done(self, call: Callable[..., Any], *args: Any) -> Any:
        while True:
            try:
                return call(*args)
            except SSLWantReadError:
                if self.gettimeout() == 0.0:
                    raise
                write = False
            except SSLWantWriteError:
                if self.gettimeout() == 0.0:
                    raise
                write = True
            _hub.wait(self._stream or self._open(), write, self.gettimeout())

    def do_handshake(self, block: bool = False) -> None:
        """Agree with the other side."""
        self._check_connected()  # type: ignore[attr-defined]
        self._until_done(self._sslobj.do_handshake)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        """Up to so many bytes, or how many were put into the buffer."""
        return self._until_done(super().read, len, buffer)

    def write(self, data: Any) -> int:
        """Send what there is room for; how much that was."""
        return self._until_done(super().write, data)  # type: ignore[no-any-return]

    def send(self, data: Any, flags: int = 0, timeout: Any = None) -> int:
        """The same as `write`; no flags are possible."""
        if self._sslobj is None:
            return socket.send(self, data, flags)
        if flags:
            raise ValueError(f"non-zero flags not allowed in calls to send() on {type(self)}")
        return self._until_done(self._sslobj.write, data)  # type: ignore[no-any-return]

    def unwrap(self) -> Any:
        """End the encryption: the socket as it was before."""
        if self._sslobj is None:
            raise ValueError(f"No SSL wrapper around {self}")
        before = self._until_done(self._sslobj.shutdown)
        self._sslobj = None
        return before


class SSLContext(__ssl__.SSLContext):
    """A context that makes such sockets."""

    sslsocket_class = SSLSocket


def _with_our_names(function: Any) -> Any:
    """A function of the standard library's that makes contexts and connections of this module."""
    return types.FunctionType(
        function.__code__, _names, function.__name__, function.__defaults__, function.__closure__
    )


_names = {
    **vars(__ssl__),
    "SSLContext": SSLContext,
    "SSLSocket": SSLSocket,
    "create_connection": create_connection,
}
for _name in ("create_default_context", "_create_unverified_context", "get_server_certificate"):
    _function = _with_our_names(getattr(__ssl__, _name))
    _function.__kwdefaults__ = getattr(__ssl__, _name).__kwdefaults__
    _names[_name] = globals()[_name] = _function
_names["_create_default_https_context"] = _create_default_https_context = _names["create_default_context"]
_names["_create_stdlib_context"] = _create_stdlib_context = _names["_create_unverified_context"]
del _name, _function


def wrap_socket(
    sock: Any,
    keyfile: Any = None,
    certfile: Any = None,
    server_side: bool = False,
    cert_reqs: Any = CERT_NONE,
    ssl_version: Any = PROTOCOL_TLS,
    ca_certs: Any = None,
    do_handshake_on_connect: bool = True,
    suppress_ragged_eofs: bool = True,
    ciphers: Any = None,
    server_hostname: Any = None,
) -> SSLSocket:
    """Encrypt a socket, without a context of one's own."""
    if server_side and not certfile:
        raise ValueError("certfile must be specified for server-side operations")
    if keyfile and not certfile:
        raise ValueError("certfile must be specified")
    if ssl_version == PROTOCOL_TLS:
        # The one without a side is about to go.
        ssl_version = __ssl__.PROTOCOL_TLS_SERVER if server_side else __ssl__.PROTOCOL_TLS_CLIENT
    context = SSLContext(ssl_version)
    context.check_hostname = False
    context.verify_mode = cert_reqs
    if ca_certs:
        context.load_verify_locations(ca_certs)
    if certfile:
        context.load_cert_chain(certfile, keyfile)
    if ciphers:
        context.set_ciphers(ciphers)
    made: Any = context.wrap_socket(
        sock,
        server_side=server_side,
        do_handshake_on_connect=do_handshake_on_connect,
        suppress_ragged_eofs=suppress_ragged_eofs,
        server_hostname=server_hostname,
    )
    return made  # type: ignore[no-any-return]


def _gevent_do_monkey_patch(request: Any) -> None:
    """Have every context, also those that exist, make these sockets."""
    from .monkey import patch_item

    patch_item(__ssl__.SSLContext, "sslsocket_class", SSLSocket)
