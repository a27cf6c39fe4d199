"""A queue of another process, in one that has queues of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A child that is not forked makes `own` before it is given the others: by importing this as its main module.
PROGRAM = """
import array, sys
import weft

own = weft.Queue()
MESSAGES = [
    b"b" * 100_000,
    "s" * 100_000,
    bytearray(100_000),
    memoryview(bytearray(100_000)),
    array.array("d", [1.5]) * 100_000,
    [bytearray(100_000), "s" * 100_000],
    {number: str(number) for number in range(10_000)},
]

def child(there, back):
    for _ in MESSAGES:
        own.put(there.get())
        back.put(own.get())

if __name__ == "__main__":
    there, back = weft.Queue(), weft.Queue()
    process = weft.Process(target=child, args=(there, back), start_method=sys.argv[1])
    process.start()
    for message in MESSAGES:
        there.put(message)
        assert back.get() == message, type(message)
    process.join()
    print(process.exitcode)
"""


@pytest.mark.parametrize("method", ["template", "spawn", "fork"])
def test_large_messages_pass_through_it(tmp_path: Path, method: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ended = subprocess.run(
        [sys.executable, program, method], capture_output=True, text=True, timeout=600, check=False
    )
    assert (ended.stdout, ended.stderr) == ("0\n", "")
