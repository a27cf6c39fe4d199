"""A thousand processes at once, where a program may have 1,024 descriptors."""

from __future__ import annotations

import pytest
from started import prints

CODE = """
import resource

def wait():
    time.sleep(1000)

def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    context = mp.get_context({method!r})
    processes = [context.Process(target=wait) for _ in range(1000)]
    for process in processes:
        process.start()
    assert all(process.is_alive() for process in processes)
    assert processes[0].sentinel != processes[999].sentinel
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    print({{process.exitcode for process in processes}}, mp.active_children())
"""


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_thousand(tmp_path, method):
    assert prints(tmp_path, CODE.format(method=method)) == ["{-9} []"]
