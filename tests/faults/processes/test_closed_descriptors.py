"""A program that becomes a daemon closes all descriptors, weft's too, and opens its own under their numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
import weft.multiprocessing as mp

CONTENT = b"the user's own " * 4096

def work():
    pass

def become_daemon():
    if os.fork():
        os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
    os.closerange(3, 256)
    with open(sys.argv[2], "wb") as file:
        file.write(CONTENT)
    return [os.open(sys.argv[2], os.O_RDWR) for _ in range(64)]

def queues(before, own):
    before.put(1)
    assert before.get() == 1
    try:
        before.put(b"x" * (64 << 20))
        print("taken")
    except OSError as error:
        print("closed the descriptor" in str(error))
    new = mp.Queue()
    new.put(b"x" * (64 << 20))
    print(len(new.get()) >> 20)

def processes(method):
    process = mp.get_context(method).Process(target=work)
    process.start()
    process.join()
    print(process.exitcode)

if __name__ == "__main__":
    before = mp.Queue()
    if sys.argv[1] != "queues":
        processes(sys.argv[1])
    own = become_daemon()
    if sys.argv[1] == "queues":
        queues(before, own)
    else:
        processes(sys.argv[1])
    for descriptor in own:
        assert os.path.samefile(descriptor, sys.argv[2]), descriptor
    with open(sys.argv[2], "rb") as file:
        print(file.read() == CONTENT)
"""


@pytest.mark.parametrize(
    ("use", "lines"),
    # Other start methods need the standard library's resource tracker, which writes to whatever has its number.
    [("queues", ["True", "64", "True"]), ("fork", ["0", "0", "True"])],
)
def test_a_daemon_s_own_files_stay_as_they_are(tmp_path: Path, use: str, lines: list[str]) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ended = subprocess.run(
        [sys.executable, "-u", program, use, tmp_path / "file"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (ended.stdout.split("\n"), ended.stderr) == ([*lines, ""], "")
