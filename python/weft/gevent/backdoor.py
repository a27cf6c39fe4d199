"""An interactive interpreter inside a running program, over a socket. As gevent.backdoor.

Each connection is a greenlet with streams of its own. As long as there is one, the standard streams are *routers*, which pass
what a console's greenlet does on to its connection, and everything else to where it went before.
"""

from __future__ import annotations

import builtins
import socket as _socket
import sys
from code import InteractiveConsole
from typing import Any

from weft.greenlet import getcurrent

from .greenlet import Greenlet
from .server import StreamServer

__all__ = ["BackdoorServer"]

_STREAMS = ("stdin", "stdout", "stderr")


class _Console(Greenlet):
    """The greenlet of a connection; `streams` are what it has for the standard ones."""

    streams: dict[str, Any] | None = None


class _Router:
    """A standard stream: a console's own for its greenlet, what was there before for all others."""

    def __init__(self, name: str, before: Any) -> None:
        self._name = name
        self._before = before

    def __getattr__(self, attribute: str) -> Any:
        streams = getattr(getcurrent(), "streams", None)
        return getattr(self._before if streams is None else streams[self._name], attribute)

    def __iter__(self) -> Any:
        return iter(self.__getattr__("__iter__")())


_consoles = 0


def _enter() -> None:
    global _consoles
    _consoles += 1
    for name in _STREAMS:
        if not isinstance(getattr(sys, name), _Router):
            setattr(sys, name, _Router(name, getattr(sys, name)))


def _leave() -> None:
    global _consoles
    _consoles -= 1
    if _consoles:
        return
    for name in _STREAMS:
        stream = getattr(sys, name)
        # Somebody may have put another one there meanwhile.
        if isinstance(stream, _Router):
            setattr(sys, name, stream._before)


class _Output:
    """Writes to a connection."""

    encoding = "utf-8"
    errors = "strict"

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.fileno = connection.fileno

    def write(self, data: str | bytes) -> None:
        self._connection.sendall(data if isinstance(data, bytes) else data.encode(self.encoding))

    def flush(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing: the connection is closed with the console."""

    def isatty(self) -> bool:
        """Never."""
        return False


class _Input(_Output):
    """Reads lines from a connection."""

    def __init__(self, connection: Any, lines: Any) -> None:
        super().__init__(connection)
        self._lines = lines

    def readline(self, *size: int) -> str:
        try:
            return str(self._lines.readline(*size)).replace("\r\n", "\n")
        except UnicodeError:
            # A terminal's Ctrl-C, or another of its commands: the end.
            return ""


class BackdoorServer(StreamServer):
    """A server whose connections are consoles. What is in `locals` is known there; `banner` is shown first.

    Nobody is asked who he is: bind it to an address that only friends can reach.
    """

    def __init__(
        self, listener: Any, locals: Any = None, banner: str | None = None, **server_args: Any
    ) -> None:
        from .pool import Pool

        super().__init__(listener, spawn=Pool(greenlet_class=_Console), **server_args)
        self.locals = {"__doc__": None, "__name__": "__console__", **(locals or {})}
        self.banner = banner

    def _create_interactive_locals(self) -> dict[str, Any]:
        return {**self.locals, "builtins": builtins, "__builtins__": builtins}

    def handle(self, conn: Any, _address: Any) -> None:
        """Talk with who has connected."""
        try:
            conn.setsockopt(_socket.SOL_TCP, _socket.TCP_NODELAY, True)
        except OSError:
            pass  # a local socket, which has no such thing
        lines = conn.makefile(mode="r")
        output = _Output(conn)
        console: Any = getcurrent()
        console.streams = {"stdin": _Input(conn, lines), "stdout": output, "stderr": output}
        _enter()
        try:
            InteractiveConsole(self._create_interactive_locals()).interact(banner=self.banner, exitmsg="")
        except SystemExit:
            pass  # that is how it is left
        finally:
            console.streams = None
            _leave()
            lines.close()
            conn.close()


def main(arguments: list[str]) -> None:
    """Serve at a port of this machine."""
    if not arguments:
        print("usage: python -m gevent.backdoor PORT [BANNER]")
        return
    banner = arguments[1] if len(arguments) > 1 else None
    BackdoorServer(("127.0.0.1", int(arguments[0])), banner=banner).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
