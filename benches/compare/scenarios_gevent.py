"""The scenarios of gevent: greenlets between themselves. Those of servers are in scenarios_echo.py."""

from __future__ import annotations

from itertools import repeat
from typing import NoReturn

from apis_gevent import Api
from loop import Loop
from scenarios_memory import resident

CROWD = 1000


def nothing() -> None:
    pass


def same(item: object) -> object:
    return item


# -- Greenlets


def spawn_join(api: Api) -> Loop:
    spawn, joinall = api.gevent.spawn, api.gevent.joinall

    def run(count: int) -> None:
        for _ in repeat(None, count):
            joinall([spawn(nothing) for _ in range(CROWD)])

    return Loop(run, CROWD)


def sleep_zero(api: Api) -> Loop:
    sleep = api.gevent.sleep

    def body(count: int) -> None:
        for _ in repeat(None, count):
            sleep(0)

    def run(count: int) -> None:
        api.gevent.joinall([api.gevent.spawn(body, count), api.gevent.spawn(body, count)])

    return Loop(run, 2)


def sleepers(api: Api) -> Loop:
    spawn, joinall, sleep = api.gevent.spawn, api.gevent.joinall, api.gevent.sleep

    def run(count: int) -> None:
        for _ in repeat(None, count):
            joinall([spawn(sleep, 0.001) for _ in range(10_000)])

    return Loop(run, 10_000)


def pool_map(api: Api) -> Loop:
    pool = api.module("pool").Pool(100)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            pool.map(same, range(CROWD))

    return Loop(run, CROWD)


# -- Between them


def queue_trip(api: Api) -> Loop:
    queue = api.module("queue")
    questions, answers = queue.Queue(), queue.Queue()

    def answer() -> NoReturn:
        while True:
            answers.put(questions.get())

    api.gevent.spawn(answer)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            questions.put(None)
            answers.get()

    return Loop(run)


def async_result(api: Api) -> Loop:
    AsyncResult, spawn_raw = api.module("event").AsyncResult, api.gevent.spawn_raw

    def run(count: int) -> None:
        for _ in repeat(None, count):
            result = AsyncResult()
            spawn_raw(result.set, 1)
            result.get()

    return Loop(run)


def event(api: Api) -> Loop:
    Event = api.module("event").Event
    there, back = Event(), Event()

    def answer() -> NoReturn:
        while True:
            there.wait()
            there.clear()
            back.set()

    api.gevent.spawn(answer)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            there.set()
            back.wait()
            back.clear()

    return Loop(run)


def semaphore(api: Api) -> Loop:
    Semaphore = api.module("lock").Semaphore
    there, back = Semaphore(0), Semaphore(0)

    def answer() -> NoReturn:
        while True:
            there.acquire()
            back.release()

    api.gevent.spawn(answer)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            there.release()
            back.acquire()

    return Loop(run)


def timeout(api: Api) -> Loop:
    Timeout = api.gevent.Timeout

    def run(count: int) -> None:
        for _ in repeat(None, count):
            with Timeout(10):
                pass

    return Loop(run)


def socketpair_trip(api: Api) -> Loop:
    near, far = api.module("socket").socketpair()
    message = b"x" * 64

    def answer() -> NoReturn:
        while True:
            far.sendall(far.recv(4096))

    api.gevent.spawn(answer)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            near.sendall(message)
            near.recv(4096)

    return Loop(run)


# -- Memory


def sleeping_1000000(api: Api) -> float:
    size = 1_000_000
    before = resident()
    kept = [api.gevent.spawn(api.gevent.sleep, 3600) for _ in range(size)]
    api.gevent.sleep(0)
    while not all(map(bool, kept[-1:])):
        api.gevent.sleep(0)
    return (resident() - before) / size
