"""A resolver that blocks the thread, and all of its greenlets, while it waits. As gevent.resolver.blocking."""

from __future__ import annotations

import _socket
from typing import Any

from . import AbstractResolver

__all__ = ["Resolver"]


class Resolver(AbstractResolver):
    """The system's functions as they are. For finding faults, or where names are answered at once."""

    def __init__(self, hub: Any = None) -> None:
        pass

    gethostbyname = staticmethod(_socket.gethostbyname)
    gethostbyname_ex = staticmethod(_socket.gethostbyname_ex)
    getaddrinfo = staticmethod(_socket.getaddrinfo)
    gethostbyaddr = staticmethod(_socket.gethostbyaddr)
    getnameinfo = staticmethod(_socket.getnameinfo)
