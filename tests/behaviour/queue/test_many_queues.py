"""A thousand queues at once, with no more descriptors than a shell gives by default."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, resource, sys
import weft

def fill(queues):
    for number, queue in enumerate(queues):
        queue.put(number)

if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    queues = [weft.Queue() for _ in range(1000)]
    process = weft.Process(target=fill, args=(queues,), start_method=sys.argv[1])
    process.start()
    assert [queue.get() for queue in queues] == list(range(1000))
    process.join()
    print(process.exitcode, len(os.listdir("/proc/self/fd")) < 100)
"""


@pytest.mark.parametrize("method", ["template", "spawn", "fork"])
def test_a_thousand_queues(tmp_path: Path, method: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ended = subprocess.run(
        [sys.executable, program, method], capture_output=True, text=True, timeout=600, check=False
    )
    assert (ended.stdout, ended.stderr) == ("0 True\n", "")
