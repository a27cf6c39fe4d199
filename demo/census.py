"""A census of the standard library's sources by processes and queues: an ordinary program.

    python demo/census.py [FOLDER]

One process reads the files, others parse them and send what they find, fact by fact, to the main one,
which counts; the measures of a file come as one array. Then every package is imported once in a process
of its own, where it can break nothing, to see what it makes public. Nothing in this file knows of weft. The
output is the same every time.
"""

from __future__ import annotations

import ast
import importlib
import multiprocessing
import os
import sys
import sysconfig
from array import array
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.queues import JoinableQueue, Queue
from pathlib import Path

PARSERS = 2
OPEN_FILES = 40  # read, and not parsed yet
WIDTHS = 12  # classes of line lengths, ten columns each
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "__pycache__", "lib2to3", "idlelib", "turtledemo"}
ISOLATED = (
    "argparse asyncio base64 bisect calendar codecs collections concurrent.futures configparser contextlib "
    "csv ctypes dataclasses datetime decimal difflib email enum fractions functools glob hashlib heapq html "
    "http.client inspect json logging mailbox optparse pathlib pickle queue random sqlite3 ssl statistics "
    "string tarfile tempfile textwrap threading tokenize typing unittest urllib.request uuid xml.dom zipfile"
).split()

# What a parser sends: ("import", name), ("call", name), ("def", file, name, line, lines),
# ("file", file, its lines' lengths), and None at its end.
Fact = tuple[object, ...]


# -- In the other processes


def read(folder: Path, texts: JoinableQueue[tuple[str, bytes]]) -> None:
    for path in sources(folder):
        texts.put((str(path.relative_to(folder)), path.read_bytes()))
    for _ in range(PARSERS):
        texts.put(("", b""))


def parse(texts: JoinableQueue[tuple[str, bytes]], facts: Queue[Fact | None]) -> None:
    while True:
        name, text = texts.get()
        if not name:
            texts.task_done()
            facts.put(None)
            return
        lengths = array("I", (len(line) for line in text.splitlines()))
        for fact in facts_of(name, ast.parse(text, name)):
            facts.put(fact)
        facts.put(("file", name, lengths))
        texts.task_done()


def facts_of(name: str, tree: ast.AST) -> list[Fact]:
    found: list[Fact] = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found += [("import", alias.name.partition(".")[0]) for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                found.append(("import", module.partition(".")[0]))
            case ast.Call(func=ast.Name(id=called)) | ast.Call(func=ast.Attribute(attr=called)):
                found.append(("call", called))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found.append(("def", name, node.name, node.lineno, lines))
    return found


def look_at(module: str, answers: Queue[tuple[str, int]]) -> None:
    """In a process of its own: import a module, and count what it shows."""
    names = dir(importlib.import_module(module))
    answers.put((module, sum(not name.startswith("_") for name in names)))


# -- In the main process


def sources(folder: Path) -> list[Path]:
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - LEFT_OUT)
        found += [Path(place, name) for name in sorted(files) if name.endswith(".py")]
    return found


@dataclass
class Census:
    files: int = 0
    lines: int = 0
    widths: array[int] = field(default_factory=lambda: array("Q", [0] * WIDTHS))
    imports: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    functions: list[tuple[int, str]] = field(default_factory=list)  # lines, and where

    def add(self, fact: Fact) -> None:
        match fact:
            case ("call", str(name)):
                self.calls[name] += 1
            case ("import", str(name)):
                self.imports[name] += 1
            case ("def", str(file), str(name), int(line), int(lines)):
                self.functions.append((lines, f"{file}:{line} {name}"))
            case ("file", str(), array() as lengths):
                self.files += 1
                self.lines += len(lengths)
                for length in lengths:
                    self.widths[min(length // 10, WIDTHS - 1)] += 1
            case _:
                raise ValueError(f"no fact: {fact!r}")

    def show(self) -> None:
        print(f"{self.files:,} files, {self.lines:,} lines, {len(self.functions):,} functions")
        print(f"{self.calls.total():,} calls of {len(self.calls):,} names\n")
        for title, counter in (("imported", self.imports), ("called", self.calls)):
            ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
            print(f"most {title}: " + ", ".join(f"{name} {count:,}" for name, count in ranked[:12]))
        print("\nlongest functions:")
        for lines, where in sorted(self.functions, reverse=True)[:8]:
            print(f"  {lines:5}  {where}")
        print("\nlines by their length:")
        for index, count in enumerate(self.widths):
            print(f"  {index * 10:4} {count:8,}")


def count_all(folder: Path) -> Census:
    texts: JoinableQueue[tuple[str, bytes]] = multiprocessing.JoinableQueue(OPEN_FILES)
    facts: Queue[Fact | None] = multiprocessing.Queue()
    reader = multiprocessing.Process(target=read, args=(folder, texts))
    parsers = [multiprocessing.Process(target=parse, args=(texts, facts)) for _ in range(PARSERS)]
    for process in (reader, *parsers):
        process.start()
    census = Census()
    running = PARSERS
    while running:
        fact = facts.get()
        if fact is None:
            running -= 1
        else:
            census.add(fact)
    texts.join()
    for process in (reader, *parsers):
        process.join()
        if process.exitcode != 0:
            raise SystemExit(f"{process.name} ended with exit code {process.exitcode}")
    return census


def look_at_all() -> dict[str, int]:
    """One after the other, each in a fresh process of the fork server."""
    context = multiprocessing.get_context("forkserver")
    answers: Queue[tuple[str, int]] = context.Queue()
    found: dict[str, int] = {}
    for module in ISOLATED:
        process = context.Process(target=look_at, args=(module, answers))
        process.start()
        process.join()
        if process.exitcode != 0:
            raise SystemExit(f"{module} ended with exit code {process.exitcode}")
        name, size = answers.get()
        found[name] = size
    return found


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib"))
    count_all(folder).show()
    print("\npublic names:")
    for name, size in sorted(look_at_all().items()):
        print(f"  {name:20} {size:5}")


if __name__ == "__main__":
    main()
