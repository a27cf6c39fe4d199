"""Greenlets are killed at random in waits that are made of others: more_kills.py SEED KILLS KIND."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import weft
from kills import storm
from stage import descriptors, report
from weft.gevent import Timeout, get_hub, joinall, sleep, spawn
from weft.gevent import selectors as gevent_selectors
from weft.gevent import socket as gevent_socket
from weft.gevent.event import Event
from weft.gevent.lock import BoundedSemaphore, RLock
from weft.gevent.pool import Group, Pool
from weft.gevent.queue import Channel, JoinableQueue, LifoQueue, PriorityQueue, SimpleQueue
from weft.gevent.socket import create_connection, socketpair
from weft.gevent.socket import socket as Socket


def timed(rng: random.Random, work: Callable[[], object]) -> None:
    """Do it, now and then within a time that is too short."""
    if rng.random() < 0.2:
        with Timeout(rng.choice((0.0001, 0.001)), False):
            work()
    else:
        work()


def connections(rng: random.Random, kills: int) -> dict[str, int]:
    """Who is killed in `accept` or `connect` takes no connection with it: the next one is served."""
    listener = Socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(100)
    served = 0
    kept = BoundedSemaphore(1)

    def serve() -> None:
        while True:
            with kept:
                peer, _ = listener.accept()
            with peer:
                if data := peer.recv(1):
                    peer.sendall(data)

    def ask() -> None:
        nonlocal served
        while True:
            with create_connection(listener.getsockname()) as sock:
                sock.sendall(b"x")
                # Its server may be killed.
                try:
                    served += sock.recv(1) == b"x"
                except ConnectionResetError:
                    continue

    storm(rng, kills, [serve, ask])
    server = spawn(serve)
    with create_connection(listener.getsockname()) as sock:
        sock.sendall(b"y")
        last = sock.recv(1)
    server.kill()
    listener.close()
    # Where those who were killed wanted to connect to is looked up in threads all the same.
    with Timeout(60):
        get_hub().threadpool.join()
    return {"moved": served, "unserved": int(last != b"y"), "missing": 1 - kept.counter}


def channels(rng: random.Random, kills: int) -> dict[str, int]:
    """What a putter knows to be taken was got by one getter."""
    channel: Any = Channel()
    numbers = iter(range(1 << 40))
    put: list[int] = []
    got: list[int] = []

    def give() -> None:
        while True:
            number = next(numbers)
            channel.put(number)
            put.append(number)

    def take() -> None:
        while True:
            got.append(channel.get())

    storm(rng, kills, [give, take])
    # A getter that is killed on its way out of `get` has the item in hand: one a kill at most, never two of one.
    doubled = sum(count > 1 for count in Counter(got).values())
    return {
        "moved": len(got),
        "doubled": doubled,
        "getters": len(channel.getters),
        "putters": len(channel.putters),
    }


def queues(rng: random.Random, kills: int) -> dict[str, int]:
    """Items of all kinds of queues, and their counts of what is still to be done."""
    found = Counter[str]()
    moved = 0
    for make in (PriorityQueue, LifoQueue, JoinableQueue, SimpleQueue):
        queue: Any = make(3) if make is not SimpleQueue else SimpleQueue()
        begun: list[int] = []
        put: list[int] = []
        got: list[int] = []

        def produce(queue: Any = queue, begun: Any = begun, put: Any = put) -> None:
            while True:
                item = len(begun)
                begun.append(item)
                queue.put(item)
                put.append(item)
                sleep(0)

        def consume(queue: Any = queue, got: Any = got) -> None:
            while True:
                got.append(queue.get())
                if isinstance(queue, JoinableQueue):
                    queue.task_done()

        players: list[Callable[[], object]] = [produce, consume]
        if make is JoinableQueue:
            players.append(queue.join)
        storm(rng, kills // 4, players)
        while not queue.empty():
            got.append(queue.get())
            if isinstance(queue, JoinableQueue):
                queue.task_done()
        times = Counter(got)
        found["lost"] += len(set(put) - set(got))
        found["twice"] += sum(count > 1 for count in times.values())
        found["invented"] += len(set(got) - set(begun))
        if isinstance(queue, JoinableQueue):
            found["unfinished"] += queue.unfinished_tasks
        moved += len(got)
    return {"moved": moved, **{name: found[name] for name in ("lost", "twice", "invented", "unfinished")}}


def locks(rng: random.Random, kills: int) -> dict[str, int]:
    """Never two inside, and the lock is free in the end."""
    lock = RLock()
    inside = intruders = entered = 0

    def work() -> None:
        nonlocal inside, intruders, entered
        while True:
            with lock, lock:
                inside += 1
                entered += 1
                intruders += inside > 1
                try:
                    sleep(rng.choice((0, 0, 0.0001)))
                finally:
                    inside -= 1
            sleep(0)

    storm(rng, kills, [work])
    free = lock.acquire(blocking=False)
    return {"moved": entered, "intruders": intruders, "inside": inside, "taken": int(not free)}


def pools(rng: random.Random, kills: int) -> dict[str, int]:
    """Pools and groups whose users are killed have all their places again, and no member that has ended."""
    pool, group = Pool(3), Group()
    begun = ended = 0

    def task(number: int = 0) -> int:
        nonlocal begun, ended
        begun += 1
        try:
            sleep(rng.choice((0, 0.0001)))
            return number
        finally:
            ended += 1

    def use_pool() -> None:
        while True:
            use = rng.choice((lambda: pool.spawn(task).join(), lambda: pool.apply(task), pool.join))
            timed(rng, use)
            sleep(0)

    def map_in_pool() -> None:
        while True:
            timed(rng, lambda: pool.map(task, range(5)))
            sleep(0)

    def iterate() -> None:
        while True:
            timed(rng, lambda: list(pool.imap_unordered(task, range(4))))
            sleep(0)

    def use_group() -> None:
        while True:
            timed(rng, lambda: joinall([group.spawn(task) for _ in range(3)]))
            timed(rng, lambda: group.map(task, range(3)))
            sleep(0)

    storm(rng, kills, [use_pool, map_in_pool, iterate, use_group])
    with Timeout(60):
        # Who fed the pool for a `map` whose caller was killed goes on to the end.
        while pool or group or get_hub().loop.activecnt > 1:
            sleep(0.001)
    return {
        "moved": ended,
        "unended": begun - ended,
        "places": 3 - pool.free_count(),
        "members": len(pool) + len(group),
    }


def lookups(rng: random.Random, kills: int) -> dict[str, int]:
    """Names that are looked up in threads, selectors, and calls in threads beside the hub."""
    near, far = socketpair()
    done = 0

    def look_up() -> None:
        nonlocal done
        while True:
            timed(rng, lambda: gevent_socket.getaddrinfo("localhost", 80))
            done += 1

    def select() -> None:
        nonlocal done
        with gevent_selectors.GeventSelector() as selector:
            selector.register(near, gevent_selectors.EVENT_READ)
            while True:
                timed(rng, lambda: selector.select(rng.choice((0.0001, 100))))
                done += 1

    def offload() -> None:
        nonlocal done
        while True:
            timed(rng, lambda: weft.offload(abs, -1))
            done += 1

    storm(rng, kills, [look_up, select, offload])
    threads = get_hub().threadpool
    with Timeout(60):
        threads.join()
        answered = threads.apply(abs, (-1,))
    threads.kill()
    near.close()
    far.close()
    return {"moved": done, "tasks": len(threads), "unanswered": 1 - answered}


def process_waits(rng: random.Random, kills: int) -> dict[str, int]:
    """What lies between processes: nobody is counted there who is gone."""
    event, condition, barrier = weft.Event(), weft.Condition(), weft.Barrier(100)
    near, far = weft.Pipe()
    sent: list[int] = []
    received: list[int] = []
    rung = Event()

    def wait_event() -> None:
        while True:
            timed(rng, event.wait)

    def wait_condition() -> None:
        while True:
            with condition:
                timed(rng, condition.wait)

    def ring() -> None:
        while True:
            sleep(0.0005)
            event.set()
            event.clear()
            with condition:
                condition.notify_all()
            rung.set()

    def receive() -> None:
        while True:
            timed(rng, lambda: received.append(near.recv()))

    def send() -> None:
        for number in range(1 << 40):
            far.send(number)
            sent.append(number)
            sleep(0)

    writer, ringer = spawn(send), spawn(ring)
    storm(rng, kills, [wait_event, wait_condition, receive])
    writer.kill()
    ringer.kill()
    with Timeout(60):
        while len(received) < len(sent):
            received.append(near.recv())
    members = [spawn(barrier.wait) for _ in range(3)]
    sleep(0)
    for member in members:
        member.kill()
    ghosts = condition._waiting() + (barrier.n_waiting if not barrier.broken else 0)
    free = condition.acquire(timeout=30)
    condition.release()
    near.close()
    far.close()
    return {
        "moved": len(received),
        "wrong": int(sorted(received)[: len(sent)] != sent),
        "ghosts": ghosts,
        "taken": int(not free),
    }


def main() -> None:
    seed, kills, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    kinds: dict[str, Callable[[random.Random, int], dict[str, int]]] = {
        "connections": connections,
        "channels": channels,
        "queues": queues,
        "locks": locks,
        "pools": pools,
        "lookups": lookups,
        "process_waits": process_waits,
    }
    play = kinds[kind]
    rng = random.Random(seed)
    play(rng, kills // 10)  # makes all that is kept for later
    before = descriptors()
    found = play(rng, kills)
    sleep(0)
    report(**found, active=get_hub().loop.activecnt, descriptors=descriptors() - before)


if __name__ == "__main__":
    main()
