"""What else `multiprocessing` has: it works under weft, by every start method and through the contexts."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from started import METHODS, begin, environment, finish, prints, script

FACES = {"weft": "", "installed": "weft.install(); import multiprocessing as mp\n"}


@pytest.fixture(params=FACES)
def face(request):
    return FACES[request.param]


@pytest.mark.parametrize("method", METHODS)
def test_named_shared_memory(tmp_path, method, face):
    code = (
        face
        + f"""
from multiprocessing import shared_memory

def change(name, values):
    memory = shared_memory.SharedMemory(name)
    memory.buf[0] += 1
    memory.close()
    values[1] = "changed"
    values.shm.close()

def main():
    memory = shared_memory.SharedMemory(create=True, size=100)
    values = shared_memory.ShareableList([1, "a long word", 2.5, None, b"x"])
    memory.buf[0] = 6
    process = mp.get_context({method!r}).Process(target=change, args=(memory.name, values))
    process.start()
    process.join()
    print(process.exitcode, memory.buf[0], list(values), mp.shared_memory is shared_memory)
    for shared in (memory, values.shm):
        shared.close()
        shared.unlink()
"""
    )
    assert prints(tmp_path, code) == ["0 7 [1, 'changed', 2.5, None, b'x'] True"]


def test_the_resource_tracker_unlinks_what_is_left_and_says_so(tmp_path):
    code = """
from multiprocessing import shared_memory

def main():
    memory = shared_memory.SharedMemory(create=True, size=100)
    print(memory.name)
"""
    status, (name,), errors = finish(begin(tmp_path, code))
    assert status == 0 and "leaked shared_memory objects to clean up at shutdown" in errors
    assert name not in os.listdir("/dev/shm")


@pytest.mark.parametrize("method", METHODS)
def test_logging_of_the_package(tmp_path, method, face):
    code = (
        face
        + f"""
from multiprocessing import util

def child(pipe):
    logger = mp.get_logger()
    pipe.send((logger.level, logger.name, len(logger.handlers), logger is util.get_logger()))

def main():
    logger = mp.get_context({method!r}).log_to_stderr(35)
    assert logger is mp.get_logger() is util.get_logger()
    here, there = mp.Pipe()
    process = mp.get_context({method!r}).Process(target=child, args=(there,))
    process.start()
    print(*here.recv())
    process.join()
    logger.handlers[0].setStream(sys.stdout)
    logger.error("shown")
    logger.warning("not shown")
"""
    )
    assert prints(tmp_path, code) == ["35 multiprocessing 1 True", "[ERROR/MainProcess] shown"]


def test_set_executable(tmp_path, face):
    code = (
        face
        + """
from multiprocessing import spawn

def child(pipe):
    pipe.send(sys.flags.dev_mode)

def main():
    program = os.path.join(os.path.dirname(__file__), "interpreter")
    with open(program, "w") as file:
        file.write(f'#!/bin/sh\\nexec {sys.executable} -X dev "$@"\\n')
    os.chmod(program, 0o700)
    for context in (mp, mp.get_context("spawn")):
        context.set_executable(sys.executable)
        context.set_executable(program)
        print(os.fsdecode(spawn.get_executable()) == program)
    here, there = mp.Pipe()
    process = mp.get_context("spawn").Process(target=child, args=(there,))
    process.start()
    print(here.recv())
    process.join()
"""
    )
    assert prints(tmp_path, code) == ["True"] * 3


@pytest.mark.parametrize("method", METHODS)
def test_connections_and_sockets_can_be_passed_on(tmp_path, method, face):
    code = (
        face
        + f"""
import socket

def child(inner, plain):
    inner.send("by the connection")
    plain.sendall(b"by the socket")
    plain.close()

def main():
    context = mp.get_context({method!r})
    context.allow_connection_pickling()
    mp.allow_connection_pickling()
    here, there = context.Pipe()
    ours, theirs = socket.socketpair()
    process = context.Process(target=child, args=(there, theirs))
    process.start()
    theirs.close()
    print(here.recv(), ours.recv(100))
    process.join()
"""
    )
    assert prints(tmp_path, code) == ["by the connection b'by the socket'"]


def test_dummy(tmp_path, face):
    code = (
        face
        + """
import multiprocessing.dummy as dummy
from multiprocessing.pool import ThreadPool

def work(queue, value, event):
    event.wait()
    queue.put(value.value)

def main():
    queue, value, event = dummy.Queue(), dummy.Value("i", 3), dummy.Event()
    process = dummy.Process(target=work, args=(queue, value, event))
    process.start()
    print(dummy.active_children() == [process], process.exitcode)
    event.set()
    process.join()
    print(queue.get(), process.exitcode, dummy.active_children())
    here, there = dummy.Pipe()
    here.send([1])
    print(there.recv(), dummy.Array("i", [1, 2])[1], dummy.Manager().list([3]))
    with dummy.Pool(2) as pool:
        print(pool.map(abs, [-1, 2]), type(pool) is ThreadPool)
    print(mp.dummy is dummy)
"""
    )
    assert prints(tmp_path, code) == ["True None", "3 0 []", "[1] 2 [3]", "[1, 2] True", "True"]


@pytest.mark.parametrize("method", METHODS)
def test_util(tmp_path, method, face):
    code = (
        face
        + f"""
from multiprocessing import util

class Thing:
    pass

thing = Thing()

def after(thing):
    print("after the fork", flush=True)

def child():
    util.Finalize(thing, print, args=("in the child",), kwargs={{"flush": True}}, exitpriority=1)
    folder = util.get_temp_dir()
    print(os.path.isdir(folder), util.is_exiting(), flush=True)

def main():
    util.register_after_fork(thing, after)
    util.Finalize(None, print, args=("last",), exitpriority=0)
    util.Finalize(None, print, args=("first",), exitpriority=2)
    lock, local = util.ForkAwareThreadLock(), util.ForkAwareLocal()
    with lock:
        local.here = 1
    folder = util.get_temp_dir()
    process = mp.get_context({method!r}).Process(target=child)
    process.start()
    process.join()
    print(process.exitcode, os.path.isdir(folder), flush=True)
"""
    )
    lines = prints(tmp_path, code)
    if method == "fork":
        assert lines.pop(0) == "after the fork"
    assert lines == ["True False", "in the child", "0 True", "first", "last"]


LIBRARY = """
import mmap, os
from multiprocessing import reduction
from multiprocessing.reduction import DupFd, ForkingPickler

class Tensor:
    def __init__(self, size, descriptor=None):
        self.size = size
        self.descriptor = os.memfd_create("tensor") if descriptor is None else descriptor
        os.ftruncate(self.descriptor, size)
        self.data = mmap.mmap(self.descriptor, size)

class Plain:
    def __init__(self, text):
        self.text = text

def rebuild(size, descriptor):
    return Tensor(size, descriptor.detach())

ForkingPickler.register(Tensor, lambda tensor: (rebuild, (tensor.size, DupFd(tensor.descriptor))))
reduction.register(Plain, lambda plain: (Plain, (plain.text + " reduced",)))
"""


@pytest.mark.parametrize("method", METHODS)
def test_reducers_of_other_libraries(tmp_path, method, face):
    """As torch does it: a reducer that carries a descriptor, registered for a class by the library's import."""
    (tmp_path / "library.py").write_text(LIBRARY)
    code = (
        face
        + f"""
import numpy
from library import Plain, Tensor

def child(tensor, given, reply):
    tensor.data[0] = 7
    for _ in range(2):
        message = given.get()
        message["tensor"].data[1] += 1
        message["shared"].asarray()[:] += message["array"]
        reply.put((message["plain"], message["shared"], message["array"] * 2))
    given.get()

def main():
    context = mp.get_context({method!r})
    given, reply = context.Queue(), context.SimpleQueue()
    tensor, shared = Tensor(100), weft.SharedArray(1000)
    process = context.Process(target=child, args=(tensor, given, reply))
    process.start()
    for _ in range(2):
        message = dict(tensor=tensor, shared=shared, plain=Plain("text"), array=numpy.arange(1000.0))
        given.put(message)
        plain, back, array = reply.get()
        print(plain.text, back.asarray().sum(), shared[999], array.sum(), tensor.data[0], tensor.data[1])
    given.put(None)
    process.join()
    print(process.exitcode)
"""
    )
    assert prints(tmp_path, code, PYTHONPATH=str(tmp_path)) == [
        "text reduced reduced 499500.0 999.0 999000.0 7 1",
        "text reduced reduced 999000.0 1998.0 999000.0 7 2",
        "0",
    ]


@pytest.mark.parametrize("method", METHODS)
def test_coverage_measures_children(tmp_path, method):
    (tmp_path / ".coveragerc").write_text(
        "[run]\nconcurrency = multiprocessing\nparallel = true\nsource = .\n"
    )
    code = f"""
def child(number):
    if number:
        print("in the child")  # only there

def main():
    process = mp.get_context({method!r}).Process(target=child, args=(1,))
    process.start()
    process.join()
"""
    program = script(tmp_path, code)
    lines = program.read_text().splitlines()
    only = next(number for number, text in enumerate(lines, 1) if "only there" in text)

    def coverage(*arguments):
        command = [sys.executable, "-m", "coverage", *arguments]
        ended = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert ended.returncode == 0, ended

    coverage("run", program.name)
    coverage("combine")
    coverage("json", "-o", "report.json")
    report = json.loads((tmp_path / "report.json").read_text())["files"]["program.py"]
    assert only in report["executed_lines"] and report["missing_lines"] == []
