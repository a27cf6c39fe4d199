"""Clients of one manager, or users of one `weft.SharedDict`, while SIGKILL hits them at random instants.

    shared_objects.py --of manager --way lanes --method fork --hits 50 --seed 1

Every client makes calls of all kinds, and counts in the ledger those that add to a total, before and after. They take tokens out of
a queue and put them back, so that it is seen if one is doubled, or lost without having been in the hands of one that was
killed. After each hit a line is printed once a client has got on since; a killed one is replaced. At the end one line of JSON
says whether something is half done, lost or kept.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import weft
from ledger import BEGUN, DONE, Ledger
from weft import _native
from weft.multiprocessing.managers import SyncManager, batch

LONGEST_CALM = 0.01  # seconds between hits
STEP = 0.001  # seconds between two looks
LARGE = 40_000  # bytes of a value that does not fit into a lane
TOKENS = 64  # in the queue
PERMITS = 2  # of the semaphore


class Note:
    """What only the thread of a client's own may unpickle."""

    def __init__(self, place: int) -> None:
        self.place = place


def use_manager(shared: dict[str, Any], ledger: Ledger, place: int, life: int, dice: random.Random) -> None:
    """One round of calls."""
    d, items, lock, values = shared["dict"], shared["list"], shared["lock"], shared["queue"]
    ledger.note(life, BEGUN)
    d.add("total")
    ledger.note(life, DONE)
    with batch(d) as both:
        both["left", place] = life, os.getpid()
        both["right", place] = life, os.getpid()
    match dice.randrange(10):
        case 0:
            d["large", place] = bytes([place]) * LARGE
            assert set(d["large", place]) == {place}
        case 1:
            items.append(place)
            items.pop()
        case 2:
            try:
                with lock:
                    d["owner"] = place
            except weft.OwnerDied:
                d.add("owners that died")
        case 3:
            token = values.get()
            values.put(token)
        case 4:
            shared["remake"]["nested"] = shared["list"]
        case 5:
            d.update_with("doubled", max, place, default=0)
        case 6:
            with owned(shared["rlock"], d), owned(shared["rlock"], d):
                # Nobody else is in here, whatever happened to those before.
                d["inside"] = place, life
                assert d["inside"] == (place, life)
        case 7:
            with owned(shared["semaphore"], d):
                assert d.add("taken") - d.get("given", 0) <= PERMITS + d["killed"]
                d.add("given")
        case 8:
            condition = shared["condition"]
            with owned(condition, d):
                if dice.randrange(2):
                    condition.notify()
                else:
                    condition.wait(0.001)
        case 9:
            d["note", place] = Note(place)
            assert d["note", place].place == place


@contextmanager
def owned(lock: Any, d: Any) -> Iterator[None]:
    """With a lock held, whoever died with it."""
    while True:
        try:
            lock.acquire()
            break
        except weft.OwnerDied:
            d.add("owners that died")
    try:
        yield
    except weft.OwnerDied:
        d.add("owners that died")  # in a wait, with the lock held
    finally:
        lock.release()


def use_dict(shared: Any, ledger: Ledger, place: int, life: int, dice: random.Random) -> None:
    """One round of operations."""
    d = shared["dict"]
    ledger.note(life, BEGUN)
    d.add("total")
    ledger.note(life, DONE)
    key = dice.randrange(2000)
    size = dice.choice((1, 50, 500, 5000))
    match dice.randrange(5):
        case 0 | 1:
            d["own", place, key] = bytes([place]) * size
        case 2:
            d.pop(("own", place, key), None)
        case 3:
            found = d.get(("own", place, key), b"")
            assert set(found) <= {place}, "another one's value, or a part of it"
        case 4:
            # Others write meanwhile, and are killed at it.
            seen = [key for key in d if isinstance(key, tuple)]
            assert len(seen) == len(set(seen)), "a key is there twice"
            for key, value in d.items():
                if isinstance(key, tuple):
                    assert set(value) <= {key[1]}, "another one's value, or a part of it"


USES = {"manager": use_manager, "dict": use_dict}


def work(of: str, shared: Any, folder: str, shape: tuple[int, int], place: int, life: int, seed: int) -> None:
    ledger = Ledger(Path(folder), *shape)
    dice = random.Random(f"{seed}/{life}")
    while not ledger.stopped:
        USES[of](shared, ledger, place, life, dice)
        ledger.count(place)


class Show:
    """The clients, and what they share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.context = multiprocessing.get_context(options.method)
        self.dice = random.Random(options.seed)
        self.places = range(options.clients)
        self.shape = len(self.places), len(self.places) + options.hits
        self.ledger = Ledger(Path.cwd(), *self.shape, create=True)
        self.running: dict[int, Any] = {}
        self.lives = self.killed = self.failed = 0
        self.manager: Any = None
        if options.of == "manager":
            address = None if options.way == "lanes" else ("127.0.0.1", 0)
            self.manager = SyncManager(address, ctx=self.context)
            self.manager.start()
            self.shared = {
                "dict": self.manager.dict(killed=0),
                "list": self.manager.list(),
                "lock": self.manager.Lock(),
                "queue": self.manager.Queue(),
                "remake": self.manager.dict(),
                "rlock": self.manager.RLock(),
                "semaphore": self.manager.BoundedSemaphore(PERMITS),
                "condition": self.manager.Condition(),
            }
            for token in range(TOKENS + options.hits):
                self.shared["queue"].put(token)
        else:
            self.shared = {"dict": weft.SharedDict()}

    def start(self, place: int) -> None:
        life, self.lives = self.lives, self.lives + 1
        arguments = self.options.of, self.shared, os.getcwd(), self.shape, place, life, self.options.seed
        self.running[place] = process = self.context.Process(target=work, args=arguments)
        process.start()

    def hit(self, place: int) -> None:
        process = self.running[place]
        if self.manager is not None:
            self.shared["dict"].add("killed")
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == -signal.SIGKILL:
            self.killed += 1
        else:
            self.failed += 1
        self.start(place)

    def until_got_on(self, places: Any) -> None:
        """Until one client at each of the places has made a whole round since. The watchdog ends it otherwise."""
        before = {place: self.ledger.total(range(place, place + 1)) for place in places}
        for place, rounds in before.items():
            while self.ledger.total(range(place, place + 1)) == rounds:
                if not self.running[place].is_alive():
                    self.failed += 1
                    self.start(place)
                time.sleep(STEP)

    def end(self) -> None:
        self.ledger.stop()
        for process in self.running.values():
            process.join()
            self.failed += process.exitcode != 0

    def result(self) -> dict[str, int]:
        d = self.shared["dict"]
        begun = sum(self.ledger.read(life, BEGUN) for life in range(self.lives))
        done = sum(self.ledger.read(life, DONE) for life in range(self.lives))
        total = d["total"]
        found = {
            "failed": self.failed,
            "killed": self.killed,
            "lost": max(0, done - total),
            "invented": max(0, total - begun),
            "unsure": begun - done,
            "halves": 0,
            "torn": 0,
            "kept": 0,
            "doubled": 0,
            "missing": 0,
        }
        if self.manager is None:
            entries = list(d.items())
            found["torn"] += len(entries) != len(d)
            for key, value in entries:
                found["torn"] += isinstance(key, tuple) and set(value) > {key[1]}
            del d, self.shared
            _native.sweep_shared_memory()
            found["kept"] = _native.shared_blocks_in_use()
            return found
        for place in self.places:
            found["halves"] += d["left", place] != d["right", place]
        tokens = []
        while not self.shared["queue"].empty():
            tokens.append(self.shared["queue"].get())
        found["doubled"] = len(tokens) - len(set(tokens))
        found["missing"] = TOKENS + self.options.hits - len(set(tokens))
        self.shared["remake"].clear()
        # The server lets go of what the dead had as it hears of them.
        while self.manager._number_of_objects() > len(self.shared):
            time.sleep(STEP)
        self.manager.shutdown()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", choices=USES, default="manager")
    parser.add_argument("--way", choices=("lanes", "tcp"), default="lanes")
    parser.add_argument("--method", choices=("fork", "spawn", "forkserver"), default="fork")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--hits", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    show = Show(options)
    for place in show.places:
        show.start(place)
    show.until_got_on(show.places)
    stage.say("all began")
    for hit in range(1, options.hits + 1):
        time.sleep(show.dice.uniform(0, LONGEST_CALM))
        place = show.dice.choice(show.places)
        show.hit(place)
        show.until_got_on([place])
        stage.say(f"hit {hit}")
    show.until_got_on(show.places)
    stage.say("all got on")
    show.end()
    stage.say(json.dumps(show.result()))


if __name__ == "__main__":
    main()
