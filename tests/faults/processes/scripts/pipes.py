"""Writers that share one end of a pipe, readers that share the other, while signals hit them at random instants.

    pipes.py --method fork --victims both --hits 50 --seed 1 [--shown] [--call bytes] [--sizes long] [--signal STOP]

After each hit a line is printed once a message has been received since; a killed process is replaced. At the end every
worker has to get on once more, the readers read up to a mark of the end, and one line of JSON says what became of the
messages and the shared memory.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import functools
import gc
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import weft
from ledger import BEGUN, DONE, RECEIVED, Ledger, audit
from storm import Pulse
from weft import _native

LONGEST_CALM = 0.01  # seconds between hits
LONGEST_STOP = 0.02
STEP = 0.001  # seconds between two looks
LONGEST = 3 << 20  # bytes
END = b""
HEADER = 16  # bytes: writer and number

# Shortest and longest, in bytes: what fits into one call and what does not, what goes by reference, what has to wait.
SMALL, INLINE, MIDDLE, LARGE = (0, 3000), (10 << 10, 17 << 10), (100 << 10, 110 << 10), (1 << 20, LONGEST)
SIZES = {
    "mixed": (SMALL, SMALL, SMALL, SMALL, INLINE, INLINE, MIDDLE, LARGE),
    "short": (SMALL, INLINE),
    "long": (MIDDLE, LARGE, (LONGEST, LONGEST)),
}


@functools.cache
def pool(seed: int) -> bytes:
    """What bodies are cut out of. A piece out of place differs from that which belongs there."""
    return random.Random(seed).randbytes(LONGEST + 4096)


def message(cast: Cast, writer: int, number: int) -> Any:
    """The message `number` of a writer: always the same."""
    dice = random.Random(f"{cast.seed}/{writer}/{number}")
    length = dice.randint(*dice.choice(SIZES[cast.sizes]))
    start = dice.randrange(4096)
    head = writer.to_bytes(8, "little") + number.to_bytes(8, "little")
    body = b"".join((head, memoryview(pool(cast.seed))[start : start + length]))
    if cast.call == "bytes" or length > 3000:
        return body
    return dice.choice((body, (writer, number, body.hex()), writer << 64 | number << 32))


def origin(found: Any) -> tuple[int, int]:
    """Who claims to have made a message: writer and number; ValueError if nobody can have."""
    match found:
        case int():
            return found >> 64, found >> 32 & 0xFFFFFFFF
        case (int(writer), int(number), str()):
            return writer, number
        case bytes() if len(found) >= HEADER:
            return int.from_bytes(found[:8], "little"), int.from_bytes(found[8:HEADER], "little")
    raise ValueError(f"not a message: {str(found)[:200]}")


class Cast:
    """What a child needs to know; it crosses by pickle under spawn."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.work = Path.cwd()
        self.seed: int = options.seed
        self.call: str = options.call
        self.sizes: str = options.sizes
        self.shown: bool = options.shown
        self.writers = range(options.writers)
        self.readers = range(options.writers, options.writers + options.readers)
        # Every hit can begin one more life.
        self.lives: int = options.writers + options.readers + options.hits

    def ledger(self, create: bool = False) -> Ledger:
        return Ledger(self.work, len(self.writers) + len(self.readers), self.lives, create)


def write(end: Any, begun: Any, cast: Cast, place: int, life: int) -> None:
    ledger = cast.ledger()
    begun.send_bytes(b".")
    if cast.shown:
        end.fileno()
    send = end.send_bytes if cast.call == "bytes" else end.send
    number = 0
    while not ledger.stopped:
        one = message(cast, life, number)
        ledger.note(life, BEGUN)
        send(one)
        ledger.note(life, DONE)
        ledger.count(place)
        number += 1


def read(end: Any, begun: Any, cast: Cast, place: int, life: int) -> None:
    ledger = cast.ledger()
    log = ledger.log(life)
    reports = os.open(cast.work / "reports", os.O_WRONLY | os.O_APPEND)
    pulse = os.open(cast.work / "pulse", os.O_WRONLY | os.O_NONBLOCK)
    dice = random.Random(life)
    room = bytearray(LONGEST + HEADER)
    begun.send_bytes(b".")
    if cast.shown:
        end.fileno()
    while True:
        try:
            found = receive(end, cast.call, dice, room)
        except weft.MessageLost as loss:
            os.write(reports, f"{loss}\n".encode())
            continue
        if found == END:
            return
        writer, number = origin(found)
        expected = message(cast, writer, number)
        if type(found) is not type(expected) or found != expected:
            raise ValueError(f"message {number} of {writer} is damaged: {str(found)[:200]}")
        os.write(log, RECEIVED.pack(writer, number))
        ledger.count(place)
        try:
            os.write(pulse, b".")
        except BlockingIOError:
            pass


def receive(end: Any, call: str, dice: random.Random, room: bytearray) -> Any:
    if dice.random() < 0.3:
        end.poll(dice.choice((0, 0.001)))
    if call == "objects":
        return end.recv()
    if dice.random() < 0.5:
        return end.recv_bytes()
    return bytes(memoryview(room)[: end.recv_bytes_into(room)])


class Show:
    """The workers, and what happens to them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.dice = random.Random(options.seed)
        self.context: Any = multiprocessing.get_context(options.method)
        self.beginning, self.begun = self.context.Pipe(duplex=False)
        self.before = blocks()
        self.outlet, self.inlet = self.context.Pipe(duplex=options.duplex)
        self.cast = Cast(options)
        self.ledger = self.cast.ledger(create=True)
        self.pulse = Pulse(self.cast.work)
        self.reports = self.cast.work / "reports"
        self.reports.touch()
        self.running: dict[int, tuple[int, Any]] = {}  # place: life, process
        self.born: dict[int, list[int]] = {place: [] for place in (*self.cast.writers, *self.cast.readers)}
        self.killed: dict[int, int] = {}  # life: pid
        pool(options.seed)  # forked children have it then

    def start(self, place: int) -> None:
        life = sum(map(len, self.born.values()))
        self.born[place].append(life)
        play, end = (write, self.inlet) if place in self.cast.writers else (read, self.outlet)
        process = self.context.Process(target=play, args=(end, self.begun, self.cast, place, life))
        process.start()
        # What is promised to a forked child that is killed before its first step lasts a minute.
        self.beginning.recv_bytes()
        self.running[place] = life, process

    def hit(self, place: int) -> None:
        life, process = self.running[place]
        if process.exitcode is not None:
            raise RuntimeError(f"process {process.pid} ended by itself: exit code {process.exitcode}")
        if self.options.signal == "KILL":
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            self.killed[life] = process.pid
            role = self.cast.writers if place in self.cast.writers else self.cast.readers
            if len(role) > 1 and self.dice.random() < 0.5:
                # The others get on by themselves, too.
                self.pulse.next()
            self.start(place)
        else:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(self.dice.uniform(0, LONGEST_STOP))
            os.kill(process.pid, signal.SIGCONT)

    def until_all_got_on(self) -> None:
        """Wait until every worker has sent or received one more. Has no end of its own: the watchdog looks."""
        for place in self.born:
            one = range(place, place + 1)
            before = self.ledger.total(one)
            while self.ledger.total(one) == before:
                time.sleep(STEP)

    def end(self) -> None:
        """The writers end by themselves, the readers at a mark: one for each."""
        self.ledger.stop()
        for place in self.cast.writers:
            self.running[place][1].join()
        stage.say("writers ended")
        for _ in self.cast.readers:
            (self.inlet.send_bytes if self.options.call == "bytes" else self.inlet.send)(END)
        for place in self.cast.readers:
            self.running[place][1].join()
        stage.say("readers ended")

    def result(self) -> dict[str, int]:
        writers = [life for place in self.cast.writers for life in self.born[place]]
        readers = [life for place in self.cast.readers for life in self.born[place]]
        found = audit(self.ledger, writers, readers, set(self.killed))
        reports = self.reports.read_text().splitlines()
        found["reported"] = len(reports)
        pids = {str(pid) for pid in self.killed.values()}
        found["false_reports"] = sum(not pids & set(report.replace(",", " ").split()) for report in reports)
        found["gaps"] = max(self.gaps(life, readers) for life in writers)
        found["failed"] = sum(process.exitcode != 0 for _, process in self.running.values())
        found["left_in_pipe"] = int(self.outlet.poll())
        self.running.clear()
        del self.outlet, self.inlet
        return found | {"before": self.before, "after": blocks()}

    def gaps(self, writer: int, readers: list[int]) -> int:
        """In how many places one or several messages of a writer, one after the other, are missing."""
        got = {number for life in readers for who, number in self.ledger.received(life) if who == writer}
        missing = set(range(self.ledger.read(writer, DONE))) - got
        return sum(number - 1 not in missing for number in missing)


def blocks() -> int:
    """Blocks of shared memory in use, when the dead have been seen to."""
    gc.collect()
    _native.sweep_shared_memory()
    return _native.shared_blocks_in_use()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=("fork", "spawn", "forkserver"), default="fork")
    parser.add_argument("--victims", choices=("writers", "readers", "both"), default="both")
    parser.add_argument("--signal", choices=("KILL", "STOP"), default="KILL")
    parser.add_argument("--call", choices=("objects", "bytes"), default="objects")
    parser.add_argument("--sizes", choices=SIZES, default="mixed")
    parser.add_argument("--shown", action="store_true", help="call fileno() of the ends first")
    parser.add_argument("--duplex", action="store_true")
    parser.add_argument("--writers", type=int, default=3)
    parser.add_argument("--readers", type=int, default=3)
    parser.add_argument("--hits", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    show = Show(options)
    for place in show.born:
        show.start(place)
    show.until_all_got_on()
    stage.say("all began")
    aimed_at = {"writers": show.cast.writers, "readers": show.cast.readers, "both": [*show.born]}
    for hit in range(1, options.hits + 1):
        time.sleep(show.dice.uniform(0, LONGEST_CALM))
        show.hit(show.dice.choice(aimed_at[options.victims]))
        show.pulse.next()
        stage.say(f"hit {hit}")
    show.until_all_got_on()
    stage.say("all got on")
    show.end()
    stage.say(json.dumps(show.result()))


if __name__ == "__main__":
    main()
