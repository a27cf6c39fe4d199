"""The template process: what it imports, what its end means, threads that imports leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from started import Watch, begin, finish, prints

TAIL = """
def nothing():
    pass

def run(target=nothing, *args):
    process = mp.get_context("forkserver").Process(target=target, args=args)
    process.start()
    process.join()
    return process.exitcode

def spares():
    with open(f"/proc/{_forkserver._forkserver_pid}/task/{_forkserver._forkserver_pid}/children") as children:
        return [int(pid) for pid in children.read().split()]
"""


def test_the_main_module_and_the_preloads_are_imported_once(tmp_path):
    (tmp_path / "preloaded.py").write_text("print('preloaded')\n")
    code = (
        TAIL
        + """
print("main as", __name__)

def look():
    print("preloaded" in sys.modules, __name__)

def main():
    mp.set_forkserver_preload(["__main__", "preloaded", "not_there"])
    for _ in range(3):
        assert run(look) == 0
    """
    )
    assert prints(tmp_path, code) == [
        "main as __main__",
        "main as __mp_main__",
        "preloaded",
        *["True __mp_main__"] * 3,
    ]


def test_without_the_main_module(tmp_path):
    code = (
        TAIL
        + """
print("main as", __name__)

def main():
    mp.set_forkserver_preload([])
    for _ in range(2):
        assert run() == 0
    """
    )
    assert prints(tmp_path, code) == ["main as __main__"] + ["main as __mp_main__"] * 2


def test_a_main_module_that_fails_fails_in_each_child(tmp_path):
    code = (
        TAIL
        + """
if __name__ != "__main__":
    raise ValueError("not importable")

def main():
    print(run(), run())
    """
    )
    status, lines, err = finish(begin(tmp_path, code))
    assert (status, lines) == (0, ["1 1"])
    assert err.count("ValueError: not importable") == 2


def test_a_main_module_without_a_guard_is_told_so(tmp_path):
    code = (
        TAIL
        + """
def main():
    pass

print(run())
    """
    )
    status, lines, err = finish(begin(tmp_path, code))
    assert (status, lines) == (0, ["1"])
    assert err.count("before the\n        current process has finished its bootstrapping phase") == 1


def test_a_main_module_that_ends_the_template(tmp_path):
    code = (
        TAIL
        + """
if __name__ != "__main__":
    os._exit(3)

def main():
    try:
        run()
    except RuntimeError as error:
        print(error)
    """
    )
    (line,) = prints(tmp_path, code)
    assert line.startswith("the template process ended with exit code 3 while it imported the main module")


def test_killed_it_is_replaced_and_its_children_finish(tmp_path):
    code = (
        TAIL
        + """
def wait(reader):
    sys.exit(reader.recv())

def die(reader):
    reader.recv()
    os.kill(os.getpid(), signal.SIGKILL)

def main():
    reader, writer = mp.Pipe(duplex=False)
    process = mp.get_context("forkserver").Process(target=wait, args=(reader,))
    process.start()
    other_reader, other_writer = mp.Pipe(duplex=False)
    other = mp.get_context("forkserver").Process(target=die, args=(other_reader,))
    other.start()
    first = _forkserver._forkserver_pid
    os.kill(first, signal.SIGKILL)
    # Before it is dead, a process it has ready may still take a request.
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert run() == 0
    assert _forkserver._forkserver_pid != first
    assert process.is_alive()
    writer.send(7)
    process.join()
    other_writer.send("go")
    other.join()
    # The one says its code itself; how the other ended nobody knows any more.
    print(process.exitcode, other.exitcode)

    # It may have ended before anybody looks.
    process = mp.get_context("forkserver").Process(target=sys.exit, args=(9,))
    process.start()
    second = _forkserver._forkserver_pid
    os.kill(second, signal.SIGKILL)
    os.waitid(os.P_PID, second, os.WEXITED | os.WNOWAIT)
    while True:
        try:
            with open(f"/proc/{process.pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    break
        except (FileNotFoundError, ProcessLookupError):
            break
    print(process.exitcode)
    """
    )
    assert prints(tmp_path, code) == ["7 255", "9"]


def test_killed_again_and_again_while_processes_start(tmp_path):
    code = (
        TAIL
        + """
def main():
    for _ in range(15):
        _forkserver.ensure_running()
        os.kill(_forkserver._forkserver_pid, signal.SIGKILL)
        assert run() in (0, 255)
    print("never stuck")
    """
    )
    assert prints(tmp_path, code) == ["never stuck"]


def test_killed_spares_are_replaced(tmp_path):
    code = (
        TAIL
        + """
def main():
    assert run() == 0
    template = _forkserver._forkserver_pid
    for _ in range(20):
        for pid in spares():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # a child that was still to be reaped when its pid was read
                continue
        assert run() == 0
    assert _forkserver._forkserver_pid == template
    print("the same template")
    """
    )
    assert prints(tmp_path, code) == ["the same template"]


def test_it_ends_with_the_program(tmp_path):
    code = (
        TAIL
        + """
def main():
    assert run() == 0
    print(_forkserver._forkserver_pid, *spares(), flush=True)
    sys.stdin.readline()
    """
    )
    program = begin(tmp_path, code)
    assert program.stdout is not None
    watch = Watch([int(pid) for pid in program.stdout.readline().split()])
    assert finish(program) == (0, [], "")
    watch.wait_for_all()
    watch.close()


def test_children_of_children_share_it(tmp_path):
    code = (
        TAIL
        + """
def deeper(n, reply):
    with open("/proc/self/status") as status:
        reply.send([line.split()[1] for line in status if line.startswith("PPid")])
    if n:
        sys.exit(run(deeper, n - 1, reply))

def main():
    reader, writer = mp.Pipe(duplex=False)
    assert run(deeper, 3, writer) == 0
    print({reader.recv()[0] == str(_forkserver._forkserver_pid) for _ in range(4)})
    """
    )
    assert prints(tmp_path, code) == ["{True}"]


def test_bursts_and_threads(tmp_path):
    code = (
        TAIL
        + """
def leave(code):
    sys.exit(code)

def work():
    context = mp.get_context("forkserver")
    processes = [context.Process(target=leave, args=(n,)) for n in range(20)]
    for process in processes:
        process.start()
    for n, process in enumerate(processes):
        process.join()
        assert process.exitcode == n

def main():
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(mp.active_children())
    """
    )
    assert prints(tmp_path, code) == ["[]"]


def test_threads_left_by_an_import_mean_spawn_and_one_warning(tmp_path):
    (tmp_path / "left_running.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, name='idler', daemon=True).start()\n"
    )
    code = (
        TAIL
        + """
def look(reply):
    reply.send(os.getppid())

def main():
    mp.set_forkserver_preload(["__main__", "left_running"])
    for _ in range(2):
        reader, writer = mp.Pipe(duplex=False)
        assert run(look, writer) == 0
        assert reader.recv() == os.getpid()
    mp.set_forkserver_preload(["__main__"])
    assert run(look, writer) == 0
    print(reader.recv() == _forkserver._forkserver_pid)
    """
    )
    status, lines, err = finish(begin(tmp_path, code))
    assert (status, lines) == (0, ["True"])
    assert err.count("RuntimeWarning") == 1
    assert "the main module, left_running leaves threads" in err and "(idler)" in err
    # The warning points to the program.
    assert "program.py:" in err.partition("RuntimeWarning")[0]


def test_threads_that_a_library_stops_around_forks_do_no_harm(tmp_path):
    pytest.importorskip("numpy", reason="needs a library with threads of its own")
    code = (
        "import numpy\n"
        + TAIL
        + """
def multiply():
    numpy.ones((300, 300)) @ numpy.ones((300, 300))

def main():
    multiply()
    assert [run(multiply) for _ in range(3)] == [0, 0, 0]
    print(_forkserver._forkserver_pid is not None)
    """
    )
    assert prints(tmp_path, code, OPENBLAS_NUM_THREADS="4") == ["True"]


@pytest.mark.parametrize("seeded", [False, True])
def test_numpy_is_random_in_each_child_unless_seeded(tmp_path, seeded):
    pytest.importorskip("numpy")
    code = (
        "import numpy\n"
        + ("numpy.random.seed(7)\n" if seeded else "")
        + TAIL
        + """
def draw(reply):
    reply.send(numpy.random.randint(1 << 62))

def main():
    reader, writer = mp.Pipe(duplex=False)
    drawn = []
    for _ in range(5):
        assert run(draw, writer) == 0
        drawn.append(reader.recv())
    print(len(set(drawn)))
    """
    )
    assert prints(tmp_path, code) == ["1" if seeded else "5"]


def test_what_others_reach_into(tmp_path):
    code = (
        TAIL
        + """
def look(reply):
    reply.send(_forkserver.get_inherited_fds())

def main():
    assert _forkserver._forkserver_pid is None and _forkserver.get_inherited_fds() is None
    _forkserver.ensure_running()
    first = _forkserver._forkserver_pid
    _forkserver.ensure_running()
    assert _forkserver._forkserver_pid == first
    reader, writer = mp.Pipe(duplex=False)
    assert run(look, writer) == 0
    assert len(reader.recv()) >= 1  # what the pipe's end needs
    _forkserver._stop()
    assert _forkserver._forkserver_pid is None
    assert run() == 0
    assert _forkserver._forkserver_pid != first
    try:
        mp.set_forkserver_preload([1])
    except TypeError as error:
        print(error)
    """
    )
    assert prints(tmp_path, code) == ["module_names must be a list of strings"]


def test_no_descriptor_is_left_in_it(tmp_path):
    code = (
        TAIL
        + """
def count(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))

def main():
    assert run() == 0
    before = count(_forkserver._forkserver_pid), count("self")
    context = mp.get_context("forkserver")
    processes = [context.Process(target=time.sleep, args=(1000,)) for _ in range(30)]
    for process in processes:
        process.start()
    assert (count(_forkserver._forkserver_pid), count("self")) == before
    for process in processes:
        process.kill()
        process.join()
    assert (count(_forkserver._forkserver_pid), count("self")) == before
    print("none")
    """
    )
    assert prints(tmp_path, code) == ["none"]


def test_the_resource_tracker_can_be_stopped_while_it_stands(tmp_path):
    """It ends when nobody has its pipe any more, and who stops it waits for that; at exit newer releases of CPython do."""
    code = (
        TAIL
        + """
from multiprocessing import resource_tracker, shared_memory

def make(names):
    memory = shared_memory.SharedMemory(create=True, size=10)
    memory.close()
    names.put(memory.name)

def main():
    names = mp.get_context("forkserver").SimpleQueue()
    for _ in range(2):
        assert run(make, names) == 0
        # The child told the same tracker, which would complain otherwise.
        memory = shared_memory.SharedMemory(names.get())
        memory.close()
        memory.unlink()
        assert spares()
        resource_tracker._resource_tracker._stop()
        print("stopped")
    """
    )
    assert prints(tmp_path, code) == ["stopped"] * 2


def test_its_socket_has_no_name(tmp_path: Path):
    code = (
        TAIL
        + """
def main():
    assert run() == 0
    inodes = set()
    for name in os.listdir(f"/proc/{_forkserver._forkserver_pid}/fd"):
        target = os.readlink(f"/proc/{_forkserver._forkserver_pid}/fd/{name}")
        if target.startswith("socket:"):
            inodes.add(target[8:-1])
    with open("/proc/net/unix") as sockets:
        lines = [line.split() for line in sockets]
    print([len(line) for line in lines if line[6] in inodes])
    """
    )
    assert prints(tmp_path, code) == ["[7]"]
    assert not [name for name in os.listdir(tmp_path) if name not in ("program.py", "__pycache__")]
