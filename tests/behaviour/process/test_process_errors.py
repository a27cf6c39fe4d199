"""What goes wrong at a start is the caller's exception: nothing hangs, and no process is left."""

from __future__ import annotations

import pytest
from started import METHODS, prints


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_cannot_be_pickled(tmp_path, method):
    code = f"""
def main():
    context = mp.get_context({method!r})
    for argument in (lambda: 0, threading.Lock()):
        try:
            context.Process(target=print, args=(argument,)).start()
        except Exception as error:
            print(type(error).__name__)
    assert mp.active_children() == []
    process = context.Process(target=print, args=("works",))
    process.start()
    process.join()
"""
    assert prints(tmp_path, code) == ["AttributeError", "TypeError", "works"]


@pytest.mark.parametrize("method", METHODS)
def test_no_descriptors_left(tmp_path, method):
    code = f"""
import resource

def main():
    context = mp.get_context({method!r})
    process = context.Process(target=print, args=("before",))
    process.start()
    process.join()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    process = context.Process(target=int)
    try:
        process.start()
        process.join()
    except OSError as error:
        assert error.errno == 24, error
    for descriptor in taken:
        os.close(descriptor)
    assert mp.active_children() == []
    process = context.Process(target=print, args=("after",))
    process.start()
    process.join()
"""
    assert prints(tmp_path, code) == ["before", "after"]


def test_too_many_descriptors(tmp_path):
    code = """
from multiprocessing.reduction import DupFd

class Many:
    def __init__(self, count):
        self.count = count

    def __reduce__(self):
        return Many.count_open, ([DupFd(0) for _ in range(self.count)],)

    @staticmethod
    def count_open(descriptors):
        return len({descriptor.detach() for descriptor in descriptors})

def main():
    context = mp.get_context("forkserver")
    for count in (1, 240, 241, 251, 252):
        try:
            process = context.Process(target=print, args=(Many(count),))
            process.start()
            process.join()
        except ValueError as error:
            print(error)
"""
    assert prints(tmp_path, code) == ["1", "240", "241", "251", "too many fds"]


def test_ctrl_c_while_a_template_starts(tmp_path):
    code = """
if __name__ != "__main__":
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(1000)

def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        mp.get_context("forkserver").Process(target=print).start()
    except KeyboardInterrupt:
        print("interrupted")
    with open(f"/proc/self/task/{os.getpid()}/children") as children:
        print(len(children.read().split()))  # the resource tracker
"""
    assert prints(tmp_path, code) == ["interrupted", "1"]


def test_ctrl_c_during_a_join(tmp_path):
    code = """
def interrupt(parent, started):
    started.recv()
    os.kill(parent, signal.SIGINT)
    time.sleep(1000)

def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for method in METHODS:
        started, say = mp.Pipe(duplex=False)
        process = mp.get_context(method).Process(target=interrupt, args=(os.getpid(), started))
        try:
            process.start()
            say.send("started")
            process.join()
        except KeyboardInterrupt:
            print("interrupted")
        while process.pid is None:
            raise AssertionError("the start was interrupted")
        process.kill()
        process.join()
"""
    assert prints(tmp_path, code) == ["interrupted"] * 3
