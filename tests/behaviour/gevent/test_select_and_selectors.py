"""select, poll and selectors: what the kernel says, while others run."""

from __future__ import annotations

import os
import select as stdlib
from collections.abc import Iterator

import pytest
from interpreter import prints
from weft.gevent import select, selectors, sleep, socket, spawn

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = os.pipe()
    yield ends
    for each in ends:
        os.close(each)


def test_select_waits_for_the_first(pipe: Pipe) -> None:
    read, write = pipe
    waiting = spawn(select.select, [read], [], [])
    sleep(0)
    assert not waiting.ready()
    os.write(write, b"x")
    assert waiting.get() == ([read], [], [])
    assert select.select([read], [write], []) == ([read], [write], [])
    os.read(read, 1)
    assert select.select([read], [], [], 0) == ([], [], [])
    assert select.select([read], [], [], 0.01) == ([], [], [])


def test_select_gives_what_it_was_given() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"x")
        assert select.select(iter([near]), (), ()) == ([near], [], [])


@pytest.mark.parametrize("wrong", ["text", None, 1.5])
def test_select_refuses_what_has_no_descriptor(wrong: object) -> None:
    with pytest.raises(TypeError):
        select.select([wrong], [], [])
    with pytest.raises(ValueError, match="negative"):
        select.select([], [], [], -1)


def test_a_descriptor_that_is_closed_meanwhile(pipe: Pipe) -> None:
    near, far = socket.socketpair()
    waiting = spawn(select.select, [near, pipe[0]], [], [])
    sleep(0)
    near.close()
    assert waiting.get() == ([], [], [])
    far.close()


def test_poll_has_the_kernels_flags(pipe: Pipe) -> None:
    read, write = pipe
    poll = select.poll()
    poll.register(read, stdlib.POLLIN)
    waiting = spawn(poll.poll)
    sleep(0)
    assert not waiting.ready()
    os.write(write, b"x")
    assert waiting.get() == [(read, stdlib.POLLIN)]
    os.read(read, 1)
    assert poll.poll(10) == []
    poll.modify(read, stdlib.POLLOUT)
    poll.unregister(read)
    with pytest.raises(KeyError):
        poll.unregister(read)
    with pytest.raises(FileNotFoundError):
        poll.modify(read, stdlib.POLLIN)


def test_poll_hears_of_the_other_sides_end() -> None:
    near, far = socket.socketpair()
    with near:
        poll = select.poll()
        poll.register(near, 0)
        waiting = spawn(poll.poll)
        sleep(0)
        far.close()
        [(number, flags)] = waiting.get()
        assert number == near.fileno() and flags & stdlib.POLLHUP


def test_a_selector_waits_for_the_first(pipe: Pipe) -> None:
    read, write = pipe
    with selectors.DefaultSelector() as selector:
        selector.register(read, selectors.EVENT_READ, "in")
        waiting = spawn(selector.select)
        sleep(0)
        assert not waiting.ready()
        os.write(write, b"x")
        [(key, events)] = waiting.get()
        assert (key.fd, key.data, events) == (read, "in", selectors.EVENT_READ)
        key = selector.modify(read, selectors.EVENT_READ, "other")
        assert selector.get_key(read) == key
        os.read(read, 1)
        assert selector.select(0) == [] and selector.select(0.01) == [] and selector.select(-1) == []
        selector.unregister(read)
        assert not selector.get_map()


def test_a_selector_takes_files_and_refuses_what_is_closed(pipe: Pipe) -> None:
    with selectors.DefaultSelector() as selector, open(__file__) as file:
        selector.register(file, selectors.EVENT_READ)
        [(key, events)] = selector.select()
        assert key.fileobj is file and events == selectors.EVENT_READ
        closed = os.dup(pipe[0])
        os.close(closed)
        with pytest.raises(ValueError, match="Invalid file"):
            selector.register(closed, selectors.EVENT_READ)
        assert list(selector.get_map()) == [file.fileno()]


def test_a_selector_that_is_closed_lets_go_of_who_waits(pipe: Pipe) -> None:
    selector = selectors.DefaultSelector()
    selector.register(pipe[0], selectors.EVENT_READ)
    waiting = spawn(selector.select, 0.05)
    sleep(0)
    selector.close()
    assert waiting.get() == []


def test_what_was_not_asked_for_wakes_nobody_again() -> None:
    asked = 0

    def ask(*args: object) -> object:
        nonlocal asked
        asked += 1
        return original(*args)

    original = select._original_select
    near, far = socket.socketpair()
    with near:
        far.close()
        select._original_select = ask
        try:
            # The end that has hung up is nothing exceptional.
            assert select.select([], [], [near], 0.05) == ([], [], [])
        finally:
            select._original_select = original
    assert asked <= 4


def test_urgent_data_is_exceptional() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        waiting, polling = spawn(select.select, [], [], [near]), select.poll()
        polling.register(near, select.POLLPRI)
        polled = spawn(polling.poll)
        far.send(b"data that is not urgent")
        sleep(0.01)
        assert not waiting.ready() and not polled.ready()
        far.send(b"!", socket.MSG_OOB)
        assert waiting.get() == ([], [], [near])
        [(number, flags)] = polled.get()
        assert number == near.fileno() and flags & select.POLLPRI


@pytest.mark.parametrize("exceptional", [False, True])
def test_closing_ends_a_select_and_a_poll(exceptional: bool) -> None:
    near, far = socket.socketpair()
    with far:
        selecting = spawn(select.select, [near], [], [near] if exceptional else [])
        polling = select.poll()
        polling.register(near, select.POLLIN | (select.POLLPRI if exceptional else 0))
        polled = spawn(polling.poll)
        number = near.fileno()
        sleep(0)
        near.close()
        assert selecting.get() == ([], [], [])
        assert polled.get() == [(number, select.POLLNVAL)]


WITHOUT_DESCRIPTORS = """
import os, resource
from weft.gevent import select, selectors, sleep, socket

near, far = socket.socketpair()
sleep(0)
selector = selectors.DefaultSelector()
selector.register(near, selectors.EVENT_READ)
resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
poll = select.poll()
poll.register(near)
poll.modify(near, select.POLLIN)
for wait in (lambda: select.select([near], [], [], 1), poll.poll, selector.select):
    try:
        wait()
    except OSError as error:
        print("ulimit" in str(error))
"""


def test_without_descriptors_it_says_so() -> None:
    assert prints("-c", WITHOUT_DESCRIPTORS) == ["True"] * 3
