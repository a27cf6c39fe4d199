"""An echo server, and beside it one that says how the process is.

A message is its length in four bytes, and so many bytes; it is sent back. Each line to the other server is a question, and is
answered with one of JSON: `ended N` when so many handlers have ended, `refused N` when to accept has failed so often, `now` at once.
`limit N` first allows the process only N more descriptors than it has.
"""

from __future__ import annotations

import json
import resource
from typing import Any

from stage import belongings, descriptors, say
from weft.gevent import get_hub
from weft.gevent.event import Event
from weft.gevent.server import StreamServer

BACKLOG = 4096


class Counts:
    """What has happened so far."""

    def __init__(self) -> None:
        self.begun = self.ended = self.echoed = 0
        self.refused: list[int] = []  # in which turn of the loop each
        self.changed = Event()

    def change(self) -> None:
        self.changed.set()
        self.changed.clear()


counts = Counts()


class EchoServer(StreamServer):
    def do_read(self) -> Any:
        try:
            return super().do_read()
        except OSError:
            counts.refused.append(get_hub().loop.iteration)
            counts.change()
            raise


def exactly(sock: Any, size: int) -> bytes:
    """So many bytes, or fewer at the end."""
    parts = []
    while size and (part := sock.recv(min(size, 1 << 16))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def echo(sock: Any, _address: Any) -> None:
    counts.begun += 1
    try:
        while len(head := exactly(sock, 4)) == 4:
            size = int.from_bytes(head, "big")
            body = exactly(sock, size)
            if len(body) < size:
                return
            sock.sendall(head + body)
            counts.echoed += 1
    except (ConnectionResetError, BrokenPipeError):
        return  # that is what the other side does
    finally:
        counts.ended += 1
        counts.change()


def answer(sock: Any, _address: Any) -> None:
    for line in sock.makefile("r"):
        what, _, number = line.strip().partition(" ")
        if what == "limit":
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + int(number), hard))
        while what == "ended" and counts.ended < int(number):
            counts.changed.wait()
        while what == "refused" and len(counts.refused) < int(number):
            counts.changed.wait()
        # Without a descriptor nobody can look who has how many.
        found = {} if what == "refused" else belongings()
        found |= {"begun": counts.begun, "ended": counts.ended, "echoed": counts.echoed}
        sock.sendall(json.dumps({**found, "turns": counts.refused}).encode() + b"\n")


def main() -> None:
    echoing = EchoServer(("0.0.0.0", 0), echo, backlog=BACKLOG)
    answering = StreamServer(("127.0.0.1", 0), answer)
    for server in (echoing, answering):
        server.start()
    say(f"{echoing.server_port} {answering.server_port}")
    answering.serve_forever()


if __name__ == "__main__":
    main()
