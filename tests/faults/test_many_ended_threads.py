"""Threads that end, one after the other, while the main thread waits and cannot clean up after them."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import threading
import weft.greenlet as greenlet

def mappings():
    with open("/proc/self/maps") as maps:
        return sum(1 for _ in maps)

def one():
    made = [greenlet.greenlet(lambda: greenlet.getcurrent().parent.switch()) for _ in range(5)]
    for each in made:
        each.switch()
    for each in made:
        each.switch()

def one_after_the_other():
    for _ in range(500):
        thread = threading.Thread(target=one)
        thread.start()
        thread.join()

worker = threading.Thread(target=one_after_the_other)
before = mappings()
worker.start()
worker.join()
print(mappings() - before)
"""


def test_their_stacks_do_not_pile_up() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    # Five stacks of two mappings for each of 500 threads would be 5,000.
    assert int(ended.stdout) < 200
