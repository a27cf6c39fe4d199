"""What a connection raises, what it can be waited for with, when it ends: as the standard library's, where that is good."""

from __future__ import annotations

import array
import asyncio
import os
import select
import selectors
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import BufferTooShort, get_context
from multiprocessing import connection as stock
from pickle import PicklingError
from typing import Any

import pytest
import weft
from weft.multiprocessing import connection as ours
from weft.multiprocessing.connection import Connection, Pipe, wait

FORK = get_context("fork")


def outcome(action: Callable[[Any, Any], object], module: Any, duplex: bool = False) -> object:
    """What `action` returns or raises, with a reader and a writer of that module."""
    reader, writer = module.Pipe(duplex)
    with reader, writer:
        try:
            return action(reader, writer)
        except Exception as error:
            return type(error).__name__, str(error)


def closed(use: Callable[[Any], object]) -> Callable[[Any, Any], object]:
    def action(reader: Any, writer: Any) -> object:
        reader.close()
        reader.close()
        return use(reader)

    return action


def after(data: bytes, use: Callable[[Any], object]) -> Callable[[Any, Any], object]:
    def action(reader: Any, writer: Any) -> object:
        writer.send_bytes(data)
        return use(reader), reader.closed, reader.readable

    return action


def raw(data: bytes, use: Callable[[Any], object]) -> Callable[[Any, Any], object]:
    def action(reader: Any, writer: Any) -> object:
        os.write(writer.fileno(), data)
        writer.close()
        return use(reader)

    return action


ACTIONS: dict[str, Callable[[Any, Any], object]] = {
    "send on a reader": lambda reader, writer: reader.send(1),
    "send_bytes on a reader": lambda reader, writer: reader.send_bytes(b"1"),
    "recv on a writer": lambda reader, writer: writer.recv(),
    "recv_bytes on a writer": lambda reader, writer: writer.recv_bytes(),
    "recv_bytes_into on a writer": lambda reader, writer: writer.recv_bytes_into(bytearray(1)),
    "poll on a writer": lambda reader, writer: writer.poll(),
    "closed: recv": closed(lambda reader: reader.recv()),
    "closed: recv_bytes": closed(lambda reader: reader.recv_bytes(-1)),
    "closed: send": closed(lambda reader: reader.send(1)),
    "closed: poll": closed(lambda reader: reader.poll()),
    "closed: fileno": closed(lambda reader: reader.fileno()),
    "closed: closed": closed(lambda reader: (reader.closed, reader._handle)),
    "negative maxlength": lambda reader, writer: reader.recv_bytes(-1),
    "negative offset": lambda reader, writer: writer.send_bytes(b"abc", -1),
    "offset beyond": lambda reader, writer: writer.send_bytes(b"abc", 4),
    "negative size": lambda reader, writer: writer.send_bytes(b"abc", 0, -1),
    "size beyond": lambda reader, writer: writer.send_bytes(b"abc", 2, 2),
    "no buffer": lambda reader, writer: writer.send_bytes("abc"),
    "not contiguous": lambda reader, writer: writer.send_bytes(memoryview(array.array("i", [1, 2, 3]))[::2]),
    "negative offset into": after(b"abc", lambda reader: reader.recv_bytes_into(bytearray(9), -1)),
    "offset too large into": after(b"abc", lambda reader: reader.recv_bytes_into(bytearray(9), 10)),
    "no room": after(b"abc", lambda reader: reader.recv_bytes_into(bytearray(4), 2)),
    "room": after(b"abc", lambda reader: reader.recv_bytes_into(bytearray(5), 2)),
    "empty": after(b"", lambda reader: reader.recv_bytes()),
    "too long": after(b"abc", lambda reader: reader.recv_bytes(2)),
    "just right": after(b"abc", lambda reader: reader.recv_bytes(3)),
    "poll for what is there": after(
        b"abc", lambda reader: (reader.poll(), reader.poll(None), reader.poll(-1))
    ),
    "poll for nothing": lambda reader, writer: (reader.poll(), reader.poll(0.001), reader.poll(-1)),
    "not a pickle": after(b"abc", lambda reader: reader.recv()),
    "end": raw(b"", lambda reader: reader.recv()),
    "end, polled": raw(b"", lambda reader: reader.poll()),
    "end in a head": raw(b"\x00\x00", lambda reader: reader.recv_bytes()),
    "end behind a head": raw(b"\x00\x00\x00\x05", lambda reader: reader.recv_bytes()),
    "end in a body": raw(b"\x00\x00\x00\x05abc", lambda reader: reader.recv_bytes()),
    "raw": raw(b"\x00\x00\x00\x03abc", lambda reader: reader.recv_bytes()),
    "raw, long form": raw(b"\xff\xff\xff\xff" + bytes(7) + b"\x03abc", lambda reader: reader.recv_bytes()),
    "no reader": lambda reader, writer: (reader.close(), writer.send(1)),
}


@pytest.mark.parametrize(
    ("message", "path", "kind", "said"),
    [
        (threading.Lock(), "obj", TypeError, "cannot pickle"),
        ({"a": [0, threading.Lock()]}, "obj['a'][1]", TypeError, "cannot pickle"),
        ([weft.Lock()], "obj[0]", RuntimeError, "through inheritance"),
        ((lambda: 0,), "obj[0]", (AttributeError, PicklingError), "only functions and classes at the top"),
    ],
)
def test_what_cannot_be_pickled_is_named(message: Any, path: str, kind: Any, said: str) -> None:
    reader, writer = weft.Pipe(duplex=False)
    with reader, writer:
        with pytest.raises(weft.UnpicklableError, match=said) as caught:
            writer.send(message)
        assert caught.value.path == path and f"cannot send {path}, a " in str(caught.value)
        assert isinstance(caught.value, kind) and isinstance(caught.value.__cause__, kind)
        writer.send("goes on")
        assert reader.recv() == "goes on"


def test_what_a_program_raises_when_it_is_pickled_goes_on_as_it_is() -> None:
    class Own(Exception):
        pass

    class Raises:
        def __reduce__(self) -> Any:
            raise error

    reader, writer = weft.Pipe(duplex=False)
    with reader, writer:
        for error in (Own(1, 2), OSError(24, "too many"), KeyboardInterrupt(), MemoryError()):
            with pytest.raises(type(error)) as caught:
                writer.send([Raises()])
            assert caught.value is error


@pytest.mark.parametrize("name", ACTIONS)
def test_same_as_the_standard_library(name: str) -> None:
    assert outcome(ACTIONS[name], ours) == outcome(ACTIONS[name], stock)


@pytest.mark.parametrize("arguments", [(-1,), ("x",), (5, False, False), (2**40,)])
def test_no_handle(arguments: tuple[Any, ...]) -> None:
    raised = []
    for cls in (Connection, stock.Connection):
        with pytest.raises((ValueError, AttributeError, OverflowError, TypeError)) as info:
            made = cls(*arguments)
            made._handle = None  # the standard library's takes any number
            raise OverflowError
        raised.append(info.type)
    assert raised[0] is raised[1]


def test_lengths_that_are_none() -> None:
    for data in (
        b"\x80\x00\x00\x00",
        b"\xff\xff\xff\xfe",
        b"\x88\x9a\x99\x8c",
        b"\xff\xff\xff\xff" + b"\xff" * 8,
    ):
        one, other = socket.socketpair()
        with one, Connection(other.detach()) as connection:
            one.sendall(data)
            with pytest.raises(OSError, match="bad message length"):
                connection.recv()
            assert not connection.readable and connection.writable
            with pytest.raises(OSError, match="connection is write-only"):
                connection.recv()


def test_a_promise_of_many_bytes_takes_no_memory() -> None:
    one, other = socket.socketpair()
    with Connection(other.detach()) as connection:
        one.sendall(b"\xff\xff\xff\xff" + (2**62).to_bytes(8, "big") + bytes(5000))
        one.close()
        with pytest.raises(OSError, match="got end of file during message"):
            connection.recv_bytes()


def test_classes() -> None:
    one, other = Pipe()
    with one, other:
        assert isinstance(one, stock._ConnectionBase) and isinstance(one, stock.Connection)
        assert isinstance(one, weft.Connection) and weft.Pipe is Pipe

    class Own(Connection):
        def __init__(self, handle: int) -> None:
            super().__init__(handle)
            self.note = 1

    class Loud(Connection):
        def _send_bytes(self, buf: bytes) -> None:
            super()._send_bytes(bytes(buf).upper())

    first, second = socket.socketpair()
    with Own(first.detach()) as own, Loud(second.detach()) as loud:
        loud.send_bytes(b"abc")
        assert own.recv_bytes() == b"ABC"
        own.send([own.note])
        assert loud.recv() == [1]


def test_selectors_see_every_message() -> None:
    for large in (10, 100_000):
        reader, writer = Pipe(False)
        with reader, writer, selectors.DefaultSelector() as selector, select.epoll() as epoll:
            selector.register(reader, selectors.EVENT_READ)
            epoll.register(reader.fileno(), select.EPOLLIN)
            for number in range(3):
                assert not selector.select(0) and not epoll.poll(0)
                sender = threading.Thread(target=writer.send, args=([number] * large,))
                sender.start()
                assert selector.select() and epoll.poll()
                assert reader.recv() == [number] * large
                sender.join()
            writer.close()
            assert selector.select() and epoll.poll()
            with pytest.raises(EOFError):
                reader.recv()


def test_asyncio_sees_every_message() -> None:
    async def collect(reader: Connection, count: int) -> list[int]:
        loop, done, got = asyncio.get_running_loop(), asyncio.Event(), []

        def receive() -> None:
            got.append(reader.recv())
            if len(got) == count:
                done.set()

        loop.add_reader(reader.fileno(), receive)
        await done.wait()
        loop.remove_reader(reader.fileno())
        return got

    reader, writer = Pipe(False)
    with reader, writer:
        sender = threading.Thread(target=lambda: [writer.send(number) for number in range(500)])
        sender.start()
        assert asyncio.run(collect(reader, 500)) == list(range(500))
        sender.join()


def test_wait_is_the_standard_librarys() -> None:
    pairs = [Pipe() for _ in range(4)]
    near, far = zip(*pairs, strict=True)
    one, other = socket.socketpair()
    process = FORK.Process(target=int)
    process.start()
    process.join()
    watched: list[Any] = [far[2], one, process.sentinel, far[0], far[1].fileno(), far[3]]
    for change in (
        lambda: None,
        lambda: near[0].send(1),
        lambda: other.send(b"x"),
        near[1].close,
        near[2].close,
    ):
        change()
        assert wait(iter(watched), 0) == stock.wait(watched, 0)
    assert wait(watched) == watched[:-1] and wait([far[3]], 0.001) == [] and wait([], 0) == []
    for bad in ([far[0], far[0]], [-1], ["x"], [None]):
        for function in (wait, stock.wait):
            with pytest.raises((KeyError, ValueError)):
                function(bad, 0)
    far[3].close()
    with pytest.raises(OSError, match="handle is closed"):
        wait([far[3]], 0)
    for connection in (*near, *far):
        connection.close()
    one.close()
    other.close()


def test_the_end_is_seen_through_raw_forks() -> None:
    reader, writer = Pipe(False)
    go, gone = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            reader.close()
            os.close(gone)
            os.read(go, 1)
            writer.send("last words")
        finally:
            os._exit(0)
    writer.close()
    assert not reader.poll(0.001)
    os.close(gone)
    assert reader.recv() == "last words"
    with pytest.raises(EOFError):
        reader.recv()
    os.close(go)
    os.waitpid(child, 0)
    reader.close()


def test_threads_share_an_end() -> None:
    one, other = Pipe()
    count, got = 400, []

    def send(mark: int) -> None:
        for number in range(count):
            one.send_bytes(bytes([mark]) * (30_000 if number % 20 == 0 else 10))

    def receive() -> None:
        while (data := other.recv_bytes()) != b"end":
            got.append(data)

    receivers = [threading.Thread(target=receive) for _ in range(3)]
    senders = [threading.Thread(target=send, args=(mark,)) for mark in range(3)]
    for thread in (*receivers, *senders):
        thread.start()
    for thread in senders:
        thread.join()
    for _ in receivers:
        one.send_bytes(b"end")
    for thread in receivers:
        thread.join()
    assert len(got) == 3 * count and all(len(set(data)) == 1 for data in got)
    one.close()
    other.close()


def test_close_ends_the_wait_of_another_thread() -> None:
    reader, writer = Pipe(False)
    raised: list[OSError] = []

    def receive() -> None:
        try:
            reader.recv()
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=receive)
    thread.start()
    assert wait([reader], 0.01) == []
    reader.close()
    thread.join()
    assert str(raised[0]) == "handle is closed"
    writer.close()


def test_buffer_too_short_has_the_message() -> None:
    one, other = Pipe()
    with one, other:
        for length in (10, 100_000):
            one.send_bytes(bytes(length))
            with pytest.raises(BufferTooShort) as info:
                other.recv_bytes_into(bytearray(3))
            assert info.value.args == (bytes(length),)


def test_many_pipes_of_a_fork() -> None:
    pipes = [Pipe() for _ in range(100)]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for number, (one, other) in enumerate(pipes):
                one.close()
                assert other.recv() == number
                other.send(bytes(50_000))
                other.close()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    for number, (one, other) in enumerate(pipes):
        other.close()
        one.send(number)
        assert one.recv() == bytes(50_000)
        with pytest.raises(EOFError):
            one.recv()
        one.close()
    assert os.waitpid(child, 0)[1] == 0
