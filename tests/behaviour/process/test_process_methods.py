"""What a process object says and does, by every start method, with weft's face and in the standard library's place."""

from __future__ import annotations

import subprocess
import sys

import pytest
from started import METHODS, begin, environment, finish, prints

FACES = {"weft": "", "installed": "weft.install(); import multiprocessing as mp\n"}


@pytest.fixture(params=FACES)
def face(request):
    return FACES[request.param]


@pytest.mark.parametrize("method", METHODS)
def test_exit_codes(tmp_path, method, face):
    code = (
        face
        + """
def leave(how):
    if how == "raise":
        raise ValueError("raised")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "_exit":
        os._exit(5)
    sys.exit(how)

def main():
    for how in (0, 7, 255, None, "a message", "raise", "kill", "_exit"):
        process = mp.get_context(sys.argv[1]).Process(target=leave, args=(how,))
        process.start()
        process.join()
        print(how, process.exitcode, process.is_alive())
"""
    )
    program = begin(tmp_path, code.replace("sys.argv[1]", repr(method)))
    status, lines, err = finish(program)
    assert status == 0, err
    assert lines == [
        "0 0 False",
        "7 7 False",
        "255 255 False",
        "None 0 False",
        "a message 1 False",
        "raise 1 False",
        "kill -9 False",
        "_exit 5 False",
    ]
    assert "a message\n" in err and "ValueError: raised" in err and err.count("Traceback") == 1


@pytest.mark.parametrize("method", METHODS)
def test_the_object(tmp_path, method, face):
    code = (
        face
        + f"""
from multiprocessing.connection import wait

def rest(ready, done):
    parent = mp.parent_process()
    ready.send((mp.current_process().name, parent.pid, parent.is_alive(), mp.get_start_method()))
    done.recv()

def main():
    ready, ready_there = mp.Pipe(duplex=False)
    done_there, done = mp.Pipe(duplex=False)
    process = mp.get_context({method!r}).Process(target=rest, args=(ready_there, done_there), name="n")
    assert process.pid is None and process.exitcode is None and not process.is_alive()
    try:
        process.sentinel
    except ValueError as error:
        print(error)
    process.start()
    assert ready.recv() == ("n", os.getpid(), True, {method!r})
    assert process.is_alive() and process.exitcode is None and process in mp.active_children()
    before = len(os.listdir("/proc/self/fd"))
    sentinel = process.sentinel
    assert type(sentinel) is int and process.sentinel == sentinel
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert wait([sentinel], 0) == [] and process.join(0) is None and process.join(0.001) is None
    try:
        process.close()
    except ValueError as error:
        print(error)
    done.send(None)
    assert wait([sentinel]) == [sentinel]
    assert process.exitcode == 0 and not process.is_alive() and mp.active_children() == []
    process.terminate()
    process.kill()
    process.close()
    assert len(os.listdir("/proc/self/fd")) == before
    for attribute in "exitcode", "pid", "sentinel":
        try:
            getattr(process, attribute)
        except ValueError as error:
            print(error)
    late = mp.get_context({method!r}).Process(target=print, args=("late",))
    late.start()
    late.join()
    assert wait([late.sentinel], 0) == [late.sentinel]
"""
    )
    closed = "process object is closed"
    assert prints(tmp_path, code) == [
        "process not started",
        "Cannot close a process while it is still running. You should first call join() or terminate().",
        *[closed] * 3,
        "late",
    ]


@pytest.mark.parametrize("method", METHODS)
def test_several_threads_join(tmp_path, method):
    code = f"""
def main():
    processes = [mp.get_context({method!r}).Process(target=time.sleep, args=(1000,)) for _ in range(4)]
    for process in processes:
        process.start()
    threads = [threading.Thread(target=process.join) for process in processes * 3]
    for thread in threads:
        thread.start()
    for process in processes:
        process.terminate()
    for thread in threads:
        thread.join()
    print({{process.exitcode for process in processes}})
"""
    assert prints(tmp_path, code) == ["{-15}"]


def test_a_late_install_reaches_what_was_bound_before(tmp_path):
    code = """
import multiprocessing
from multiprocessing import Process, get_context
import multiprocessing.popen_fork, multiprocessing.popen_spawn_posix, multiprocessing.popen_forkserver
import multiprocessing.forkserver
multiprocessing.set_forkserver_preload(["json"])
weft.install()

def main():
    for method in METHODS:
        process = get_context(method).Process(target=print, args=(method,))
        process.start()
        assert type(process._popen).__module__.startswith("weft."), type(process._popen)
        process.join()
        assert process.exitcode == 0
    assert multiprocessing.forkserver._forkserver is _forkserver
    assert _forkserver._preload_modules == ["json"]
    process = Process(target=print, args=("default",))
    process.start()
    process.interrupt
    process.join()
"""
    assert prints(tmp_path, code) == [*METHODS, "default"]


def test_installing_imports_nothing_of_it():
    check = "import sys, weft; weft.install(); print([n for n in sys.modules if 'multiprocessing' in n])"
    ended = subprocess.run(
        [sys.executable, "-c", check], env=environment(), capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


def test_a_spawned_process_that_nobody_knows_of_does_not_run(tmp_path):
    code = """
from multiprocessing import resource_tracker
from weft.multiprocessing import popen_spawn_posix

def leave(path):
    open(path, "x").close()

def main():
    resource_tracker.ensure_running()
    spawn, pids = popen_spawn_posix.util.spawnv_passfds, []
    def interrupted(*arguments):
        pids.append(spawn(*arguments))
        raise KeyboardInterrupt
    popen_spawn_posix.util.spawnv_passfds = interrupted
    try:
        mp.get_context("spawn").Process(target=leave, args=("PATH",)).start()
    except KeyboardInterrupt:
        print("interrupted")
    print(os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]))
"""
    path = tmp_path / "ran"
    status, lines, err = finish(begin(tmp_path, code.replace("PATH", str(path))))
    assert (status, lines, err) == (0, ["interrupted", "1"], "")
    assert not path.exists()


def test_a_template_s_child_that_nobody_knows_of_is_ended(tmp_path):
    code = """
import select

def main():
    start, ends = _forkserver.start, []
    def interrupted(*arguments):
        ends.append(os.pidfd_open(start(*arguments).pid))
        raise KeyboardInterrupt
    context = mp.get_context("forkserver")
    _forkserver.start = interrupted
    try:
        context.Process(target=time.sleep, args=(1000,)).start()
    except KeyboardInterrupt:
        print("interrupted")
    select.select(ends, [], [])
    _forkserver.start = start
    process = context.Process(target=time.sleep, args=(0,))
    process.start()
    process.join()
    print(process.exitcode)
"""
    status, lines, err = finish(begin(tmp_path, code))
    assert (status, lines, err) == (0, ["interrupted", "0"], "")
