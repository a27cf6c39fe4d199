"""Forks again and again while threads put, get, make and drop queues; every child uses them all.

    threads.py --how process --forks 50

Prints a line for each child that ended well.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import multiprocessing
import os
import threading
from typing import Any

ROUNDS = 20  # messages that a child sends itself through each kind of queue


def use(queues: list[Any], stop: threading.Event) -> None:
    """A thread of the parent: never still, so that a fork finds it inside of something."""
    context = multiprocessing.get_context("fork")
    number = 0
    while not stop.is_set():
        for queue in queues:
            queue.put((number, b"x" * (number % 3000)))
            queue.get()
        made = context.SimpleQueue()
        made.put(number)
        made.get()
        number += 1


def child(inherited: list[Any], answer: Any) -> None:
    """In the child there is only this thread: whatever the others held must not be missed."""
    context = multiprocessing.get_context("fork")
    for queue in [*inherited, context.Queue(), context.SimpleQueue(), context.JoinableQueue()]:
        for number in range(ROUNDS):
            queue.put(number)
            queue.get()  # in an inherited queue perhaps a message of a thread of the parent
    answer.put(os.getpid())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--how", choices=("process", "os.fork", "forkserver", "spawn"), default="process")
    parser.add_argument("--forks", type=int, default=50)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    method = options.how if options.how in ("forkserver", "spawn") else "fork"
    context: Any = multiprocessing.get_context(method)
    queues = [context.Queue(), context.SimpleQueue(), context.JoinableQueue()]
    answer = context.SimpleQueue()
    stop = threading.Event()
    threads = [threading.Thread(target=use, args=(queues, stop)) for _ in range(options.threads)]
    for thread in threads:
        thread.start()
    for number in range(options.forks):
        if options.how == "os.fork":
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    child(queues, answer)
                    status = 0
                finally:
                    os._exit(status)
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
        else:
            process = context.Process(target=child, args=(queues, answer))
            process.start()
            process.join()
            pid, code = process.pid, process.exitcode
        if code != 0 or answer.get() != pid:
            raise RuntimeError(f"the child ended with exit code {code}")
        stage.say(f"fork {number}")
    stop.set()
    for thread in threads:
        thread.join()
    stage.say("done")


if __name__ == "__main__":
    main()
