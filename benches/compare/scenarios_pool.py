"""The scenarios of pools and executors: two workers, plain programs, the same for all.

What tasks do is in this module, which workers can import.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import os
import signal
import sysconfig
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any

from apis_pool import Api, Pool
from loop import Loop

MIB = 1 << 20
BATCH = 3000  # tasks that are under way at once
MANY = 200_000
MILLION = 1_000_000


# -- What tasks do


def same(item: Any) -> Any:
    return item


def add(one: int, other: int) -> int:
    return one + other


def hash_of(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def compressed(path: str) -> int:
    return len(zlib.compress(Path(path).read_bytes()))


def nodes(path: str) -> int:
    return sum(1 for _ in ast.walk(ast.parse(Path(path).read_bytes())))


WORKS: dict[str, Callable[[str], Any]] = {"hash": hash_of, "zlib": compressed, "parse": nodes}


def hold(fifo: str) -> None:
    """Say who runs this, and stay."""
    with open(fifo, "wb", buffering=0) as pipe:
        pipe.write(os.getpid().to_bytes(8, "little"))
    signal.pause()


# -- Single tasks


def each(run_one: Callable[[], object]) -> Loop:
    def run(count: int) -> None:
        for _ in repeat(None, count):
            run_one()

    return Loop(run)


def apply(api: Api) -> Loop:
    pool = api.pool()
    return each(lambda: pool.apply(same, (1234567,)))


def apply_pipelined(api: Api) -> Loop:
    """Submit some thousands, then get all results."""
    pool = api.pool()
    tasks = [(number,) for number in range(BATCH)]
    return group(lambda: pool.apply_all(same, tasks))


def apply_array_8m(api: Api) -> Loop:
    """As argument and as result; touched, and dropped."""
    import numpy

    pool = api.pool()
    array = numpy.arange(MIB, dtype="i8")

    def run_one() -> None:
        found = pool.apply(same, (array,))
        if found[-1] != MIB - 1:
            raise RuntimeError(f"another array came back: {found[-1]}")

    return each(run_one)


# -- Many tasks in one call


def group(run_all: Callable[[], object], size: int = BATCH) -> Loop:
    """An operation is one of the tasks that a call makes."""
    return Loop(each(run_all).run, size)


def map_one(api: Api) -> Loop:
    pool = api.pool()
    return group(lambda: pool.map(same, range(BATCH), 1))


def imap_unordered_one(api: Api) -> Loop:
    pool = api.pool()
    return group(lambda: exhaust(pool.imap_unordered(same, range(BATCH), 1)))


def starmap_one(api: Api) -> Loop:
    pool = api.pool()
    pairs = [(number, number) for number in range(BATCH)]
    return group(lambda: pool.starmap(add, pairs, 1))


def map_default(api: Api) -> Loop:
    pool = api.pool()
    items = list(range(MANY))
    return group(lambda: pool.map(same, items, None), MANY)


def exhaust(results: Iterable[Any]) -> None:
    for _ in results:
        pass


# -- Executors


def executor_submit(api: Api) -> Loop:
    submit = api.executor().submit
    return each(lambda: submit(same, 1234567).result())


def executor_pipelined(api: Api) -> Loop:
    submit = api.executor().submit

    def run_all() -> None:
        futures = [submit(same, number) for number in range(BATCH)]
        for future in futures:
            future.result()

    return group(run_all)


def executor_map(api: Api) -> Loop:
    executor = api.executor()
    return group(lambda: exhaust(executor.map(same, range(BATCH))))


# -- The life of a pool


def pool_life(api: Api) -> Loop:
    """Made, used once, closed and joined."""

    def run_one() -> None:
        pool = api.new_pool()
        pool.apply(same, (1,))
        pool.end()

    return each(run_one)


def replace_killed(api: Api) -> float:
    """Seconds from the kill of the only worker, in a task, to the result of the next task: the median of 20."""
    pool = api.pool(1)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        fifo = os.path.join(folder, "pid")
        os.mkfifo(fifo)
        for _ in range(20):
            pool.submit(hold, fifo)
            with open(fifo, "rb", buffering=0) as pipe:
                victim = int.from_bytes(pipe.read(8), "little")
            begun = time.perf_counter()
            os.kill(victim, signal.SIGKILL)
            if pool.apply(os.getpid, ()) == victim:
                raise RuntimeError(f"{victim} is dead, and runs tasks")
            times.append(time.perf_counter() - begun)
    return median(times)


# -- A million


def million(api: Api) -> float:
    pool = api.pool()
    begun = time.perf_counter()
    exhaust(pool.imap_unordered(same, range(MILLION), 1))
    return (time.perf_counter() - begun) / MILLION


def million_memory(api: Api) -> float:
    """The most that this process and all shared memory grow by, in bytes; a page at least."""
    pool = api.pool()
    exhaust(pool.imap_unordered(same, range(1000), 1))
    gc.collect()
    before = memory()
    most = os.sysconf("SC_PAGE_SIZE")
    for index, _ in enumerate(pool.imap_unordered(same, range(MILLION), 1)):
        if index % 5000 == 0:
            most = max(most, memory() - before)
    return float(most)


def memory() -> int:
    """Bytes that this process has for itself, and all of shared memory."""
    return 1024 * (kilobytes("/proc/self/status", "RssAnon") + kilobytes("/proc/meminfo", "Shmem"))


def kilobytes(file: str, name: str) -> int:
    for line in Path(file).read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise RuntimeError(f"{file} has no {name}")


# -- Real work: the standard library's sources


def files() -> list[str]:
    """256 of them, the same every time, small and large in turn as the names have them."""
    library = Path(sysconfig.get_path("stdlib"))
    found = sorted(str(path) for path in library.glob("*.py"))
    found += sorted(str(path) for path in library.glob("[a-z]*/*.py") if "test" not in str(path))
    return found[:256]


def over_files(pool: Pool, work: str, chunksize: int | None) -> Loop:
    function, paths = WORKS[work], files()
    return group(lambda: pool.map(function, paths, chunksize), len(paths))


def work(api: Api, name: str, chunksize: str) -> Loop:
    return over_files(api.pool(), name, None if chunksize == "default" else int(chunksize))


def workers(api: Api, name: str) -> float:
    """The time with two workers by that with one, at the default chunk size: ½ at best."""
    times = []
    for size in (2, 1):
        run = over_files(api.pool(size), name, None).run
        run(1)
        times.append(min(timed(run) for _ in range(3)))
    two, one = times
    return two / one


def timed(run: Callable[[int], None]) -> float:
    begun = time.perf_counter()
    run(1)
    return time.perf_counter() - begun
