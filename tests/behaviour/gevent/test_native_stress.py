"""Greenlets that wait, wake, end and kill each other at random, straight from one to the next and through the hub.

WEFT_HUB_SEED repeats a run.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
from collections.abc import Iterator

import pytest
import weft.gevent as gevent
from weft.gevent import Greenlet, GreenletExit, Timeout, get_hub, joinall, sleep, spawn, spawn_raw
from weft.gevent.event import AsyncResult, Event
from weft.gevent.exceptions import BlockingSwitchOutError
from weft.gevent.lock import BoundedSemaphore, Semaphore
from weft.gevent.queue import Empty, Full, Queue
from weft.greenlet import greenlet, settrace

ACTORS = 60
STEPS = 40


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("WEFT_HUB_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"WEFT_HUB_SEED={seed}")
    return random.Random(seed)


@contextlib.contextmanager
def traced(on: bool) -> Iterator[None]:
    """With somebody who watches, every switch goes through the hub."""
    before = settrace((lambda event, arguments: None) if on else None)
    try:
        yield
    finally:
        settrace(before)


class World:
    """What the actors share, and what they have done to it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.queue: Queue = Queue(maxsize=3)
        self.lock = BoundedSemaphore(2)
        self.inside = 0
        self.put = self.got = 0
        self.event = Event()
        self.results = [AsyncResult() for _ in range(4)]
        self.actors: list[Greenlet] = []

    def use_queue(self) -> None:
        if self.chance.random() < 0.5:
            try:
                self.queue.put(self.put, timeout=0.001)
            except Full:
                return
            self.put += 1
        else:
            with contextlib.suppress(Empty):
                self.queue.get(timeout=0.001)
                self.got += 1

    def use_lock(self) -> None:
        if not self.lock.acquire(timeout=0.001 if self.chance.random() < 0.5 else None):
            return
        try:
            self.inside += 1
            assert self.inside <= 2
            sleep(0)
        finally:
            self.inside -= 1
            self.lock.release()

    def use_event(self) -> None:
        if self.chance.random() < 0.4:
            self.event.set()
            if self.chance.random() < 0.5:
                self.event.clear()
        else:
            self.event.wait(timeout=0.0005)

    def use_result(self) -> None:
        number = self.chance.randrange(len(self.results))
        result = self.results[number]
        if self.chance.random() < 0.4:
            self.results[number] = AsyncResult()
            if self.chance.random() < 0.2:
                result.set_exception(LookupError(number))
            else:
                result.set(number)
            return
        with contextlib.suppress(Timeout, LookupError):
            assert result.get(timeout=0.0005) == number

    def use_children(self) -> None:
        children = [spawn(self.chance.choice([int, lambda: sleep(0)])) for _ in range(3)]
        if self.chance.random() < 0.3:
            children[0].kill(block=False)
        assert len(joinall(children)) == 3
        assert greenlet(lambda: sleep(0) or "inner").switch() == "inner"

    def use_timeout(self) -> None:
        with Timeout(self.chance.choice([0, 0.0003, 3600]), False):
            sleep(self.chance.choice([0, 0.0002]))

    def use_raw(self) -> None:
        done = Event()
        spawn_raw(done.set)
        assert done.wait()

    def kill_somebody(self) -> None:
        victim = self.chance.choice(self.actors)
        if victim is not gevent.getcurrent():
            victim.kill(block=self.chance.random() < 0.3)

    def act(self) -> int:
        acts = [
            self.use_queue,
            self.use_lock,
            self.use_event,
            self.use_result,
            self.use_children,
            self.use_timeout,
            self.use_raw,
            lambda: sleep(0),
        ]
        for _ in range(STEPS):
            self.chance.choice(acts)()
            if self.chance.random() < 0.005:
                self.kill_somebody()
        return STEPS


@pytest.mark.parametrize("through_the_hub", [False, True])
def test_whatever_they_do_nobody_is_lost(
    chance: random.Random, through_the_hub: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(chance)
    with traced(through_the_hub):
        world.actors = [spawn(world.act) for _ in range(ACTORS)]
        joinall(world.actors)
    for actor in world.actors:
        assert actor.dead and actor.successful(), actor.exception
        assert actor.value == STEPS or isinstance(actor.value, GreenletExit)
    assert world.inside == 0 and world.lock.counter == 2 and world.lock.linkcount() == 0
    assert world.queue.qsize() <= 3 and not any(world.queue._waiting())
    assert world.event.linkcount() == 0
    sleep(0)  # what was killed and had nobody to wait for it
    assert get_hub().loop.activecnt == 0
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("through_the_hub", [False, True])
def test_a_crowd_with_one_place_starves_nobody(chance: random.Random, through_the_hub: bool) -> None:
    lock, order = Semaphore(1), []

    def work(number: int) -> None:
        for _ in range(5):
            with lock:
                order.append(number)
                sleep(0)
            # Who asks again at once has it again: what is free goes to who asks first.
            sleep(0)

    with traced(through_the_hub):
        joinall([spawn(work, number) for number in range(50)])
    assert sorted(order) == sorted([*range(50)] * 5) and lock.counter == 1
    # Nobody was twice before everybody else was once.
    assert sorted(order[:50]) == list(range(50))


def test_a_chain_of_starts_is_not_nested() -> None:
    """Each is started by the one before it, which ends or waits: none of them is any deeper in recursion."""
    depths: list[int] = []

    def deep(left: int) -> int:
        return left if left == 0 else deep(left - 1)

    def run() -> None:
        depths.append(deep(400))
        sleep(0.001)

    joinall([spawn(run) for _ in range(3000)])
    assert depths == [0] * 3000


def test_greenlets_in_many_collections(chance: random.Random) -> None:
    """The collector runs while greenlets of all states are about."""
    before = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    try:
        world = World(chance)
        world.actors = [spawn(world.act) for _ in range(20)]
        joinall(world.actors)
        assert all(actor.dead for actor in world.actors)
    finally:
        gc.set_threshold(*before)


def test_a_value_whose_finalizer_waits_is_let_go_of_all_the_same() -> None:
    ended = []

    class Sleeps:
        def __del__(self) -> None:
            with contextlib.suppress(BlockingSwitchOutError):  # in the hub
                sleep(0)
            ended.append(1)

    for _ in range(20):
        greenlets = [spawn(Sleeps) for _ in range(5)]
        del greenlets
        sleep(0)
    spawn(sleep, 0.001).join()
    sleep(0)
    gc.collect()
    assert len(ended) == 100
