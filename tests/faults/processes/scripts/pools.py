"""Jobs on one pool, while signals hit its workers at random instants.

    pools.py --api multiprocessing --jobs mixed --method fork --hits 50 --seed 1 [--signal STOP]

After each hit a line is printed once a job has ended since. At the end all workers have to meet, so that the pool must have
its full size, and one line of JSON says what became of the jobs. The API `multiprocessing` is whatever
multiprocessing.Pool is, `futures` whatever ProcessPoolExecutor is; `weft` and `executor` are weft.Pool and weft.Executor.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import concurrent.futures
import itertools
import json
import mmap
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from messages import is_intact, message, origin

LONGEST_CALM = 0.03  # seconds between hits
LONGEST_STOP = 0.05
LONGEST_NAP = 0.003  # of a task
MOST_JOBS = 40  # that one player has under way
MOST_ITEMS = 150  # of one map
ROOM = 8 << 20  # tasks that can be told apart
ASKED, ANSWERED = 1, 2  # the "producers" of questions and answers
REFUSES = 13  # every so manieth task raises LookupError


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--api", choices=("multiprocessing", "weft", "executor", "futures"), default="multiprocessing"
    )
    parser.add_argument("--jobs", choices=("mixed", *KINDS), default="mixed")
    parser.add_argument("--method", choices=("fork", "spawn", "forkserver"), default="fork")
    parser.add_argument("--signal", choices=("KILL", "STOP"), default="KILL")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--players", type=int, default=2)
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--lifetime", type=int, default=0, help="tasks of a worker; 0: no limit")
    parser.add_argument("--hits", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


# -- In the workers


class Worker:
    """What a worker was given when it started."""

    seed: int
    barrier: Any
    runs: mmap.mmap


def begin(seed: int, barrier: Any, runs: str) -> None:
    Worker.seed, Worker.barrier = seed, barrier
    with open(runs, "r+b") as file:
        Worker.runs = mmap.mmap(file.fileno(), 0)


def work(number: int, question: object, nap: float, may_refuse: bool = True) -> object:
    Worker.runs[number] += 1
    if not is_intact(Worker.seed, ASKED, number, question):
        raise RuntimeError(f"question {number} is damaged: {str(question)[:200]}")
    if nap:
        time.sleep(nap)
    if may_refuse and number % REFUSES == 0:
        raise LookupError(number)
    return message(Worker.seed, ANSWERED, number)


def work_item(item: tuple[int, object, float]) -> object:
    return work(*item, may_refuse=False)


def meet() -> int:
    Worker.barrier.wait()
    return os.getpid()


# -- What became of the jobs


class Tally:
    """Counts, and who died of what. Shared by the threads that play."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.over = False
        self.failure = ""
        self.ended = 0  # jobs
        self.counts: Counter[str] = Counter()
        self.deaths: list[BaseException] = []

    def count(self, what: str, amount: int = 1) -> None:
        with self.changed:
            self.counts[what] += amount

    def end(self, how: str) -> None:
        with self.changed:
            self.counts[how] += 1
            self.ended += 1
            self.changed.notify_all()

    def died(self, error: BaseException) -> None:
        with self.changed:
            self.deaths.append(error)
        self.end("died")


class Player:
    """A thread that keeps the pool busy."""

    def __init__(self, options: argparse.Namespace, pool: Any, tally: Tally, numbers: Iterator[int]) -> None:
        self.seed: int = options.seed
        self.pool = pool
        self.tally = tally
        self.numbers = numbers
        self.dice = random.Random(f"{options.seed}/{next(numbers)}")
        self.kinds = sorted(KINDS) if options.jobs == "mixed" else [options.jobs]
        if not hasattr(pool, "submit"):
            self.single, self.map = self.apply_async, self.map_async
        else:
            self.single, self.map = self.submit, self.executor_map
            self.kinds = [kind for kind in self.kinds if kind != "imap"]

    def play(self) -> None:
        try:
            while not self.tally.over:
                KINDS[self.dice.choice(self.kinds)](self)
        except BaseException:
            with self.tally.changed:
                self.tally.failure = traceback.format_exc()
                self.tally.changed.notify_all()

    def task(self) -> tuple[int, object, float]:
        number = next(self.numbers)
        nap = self.dice.uniform(0, LONGEST_NAP) if self.dice.random() < 0.3 else 0.0
        return number, message(self.seed, ASKED, number), nap

    def check(self, number: int, answer: object) -> bool:
        intact = is_intact(self.seed, ANSWERED, number, answer)
        if not intact:
            self.tally.count("wrong")
        return intact

    # -- single jobs

    def singles(self) -> None:
        tasks = [self.task() for _ in range(self.dice.randint(1, MOST_JOBS))]
        getters = [self.single(task) for task in tasks]
        for (number, *_), get in zip(tasks, getters, strict=True):
            try:
                answer = get()
            except LookupError as error:
                if error.args != (number,) or number % REFUSES:
                    self.tally.count("wrong")
                self.tally.end("raised")
            except BrokenProcessPool as error:
                self.tally.died(error)
            else:
                self.check(number, answer)
                self.tally.end("done")

    def apply_async(self, task: tuple[int, object, float]) -> Callable[[], object]:
        self.tally.count("callbacks_due")
        get: Callable[[], object] = self.pool.apply_async(
            work, task, callback=self.called, error_callback=self.called
        ).get
        return get

    def submit(self, task: tuple[int, object, float]) -> Callable[[], object]:
        self.tally.count("callbacks_due")
        future = self.pool.submit(work, *task)
        future.add_done_callback(self.called)
        get: Callable[[], object] = future.result
        return get

    def called(self, _outcome: object) -> None:
        self.tally.count("callbacks")

    # -- many tasks in one call

    def maps(self) -> None:
        tasks = [self.task() for _ in range(self.dice.randint(1, MOST_ITEMS))]
        get = self.map(tasks, self.dice.choice((1, 3, 10, 40)))
        try:
            answers = get()
        except BrokenProcessPool as error:
            self.tally.died(error)
            return
        if len(answers) != len(tasks):
            self.tally.count("lost")
        for (number, *_), answer in zip(tasks, answers, strict=False):
            self.check(number, answer)
        self.tally.end("done")

    def map_async(self, tasks: list[Any], chunksize: int) -> Callable[[], list[object]]:
        get: Callable[[], list[object]] = self.pool.map_async(work_item, tasks, chunksize).get
        return get

    def executor_map(self, tasks: list[Any], chunksize: int) -> Callable[[], list[object]]:
        results = self.pool.map(work_item, tasks, chunksize=chunksize)
        return lambda: list(results)

    def imaps(self) -> None:
        tasks = [self.task() for _ in range(self.dice.randint(1, MOST_ITEMS))]
        missing = {number for number, *_ in tasks}
        chunksize = self.dice.choice((1, 1, 5))
        results = self.pool.imap_unordered(work_item, tasks, chunksize)
        died = 0
        while True:
            try:
                answer = next(results)
            except StopIteration:
                break
            except BrokenProcessPool as error:
                self.tally.died(error)
                died += 1
                continue
            number = origin(answer)[1]
            if number not in missing:
                self.tally.count("wrong")
            missing.discard(number)
            self.check(number, answer)
            self.tally.end("done")
        # The rest of a chunk goes with it.
        if len(missing) != died if chunksize == 1 else len(missing) > died * chunksize:
            self.tally.count("lost", len(missing))


KINDS: dict[str, Callable[[Player], None]] = {
    "single": Player.singles,
    "map": Player.maps,
    "imap": Player.imaps,
}


# -- In the program


def make(options: argparse.Namespace) -> Any:
    context = multiprocessing.get_context(options.method)
    path = Path.cwd() / "runs"
    with path.open("wb") as file:
        file.truncate(ROOM)
    given = (options.seed, context.Barrier(options.workers), str(path))
    lifetime = options.lifetime or None
    match options.api:
        case "multiprocessing":
            return context.Pool(options.workers, begin, given, lifetime)
        case "futures":
            return concurrent.futures.ProcessPoolExecutor(
                options.workers, context, begin, given, max_tasks_per_child=lifetime
            )
    import weft

    ours: Any = weft
    if options.api == "weft":
        return ours.Pool(options.workers, begin, given, lifetime, context, retries=options.retries)
    return ours.Executor(options.workers, context, begin, given, max_tasks_per_child=lifetime)


def workers_of(pool: Any) -> list[Any]:
    known = getattr(pool, "_pool", None)
    return list(pool._processes.values()) if known is None else list(known)


class Storm:
    def __init__(self, options: argparse.Namespace, pool: Any, tally: Tally) -> None:
        self.options = options
        self.pool = pool
        self.tally = tally
        self.dice = random.Random(options.seed)
        self.killed: set[int] = set()

    def rage(self) -> None:
        for hit in range(1, self.options.hits + 1):
            time.sleep(self.dice.uniform(0, LONGEST_CALM))
            with self.tally.changed:
                before = self.tally.ended
            self.strike()
            self.await_progress(before)
            stage.say(f"hit {hit}")

    def strike(self) -> None:
        while not (pids := [process.pid for process in workers_of(self.pool) if process.pid]):
            time.sleep(0.001)  # all are being replaced, or none was needed yet
        pid = self.dice.choice(pids)
        try:
            if self.options.signal == "KILL":
                self.killed.add(pid)
                os.kill(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(self.dice.uniform(0, LONGEST_STOP))
                os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # it had come to the end of its life

    def await_progress(self, before: int) -> None:
        with self.tally.changed:
            self.tally.changed.wait_for(lambda: self.tally.ended > before or self.tally.failure)
        if self.tally.failure:
            raise RuntimeError(self.tally.failure)


def all_meet(pool: Any, size: int) -> int:
    """How many workers are at work at the same time; a pool that is short of them stands still here."""
    if hasattr(pool, "submit"):
        futures = [pool.submit(meet) for _ in range(size)]
        return len({future.result() for future in futures})
    results = [pool.apply_async(meet) for _ in range(size)]
    return len({result.get() for result in results})


def audit(storm: Storm, runs: bytes, most_runs: int) -> dict[str, int]:
    tally = storm.tally
    pids = Counter(getattr(error, "pid", None) for error in tally.deaths)
    return {
        "done": tally.counts["done"],
        "raised": tally.counts["raised"],
        "died": tally.counts["died"],
        "killed": len(storm.killed),
        "wrong": tally.counts["wrong"],
        "lost": tally.counts["lost"],
        "uncalled": tally.counts["callbacks_due"] - tally.counts["callbacks"],
        "strangers": sum(count for pid, count in pids.items() if pid not in storm.killed),
        "twice": sum(count - 1 for count in pids.values()),
        "unsigned": sum(getattr(error, "signal", None) != signal.SIGKILL for error in tally.deaths),
        "undescribed": sum(
            not (getattr(error, "task", "") and getattr(error, "reason", "")) for error in tally.deaths
        ),
        "run_too_often": sum(count > most_runs for count in runs),
    }


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tally, numbers = Tally(), itertools.count(1)
    pool = make(options)
    storm = Storm(options, pool, tally)
    threads = [
        threading.Thread(target=Player(options, pool, tally, numbers).play) for _ in range(options.players)
    ]
    for thread in threads:
        thread.start()
    storm.await_progress(0)
    stage.say("all began")
    storm.rage()
    tally.over = True
    for thread in threads:
        thread.join()
    if tally.failure:
        raise RuntimeError(tally.failure)
    stage.say("all jobs ended")
    missing = options.workers - all_meet(pool, options.workers)
    stage.say("all met")
    last = workers_of(pool)
    if hasattr(pool, "submit"):
        pool.shutdown()
    else:
        pool.close()
        pool.join()
    result = audit(storm, Path("runs").read_bytes(), options.retries + 1)
    result["missing"] = missing
    # A worker that was killed just before was not yet replaced in the list.
    result["failed"] = sum(p.exitcode != 0 and p.pid not in storm.killed for p in last)
    stage.say(json.dumps(result))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
