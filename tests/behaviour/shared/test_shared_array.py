"""`weft.SharedArray`: what it is, how it travels, and when its memory goes."""

from __future__ import annotations

import copy
import pickle
import weakref

import numpy
import pytest
import weft
from started import METHODS, prints

DTYPES = ["b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 0, 3), (2, 3, 4)])
def test_numpy_sees_what_it_is(dtype, shape):
    shared = weft.SharedArray(shape, dtype)
    array = numpy.asarray(shared)
    assert (array.dtype, array.shape) == (numpy.dtype(dtype), shape)
    assert shared.dtype == array.dtype.str and shared.shape == shape
    assert (shared.ndim, shared.size, shared.itemsize) == (array.ndim, array.size, array.itemsize)
    assert shared.nbytes == array.nbytes
    assert not array.any()
    array[...] = 1
    assert (shared.asarray() == array).all() and (numpy.array(shared) == array).all()
    assert (shared.asarray() == 1).all()
    # For those who know only one of the two protocols.
    seen = numpy.asarray(type("Only", (), {"__array_interface__": shared.__array_interface__}))
    assert (seen == array).all() and seen.dtype == array.dtype
    assert shared.tobytes() == array.tobytes()
    twin = weft.SharedArray.copy_of(array)
    assert (twin.shape, twin.dtype) == (shared.shape, shared.dtype)
    assert twin.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (float, "<f8"),
        (int, "<i8"),
        (bool, "|b1"),
        (complex, "<c16"),
        ("d", "<f8"),
        ("q", "<i8"),
        ("L", "<u8"),
        ("float32", "<f4"),
        ("uint8", "|u1"),
        ("bool", "|b1"),
        ("complex128", "<c16"),
        ("<i4", "<i4"),
        ("=f8", "<f8"),
        (numpy.float32, "<f4"),
        (numpy.dtype("u2"), "<u2"),
        (numpy.dtype(bool), "|b1"),
    ],
)
def test_types_have_many_names(given, dtype):
    assert weft.SharedArray(3, given).dtype == dtype


@pytest.mark.parametrize(
    "given", [">f8", "S5", "O", "M8[s]", str, object, None, 3, "float7", "", [("x", "f8")]]
)
def test_other_types_are_refused(given):
    with pytest.raises(TypeError, match="a shared array cannot have items of the type"):
        weft.SharedArray(3, given)


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="a length cannot be negative"):
        weft.SharedArray((3, -1))
    with pytest.raises(TypeError):
        weft.SharedArray(1.5)
    for huge in (1 << 70, (1 << 40, 1 << 40), 1 << 45):
        with pytest.raises(MemoryError):
            weft.SharedArray(huge)
    assert weft.SharedArray(numpy.int64(3)).shape == (3,)


def test_it_can_be_used_without_numpy():
    shared = weft.SharedArray((2, 3), "i")
    shared[1, 2] = 7
    assert shared[1, 2] == 7 and len(shared) == 2
    assert shared.tolist() == [[0, 0, 0], [0, 0, 7]]
    line = weft.SharedArray(4)
    line[1:3] = weft.SharedArray.copy_of(memoryview(bytearray(16)).cast("d"))[:]
    line[3] = 2.5
    assert list(line) == [0, 0, 0, 2.5] and line[3] == 2.5
    with pytest.raises(TypeError, match="no dimension"):
        len(weft.SharedArray(()))
    assert repr(shared) == "<weft.SharedArray of <i4, shape (2, 3)>"
    with pytest.raises(BufferError):
        _fortran(shared)


def _fortran(shared):
    import ctypes

    view = ctypes.create_string_buffer(128)
    get = ctypes.pythonapi.PyObject_GetBuffer
    get.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
    get(shared, view, 0x0040 | 0x0010 | 0x0008)  # PyBUF_F_CONTIGUOUS


def test_it_is_copied_when_it_is_asked_to_be():
    shared = weft.SharedArray.copy_of(numpy.arange(6.0).reshape(2, 3).T)
    assert shared.tolist() == [[0, 3], [1, 4], [2, 5]]
    for twin in (shared.copy(), copy.copy(shared), copy.deepcopy(shared)):
        twin[0, 0] = 9
        assert shared[0, 0] == 0 and twin.tolist() == [[9, 3], [1, 4], [2, 5]]
    for pickler in (pickle.dumps, pickle._dumps):
        with pytest.raises(TypeError, match="passed on by reference"):
            pickler(shared)


def test_views_keep_the_memory():
    shared = weft.SharedArray(1000)
    array = shared.asarray()
    gone = weakref.ref(shared)
    del shared
    assert gone() is not None
    array[:] = 3
    assert array.sum() == 3000
    del array
    assert gone() is None


TRAVEL = """
import numpy
from weft import SharedArray

class Mine(SharedArray):
    pass

def change(shared, reply):
    array = numpy.asarray(shared)
    array += 1
    reply.put((type(shared).__name__, float(array.sum()), shared))

def serve(given, reply):
    while (shared := (given.get() if hasattr(given, "get") else given.recv())) is not None:
        change(shared, reply)
"""


@pytest.mark.parametrize("method", METHODS)
def test_it_travels_by_reference(tmp_path, method):
    code = (
        TRAVEL
        + f"""
def main():
    context = mp.get_context({method!r})
    reply = context.Queue()
    for make in (SharedArray, Mine):
        for size in (10, 1000, 4 << 20):
            shared = make(size, "f8")
            process = context.Process(target=change, args=(shared, reply))
            process.start()
            name, total, back = reply.get()
            process.join()
            back[0] += 10
            print(name, total == size, shared[0], shared[size - 1])
    here, there = context.Pipe()
    for given, end in ((context.Queue(), None), (there, here), (context.SimpleQueue(), None)):
        process = context.Process(target=serve, args=(given, reply))
        process.start()
        send = given.put if end is None else end.send
        shared = SharedArray((3, 2), "i4")
        for _ in range(3):
            send(shared)
            name, total, back = reply.get()
            print(name, total, back.shape, back.dtype, shared[2, 1])
        # Only the message has these.
        for number in range(3):
            send(SharedArray.copy_of(numpy.full(5000, number)))
        print([float(reply.get()[1]) for _ in range(3)])
        send(None)
        process.join()
"""
    )
    sizes = [f"{name} True 11.0 1.0" for name in ("SharedArray", "Mine") for _ in range(3)]
    served = [f"SharedArray {6.0 * n} (3, 2) <i4 {n}" for n in (1, 2, 3)]
    assert prints(tmp_path, code) == sizes + 3 * [*served, "[5000.0, 10000.0, 15000.0]"]


@pytest.mark.parametrize("method", METHODS)
def test_a_reference_in_a_queue_outlives_its_sender(tmp_path, method):
    code = f"""
from weft import SharedArray
from weft._native import sweep_shared_memory

def send(queue):
    for number in range(3):
        shared = SharedArray(100000)
        shared[7] = number
        queue.put(shared)

def main():
    context = mp.get_context({method!r})
    queue = context.Queue()
    process = context.Process(target=send, args=(queue,))
    process.start()
    process.join()
    sweep_shared_memory()
    print([queue.get()[7] for _ in range(3)])
"""
    assert prints(tmp_path, code) == ["[0.0, 1.0, 2.0]"]


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_never_met_the_segment_receives_it(tmp_path, method):
    """The queue and the array are all that the child knows of weft's memory, and these come by a stranger's pipe."""
    code = f"""
import multiprocessing.connection
from weft import SharedArray

def receive(descriptor):
    pipe = multiprocessing.connection.Connection(descriptor.detach())
    shared = pipe.recv()
    shared[3] = 5
    pipe.send(shared)
    pipe.send(SharedArray.copy_of(shared))
    pipe.recv()

def main():
    import socket
    context = mp.get_context({method!r})
    here, there = socket.socketpair()
    process = context.Process(target=receive, args=(Late(there.fileno()),))
    process.start()
    there.close()
    pipe = multiprocessing.connection.Connection(here.detach())
    shared = SharedArray(1000)
    pipe.send(shared)
    back, other = pipe.recv(), pipe.recv()
    print(back[3], shared[3], other[3])
    pipe.send(None)
    process.join()
    print(process.exitcode)

class Late:
    \"\"\"A descriptor for a child, by any method.\"\"\"
    def __init__(self, number):
        self.number = number
    def detach(self):
        return os.dup(self.number)
    def __getstate__(self):
        from multiprocessing.reduction import DupFd
        return DupFd(self.number)
    def __setstate__(self, state):
        self.number = state.detach()
"""
    assert prints(tmp_path, code) == ["5.0 5.0 5.0", "0"]


MEMORY = """
import gc
from weft import SharedArray
from weft._native import shared_memory_in_use, sweep_shared_memory

LARGE = 64 << 20  # bytes

def large():
    return SharedArray(LARGE, "u1")

def used():
    gc.collect()
    sweep_shared_memory()
    return shared_memory_in_use() // LARGE
"""


def test_the_memory_goes_with_the_last_user(tmp_path):
    code = (
        MEMORY
        + """
def hold(shared, pipe):
    pipe.send(shared[0])
    pipe.recv()
    del shared
    pipe.send("left")
    pipe.recv()

def main():
    for method in METHODS:
        context = mp.get_context(method)
        for end in ("leaves", "is killed", "ends"):
            here, there = context.Pipe()
            shared = large()
            process = context.Process(target=hold, args=(shared, there))
            process.start()
            del shared
            here.recv()
            before = used()
            if end == "is killed":
                process.kill()
                process.join()
            else:
                here.send(None)
                here.recv()
                if method == "fork":
                    here.send(None)
                    process.join()
                elif end == "ends":
                    here.send(None)
                    process.join()
            after = used()
            if process.is_alive():
                here.send(None)
                process.join()
            print(method, end, before, after, used())
"""
    )
    lines = prints(tmp_path, code)
    # Whoever starts a process by another method than fork keeps what it passes on until the end of that.
    expected = []
    for method in METHODS:
        for end in ("leaves", "is killed", "ends"):
            kept = method != "fork" and end == "leaves"
            expected.append(f"{method} {end} 1 {int(kept)} 0")
    assert lines == expected


def test_what_is_sent_and_never_received_goes_with_the_queue(tmp_path):
    code = (
        MEMORY
        + """
import queue

def main():
    for make in (weft.Queue, mp.Queue, mp.SimpleQueue):
        given = make()
        given.put(large())
        given.put([large()])
        print(used(), end=" ")
        given.get()
        print(used(), end=" ")
        del given
        print(used())
    # What was not put after all is no message.
    full = weft.Queue(1)
    full.put(1)
    for message in (large(), [large(), lambda: 1]):
        try:
            full.put(message, timeout=0.001)
        except (queue.Full, weft.UnpicklableError) as error:
            print(type(error).__name__)
        del message
    print(used())
"""
    )
    assert prints(tmp_path, code) == ["2 1 0"] * 3 + ["Full", "UnpicklableError", "0"]


def test_a_pickle_that_is_loaded_twice(tmp_path):
    code = (
        MEMORY
        + """
from multiprocessing.reduction import ForkingPickler

def main():
    shared = large()
    data = bytes(ForkingPickler.dumps(shared))
    first, second = ForkingPickler.loads(data), ForkingPickler.loads(data)
    first[0] = 3
    print(shared[0], second[0], used())
    del shared, first, second
    print(used())
    try:
        ForkingPickler.loads(data)
    except RuntimeError as error:
        print(str(error).partition(":")[2])
"""
    )
    gone = " every process that held it has let go of it or ended"
    assert prints(tmp_path, code) == ["3 3 1", "0", gone]


def test_what_a_process_cannot_open_is_said(tmp_path):
    code = """
from multiprocessing.reduction import ForkingPickler
from weft import SharedArray

def make(pipe):
    pipe.send_bytes(ForkingPickler.dumps(SharedArray(10)))

def main():
    import subprocess
    here, there = os.pipe()
    program = (
        "from weft import SharedArray; from multiprocessing.reduction import ForkingPickler; "
        f"import os; os.write({there}, ForkingPickler.dumps(SharedArray(10)))"
    )
    subprocess.run([sys.executable, "-c", program], pass_fds=[there], check=True)
    try:
        ForkingPickler.loads(os.read(here, 100000))
    except RuntimeError as error:
        print(str(error).partition("(")[2])
"""
    said = (
        "No such file or directory): the process has ended, or may not be looked at; let it live until what it sent is "
        "received, or share something with it before"
    )
    assert prints(tmp_path, code) == [said]


def test_children_of_a_fork_share_it_and_received_arrays_stay_private(tmp_path):
    code = """
import numpy
from weft import SharedArray

def main():
    shared = SharedArray(100000)
    array = shared.asarray()
    queue = weft.Queue()
    queue.put(numpy.zeros(100000))
    private = queue.get()
    pid = os.fork()
    if pid == 0:
        array[:] = 4
        private[:] = 4
        os._exit(0)
    os.waitpid(pid, 0)
    print(array.sum(), private.sum())
"""
    assert prints(tmp_path, code) == ["400000.0 0.0"]


def test_threads_and_many_arrays(tmp_path):
    code = """
from weft import SharedArray
from weft._native import shared_memory_in_use

def work(queue, results):
    while (batch := queue.get()) is not None:
        for shared in batch:
            shared[0] += 1
        results.put(len(batch))

def main():
    context = mp.get_context("forkserver")
    queue, results = context.Queue(), context.Queue()
    crew = [context.Process(target=work, args=(queue, results)) for _ in range(2)]
    for process in crew:
        process.start()
    arrays = [SharedArray(1 + n % 700, "i4") for n in range(1000)]
    def send():
        for start in range(0, 1000, 10):
            queue.put(arrays[start:start + 10])
    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(results.get() for _ in range(300)))
    for process in crew:
        queue.put(None)
    for process in crew:
        process.join()
    print(all(array[0] >= 1 for array in arrays))
"""
    assert prints(tmp_path, code) == ["3000", "True"]
