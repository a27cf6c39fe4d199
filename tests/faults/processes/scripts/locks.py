"""Workers that use one lock, condition, event or barrier, and are killed or stopped at random instants.

    locks.py --kind lock --method fork --signal KILL --hits 20 --seed 1

Prints a line for every hit, once every worker has got on since; at the end, what came of it, as JSON.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import json
import mmap
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

from weft.multiprocessing.errors import OwnerDied

KINDS = ("lock", "rlock", "nested", "semaphore", "condition", "event", "barrier")
WORKERS = 4
LONGEST_CALM = 0.02  # seconds between two hits
LONGEST_STOP = 0.05
STEP = 0.001  # seconds between two looks

# Numbers that all share; those of each worker follow.
STOP, FIRST, SECOND, INSIDE, INTRUDERS, REPORTED, ITEMS, PUT, GOT = range(9)
TURNS, HAS = 16, 16 + WORKERS
NUMBERS = HAS + WORKERS


class Numbers:
    """Whole numbers in a file that every process maps. Who writes which when is the scripts' business."""

    def __init__(self, folder: Path, create: bool = False) -> None:
        path = folder / "numbers"
        if create:
            path.write_bytes(bytes(8 * NUMBERS))
        with path.open("r+b") as file:
            self._view = memoryview(mmap.mmap(file.fileno(), 8 * NUMBERS)).cast("q")

    def __getitem__(self, index: int) -> int:
        return self._view[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._view[index] = value

    def turns(self) -> list[int]:
        return [self._view[TURNS + place] for place in range(WORKERS)]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def inside(numbers: Numbers) -> None:
    """What happens under the lock: two numbers that are the same outside, and nobody else who lives."""
    me = os.getpid()
    other = numbers[INSIDE]
    if other not in (0, me) and is_alive(other):
        numbers[INTRUDERS] += 1
    numbers[INSIDE] = me
    numbers[FIRST] += 1
    numbers[SECOND] += 1
    if numbers[INSIDE] != me:
        numbers[INTRUDERS] += 1
    numbers[INSIDE] = 0


def use_lock(kind: str, lock: Any, numbers: Numbers, place: int) -> None:
    with lock:
        if kind == "nested":
            with lock:
                inside(numbers)
        else:
            inside(numbers)


def use_semaphore(kind: str, semaphore: Any, numbers: Numbers, place: int) -> None:
    semaphore.acquire()
    numbers[HAS + place] = 1
    numbers[HAS + place] = 0
    semaphore.release()


def use_condition(kind: str, condition: Any, numbers: Numbers, place: int) -> None:
    """The first half of the workers put items, the others take them."""
    with condition:
        if place < WORKERS // 2:
            numbers[ITEMS] += 1
            numbers[PUT] += 1
            condition.notify()
        else:
            while numbers[ITEMS] == 0:
                if numbers[STOP]:
                    return
                condition.wait()
            numbers[ITEMS] -= 1
            numbers[GOT] += 1


def use_event(kind: str, event: Any, numbers: Numbers, place: int) -> None:
    if place == 0:
        event.set()
        time.sleep(STEP)
        event.clear()
    elif not numbers[STOP]:
        event.wait()


def use_barrier(kind: str, barrier: Any, numbers: Numbers, place: int) -> None:
    try:
        barrier.wait()
    except threading.BrokenBarrierError:
        # Until it is mended.
        while barrier.broken and not numbers[STOP]:
            time.sleep(STEP)


USES = {"semaphore": use_semaphore, "condition": use_condition, "event": use_event, "barrier": use_barrier}


def work(kind: str, shared: Any, place: int, folder: Path) -> None:
    numbers = Numbers(folder)
    use = USES.get(kind, use_lock)
    while not numbers[STOP]:
        try:
            use(kind, shared, numbers, place)
        except OwnerDied:
            numbers[REPORTED] += 1
        numbers[TURNS + place] += 1


def make(context: Any, kind: str, hits: int) -> Any:
    match kind:
        case "lock":
            return context.Lock()
        case "rlock" | "nested":
            return context.RLock()
        case "semaphore":
            # What a killed worker has taken is gone; there is enough for all.
            return context.Semaphore(WORKERS + hits)
        case "condition":
            return context.Condition()
        case "event":
            return context.Event()
    return context.Barrier(WORKERS)


class Show:
    """The workers, and what happens to them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder = Path.cwd()
        self.context: Any = multiprocessing.get_context(options.method)
        self.shared = make(self.context, options.kind, options.hits)
        self.numbers = Numbers(self.folder, create=True)
        self.running: list[Any] = [None] * WORKERS
        self.killed = self.had = 0

    def start(self, place: int) -> None:
        process = self.context.Process(target=work, args=(self.options.kind, self.shared, place, self.folder))
        process.start()
        self.running[place] = process

    def until_all_got_on(self) -> None:
        """Wait until every worker has had a turn since. Has no end of its own: the watchdog looks."""
        before = self.numbers.turns()
        while any(now == then for now, then in zip(self.numbers.turns(), before, strict=True)):
            if self.options.kind == "barrier" and self.shared.broken:
                self.shared.reset()
            time.sleep(STEP)

    def hit(self, place: int, dice: random.Random) -> None:
        process = self.running[place]
        if process.exitcode is not None:
            raise RuntimeError(f"process {process.pid} ended by itself: exit code {process.exitcode}")
        if self.options.signal == "KILL":
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            self.killed += 1
            self.had += self.numbers[HAS + place]
            self.numbers[HAS + place] = 0
            self.start(place)
        else:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(dice.uniform(0, LONGEST_STOP))
            os.kill(process.pid, signal.SIGCONT)

    def end(self) -> None:
        """Let all workers end, whatever they wait for."""
        self.numbers[STOP] = 1
        match self.options.kind:
            case "condition":
                while True:
                    try:
                        with self.shared:
                            self.shared.notify_all()
                        break
                    except OwnerDied:
                        self.numbers[REPORTED] += 1
            case "event":
                self.running[0].join()
                self.shared.set()
            case "barrier":
                self.shared.abort()
        for process in self.running:
            process.join()
        stage.say("all ended")

    def result(self) -> dict[str, Any]:
        kind, numbers = self.options.kind, self.numbers
        found: dict[str, Any] = {
            "failed": sum(process.exitcode != 0 for process in self.running),
            "killed": self.killed,
            "reported": numbers[REPORTED],
            "intruders": numbers[INTRUDERS],
            "turns": sum(numbers.turns()),
        }
        if kind in ("lock", "rlock", "nested"):
            found["torn"] = numbers[FIRST] - numbers[SECOND]
            found["value"] = self.shared._semlock._get_value()
            try:
                with self.shared:
                    pass
            except OwnerDied:
                found["reported"] += 1
                with self.shared:
                    pass
        if kind == "semaphore":
            found["gone"] = WORKERS + self.options.hits - self.shared.get_value()
            found["had"] = self.had
        if kind == "condition":
            found["waiting"] = self.shared._sleeping_count.get_value() - self.shared._woken_count.get_value()
            found["pending"] = self.shared._wait_semaphore.get_value()
            found["missing"] = numbers[PUT] - numbers[GOT] - numbers[ITEMS]
        if kind == "barrier":
            self.shared.reset()
            found["waiting"], found["broken"] = self.shared.n_waiting, int(self.shared.broken)
        return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=KINDS, default="lock")
    parser.add_argument("--method", choices=("fork", "spawn", "forkserver"), default="fork")
    parser.add_argument("--signal", choices=("KILL", "STOP"), default="KILL")
    parser.add_argument("--hits", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    show = Show(options)
    for place in range(WORKERS):
        show.start(place)
    show.until_all_got_on()
    stage.say("all began")
    for hit in range(1, options.hits + 1):
        time.sleep(dice.uniform(0, LONGEST_CALM))
        show.hit(dice.randrange(WORKERS), dice)
        show.until_all_got_on()
        stage.say(f"hit {hit}")
    show.end()
    stage.say(json.dumps(show.result()))


if __name__ == "__main__":
    main()
