"""What `ps` calls the processes that weft starts for itself, and that it calls no others so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, warnings
import weft
from weft.multiprocessing import get_context
from weft.multiprocessing.forkserver import _forkserver
from weft.multiprocessing.managers import SyncManager

def name(pid="self"):
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()

def tell(answer):
    answer.send(name())

def of_child(method):
    context = get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=tell, args=(theirs,))
    child.start()
    told = ours.recv()
    child.join()
    return told

def forked(_=None):
    warnings.simplefilter("ignore")  # of threads, which a manager has
    reader, writer = os.pipe()
    if not os.fork():
        os.write(writer, name().encode())
        os._exit(0)
    os.wait()
    return os.read(reader, 100).decode()

class Namer:
    def name(self):
        return name()
    def forked(self):
        return forked()

def rename(to):
    with open("/proc/self/comm", "w") as file:
        file.write(to)

def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()

if __name__ == "__main__":
    if len(sys.argv) > 1:
        rename(sys.argv[1])
    print("main", name())
    for method in ("fork", "spawn", "forkserver"):
        print("child", of_child(method))
        with get_context(method).Pool(1) as pool:
            print("worker", pool.apply(name))
            print("forked", pool.apply(forked))
        with get_context(method).Pool(1, rename, ("my own",)) as pool:
            print("renamed", pool.apply(name), pool.apply(forked))
    with weft.Executor(1) as executor:
        print("executor", executor.submit(name).result())
    SyncManager.register("Namer", Namer)
    with weft.Manager() as manager:
        print("manager", manager.Namer().name())
        print("forked", manager.Namer().forked())
    template = _forkserver._forkserver_pid
    print("template", name(template))
    for spare in children(template):
        print("spare", name(spare))
"""


def names(tmp_path: Path, *arguments: str) -> dict[str, set[str]]:
    """What there is, and what it is called."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, program, *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.stderr == ""
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        what, _, name = line.partition(" ")
        found.setdefault(what, set()).add(name)
    return found


@pytest.fixture
def python() -> str:
    """What the kernel calls a process that was started from the interpreter's file."""
    return os.path.basename(sys.executable)[:15]


def test_weft_names_its_own_processes_and_no_others(tmp_path: Path, python: str) -> None:
    assert names(tmp_path) == {
        "main": {python},
        "child": {python},
        "forked": {python},
        "worker": {"weft-worker"},
        "executor": {"weft-worker"},
        "renamed": {"my own my own"},
        "manager": {"weft-manager"},
        "template": {"weft-template"},
        "spare": {"weft-spare"},
    }


def test_a_name_that_the_program_has_is_left_to_what_it_forks(tmp_path: Path, python: str) -> None:
    found = names(tmp_path, "my program")
    assert found["main"] == {"my program"}
    # A worker that was forked has it, and one of an interpreter of its own has weft's.
    assert found["worker"] == {"my program", "weft-worker"}
    assert found["child"] == found["forked"] == {"my program", python}
    assert found["manager"] == {"my program"}
    assert found["template"] == {"weft-template"}
