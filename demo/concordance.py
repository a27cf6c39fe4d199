"""A concordance of the standard library's sources by a pool of processes: an ordinary program.

    python demo/concordance.py [FOLDER]

Which identifier stands in which files, and how often: of every source file, the library's own tests included. Three
passes over one pool: files to identifiers, a few at a time and in any order; identifiers to files, in large pieces; and
a great many small questions, one by one. What could not be read, and what authors left for later, comes through a
queue. Nothing in this file knows of weft. The output is the same every time.
"""

from __future__ import annotations

import hashlib
import io
import keyword
import multiprocessing
import os
import re
import sys
import sysconfig
import tokenize
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

WORKERS = 2
SHARDS = 64
QUESTIONS = 4000
LEFT_FOR_LATER = re.compile(r"#.*\b(TODO|FIXME|XXX)\b")

Found = dict[str, int]  # an identifier, how often
Places = dict[str, list[tuple[str, int]]]  # an identifier, the files it is in, how often


# -- In the workers


class Notes:
    """What a worker has to say beside its results: set when it starts."""

    queue: Queue[tuple[str, str]]


def begin(folder: str, notes: Queue[tuple[str, str]]) -> None:
    os.chdir(folder)
    Notes.queue = notes


def read(name: str) -> tuple[str, int, Found, int]:
    """A file's name, its lines, its identifiers, and how many notes on it are in the queue."""
    found: Counter[str] = Counter()
    lines = notes = 0

    def note(kind: str) -> None:
        nonlocal notes
        notes += 1
        Notes.queue.put((kind, name))

    data = Path(name).read_bytes()
    try:
        for token in tokenize.tokenize(io.BytesIO(data).readline):
            if token.type == tokenize.NAME:
                found[token.string] += 1
            elif token.type == tokenize.COMMENT and (later := LEFT_FOR_LATER.match(token.string)):
                note(later[1])
            lines = token.end[0]
    except (SyntaxError, tokenize.TokenError):
        # Some tests want to see just that.
        note("unreadable")
    return name, lines, {word: count for word, count in found.items() if not keyword.iskeyword(word)}, notes


@dataclass
class Shard:
    """Part of the index: a checksum, the most frequent identifiers, those that are in most files."""

    digest: bytes
    identifiers: int
    places: int
    frequent: list[tuple[int, str]]
    widespread: list[tuple[int, str]]


def put_in_order(places: Places) -> Shard:
    digest = hashlib.sha256()
    frequent, widespread = [], []
    for word in sorted(places):
        files = sorted(places[word])
        digest.update(f"{word}:{files}\n".encode())
        frequent.append((sum(count for _, count in files), word))
        widespread.append((len(files), word))
    size = sum(map(len, places.values()))
    return Shard(digest.digest(), len(places), size, best(frequent), best(widespread))


def best(ranked: list[tuple[int, str]]) -> list[tuple[int, str]]:
    return sorted(ranked, key=lambda one: (-one[0], one[1]))[:12]


def share(question: tuple[str, list[int]]) -> tuple[str, float]:
    """How much of an identifier's use is in the file that uses it most."""
    word, counts = question
    return word, max(counts) / sum(counts)


# -- In the main process


def sources(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - {"site-packages", "__pycache__"})
        for name in sorted(files):
            if name.endswith(".py"):
                yield str(Path(place, name).relative_to(folder))


@dataclass
class Concordance:
    files: int = 0
    lines: int = 0
    shards: list[Places] = field(default_factory=lambda: [{} for _ in range(SHARDS)])
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, lines: int, found: Found) -> None:
        self.files += 1
        self.lines += lines
        for word, count in found.items():
            shard = self.shards[zlib.crc32(word.encode()) % SHARDS]
            shard.setdefault(word, []).append((name, count))

    def questions(self) -> Iterator[tuple[str, list[int]]]:
        """The identifiers that are in the most files, and their counts there."""
        every = [(len(files), word) for places in self.shards for word, files in places.items()]
        every.sort(key=lambda one: (-one[0], one[1]))
        for _, word in every[:QUESTIONS]:
            places = self.shards[zlib.crc32(word.encode()) % SHARDS]
            yield word, [count for _, count in places[word]]


def collect(pool: Any, folder: Path, notes: Queue[tuple[str, str]]) -> Concordance:
    concordance = Concordance()
    expected = 0
    for name, lines, found, noted in pool.imap_unordered(read, list(sources(folder)), chunksize=4):
        concordance.add(name, lines, found)
        expected += noted
        while not notes.empty():
            expected -= 1
            concordance.notes[notes.get()[0]] += 1
    for _ in range(expected):
        concordance.notes[notes.get()[0]] += 1
    return concordance


def show(concordance: Concordance, shards: list[Shard], shares: list[tuple[str, float]]) -> None:
    identifiers = sum(shard.identifiers for shard in shards)
    places = sum(shard.places for shard in shards)
    print(f"{concordance.files:,} files, {concordance.lines:,} lines")
    print(f"{identifiers:,} identifiers in {places:,} places")
    print("notes: " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(concordance.notes.items())))
    for title, ranked in (
        ("most frequent", [one for shard in shards for one in shard.frequent]),
        ("in most files", [one for shard in shards for one in shard.widespread]),
    ):
        print(f"{title}: " + ", ".join(f"{word} {count:,}" for count, word in best(ranked)))
    local = sorted(shares, key=lambda one: (-one[1], one[0]))
    print("of one file: " + ", ".join(f"{word} {part:.1%}" for word, part in local[:8]))
    print("of all files: " + ", ".join(f"{word} {part:.1%}" for word, part in local[-8:]))
    print("sha256 " + hashlib.sha256(b"".join(shard.digest for shard in shards)).hexdigest())


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib"))
    notes: Queue[tuple[str, str]] = multiprocessing.Queue()
    with multiprocessing.Pool(WORKERS, begin, (str(folder), notes)) as pool:
        concordance = collect(pool, folder, notes)
        shards = pool.map(put_in_order, concordance.shards, chunksize=2)
        shares = list(pool.imap(share, concordance.questions()))
        pool.close()
        pool.join()
    show(concordance, shards, shares)


if __name__ == "__main__":
    main()
