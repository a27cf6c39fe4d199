"""What looks up names of hosts, without keeping other greenlets from running. As gevent.resolver.

`hub.resolver` is made by what the setting `resolver` names: `thread` (the system's functions in the hub's threads), `block`
(the same in this one, which waits), `dnspython` and `ares` (which ask name servers by themselves, over the packages dnspython
and pycares).
"""

from __future__ import annotations

from typing import Any

# As in gevent: a resolver is chosen, not imported.
__all__ = ()


class AbstractResolver:
    """The methods of a resolver, which are those of the standard library's functions of the same names."""

    def close(self) -> None:
        """Give back what it holds."""

    def gethostbyname(self, *args: Any) -> str:
        """As socket.gethostbyname."""
        raise NotImplementedError

    def gethostbyname_ex(self, *args: Any) -> tuple[str, list[str], list[str]]:
        """As socket.gethostbyname_ex."""
        raise NotImplementedError

    def getaddrinfo(self, *args: Any, **kwargs: Any) -> list[Any]:
        """As socket.getaddrinfo."""
        raise NotImplementedError

    def gethostbyaddr(self, *args: Any) -> tuple[str, list[str], list[str]]:
        """As socket.gethostbyaddr."""
        raise NotImplementedError

    def getnameinfo(self, *args: Any) -> tuple[str, str]:
        """As socket.getnameinfo."""
        raise NotImplementedError
