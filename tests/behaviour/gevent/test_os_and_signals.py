"""Descriptors, children and signals, while others run."""

from __future__ import annotations

import os as stdlib
import signal as stdlib_signal
from collections.abc import Iterator

import pytest
from interpreter import prints
from weft.gevent import get_hub, joinall, os, signal, sleep, socket, spawn
from weft.gevent.event import Event

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = stdlib.pipe()
    yield ends
    for each in ends:
        stdlib.close(each)


def child(run: str) -> int:
    """A child that does that and ends with 7."""
    pid = stdlib.fork()
    if not pid:
        try:
            exec(run, {"os": stdlib})
        finally:
            stdlib._exit(7)
    return pid


def test_reading_and_writing_pipes(pipe: Pipe) -> None:
    read, write = pipe
    assert os.make_nonblocking(read) and not os.make_nonblocking(read)
    os.make_nonblocking(write)
    reader = spawn(os.nb_read, read, 10)
    sleep(0)
    assert not reader.ready()
    assert os.nb_write(write, b"word") == 4
    assert reader.get() == b"word"


def test_descriptors_that_block_are_read_in_threads(pipe: Pipe) -> None:
    read, write = pipe
    reader = spawn(os.tp_read, read, 10)
    sleep(0)
    assert os.tp_write(write, b"word") == 4
    assert reader.get() == b"word"


def test_whoever_watches_a_descriptor_learns_that_it_is_closed(pipe: Pipe) -> None:
    read = stdlib.dup(pipe[0])
    os.make_nonblocking(read)
    reader = spawn(os.nb_read, read, 1)
    sleep(0)
    os.close(read)
    with pytest.raises(OSError):
        reader.get()


def test_waitpid_waits_alone(pipe: Pipe) -> None:
    read, write = pipe
    pid = child(f"os.read({read}, 1)")
    waiting = spawn(os.waitpid, pid, 0)
    joinall([spawn(sleep, 0) for _ in range(3)])
    assert not waiting.ready() and os.waitpid(pid, stdlib.WNOHANG) == (0, 0)
    stdlib.write(write, b"x")
    found, status = waiting.get()
    assert found == pid and stdlib.waitstatus_to_exitcode(status) == 7
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


ANY_CHILD = """
import os as stdlib
from weft.gevent import os, sleep, spawn

read, write = stdlib.pipe()
pids = set()
for _ in range(3):
    pid = stdlib.fork()
    if not pid:
        stdlib.read(read, 1)
        stdlib._exit(7)
    pids.add(pid)
waiting = spawn(lambda: {os.waitpid(-1, 0)[0] for _ in pids})
sleep(0)
print(waiting.ready())
stdlib.write(write, b"xxx")
print(waiting.get() == pids)
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("no child is left")
"""


def test_waitpid_for_any_child() -> None:
    # In a process of its own, which has no other children.
    assert prints("-c", ANY_CHILD) == ["False", "True", "no child is left"]


def test_a_child_that_is_watched_is_kept_for_who_asks() -> None:
    ended = Event()
    seen = []

    def on_end(watcher: object) -> None:
        seen.append(watcher.rstatus)  # type: ignore[attr-defined]
        ended.set()

    pid = os.fork_and_watch(on_end, ref=True)
    if not pid:
        stdlib._exit(7)
    assert ended.wait(30)
    assert os.waitpid(pid, 0) == (pid, seen[0])
    assert stdlib.waitstatus_to_exitcode(seen[0]) == 7
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_what_nobody_asks_for_is_forgotten() -> None:
    ended = Event()
    pid = os.fork_and_watch(lambda _: ended.set(), ref=True)
    if not pid:
        stdlib._exit(0)
    assert ended.wait(30) and pid in os._watched_children
    os._reap_children(-1)
    assert pid not in os._watched_children


FORGOTTEN_CHILD = """
import os as stdlib, signal
from weft.gevent import os, sleep
from weft.gevent.event import Event
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
ended = Event()

def fork_and_see_it_end():
    pid = os.fork_gevent()
    if not pid:
        stdlib._exit(0)
    while stdlib.path.exists(f"/proc/{pid}"):
        pass
    return pid

pid = os.fork_and_watch(lambda watcher: ended.set(), ref=True, fork=fork_and_see_it_end)
print(ended.wait(30), os.waitpid(pid, 0) == (pid, 255 << 8))
"""


def test_a_child_that_is_gone_at_once_because_nobody_listens_has_ended() -> None:
    # Nothing is known of it, which is not to look like a success.
    assert prints("-c", FORGOTTEN_CHILD) == ["True True"]


def test_what_a_child_closes_before_its_hub_runs_is_still_watched_here() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = spawn(ours.recv, 1)
        sleep(0)
        pid = stdlib.fork()
        if not pid:
            ours.close()
            stdlib._exit(0)
        stdlib.waitpid(pid, 0)
        theirs.sendall(b"x")
        assert reader.get() == b"x"


def test_threads_of_the_hub_work_in_the_child_of_a_fork() -> None:
    pool = get_hub().threadpool
    assert pool.apply(len, ("abc",)) == 3
    pid = os.fork()
    if not pid:
        stdlib._exit(pool.size + get_hub().threadpool.apply(len, ("abcd",)))
    assert stdlib.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4


def test_a_handler_of_sigchld_may_wait(pipe: Pipe) -> None:
    read, write = pipe
    handled = Event()

    def handler(number: int, _frame: object) -> None:
        sleep(0)
        if number == stdlib_signal.SIGCHLD:
            handled.set()

    before = signal.signal(stdlib_signal.SIGCHLD, handler)
    try:
        assert signal.getsignal(stdlib_signal.SIGCHLD) is handler
        pid = child(f"os.read({read}, 1)")
        keep = get_hub().loop.async_()
        keep.start(int)
        stdlib.write(write, b"x")
        assert handled.wait(30)
        keep.close()
        os.waitpid(pid, 0)
    finally:
        assert signal.signal(stdlib_signal.SIGCHLD, before) is handler
    assert signal.getsignal(stdlib_signal.SIGCHLD) is before


AT_THE_LIMIT = """
import os as stdlib, resource
from weft.gevent import os, sleep
from weft.gevent.event import AsyncResult
sleep(0)
ended = AsyncResult()
most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (stdlib.dup(0), most[1]))
pid = os.fork_and_watch(lambda watcher: ended.set((watcher.rpid == watcher.pid, watcher.rstatus)), ref=True)
if not pid:
    stdlib._exit(3)
print(ended.get(timeout=30), os.waitpid(pid, 0) == (pid, 3 << 8))
pid = os.fork_gevent()
if not pid:
    stdlib._exit(5)
print(os.waitpid(pid, 0) == (pid, 5 << 8))
"""


def test_children_are_waited_for_without_a_descriptor_left() -> None:
    assert prints("-c", AT_THE_LIMIT) == ["(True, 768) True", "True"]
