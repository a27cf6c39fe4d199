"""What producers and consumers note about themselves, in files that outlive them.

A *life* is one process; a *place* is what it and those who replaced it do. Counters lie in one shared
mapping: each word has one writer at a time, and a store of one word is not torn by a kill. What was received
goes to one log for each life, eight bytes a message in one write().
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import Counter
from pathlib import Path

STOPPED, FORGIVEN, HEAD = 0, 1, 2  # the words in front, and how many they are

# The words of a life.
BEGUN, DONE = 0, 1  # puts, or calls of task_done: noted before, and after it returned
WORDS = 2

RECEIVED = struct.Struct("<II")


class Ledger:
    """The counters in `folder`: made by the program, opened by its children."""

    def __init__(self, folder: Path, places: int, lives: int, create: bool = False) -> None:
        self.folder = folder
        self._places = places
        path = folder / "counters"
        size = 8 * (HEAD + places + lives * WORDS)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        if create:
            os.truncate(descriptor, size)
        self._words = memoryview(mmap.mmap(descriptor, size)).cast("Q")
        os.close(descriptor)

    @property
    def stopped(self) -> bool:
        return bool(self._words[STOPPED])

    def stop(self) -> None:
        self._words[STOPPED] = 1

    @property
    def forgiven(self) -> int:
        """Messages that were put, and that nobody will count as received: those the kills cost."""
        return self._words[FORGIVEN]

    def forgive(self, messages: int) -> None:
        self._words[FORGIVEN] = messages

    def count(self, place: int) -> None:
        """One more message put or received at a place."""
        self._words[HEAD + place] += 1

    def total(self, places: range) -> int:
        return sum(self._words[HEAD + place] for place in places)

    def note(self, life: int, word: int) -> None:
        """One more begun, or done, in a life."""
        self._words[HEAD + self._places + life * WORDS + word] += 1

    def read(self, life: int, word: int) -> int:
        return self._words[HEAD + self._places + life * WORDS + word]

    def log(self, life: int) -> int:
        """A descriptor to write received messages to."""
        return os.open(self.folder / f"received-{life}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def received(self, life: int) -> list[tuple[int, int]]:
        path = self.folder / f"received-{life}"
        if not path.exists():
            return []
        return [(producer, number) for producer, number in RECEIVED.iter_unpack(path.read_bytes())]


def audit(ledger: Ledger, producers: list[int], consumers: list[int], killed: set[int]) -> dict[str, int]:
    """What became of all messages. Of a killed producer's last put nobody knows whether it took place."""
    received: Counter[tuple[int, int]] = Counter()
    disorder = 0
    for life in consumers:
        last: dict[int, int] = {}
        for producer, number in ledger.received(life):
            received[producer, number] += 1
            disorder += number <= last.get(producer, -1)
            last[producer] = number
    lost = unknown = invented = put = 0
    for life in producers:
        begun, done = ledger.read(life, BEGUN), ledger.read(life, DONE)
        for number in range(done):
            lost += (life, number) not in received
        for number in range(done, begun):  # at most one
            unknown += (life, number) not in received
        put += begun
    known = {(life, number) for life in producers for number in range(ledger.read(life, BEGUN))}
    invented = sum(1 for one in received if one not in known)
    return {
        "put": put - unknown,
        "unknown": unknown,
        "received": received.total(),
        "duplicates": received.total() - len(received),
        "invented": invented,
        "disorder": disorder,
        "lost": lost,
        "killed_producers": len(killed & set(producers)),
        "killed_consumers": len(killed & set(consumers)),
        "task_done_least": sum(ledger.read(life, DONE) for life in consumers),
        "task_done_most": sum(ledger.read(life, BEGUN) for life in consumers),
    }
