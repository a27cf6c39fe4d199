"""What the scenarios of gevent are written against: the package, or weft's own, or a rival's server."""

from __future__ import annotations

import socket
from functools import partial
from importlib import import_module
from typing import Any


def is_weft() -> bool:
    import greenlet

    return "weft" in (greenlet.__spec__.name.split(".")[0], greenlet.__file__.split("/")[-3])


class Stream:
    """One end of a pair of sockets on weft's hub, without the standard library's socket around it."""

    def __init__(self, end: socket.socket) -> None:
        from weft._native import _hub
        from weft.gevent import get_hub

        end.setblocking(False)
        self._end = end
        stream = _hub.Stream(get_hub().loop, end.fileno())
        self.recv = partial(_hub.recv, stream)
        self.sendall = partial(_hub.sendall, stream)


class Api:
    """gevent's modules, of the side that this process is."""

    def __init__(self) -> None:
        self.server = "weft" if is_weft() else "gevent"
        self._package = "weft.gevent" if is_weft() else "gevent"
        self.gevent: Any = import_module(self._package)

    def module(self, name: str) -> Any:
        return import_module(f"{self._package}.{name}")

    def socketpair(self) -> tuple[Any, Any]:
        if not is_weft():
            one, other = self.module("socket").socketpair()
            return one, other
        one, other = socket.socketpair()
        return Stream(one), Stream(other)


class Server:
    """A rival that is only a server."""

    def __init__(self, name: str) -> None:
        self.server = name


RIVALS = {name: (lambda name=name: Server(name)) for name in ("epoll", "asyncio", "uvloop")}
