"""Many queues, or many processes, alive at once with a soft limit of 1,024 descriptors.

    many.py --what queues --number 1000

A queue costs the standard library two descriptors, a process one.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import multiprocessing
import resource
from typing import Any

LIMIT = 1024


def answer(queues: list[Any]) -> None:
    for queue in queues:
        queue.put(queue.get() + 1)


def wait_for_word(started: Any, gate: Any) -> None:
    started.put(1)
    gate.get()


def many_queues(context: Any, number: int) -> None:
    """Each holds a message at the same time; a child takes it from each and answers."""
    queues = [context.Queue() for _ in range(number)]
    for index, queue in enumerate(queues):
        queue.put(index)
    stage.say("filled")
    child = context.Process(target=answer, args=(queues,))
    child.start()
    child.join()
    assert child.exitcode == 0, child.exitcode
    assert [queue.get() for queue in queues] == list(range(1, number + 1))


def many_processes(context: Any, number: int) -> None:
    started, gate = context.SimpleQueue(), context.SimpleQueue()
    processes = [context.Process(target=wait_for_word, args=(started, gate)) for _ in range(number)]
    for index, process in enumerate(processes):
        process.start()
        if index % 50 == 0:
            stage.say(f"started {index}")
    for _ in processes:
        started.get()
    stage.say("all alive")
    for _ in processes:
        gate.put(None)
    for process in processes:
        process.join()
    assert all(process.exitcode == 0 for process in processes)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", choices=("queues", "processes"), required=True)
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--method", default="fork")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, hard))
    context = multiprocessing.get_context(options.method)
    {"queues": many_queues, "processes": many_processes}[options.what](context, options.number)
    stage.say("done")


if __name__ == "__main__":
    main()
