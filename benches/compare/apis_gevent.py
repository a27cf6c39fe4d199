"""What the scenarios of gevent are written against: the package, which is weft's on its side, or a rival's server."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any


def is_weft() -> bool:
    """Whether `gevent` is weft's in this process."""
    import gevent

    return Path(gevent.__file__).parents[1].name == "weft"


class Api:
    """gevent's modules, of the side that this process is."""

    # The server's share of a processor, where there was one.
    busy: float | None = None

    def __init__(self) -> None:
        self.server = "weft" if is_weft() else "gevent"
        self.gevent: Any = import_module("gevent")

    def module(self, name: str) -> Any:
        return import_module(f"gevent.{name}")


class Server:
    """A rival that is only a server."""

    busy: float | None = None

    def __init__(self, name: str) -> None:
        self.server = name


RIVALS = {name: (lambda name=name: Server(name)) for name in ("C epoll", "asyncio", "uvloop")}
