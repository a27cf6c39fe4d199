"""Producers and consumers on one queue, while signals hit them at random instants.

    storm.py --kind Queue --method fork --victims both --hits 50 --seed 1 [--signal STOP]

After each hit a line is printed once a message has been received since; a killed process is replaced. At
the end everything is drained and counted, and one line of JSON says what became of the messages.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import json
import multiprocessing
import os
import queue as exceptions
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ledger import BEGUN, DONE, RECEIVED, Ledger, audit
from messages import is_intact, message, origin

LONGEST_CALM = 0.03  # seconds between hits
LONGEST_STOP = 0.02
BACKLOG = 300  # messages that producers let pile up
PATIENCE = 0.05  # seconds without a message received until the backlog is taken for lost


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--api", choices=("multiprocessing", "weft", "queues", "faster_fifo"), default="multiprocessing"
    )
    parser.add_argument("--kind", choices=("Queue", "JoinableQueue", "SimpleQueue"), default="Queue")
    parser.add_argument("--method", choices=("fork", "spawn", "forkserver"), default="fork")
    parser.add_argument("--victims", choices=("producers", "consumers", "both"), default="both")
    parser.add_argument("--signal", choices=("KILL", "STOP"), default="KILL")
    parser.add_argument("--maxsize", type=int, default=0)
    parser.add_argument("--producers", type=int, default=3)
    parser.add_argument("--consumers", type=int, default=3)
    parser.add_argument("--hits", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def make(options: argparse.Namespace) -> tuple[Any, Any]:
    """The queue, and the class of the processes."""
    context = multiprocessing.get_context(options.method)
    match options.api:
        case "faster_fifo":
            from faster_fifo import Queue

            return Queue(max_size_bytes=16 << 20), context.Process
        case "queues":  # weft's queues among whatever processes multiprocessing has
            from weft.multiprocessing import queues

            made = getattr(queues, options.kind)
            return made(options.maxsize, ctx=context) if options.maxsize else made(
                ctx=context
            ), context.Process
        case "weft":
            import weft

            factory = getattr(weft, options.kind)
            return factory(options.maxsize) if options.maxsize else factory(), weft.Process
    factory = getattr(context, options.kind)
    return (factory(options.maxsize) if options.maxsize else factory()), context.Process


class Cast:
    """What a child needs to know; it crosses by pickle under spawn."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.work = Path.cwd()
        self.seed: int = options.seed
        self.joinable: bool = options.kind == "JoinableQueue"
        self.blocks: bool = options.api == "faster_fifo"  # its get() gives up by itself
        self.producers = range(options.producers)
        self.consumers = range(options.producers, options.producers + options.consumers)
        # Every hit can begin one more life.
        self.lives: int = len(self.producers) + len(self.consumers) + options.hits

    def ledger(self, create: bool = False) -> Ledger:
        return Ledger(self.work, len(self.producers) + len(self.consumers), self.lives, create)


def produce(queue: Any, cast: Cast, place: int, life: int) -> None:
    ledger = cast.ledger()
    number = 0
    patience = PATIENCE
    while not ledger.stopped:
        patience = await_room(ledger, cast, patience)
        one = message(cast.seed, life, number)
        ledger.note(life, BEGUN)
        queue.put(one)
        ledger.note(life, DONE)
        ledger.count(place)
        number += 1


def await_room(ledger: Ledger, cast: Cast, patience: float) -> float:
    """Wait while too much is under way; if nobody receives, for `patience` seconds at most.

    The difference is then messages that died with somebody. The patience for the next time is longer: if
    the queue itself stands still it shall not fill the memory.
    """
    looked, received = 0.0, -1
    while not ledger.stopped:
        now, got = time.monotonic(), ledger.total(cast.consumers)
        under_way = ledger.total(cast.producers) - got
        if under_way - ledger.forgiven <= BACKLOG:
            return patience
        if got != received:
            looked, received = now, got
        elif now - looked > patience:
            ledger.forgive(under_way)
            return patience * 2
        time.sleep(0.001)
    return patience


def consume(queue: Any, cast: Cast, place: int, life: int) -> None:
    ledger = cast.ledger()
    log = ledger.log(life)
    pulse = os.open(cast.work / "pulse", os.O_WRONLY | os.O_NONBLOCK)
    while True:
        try:
            found = queue.get()
        except exceptions.Empty:
            if not cast.blocks:
                raise
            continue
        if found is None:
            return
        producer, number = origin(found)
        if not is_intact(cast.seed, producer, number, found):
            raise ValueError(f"message {number} of {producer} is damaged: {str(found)[:200]}")
        os.write(log, RECEIVED.pack(producer, number))
        ledger.count(place)
        if cast.joinable:
            ledger.note(life, BEGUN)
            queue.task_done()
            ledger.note(life, DONE)
        try:
            os.write(pulse, b".")
        except BlockingIOError:
            pass


class Pulse:
    """A FIFO that consumers write to, one byte a message."""

    def __init__(self, work: Path) -> None:
        os.mkfifo(work / "pulse")
        self._descriptor = os.open(work / "pulse", os.O_RDWR)

    def next(self) -> None:
        """Wait until something is received from now on. Has no end of its own: the watchdog looks."""
        os.set_blocking(self._descriptor, False)
        try:
            while len(os.read(self._descriptor, 65536)) == 65536:
                pass
        except BlockingIOError:
            pass
        os.set_blocking(self._descriptor, True)
        os.read(self._descriptor, 1)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    dice = random.Random(options.seed)
    queue, process_class = make(options)
    cast = Cast(options)
    ledger = cast.ledger(create=True)
    pulse = Pulse(cast.work)
    running: dict[int, tuple[int, Any]] = {}  # place: life, process
    born: dict[int, list[int]] = {place: [] for place in (*cast.producers, *cast.consumers)}
    killed: set[int] = set()

    def start(place: int) -> None:
        life = sum(map(len, born.values()))
        born[place].append(life)
        play = produce if place in cast.producers else consume
        process = process_class(target=play, args=(queue, cast, place, life))
        process.start()
        running[place] = life, process

    for place in born:
        start(place)
    pulse.next()
    stage.say("all began")
    aimed_at = {"producers": [*cast.producers], "consumers": [*cast.consumers], "both": [*born]}[
        options.victims
    ]
    for hit in range(1, options.hits + 1):
        time.sleep(dice.uniform(0, LONGEST_CALM))
        place = dice.choice(aimed_at)
        life, process = running[place]
        if process.exitcode is not None:
            raise RuntimeError(f"process {process.pid} ended by itself: exit code {process.exitcode}")
        if options.signal == "KILL":
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed.add(life)
            start(place)
        else:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(dice.uniform(0, LONGEST_STOP))
            os.kill(process.pid, signal.SIGCONT)
        pulse.next()
        stage.say(f"hit {hit}")
    ledger.stop()
    for place in cast.producers:
        running[place][1].join()
    stage.say("producers ended")
    for _ in cast.consumers:
        queue.put(None)
        if cast.joinable:
            queue.task_done()  # of the end marks themselves: only messages count below
    for place in cast.consumers:
        running[place][1].join()
    stage.say("consumers ended")
    bad = [p.exitcode for _, p in running.values() if p.exitcode != 0]
    producers = [life for place in cast.producers for life in born[place]]
    consumers = [life for place in cast.consumers for life in born[place]]
    result = audit(ledger, producers, consumers, killed)
    result["failed"] = len(bad)
    result["left_in_queue"] = queue.qsize() if hasattr(queue, "qsize") else int(not queue.empty())
    if cast.joinable:
        result["unfinished"] = unfinished(queue)
        stage.say("counted")
        queue.join()
    stage.say(json.dumps(result))
    sys.stdout.flush()


def unfinished(queue: Any) -> int:
    """The count of a JoinableQueue, as the public interface tells it; it is zero afterwards."""
    count = 0
    while True:
        try:
            queue.task_done()
        except ValueError:
            return count
        count += 1


if __name__ == "__main__":
    main()
