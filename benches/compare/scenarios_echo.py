"""The scenarios of servers: echo over TCP, the server a process of its own, and so is the load.

Where there are two processors, each of the two has one to itself. A server in C is about as quick as the load, and does
not always use the whole of its processor; what it leaves counts as its own, so that it is the server which is measured.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from apis_gevent import Api, Server
from programs import program

SERVERS = Path(__file__).with_name("echo_servers.py")
SECONDS = 1.0  # that a server is under load


class Load(NamedTuple):
    """What a load found: messages a second, and the share of a processor that the server used."""

    rate: float
    busy: float


def command(side: Api | Server, port: int, options: list[str]) -> list[str]:
    if side.server == "C epoll":
        return [program("echo_server"), str(port)]
    under = ["-m", "weft", "--only", "gevent"] if side.server == "weft" else []
    name = "gevent" if side.server == "weft" else side.server
    return [sys.executable, "-E", *under, str(SERVERS), name, str(port), *options]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processors(alone: bool) -> tuple[list[int], list[int]]:
    """Where the server runs, and where the load. A server with a thread beside it is not `alone`."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2 or not alone:
        return allowed, allowed
    return allowed[:1], allowed[1:2]


class Serving:
    """A server that is up."""

    def __init__(self, process: subprocess.Popen[str], port: int, load_on: list[int]) -> None:
        self._process = process
        self._port = port
        self._load_on = load_on

    def load(self, connections: str, size: str, idle: str = "0") -> list[Load]:
        """Puts it under load; with `idle` connections more, once without them and once with them."""
        arguments = [str(self._port), str(self._process.pid), connections, size, str(SECONDS), idle]
        found = subprocess.run(
            [program("echo_load"), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, self._load_on),
        )
        return [Load(*map(float, line.split())) for line in found.stdout.splitlines()]

    def says(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def serving(side: Api | Server, *options: str) -> Iterator[Serving]:
    port = free_port()
    server_on, load_on = processors(alone="--burn" not in options)
    with subprocess.Popen(
        command(side, port, list(options)),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, server_on),
    ) as process:
        try:
            server = Serving(process, port, load_on)
            if (said := server.says()) != f"ready {side.server}":
                raise RuntimeError(f"the server of {side.server} says {said!r}")
            yield server
        finally:
            process.kill()


def echo(side: Api | Server, size: str, connections: str) -> float:
    """Seconds of the server's processor a message."""
    with serving(side) as server:
        (found,) = server.load(connections, size)
    side.busy = found.busy
    return found.busy / found.rate


def company(side: Api, size: str, connections: str) -> float:
    """Seconds a message, with a thread beside the server that takes what it can of the interpreter."""
    with serving(side, "--burn") as server:
        (found,) = server.load(connections, size)
    return 1 / found.rate


def idle(side: Api | Server, size: str, connections: str, beside: str) -> float:
    """The time of a message, as in `echo`, with so many idle connections beside, by that without."""
    with serving(side) as server:
        without, found = server.load(connections, size, beside)
    side.busy = min(without.busy, found.busy)
    return (found.busy / found.rate) / (without.busy / without.rate)


def heartbeat(side: Api, connections: str) -> float:
    """How late a greenlet wakes that sleeps 10 ms at a time, the median, in a thread with more to do than it can."""
    with serving(side, "--beat") as server:
        (found,) = server.load(connections, "64")
        side.busy = found.busy
        return float(server.says())
