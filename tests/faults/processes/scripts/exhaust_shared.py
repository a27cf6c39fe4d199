"""Asks for more shared memory than there is, and must get MemoryError, then go on.

    exhaust_shared.py --what address-space|file-size|machine --method fork|spawn|forkserver

Prints `refused: ...` with the exceptions, and `usable` at the end. A signal would show as the exit code.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import gc
import multiprocessing
import resource
from pathlib import Path
from typing import Any

import weft

HEADROOM = 64 << 20  # bytes of address space
PIECE = 24 << 20  # larger than what is mapped at once


def touch(shared: weft.SharedArray, value: Any) -> None:
    """Every page of it."""
    view = memoryview(shared)
    for offset in range(0, len(view), 4096):
        view[offset] = 7
    value.value = 7


def check(context: Any) -> None:
    """All is well: an array and a value that a child uses."""
    shared, value = weft.SharedArray(PIECE, "u1"), context.Value("i", 0)
    process = context.Process(target=touch, args=(shared, value))
    process.start()
    process.join()
    assert process.exitcode == 0 and value.value == shared[0] == shared[4096] == 7, process.exitcode


def refused(make: Any, most: int) -> None:
    """Make and use until it is refused, `most` times at most."""
    made = []
    try:
        for _ in range(most):
            made.append(make())
    except MemoryError as error:
        stage.say(f"refused: MemoryError: {error}")
        return
    finally:
        del made
        gc.collect()
    raise AssertionError("it was never refused")


def array() -> weft.SharedArray:
    shared = weft.SharedArray(PIECE, "u1")
    memoryview(shared)[PIECE - 1] = 1
    return shared


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", required=True)
    parser.add_argument("--method", required=True)
    options = parser.parse_args()
    context = multiprocessing.get_context(options.method)
    if options.what == "file-size":
        # The segment is as large as it may be from the beginning.
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 20, hard))
    check(context)
    if options.what == "address-space":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (mapped + HEADROOM, hard))
        refused(array, 100)
        refused(lambda: context.RawArray("b", PIECE), 100)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    elif options.what == "file-size":
        refused(array, 100)
        refused(lambda: context.RawArray("b", PIECE), 100)
    else:
        refused(lambda: weft.SharedArray(1 << 60, "u1"), 1)
        refused(lambda: weft.SharedArray(1 << 42, "u1"), 1)
        memory = 1024 * int(Path("/proc/meminfo").read_text().split()[1])
        refused(lambda: weft.SharedArray(memory, "u1"), 1)
        refused(lambda: context.RawArray("b", memory), 1)
    check(context)
    stage.say("usable")


if __name__ == "__main__":
    main()
