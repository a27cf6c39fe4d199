"""Runs out of something, and must get an exception that says so, then go on when there is enough again.

    exhaust.py --what descriptors|memory|file-size|group [--group DIRECTORY]

Prints `refused: ...` with the exception, and `usable` at the end. A signal would show as its exit code.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import multiprocessing
import os
import resource
from pathlib import Path
from typing import Any

SOFT_DESCRIPTORS = 64
HEADROOM = 64 << 20  # bytes of address space
PIECE = 8 << 20


def nothing() -> None:
    pass


def check(context: Any, queue: Any) -> None:
    """All is well: a message, and a process."""
    queue.put("well")
    assert queue.get() == "well"
    process = context.Process(target=nothing)
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode


def descriptors(context: Any, options: argparse.Namespace) -> None:
    """Queues and processes at the limit: OSError, the queue there is goes on working."""
    before = context.Queue()
    check(context, before)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT_DESCRIPTORS, hard))
    hoard = []
    try:
        while True:
            hoard.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for round_ in range(3):
        for make in (context.Queue, context.SimpleQueue, context.JoinableQueue, start_one(context)):
            made = []
            try:
                for _ in range(200):  # what needs no descriptor never fails
                    made.append(make())
            except OSError as error:
                stage.say(f"refused: {type(error).__name__}: {error}")
            for one in made:
                if isinstance(one, multiprocessing.process.BaseProcess):
                    one.join()
        before.put(round_)
        assert before.get() == round_
    for descriptor in hoard:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    check(context, before)
    check(context, context.Queue())


def start_one(context: Any) -> Any:
    def start() -> Any:
        process = context.Process(target=nothing)
        process.start()
        return process

    return start


def mapped() -> int:
    """Bytes of address space in use."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def memory(context: Any, options: argparse.Namespace) -> None:
    """Messages until the address space is full (`ulimit -v`): an exception; then, drained, again."""
    queue = context.Queue()
    check(context, queue)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped() + HEADROOM, hard))
    kept = 0
    refused = False
    piece = bytes(PIECE)
    for _ in range(4 * HEADROOM // PIECE):
        try:
            queue.put(piece)
            kept += 1
        except (MemoryError, OSError) as error:
            stage.say(f"refused: {type(error).__name__}: {error}")
            refused = True
            break
    held = []
    received = 0
    while queue.qsize():
        try:
            held.append(queue.get())
            received += 1
        except (MemoryError, OSError) as error:
            # What cannot be received now waits in the queue.
            stage.say(f"refused to receive: {type(error).__name__}: {error}")
            refused = True
            if not held:  # the queued messages alone are too much; none of them may be lost by that
                resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            assert all(one == piece for one in held)
            held.clear()
    assert all(one == piece for one in held)
    held.clear()
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    # Nobody died: what was refused is still there for the next attempt.
    assert received == kept, f"{kept - received} of {kept} messages lost"
    if not refused:
        stage.say("never refused")
    check(context, queue)


def file_size(context: Any, options: argparse.Namespace) -> None:
    """A limit on the size of files, which counts for memory behind descriptors as well: no SIGXFSZ."""
    queue = context.Queue()
    check(context, queue)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    piece = bytes(PIECE)
    for _ in range(3):
        try:
            queue.put(piece)
        except (MemoryError, OSError) as error:
            stage.say(f"refused: {type(error).__name__}: {error}")
        else:
            assert queue.get() == piece
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    check(context, queue)


def group(context: Any, options: argparse.Namespace) -> None:
    """Messages until the control group is full, which the kernel answers with SIGKILL: an exception before that."""
    queue = context.Queue()
    check(context, queue)
    (options.group / "cgroup.procs").write_text(str(os.getpid()))
    piece = bytes(PIECE // 8)
    for _ in range(3):
        kept = 0
        try:
            while True:
                queue.put(piece)
                kept += 1
        except MemoryError as error:
            stage.say(f"refused: {type(error).__name__}: {error}")
        assert kept > 50, kept
        for _ in range(kept):
            assert queue.get() == piece
        check(context, queue)


KINDS = {"descriptors": descriptors, "memory": memory, "file-size": file_size, "group": group}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", choices=sorted(KINDS), required=True)
    parser.add_argument("--method", default="fork")
    parser.add_argument("--group", type=Path, help="the directory of a control group")
    options = parser.parse_args()
    context = multiprocessing.get_context(options.method)
    KINDS[options.what](context, options)
    stage.say("usable")


if __name__ == "__main__":
    main()
