"""What `socket` has beside the class: names of hosts, and waiting for descriptors. As gevent._socketcommon."""

from __future__ import annotations

import socket as __socket__
from collections.abc import Callable
from socket import AF_INET, AF_INET6, AddressFamily, SocketKind
from typing import Any

from ._util import _NONE
from .exceptions import ConcurrentObjectUseError
from .hub import cancel_wait_ex, get_hub
from .timeout import Timeout

_READ, _WRITE = 1, 2

# The functions that a resolver has, and `getfqdn`, which is made of them.
__dns__ = ["getaddrinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getfqdn", "getnameinfo"]
__extensions__ = ["cancel_wait", "wait_read", "wait_readwrite", "wait_write"]

_RESOLVABLE = (AF_INET, AF_INET6) if __socket__.has_ipv6 else (AF_INET,)


# --- names of hosts -----------------------------------------------------------------------------------------


def gethostbyname(hostname: Any) -> str:
    """As socket.gethostbyname, by the hub's resolver."""
    return get_hub().resolver.gethostbyname(hostname)  # type: ignore[no-any-return]


def gethostbyname_ex(hostname: Any) -> tuple[str, list[str], list[str]]:
    """As socket.gethostbyname_ex, by the hub's resolver."""
    return get_hub().resolver.gethostbyname_ex(hostname)  # type: ignore[no-any-return]


def gethostbyaddr(ip_address: Any) -> tuple[str, list[str], list[str]]:
    """As socket.gethostbyaddr, by the hub's resolver."""
    return get_hub().resolver.gethostbyaddr(ip_address)  # type: ignore[no-any-return]


def getnameinfo(sockaddr: Any, flags: int) -> tuple[str, str]:
    """As socket.getnameinfo, by the hub's resolver."""
    return get_hub().resolver.getnameinfo(sockaddr, flags)  # type: ignore[no-any-return]


def getaddrinfo(
    host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> list[Any]:
    """As socket.getaddrinfo, by the hub's resolver."""
    found = get_hub().resolver.getaddrinfo(host, port, family, type, proto, flags)
    return [
        (_as_member(AddressFamily, af), _as_member(SocketKind, kind), number, name, address)
        for af, kind, number, name, address in found
    ]


def _as_member(enumeration: Callable[[Any], Any], value: Any) -> Any:
    try:
        return enumeration(value)
    except ValueError:
        return value


def getfqdn(name: str = "") -> str:
    """As socket.getfqdn, by the hub's resolver."""
    name = name.strip()
    if not name or name in ("0.0.0.0", "::"):
        name = __socket__.gethostname()
    try:
        canonical, aliases, _ = gethostbyaddr(name)
    except OSError:
        return name
    return next((each for each in (canonical, *aliases) if "." in each), canonical)


def _resolve_addr(sock: Any, address: Any) -> Any:
    """The address with the number of the host in place of its name."""
    if sock.family not in _RESOLVABLE or not isinstance(address, tuple):
        return address
    host, port = address[:2]
    try:
        __socket__.inet_pton(sock.family, host)
    except (OSError, TypeError, ValueError):
        number = getaddrinfo(host, None, sock.family)[0][-1]
        return (number[0], port, *number[2:])
    return address


# --- waiting for descriptors --------------------------------------------------------------------------------


def wait(io: Any, timeout: float | None = None, timeout_exc: Any = _NONE) -> None:
    """Park the current greenlet until the watcher is told of something; `timeout_exc`, or TimeoutError, if it is
    not within `timeout` seconds."""
    if io.callback is not None:
        raise ConcurrentObjectUseError(f"This socket is already used by another greenlet: {io.callback!r}")
    hub = get_hub()
    if timeout is None:
        hub.wait(io)
        return
    with Timeout(timeout, TimeoutError("timed out") if timeout_exc is _NONE else timeout_exc):
        hub.wait(io)


def wait_read(fileno: int, timeout: float | None = None, timeout_exc: Any = _NONE) -> None:
    """Park the current greenlet until the descriptor can be read."""
    _wait_for(fileno, _READ, timeout, timeout_exc)


def wait_write(
    fileno: int, timeout: float | None = None, timeout_exc: Any = _NONE, event: Any = _NONE
) -> None:
    """Park the current greenlet until the descriptor can be written. `event` is ignored."""
    _wait_for(fileno, _WRITE, timeout, timeout_exc)


def wait_readwrite(
    fileno: int, timeout: float | None = None, timeout_exc: Any = _NONE, event: Any = _NONE
) -> None:
    """Park the current greenlet until the descriptor can be read or written. `event` is ignored."""
    _wait_for(fileno, _READ | _WRITE, timeout, timeout_exc)


def _wait_for(fileno: int, events: int, timeout: float | None, timeout_exc: Any) -> None:
    watcher = get_hub().loop.io(fileno, events)
    try:
        wait(watcher, timeout, timeout_exc)
    finally:
        watcher.close()


def cancel_wait(watcher: Any, error: Any = cancel_wait_ex) -> None:
    """Raise `error` in the greenlet that waits for the watcher."""
    get_hub().cancel_wait(watcher, error)
