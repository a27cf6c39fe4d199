"""Nothing that was started outlives the root program, however that one ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from started import METHODS, Watch, begin, descendants, finish

# Starts two children, one of which has a child; says so when all of them run, and then waits to be killed.
FAMILY = """
def rest(ready):
    ready.send(os.getpid())
    ready.close()
    time.sleep(1000)

def parent(method, ready):
    mp.get_context(method).Process(target=rest, args=(ready,)).start()
    rest(ready)

def start(method):
    reader, writer = mp.Pipe(duplex=False)
    context = mp.get_context(method)
    context.Process(target=parent, args=(method, writer)).start()
    context.Process(target=rest, args=(writer,)).start()
    for _ in range(3):
        reader.recv()

def main():
    where = sys.argv[1:]
    {how}
    print("ready", flush=True)
    time.sleep(1000)
"""


def kill_root(folder: Path, code: str, least: int) -> None:
    """Kill the program once it is ready; what is below it must end."""
    program = begin(folder, code)
    assert program.stdout is not None
    line = program.stdout.readline()
    if line != "ready\n":
        raise AssertionError(finish(program))
    below = descendants(program.pid)
    assert len(below) >= least
    watch = Watch(below)
    program.kill()
    finish(program)
    watch.wait_for_all()
    watch.close()


@pytest.mark.parametrize("method", METHODS)
def test_killed(tmp_path, method):
    kill_root(tmp_path, FAMILY.format(how=f"start({method!r})"), 3)


@pytest.mark.parametrize("method", METHODS)
def test_killed_after_a_thread_started_them_and_ended(tmp_path, method):
    how = f"thread = threading.Thread(target=start, args=({method!r},)); thread.start(); thread.join()"
    kill_root(tmp_path, FAMILY.format(how=how), 3)


def test_killed_with_all_methods_at_once(tmp_path):
    kill_root(tmp_path, FAMILY.format(how="for method in METHODS: start(method)"), 9)


def test_killed_while_it_starts_processes(tmp_path):
    code = """
    def nothing():
        pass

    def main():
        context = mp.get_context("forkserver")
        context.Process(target=nothing).start()
        print("ready", flush=True)
        while True:
            context.Process(target=nothing).start()
    """
    kill_root(tmp_path, code, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_grandchild_outlives_its_parent_but_not_the_root(tmp_path, method):
    code = f"""
    def rest(ready):
        ready.send(os.getpid())
        time.sleep(1000)

    def parent(ready):
        mp.get_context({method!r}).Process(target=rest, args=(ready,)).start()
        time.sleep(1000)

    def main():
        reader, writer = mp.Pipe(duplex=False)
        process = mp.get_context({method!r}).Process(target=parent, args=(writer,))
        process.start()
        grandchild = reader.recv()
        process.kill()
        process.join()
        os.kill(grandchild, 0)
        print("ready", grandchild, flush=True)
        time.sleep(1000)
    """
    program = begin(tmp_path, code)
    assert program.stdout is not None
    _ready, grandchild = program.stdout.readline().split()
    watch = Watch([int(grandchild)])
    program.kill()
    finish(program)
    watch.wait_for_all()
    watch.close()


def test_a_user_s_own_fork_is_left_alone(tmp_path):
    code = """
    def nothing():
        pass

    def main():
        process = mp.get_context("fork").Process(target=nothing)
        process.start()
        process.join()
        pid = os.fork()
        if pid == 0:
            sys.stdin.readline()
            # It is on its own now, and what it starts hangs on it.
            for method in METHODS:
                process = mp.get_context(method).Process(target=nothing)
                process.start()
                process.join()
                print(method, process.exitcode, flush=True)
            os._exit(0)
        print(pid, flush=True)
        time.sleep(1000)
    """
    program = begin(tmp_path, code)
    assert program.stdout is not None and program.stdin is not None
    watch = Watch([int(program.stdout.readline())])
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    program.stdin.write("\n")
    program.stdin.close()
    assert program.stdout.read().splitlines() == [f"{method} 0" for method in METHODS]
    watch.wait_for_all()
    watch.close()
    for stream in (program.stdout, program.stderr):
        assert stream is not None
        stream.close()


def test_a_daemon_s_daemon_ends_with_it(tmp_path):
    code = """
    def rest(ready):
        ready.send(os.getpid())
        time.sleep(1000)

    def daemon(ready, method):
        weft.Process(target=rest, args=(ready,), daemon=True, start_method=method).start()
        time.sleep(1000)

    def main():
        for method in METHODS:
            reader, writer = mp.Pipe(duplex=False)
            process = weft.Process(target=daemon, args=(writer, method), daemon=True, start_method=method)
            process.start()
            print(reader.recv(), flush=True)
            sys.stdin.readline()
            process.kill()
            process.join()
            sys.stdin.readline()
    """
    program = begin(tmp_path, code)
    assert program.stdout is not None and program.stdin is not None
    for _ in METHODS:
        watch = Watch([int(program.stdout.readline())])
        program.stdin.write("\n")
        program.stdin.flush()
        watch.wait_for_all()
        watch.close()
        program.stdin.write("\n")
        program.stdin.flush()
    assert finish(program) == (0, [], "")
