"""The system's functions in the hub's threads: the default. As gevent.resolver.thread."""

from __future__ import annotations

import _socket
from typing import Any

from ..hub import get_hub
from . import AbstractResolver

__all__ = ["Resolver"]


class Resolver(AbstractResolver):
    """Looks up names as the system does, in a thread for each question."""

    def __init__(self, hub: Any = None) -> None:
        hub = get_hub() if hub is None else hub
        self.pool = hub.threadpool
        # That a name is not known is said to who asked, and to nobody else.
        if _socket.gaierror not in hub.NOT_ERROR:
            hub.NOT_ERROR += (_socket.gaierror, _socket.herror)

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__}.{kind.__name__} at {id(self):#x} pool={self.pool!r}>"

    def gethostbyname(self, *args: Any) -> Any:
        """As socket.gethostbyname."""
        return self.pool.apply(_socket.gethostbyname, args)

    def gethostbyname_ex(self, *args: Any) -> Any:
        """As socket.gethostbyname_ex."""
        return self.pool.apply(_socket.gethostbyname_ex, args)

    def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        """As socket.getaddrinfo."""
        return self.pool.apply(_socket.getaddrinfo, args, kwargs)

    def gethostbyaddr(self, *args: Any) -> Any:
        """As socket.gethostbyaddr."""
        return self.pool.apply(_socket.gethostbyaddr, args)

    def getnameinfo(self, *args: Any) -> Any:
        """As socket.getnameinfo."""
        return self.pool.apply(_socket.getnameinfo, args)
