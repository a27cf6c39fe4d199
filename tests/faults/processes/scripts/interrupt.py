"""Blocks in one call; SIGINT must raise KeyboardInterrupt there and leave everything usable.

    interrupt.py --call get --method fork

Prints `blocks` when it is about to, `interrupted` when the exception came, `usable` at the end.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import multiprocessing
import signal
import time
from multiprocessing.connection import wait
from typing import Any

FOR_EVER = 10_000  # seconds, for the calls with a timeout


def sleep_for_ever() -> None:
    time.sleep(FOR_EVER)


def echo(source: Any, target: Any) -> None:
    target.put(source.get())


class Calls:
    """The blocking calls by their names; each blocks until it is interrupted."""

    def __init__(self, context: Any) -> None:
        self.empty = context.Queue()
        self.full = context.Queue(1)
        self.full.put(1)
        self.joinable = context.JoinableQueue()
        self.joinable.put(1)
        self.simple = context.SimpleQueue()
        self.sleeper = context.Process(target=sleep_for_ever, daemon=True)

    def start(self) -> None:
        self.sleeper.start()

    def get(self) -> None:
        self.empty.get()

    def get_timeout(self) -> None:
        self.empty.get(timeout=FOR_EVER)

    def put(self) -> None:
        self.full.put(2)

    def put_timeout(self) -> None:
        self.full.put(2, timeout=FOR_EVER)

    def simple_get(self) -> None:
        self.simple.get()

    def join_queue(self) -> None:
        self.joinable.join()

    def join_process(self) -> None:
        self.sleeper.join()

    def join_timeout(self) -> None:
        self.sleeper.join(FOR_EVER)

    def wait_sentinel(self) -> None:
        wait([self.sleeper.sentinel])


CALLS = sorted(name for name in vars(Calls) if not name.startswith("_") and name != "start")


def main() -> None:
    options = stage.interrupted_call(CALLS)
    context: Any = multiprocessing.get_context(options.method)
    calls = Calls(context)
    # A program's own children get the terminal's Ctrl-C as well; here only the program is hit.
    calls.start()
    stage.be_interrupted(getattr(calls, options.call), options.times)

    # Everything still works, here and in a child.
    assert calls.full.get() == 1 and calls.full.empty()
    calls.full.put(3)
    assert calls.full.get() == 3
    assert calls.joinable.get() == 1
    calls.joinable.task_done()
    calls.joinable.join()
    calls.simple.put(4)
    assert calls.simple.get() == 4
    child = context.Process(target=echo, args=(calls.empty, calls.full))
    child.start()
    calls.empty.put("there and back")
    assert calls.full.get() == "there and back"
    child.join()
    assert child.exitcode == 0, child.exitcode
    calls.sleeper.terminate()
    calls.sleeper.join()
    assert calls.sleeper.exitcode == -signal.SIGTERM, calls.sleeper.exitcode
    stage.say("usable")


if __name__ == "__main__":
    main()
