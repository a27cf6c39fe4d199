"""The scenarios of pipes: one other process, which stays for the whole measurement."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from itertools import repeat
from multiprocessing import get_context
from typing import Any

from apis import Api
from loop import Loop

MIB = 1 << 20


def echo(connection: Any) -> None:
    while True:
        connection.send(connection.recv())


def swallow(connection: Any) -> None:
    """Answer the end mark."""
    while True:
        if connection.recv() is None:
            connection.send(None)


def swallow_bytes(connection: Any) -> None:
    while True:
        if not connection.recv_bytes():
            connection.send_bytes(b"")


def partner(work: Callable[[Any], None]) -> Any:
    """A connection to a process that does `work` with the other end."""
    context = get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there,), daemon=True)
    process.start()
    there.close()

    def dismiss() -> None:
        process.kill()
        process.join()

    atexit.register(dismiss)
    return here


def trips(message: object) -> Loop:
    connection = partner(echo)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            connection.send(message)
            connection.recv()

    return Loop(run)


def one_way(message: object) -> Loop:
    connection = partner(swallow)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            connection.send(message)
        connection.send(None)
        connection.recv()

    return Loop(run)


def pipe_trip(api: Api) -> Loop:
    return trips(1234567)


def pipe_trip_1m(api: Api) -> Loop:
    return trips(bytes(MIB))


def pipe_int(api: Api) -> Loop:
    return one_way(1234567)


def pipe_1m(api: Api) -> Loop:
    return one_way(bytes(MIB))


def pipe_bytes(api: Api) -> Loop:
    connection = partner(swallow_bytes)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            connection.send_bytes(b"twenty bytes of data")
        connection.send_bytes(b"")
        connection.recv_bytes()

    return Loop(run)


def pipe_life(api: Api) -> Loop:
    context = get_context("fork")

    def run(count: int) -> None:
        for _ in repeat(None, count):
            one, other = context.Pipe()
            one.close()
            other.close()

    return Loop(run)
