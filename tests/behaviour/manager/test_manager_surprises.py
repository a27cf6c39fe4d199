"""What programs do with managers that is none of their finer uses: by whole programs, and by mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import weft
from weft.multiprocessing.managers import batch

# Its main module does not import the package's module of managers, which is then first imported by unpickling.
PROGRAM = """
import sys, multiprocessing
def work(d, lock):
    with lock:
        d["n"] = d.get("n", 0) + 1
def get_ready(d):
    work(d, multiprocessing.Lock())
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    with multiprocessing.Manager() as manager:
        d, lock = manager.dict(), manager.Lock()
        p = multiprocessing.Process(target=work, args=(d, lock))
        p.start()
        p.join()
        with multiprocessing.Pool(1, get_ready, (d,)) as pool:
            pool.apply(len, ("",))
        print(p.exitcode, d)
"""


@pytest.mark.parametrize("face", [("-m", "weft", "--only", "multiprocessing"), ()], ids=["weft", "stock"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_proxies_are_arguments_of_processes(tmp_path: Path, method: str, face: tuple[str, ...]) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, *face, str(program), method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (done.stdout, done.stderr) == ("0 {'n': 2}\n", "")


@pytest.fixture
def manager() -> Iterator[Any]:
    with weft.Manager() as started:
        yield started


def leave(_value: object) -> None:
    sys.exit("bye")


def test_an_exit_in_the_server_is_told_to_the_caller(manager: Any) -> None:
    d = manager.dict(n=1)
    for _ in range(2):
        with pytest.raises(Exception, match="SystemExit: bye"):
            d.update_with("n", leave)
    assert d["n"] == 1


def test_a_batch_has_no_answers_before_it_is_run(manager: Any) -> None:
    d = manager.dict(a=1)
    calls = batch(d)
    with pytest.raises(TypeError, match=r"cannot say what is in it: .*results"):
        "a" in calls  # noqa: B015
    with pytest.raises(TypeError, match=r"cannot be iterated over: .*results"):
        list(calls)
    with pytest.raises(AttributeError, match="add is one operation by itself"):
        calls.add("a")
    calls["a"]
    assert calls.run() == [1]


def test_a_batch_is_of_a_proxy() -> None:
    with pytest.raises(TypeError, match="takes a proxy of a manager's object, not dict"):
        batch({})


def test_a_pool_in_the_server_outlives_its_workers(manager: Any) -> None:
    with manager.Pool(1) as pool:
        with pytest.raises(weft.WorkerDied, match="exit code 3"):
            pool.apply(os._exit, (3,))
        assert pool.map(abs, [-1, 2]) == [1, 2]
        later = pool.map_async(abs, [-3])
        assert later.get() == [3]
