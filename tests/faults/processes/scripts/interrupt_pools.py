"""Blocks in one call of a pool or an executor; SIGINT must raise KeyboardInterrupt there and leave everything usable.

    interrupt_pools.py --call map --method fork

Prints `blocks` when it is about to, `interrupted` when the exception came, `usable` at the end.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import concurrent.futures
import multiprocessing
import sys
from collections.abc import Callable
from typing import Any

FOR_EVER = 10_000  # seconds, for the calls with a timeout
WORKERS = 2
PLENTY = 100  # releases: more than there are tasks that wait


class Worker:
    gate: Any


def begin(gate: Any) -> None:
    Worker.gate = gate


def hold(_number: int = 0) -> None:
    Worker.gate.acquire()


def hold_two(_one: int, _other: int) -> None:
    Worker.gate.acquire()


def square(number: int) -> int:
    return number * number


class Calls:
    """The blocking calls by their names; each blocks until it is interrupted."""

    def __init__(self, context: Any) -> None:
        self.gate = context.Semaphore(0)
        self.pool = context.Pool(WORKERS, begin, (self.gate,))
        self.executor = executor_class()(WORKERS, context, begin, (self.gate,))

    def apply(self) -> None:
        self.pool.apply(hold)

    def get(self) -> None:
        self.pool.apply_async(hold).get()

    def get_timeout(self) -> None:
        self.pool.apply_async(hold).get(FOR_EVER)

    def wait(self) -> None:
        self.pool.apply_async(hold).wait()

    def map(self) -> None:
        self.pool.map(hold, range(6), 2)

    def starmap(self) -> None:
        self.pool.starmap(hold_two, [(1, 2)] * 3)

    def imap(self) -> None:
        next(self.pool.imap(hold, range(3)))

    def imap_unordered(self) -> None:
        next(self.pool.imap_unordered(hold, range(3)))

    def imap_timeout(self) -> None:
        self.pool.imap(hold, range(3)).next(FOR_EVER)

    def join(self) -> None:
        self.pool.apply_async(hold)
        self.pool.close()
        self.pool.join()

    def future_result(self) -> None:
        self.executor.submit(hold).result()

    def futures_wait(self) -> None:
        concurrent.futures.wait([self.executor.submit(hold) for _ in range(3)])

    def executor_map(self) -> None:
        list(self.executor.map(hold, range(3)))


def executor_class() -> Callable[..., Any]:
    """weft's, if the program is on weft and that has its own."""
    ours: Any = sys.modules.get("weft")
    found: Callable[..., Any] = getattr(ours, "Executor", concurrent.futures.ProcessPoolExecutor)
    return found


CALLS = sorted(name for name in vars(Calls) if not name.startswith("_"))


def main() -> None:
    options = stage.interrupted_call(CALLS)
    context: Any = multiprocessing.get_context(options.method)
    calls = Calls(context)
    # join() closes the pool: it takes no second task.
    times = 1 if options.call == "join" else options.times
    stage.be_interrupted(getattr(calls, options.call), times)
    for _ in range(options.times - times):
        stage.be_interrupted(calls.pool.join, 1)
    for _ in range(PLENTY):
        calls.gate.release()
    if options.call != "join":
        assert calls.pool.map(square, range(20)) == [number * number for number in range(20)]
        calls.pool.close()
    assert list(calls.executor.map(square, range(20))) == [number * number for number in range(20)]
    calls.executor.shutdown()
    calls.pool.join()
    stage.say("usable")


if __name__ == "__main__":
    main()
