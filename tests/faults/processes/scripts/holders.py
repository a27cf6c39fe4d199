"""Kills processes that share arrays, at random instants, and looks what becomes of the memory.

    holders.py --method fork|spawn|forkserver --seed N [--hits N] [--workers N] [--forks]

Every worker has an array from its start, takes arrays out of a queue, sees whether they still hold what their maker wrote,
keeps some, drops some, makes new ones, and puts some back; with --forks it also forks a child now and then that looks at
what it has inherited, and is killed even while it begins. At the end everything is let go of. Prints JSON: kills, what was wrong, and blocks of
shared memory before and after.
"""

from __future__ import annotations

import stage  # first: it lets the watchdog see stacks  # isort: skip

import argparse
import gc
import json
import multiprocessing
import os
import random
import time
from queue import Empty
from typing import Any

import weft
from weft import _native

LONGEST_PAUSE = 0.004  # seconds between two kills
PROMISED = 75.0  # seconds, and some to spare
MOST_KEPT = 6
MOST_QUEUED = 40
SIZES = (1, 100, 460, 3000, 40_000, 300_000)  # items of 8 bytes


def make(chance: random.Random) -> weft.SharedArray:
    """An array that says everywhere which it is."""
    shared = weft.SharedArray(chance.choice(SIZES), "u8")
    stamp = chance.randrange(1, 1 << 63)
    memoryview(shared).cast("B")[:] = stamp.to_bytes(8, "little") * len(shared)
    return shared


def is_whole(shared: weft.SharedArray) -> bool:
    """Whether it is still all its maker's."""
    return shared.tobytes() == shared[0].to_bytes(8, "little") * len(shared)


def work(mine: weft.SharedArray, queue: Any, wrong: Any, seed: int, forks: bool, begun: Any) -> None:
    """Until it is killed, or finds that an array is not what it was."""
    begun.send(None)
    chance = random.Random(seed)
    kept = [mine]
    while True:
        act = chance.randrange(100)
        if act < 40:
            try:
                kept += queue.get(timeout=0.01)
            except Empty:
                kept.append(make(chance))
        elif act < 75:
            if queue.qsize() < MOST_QUEUED:
                queue.put([chance.choice(kept) for _ in range(chance.randrange(1, 4))])
        elif act < 90:
            kept.append(make(chance))
        elif act < 95 and forks:
            in_a_child(kept, wrong)
        if not all(map(is_whole, kept)):
            wrong[0] += 1
            return
        while len(kept) > MOST_KEPT:
            kept.pop(chance.randrange(1, len(kept)))


def in_a_child(kept: list[weft.SharedArray], wrong: Any) -> None:
    """A fork that the library does not know of, which looks at what it has inherited."""
    pid = os.fork()
    if pid == 0:
        whole = all(map(is_whole, kept))
        os._exit(0 if whole else 1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        wrong[0] += 1


def blocks() -> int:
    """Blocks of shared memory in use, when the dead have been seen to."""
    gc.collect()
    _native.sweep_shared_memory()
    return _native.shared_blocks_in_use()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--hits", type=int, default=300)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--forks", action="store_true")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    context: Any = multiprocessing.get_context(options.method)
    before = blocks()
    wrong = weft.SharedArray(1, "i8")
    queue = context.Queue()
    beginning, begun = context.Pipe(duplex=False)

    def recruit() -> Any:
        given = (make(chance), queue, wrong, chance.randrange(1 << 32), options.forks, begun)
        process = context.Process(target=work, args=given)
        process.start()
        if not options.forks:
            # What is promised to a forked child that is killed before its first step lasts a minute.
            beginning.recv()
        return process

    crew = [recruit() for _ in range(options.workers)]
    failed = 0
    for hit in range(options.hits):
        time.sleep(chance.random() * LONGEST_PAUSE)
        victim = crew.pop(chance.randrange(len(crew)))
        failed += victim.exitcode is not None
        victim.kill()
        victim.join()
        crew.append(recruit())
        if hit % 50 == 0:
            stage.say(f"{hit} kills")
    for process in crew:
        process.kill()
        process.join()
    left = queue.qsize()
    result = {"kills": options.hits, "wrong": wrong[0], "failed": failed, "queued": left}
    beginning.close()
    begun.close()
    del queue, crew, process, victim, wrong, beginning, begun
    after = blocks()
    if options.forks:
        # And what was promised by one that was killed while it forked.
        deadline = time.monotonic() + PROMISED
        while after > before and time.monotonic() < deadline:
            time.sleep(1)
            after = blocks()
    result |= {"before": before, "after": after}
    stage.say(json.dumps(result))


if __name__ == "__main__":
    main()
