"""A program with children in every state, which waits to be killed.

    root.py --method forkserver --threads 4

Prints `ready PIDS` when all its descendants are where they should be.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import multiprocessing
import os
import signal
import threading
import time
from typing import Any

FOR_EVER = 10_000  # seconds


def get_for_ever(ready: Any, queue: Any) -> None:
    ready.put(os.getpid())
    queue.get()


def put_for_ever(ready: Any, queue: Any) -> None:
    ready.put(os.getpid())
    while True:
        queue.put(b"x" * 1000)


def sleep_for_ever(ready: Any, queue: Any) -> None:
    ready.put(os.getpid())
    time.sleep(FOR_EVER)


def spin_for_ever(ready: Any, queue: Any) -> None:
    ready.put(os.getpid())
    while True:
        pass


def deaf_for_ever(ready: Any, queue: Any) -> None:
    """Ignores what can be ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sleep_for_ever(ready, queue)


def with_child(ready: Any, queue: Any) -> None:
    """A grandchild under the same start method."""
    grandchild = multiprocessing.Process(target=get_for_ever, args=(ready, queue))
    grandchild.start()
    sleep_for_ever(ready, queue)


def with_threads(ready: Any, queue: Any) -> None:
    for _ in range(3):
        threading.Thread(target=get_for_ever, args=(ready, queue)).start()
    get_for_ever(ready, queue)


STATES = (get_for_ever, put_for_ever, sleep_for_ever, spin_for_ever, deaf_for_ever, with_child, with_threads)
# with_child has one more to report, with_threads three more.
REPORTS = len(STATES) + 1 + 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", choices=("fork", "spawn", "forkserver"), required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--daemon", action="store_true")
    options = parser.parse_args()
    multiprocessing.set_start_method(options.method)
    ready: Any = multiprocessing.SimpleQueue()
    # Apart: who puts for ever must not feed those that get for ever.
    empty: Any = multiprocessing.Queue()
    full: Any = multiprocessing.Queue(4)
    joinable: Any = multiprocessing.JoinableQueue()
    joinable.put(bytes(1 << 20))
    for _ in range(options.threads):
        threading.Thread(target=empty.get).start()
    reports = REPORTS
    for state in STATES:
        if options.daemon and state is with_child:
            reports -= 2  # the standard library lets a daemonic process have no children
            continue
        queue = full if state is put_for_ever else empty
        process = multiprocessing.Process(target=state, args=(ready, queue), daemon=options.daemon)
        process.start()
    pids = {ready.get() for _ in range(reports)}
    stage.say("ready " + " ".join(map(str, sorted(pids))))
    joinable.join()


if __name__ == "__main__":
    main()
