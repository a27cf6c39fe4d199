"""A hub a thread, and hubs in the children of forks."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from weft.gevent import Timeout, get_hub, joinall, sleep, spawn
from weft.gevent import _hub as native
from weft.gevent.core import loop
from weft.gevent.event import AsyncResult, Event
from weft.gevent.lock import Semaphore
from weft.gevent.socket import socketpair


def test_each_thread_has_a_hub_of_its_own() -> None:
    hubs = []
    results = []

    def run(number: int) -> None:
        hubs.append(get_hub())
        done = joinall([spawn(lambda i=i: (sleep(0.001), i)[1]) for i in range(20)])
        results.append(number + sum(each.value for each in done))
        get_hub().destroy()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    run_here = spawn(sleep, 0.01)
    run_here.join()
    for thread in threads:
        thread.join()
    assert sorted(results) == [number + sum(range(20)) for number in range(8)]
    assert len(set(map(id, [*hubs, get_hub()]))) == 9


def test_another_thread_sets_what_a_greenlet_waits_for() -> None:
    event, result, semaphore = Event(), AsyncResult(), Semaphore(0)
    waiters = [spawn(event.wait), spawn(result.get), spawn(semaphore.acquire)]
    keep = get_hub().loop.async_()  # something may come from outside
    keep.start(int)
    sleep(0)

    def work() -> None:
        event.set()
        result.set("value")
        semaphore.release()

    thread = threading.Thread(target=work)
    thread.start()
    assert [waiter.get() for waiter in joinall(waiters)] != []
    assert {str(waiter.get()) for waiter in waiters} == {"True", "value"}
    thread.join()
    keep.close()


def test_greenlets_go_on_in_the_child_of_a_fork() -> None:
    sleeper = spawn(lambda: (sleep(0.01), "slept")[1])
    sleep(0)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if sleeper.get() == "slept" and spawn(lambda: 3).get() == 3 else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert sleeper.get() == "slept"


def test_without_descriptors_it_says_so_and_serves_on() -> None:
    near, far = socket.socketpair()
    with near, far:
        streams = []
        for each in (near, far):
            each.setblocking(False)
            streams.append(native.Stream(get_hub().loop, each.fileno()))
        reader = spawn(native.recv, streams[0], 10)
        sleep(0)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                get_hub().loop.reinit()
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
                try:
                    loop()
                except OSError as error:
                    native.sendall(streams[1], b"child")
                    status = 0 if "ulimit" in str(error) and native.recv(streams[0], 10) == b"child" else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        native.sendall(streams[1], b"parent")
        assert reader.get() == b"parent"
        for stream in streams:
            stream.close()


def test_a_fork_without_descriptors_is_seen_to_once_there_are_some() -> None:
    hub = get_hub()
    sleep(0)

    def child() -> None:
        before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
        for _ in range(2):
            # Until then the kernel's set is the parent's, and what is taken from it is lost there.
            with pytest.raises(OSError, match="ulimit"):
                hub.loop.reinit()
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
        hub.loop.reinit()
        woken = Event()
        threading.Thread(target=lambda: hub.loop.run_callback_threadsafe(woken.set)).start()
        assert woken.wait(30)

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    woken = Event()
    threading.Thread(target=lambda: hub.loop.run_callback_threadsafe(woken.set)).start()
    assert woken.wait(30)


def in_child(run: Callable[[], object]) -> None:
    """Have a forked child run that without an exception."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with Timeout(30):
                run()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_readers_copy_in_the_child_of_a_fork_takes_nothing() -> None:
    near, far = socketpair()
    got = []

    def read() -> None:
        while data := near.recv(1):
            got.append(data)

    reader = spawn(read)
    sleep(0)

    def child() -> None:
        far.sendall(b"x")
        sleep(0.01)
        assert got == []
        # Nor is it in the way of who reads there.
        assert near.recv(1) == b"x"

    in_child(child)
    far.close()
    reader.get()
    near.close()


def test_the_child_of_a_fork_watches_no_child_of_its_parents() -> None:
    told: list[int] = []
    pipe_in, pipe_out = os.pipe()
    sibling = os.fork()
    if sibling == 0:
        os.close(pipe_out)
        os.read(pipe_in, 1)
        os._exit(3)
    os.close(pipe_in)
    watcher = get_hub().loop.child(sibling)
    watcher.start(lambda: told.append(watcher.rstatus))

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(pipe_out)
            with Timeout(30):
                # Its end can be seen here, as that of any process.
                while Path(f"/proc/{sibling}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    sleep(0.001)
                sleep(0.01)
            status = len(told)
        finally:
            os._exit(status)
    os.close(pipe_out)
    # The sibling is left unreaped until the child has looked.
    assert os.waitpid(pid, 0)[1] == 0
    while not told:
        sleep(0.001)
    assert os.waitstatus_to_exitcode(told[0]) == 3
    watcher.close()


def test_the_child_of_a_fork_has_no_loops_of_threads_that_are_not_there() -> None:
    made, go_on = threading.Event(), threading.Event()
    loops = []
    event = Event()  # the other thread's, who was the first to wait

    def work() -> None:
        event.wait(0.0001)
        loops.append(get_hub().loop)
        made.set()
        go_on.wait()

    thread = threading.Thread(target=work)
    thread.start()
    made.wait()
    descriptor = loops[0].fileno()

    def child() -> None:
        assert loops[0].destroyed
        assert not os.path.exists(f"/proc/self/fd/{descriptor}")
        waiter = spawn(event.wait)
        sleep(0.001)
        event.set()
        assert waiter.get()

    in_child(child)
    assert not loops[0].destroyed
    go_on.set()
    thread.join()
    assert loops.pop().destroyed
