"""A hub a thread, and hubs in the children of forks."""

from __future__ import annotations

import os
import resource
import socket
import threading

from weft.gevent import _hub as native
from weft.gevent import get_hub, joinall, sleep, spawn
from weft.gevent.core import loop
from weft.gevent.event import AsyncResult, Event
from weft.gevent.lock import Semaphore


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
                    status = 0 if "ulimit" in str(error) and reader.get() == b"child" else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        native.sendall(streams[1], b"parent")
        assert reader.get() == b"parent"
        for stream in streams:
            stream.close()
