"""What the tests of passing connections on run in other processes."""

from __future__ import annotations

import os
from multiprocessing import reduction
from typing import Any


def answer(connection: Any) -> None:
    """Send back what comes, until the other end is closed or None comes: a forked child may hold that end as well."""
    with connection:
        while True:
            try:
                got = connection.recv()
            except EOFError:
                return
            if got is None:
                return
            connection.send(got)


def pass_on(source: Any) -> None:
    """Answer at every connection that comes over `source`, until None comes."""
    with source:
        while (got := source.recv()) is not None:
            answer(got)


def write_to(duplicate: Any) -> None:
    descriptor = duplicate.detach()
    os.write(descriptor, b"written by a child")
    os.close(descriptor)


def send_descriptor(connection: Any) -> None:
    """Send the reading end of a pipe that holds a few bytes."""
    reading, writing = os.pipe()
    os.write(writing, b"through a handle")
    os.close(writing)
    reduction.send_handle(connection, reading, os.getppid())
    os.close(reading)
    connection.recv()
