"""Greenlets that wait are killed at random, and others take their places: kills.py SEED KILLS KIND."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from stage import descriptors, report, say
from weft.gevent import get_hub, killall, sleep, spawn
from weft.gevent.event import AsyncResult, Event
from weft.gevent.lock import Semaphore
from weft.gevent.queue import Queue
from weft.gevent.socket import socketpair

AT_ONCE = 8  # of each kind of player
SAY_EVERY = 200


def storm(rng: random.Random, kills: int, players: list[Callable[[], object]]) -> None:
    """Kill one of the players after the other, each replaced at once by one of its kind."""
    cast = [(play, spawn(play)) for play in players for _ in range(AT_ONCE)]
    for number in range(kills):
        for _ in range(rng.randrange(4)):
            sleep(0)
        place = rng.randrange(len(cast))
        play, victim = cast[place]
        victim.kill(block=rng.random() < 0.5)
        cast[place] = play, spawn(play)
        if number % SAY_EVERY == 0:
            say(f"killed {number}")
    killall([victim for _, victim in cast])


def queues(rng: random.Random, kills: int) -> dict[str, int]:
    """Items that were put for certain are got once, those of killed putters once at most."""
    queue: Any = Queue(3)
    put: list[int] = []
    begun: list[int] = []
    got: list[int] = []

    def produce() -> None:
        while True:
            item = len(begun)
            begun.append(item)
            queue.put(item)
            put.append(item)
            if rng.random() < 0.2:
                sleep(0)

    def consume() -> None:
        while True:
            got.append(queue.get())
            if rng.random() < 0.2:
                sleep(0)

    storm(rng, kills, [produce, consume])
    while not queue.empty():
        got.append(queue.get())
    times = Counter(got)
    return {
        "moved": len(got),
        "lost": len(set(put) - set(got)),
        "twice": sum(count > 1 for count in times.values()),
        "invented": len(set(got) - set(begun)),
    }


def semaphores(rng: random.Random, kills: int) -> dict[str, int]:
    """Never more inside than there are permits, and all permits there in the end."""
    semaphore = Semaphore(3)
    inside = entered = intruders = 0

    def work() -> None:
        nonlocal inside, entered, intruders
        while True:
            semaphore.acquire()
            inside += 1
            entered += 1
            intruders += inside > 3
            try:
                sleep(rng.choice((0, 0, 0.0001)))
            finally:
                inside -= 1
                semaphore.release()

    storm(rng, kills, [work])
    return {"moved": entered, "intruders": intruders, "missing": 3 - semaphore.counter, "inside": inside}


def waits(rng: random.Random, kills: int) -> dict[str, int]:
    """Sleepers, and those that wait for what never comes: each wait that is given up leaves the object without links,
    and a thread's task that nobody waits for any more is run all the same."""
    event, result = Event(), AsyncResult()
    thread_pool = get_hub().threadpool
    begun = 0
    ran: list[None] = []

    def in_threads() -> None:
        nonlocal begun
        while True:
            task = thread_pool.spawn(ran.append, None)
            begun += 1
            task.get()

    def sleepers() -> None:
        while True:
            sleep(rng.choice((0, 0.0001, 1000)))

    storm(rng, kills, [event.wait, result.get, sleepers, in_threads])
    thread_pool.join()
    answered = thread_pool.apply(abs, (-1,))
    thread_pool.kill()
    left = event.linkcount() + result.linkcount()
    not_run = begun - len(ran)
    return {
        "moved": begun,
        "not_run": not_run,
        "linked": left,
        "unanswered": 1 - answered,
        "tasks": len(thread_pool),
    }


def sockets(rng: random.Random, kills: int) -> dict[str, int]:
    """Readers are killed in `recv`; the stream of bytes that they and those after them read has no gap."""
    near, far = socketpair()
    got = bytearray()
    sent = 0
    kept = Semaphore(1)

    def write() -> None:
        nonlocal sent
        while True:
            far.sendall(bytes([sent % 251]))
            sent += 1
            sleep(0)

    def read() -> None:
        while True:
            with kept:
                got.extend(near.recv(rng.randint(1, 5)))

    writer = spawn(write)
    storm(rng, kills, [read])
    writer.kill()
    far.close()
    while part := near.recv(100):
        got.extend(part)
    near.close()
    # The one that was killed in `sendall` may have sent its byte.
    wrong = sum(byte != number % 251 for number, byte in enumerate(got))
    return {"moved": len(got), "wrong": wrong, "missing": max(0, sent - len(got))}


def main() -> None:
    seed, kills, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    loop = get_hub().loop
    before = descriptors()
    kinds = {"queues": queues, "semaphores": semaphores, "waits": waits, "sockets": sockets}
    found = kinds[kind](random.Random(seed), kills)
    sleep(0)
    report(**found, active=loop.activecnt, descriptors=descriptors() - before)


if __name__ == "__main__":
    main()
