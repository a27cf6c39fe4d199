"""Value, Array and what they are made of: what they say and do, and what becomes of their memory."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing as stock
import multiprocessing.sharedctypes as stock_sharedctypes
import subprocess
import sys
import threading

import pytest
import weft
import weft.multiprocessing as mp
from started import METHODS, prints
from weft.multiprocessing import heap, sharedctypes

FACES = {"weft": "", "installed": "weft.install(); import multiprocessing as mp\n"}
INTEGERS = "bBhHiIlLqQ"


@pytest.fixture(params=FACES)
def face(request):
    return FACES[request.param]


@pytest.mark.parametrize("method", METHODS)
def test_children_share_them(tmp_path, method, face):
    code = (
        face
        + """
import ctypes

class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_int)]

def change(number, raw, array, text, point, raws):
    with number.get_lock():
        number.value += 1
    number.add(10)
    raw.value = 2.5
    array[1] = 7
    array[2:] = [8, 9]
    text.value = b"there"
    point.x, point.y = 3.5, 4
    raws[0].y = 11

def main():
    context = mp.get_context(sys.argv[1])
    given = (
        context.Value("q", 1),
        context.RawValue("d", 1.5),
        context.Array("i", 4),
        context.Array("c", b"here, there"),
        context.Value(Point, 1, 2),
        context.RawArray(Point, [(1, 2), (3, 4)]),
    )
    process = context.Process(target=change, args=given)
    process.start()
    process.join()
    number, raw, array, text, point, raws = given
    print(process.exitcode, number.value, raw.value, array[:], text.value, text.raw[:8])
    print(point.x, point.y, [(each.x, each.y) for each in raws], len(array), type(number).__name__)
"""
    )
    assert prints(tmp_path, code.replace("sys.argv[1]", repr(method))) == [
        "0 12 2.5 [0, 7, 8, 9] b'there' b'there\\x00th'",
        "3.5 4 [(1.0, 11), (3.0, 4)] 4 Synchronized",
    ]


@pytest.mark.parametrize("method", METHODS)
def test_those_made_before_a_late_install_go_on(tmp_path, method):
    (tmp_path / "late.py").write_text(f"""
import multiprocessing

def change(raw, array):
    raw.value += 1
    array[0] += 1

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    raw, array = context.RawValue("i", 1), context.RawArray("i", 3)
    import weft; weft.install()
    process = context.Process(target=change, args=(raw, array))
    process.start()
    process.join()
    print(process.exitcode, raw.value, array[:])
""")
    ended = subprocess.run([sys.executable, tmp_path / "late.py"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0 2 [1, 0, 0]\n", "")


def outcome(work):
    """What a call returns or raises, so that two can be compared."""
    try:
        return repr(work())
    except Exception as error:
        return type(error), str(error)


VALUES = [0, 1, -1, 127, 128, 255, 256, 2**31, 2**63, 2**64 + 5, -(2**70), 1.5, True, "x", b"x", b"xy", None]


@pytest.mark.parametrize("code", [*INTEGERS, *"fdcu"])
def test_a_value_does_what_the_standard_library_s_does(code):
    ours, theirs = mp.Value(code), stock.Value(code)
    assert ours.value == theirs.value
    for value in VALUES:
        assert outcome(lambda value=value: setattr(ours, "value", value)) == outcome(
            lambda value=value: setattr(theirs, "value", value)
        )
        assert repr(ours.value) == repr(theirs.value)
    assert repr(type(ours.value)) == repr(type(theirs.value))


def test_classes_and_wrappers_are_as_in_the_standard_library():
    lock = mp.Lock()
    value = mp.Value("i", 5, lock=lock)
    assert isinstance(value, sharedctypes.SynchronizedBase)
    assert value.get_lock() is lock and value._lock is lock and value.get_obj() is value._obj
    assert value.get_obj().value == 5
    assert repr(value) == "<Synchronized wrapper for c_int(5)>"
    assert value.acquire() and not lock.acquire(False)
    value.release()
    with value as entered:
        assert entered is True and not lock.acquire(False)
    assert type(mp.Array("c", 4)).__name__ == "SynchronizedString"
    assert type(mp.Array("i", 4)).__name__ == "SynchronizedArray"
    assert not hasattr(mp.Array("i", 4), "value") and not hasattr(mp.Array("i", 4), "add")
    assert not hasattr(mp.Value("i", 1, lock=False), "get_lock")
    with pytest.raises(AttributeError, match="'navalue' has no method 'acquire'"):
        mp.Value("i", 5, lock="navalue")
    with pytest.raises(AssertionError, match="object already synchronized"):
        sharedctypes.synchronized(value)
    copied = sharedctypes.copy(value.get_obj())
    assert copied.value == 5 and copied is not value.get_obj()
    with pytest.raises(AttributeError):
        del value.value
    for name in stock_sharedctypes.__all__:
        assert hasattr(sharedctypes, name)


def test_a_class_of_the_program_may_derive_from_them():
    class Counter(sharedctypes.Synchronized):
        def __init__(self, start):
            super().__init__(mp.RawValue("i", start), mp.RLock(), mp.get_context())
            self.label = "mine"

        @property
        def value(self):
            return -super().value

    counter = Counter(3)
    assert (counter.value, counter.add(1), counter.load(), counter.label) == (-3, 3, 4, "mine")

    class Unready(sharedctypes.Synchronized):
        def __init__(self):
            pass

    with pytest.raises(RuntimeError, match="not initialised"):
        Unready().value


def test_a_lock_that_fails_is_heard_and_the_value_is_left():
    class Failing:
        def __init__(self):
            self.fail = None

        def acquire(self):
            if self.fail == "acquire":
                raise KeyError("acquire")
            return True

        def release(self):
            if self.fail == "release":
                raise KeyError("release")

    lock = Failing()
    value = sharedctypes.synchronized(ctypes.c_int(3), lock)
    lock.fail = "acquire"
    with pytest.raises(KeyError, match="acquire"):
        value.value = 4
    lock.fail = "release"
    with pytest.raises(KeyError, match="release") as caught:
        value.value = "no integer"
    assert isinstance(caught.value.__context__, TypeError)
    lock.fail = None
    assert value.value == 3


def test_a_reader_waits_for_who_holds_the_lock():
    value = mp.Value("i", 1)
    seen = []
    value.acquire()
    reader = threading.Thread(target=lambda: seen.append(value.value))
    reader.start()
    value.value = 2
    value.value = 3
    value.release()
    reader.join()
    assert seen == [3]


# -- Atomic operations


@pytest.mark.parametrize("code", INTEGERS)
def test_atomic_operations(code):
    value = mp.Value(code, 5)
    bits = 8 * ctypes.sizeof(value.get_obj())
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if code.islower() else (0, (1 << bits) - 1)
    assert (value.load(), value.add(3), value.load()) == (5, 5, 8)
    assert (value.add(-8), value.load()) == (8, 0)
    assert value.store(high) is None and value.load() == value.value == high
    assert (value.add(1), value.load()) == (high, low)
    assert (value.add(-1), value.load()) == (low, high)
    assert (value.exchange(7), value.exchange(low)) == (high, 7)
    assert (value.compare_exchange(1, 2), value.load()) == (low, low)
    assert (value.compare_exchange(low, 2), value.load()) == (low, 2)
    assert (value.add(True), value.add(1 << 200), value.load()) == (2, 3, 3)
    for beyond in (low - 1, high + 1, 1 << 100):
        for refused in (
            lambda beyond=beyond: value.store(beyond),
            lambda beyond=beyond: value.exchange(beyond),
            lambda beyond=beyond: value.compare_exchange(beyond, 1),
            lambda beyond=beyond: value.compare_exchange(3, beyond),
        ):
            with pytest.raises(OverflowError, match=f"integer of {bits // 8} bytes"):
                refused()
    for none in (1.0, "1", None):
        for refused in (value.add, value.store, value.exchange, lambda none: value.compare_exchange(none, 1)):
            with pytest.raises(TypeError):
                refused(none)
    assert value.value == 3
    with pytest.raises(TypeError):
        value.compare_exchange(1)


@pytest.mark.parametrize("code", "fdcu")
def test_only_integers_have_atomic_operations(code):
    value = mp.Value(code)
    for refused in (
        lambda: value.add(1),
        value.load,
        lambda: value.store(1),
        lambda: value.exchange(1),
        lambda: value.compare_exchange(1, 2),
    ):
        with pytest.raises(TypeError, match="atomic operations need an integer of 1, 2, 4 or 8 bytes"):
            refused()


def test_no_atomic_operation_across_the_end_of_a_word():
    odd = ctypes.c_int.from_buffer(bytearray(8), 1)
    value = sharedctypes.synchronized(odd, mp.RLock())
    value.value = 7
    assert value.value == 7
    with pytest.raises(TypeError, match="in its natural place"):
        value.add(1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("code", "bHiQ")
def test_nothing_comes_between_an_atomic_operation(tmp_path, method, code):
    program = f"""
def work(value, sums, index, how):
    for _ in range(5000):
        if how == "add":
            value.add(1)
        else:
            while True:
                old = value.load()
                new = old + 1 if old < 100 else 0
                if value.compare_exchange(old, new) == old:
                    break
    sums[index] = 1

def main():
    context = mp.get_context({method!r})
    for how in ("add", "compare_exchange"):
        value, sums = context.Value({code!r}, 0), context.RawArray("i", 4)
        crew = [context.Process(target=work, args=(value, sums, index, how)) for index in range(4)]
        for process in crew:
            process.start()
        for process in crew:
            process.join()
        print(sum(sums), value.value)
"""
    bits = {"b": 8, "H": 16}.get(code, 32)
    expected = 20000 % (1 << bits)
    if code == "b" and expected > 127:
        expected -= 256
    assert prints(tmp_path, program) == [f"4 {expected}", f"4 {20000 % 101}"]


# -- The heap


@pytest.fixture
def own_heap(monkeypatch):
    monkeypatch.setattr(heap.BufferWrapper, "_heap", heap.Heap())
    return heap.BufferWrapper._heap


def test_blocks_are_used_again_at_once_if_nobody_else_may_use_them(own_heap):
    first = mp.RawValue("q", 1)
    address = ctypes.addressof(first)
    del first
    assert ctypes.addressof(mp.RawValue("q", 2)) == address
    assert not own_heap._retired


def test_large_arrays_give_their_memory_back(own_heap):
    before = weft._native.shared_memory_in_use()
    array = mp.RawArray("b", 100 << 20)
    assert weft._native.shared_memory_in_use() >= before + (100 << 20)
    del array
    gc.collect()
    assert weft._native.shared_memory_in_use() < before + (80 << 20)
    assert not own_heap._arenas


def test_what_cannot_be_had_is_an_error():
    with pytest.raises(MemoryError):
        mp.RawArray("q", 1 << 50)
    with pytest.raises(ValueError, match="Size -1 out of range"):
        heap.BufferWrapper(-1)
    with pytest.raises(OverflowError, match="too large"):
        heap.BufferWrapper(2**63)
    assert mp.RawArray("q", 3)[:] == [0, 0, 0]


@pytest.mark.parametrize("method", METHODS)
def test_what_only_a_child_has_is_its_own(tmp_path, method):
    """With the standard library's fork all these values are one: their parent has let go of them."""
    code = f"""
def work(value, number, barrier):
    barrier.wait()
    value.value = number
    barrier.wait()
    print(value.value == number, flush=True)

def main():
    context = mp.get_context({method!r})
    barrier = context.Barrier(5)
    crew = []
    for number in range(5):
        process = context.Process(target=work, args=(context.RawValue("i", -1), number, barrier))
        process.start()
        crew.append(process)
    for process in crew:
        process.join()
"""
    assert prints(tmp_path, code) == ["True"] * 5


def test_memory_that_children_had_is_used_again_after_their_end(tmp_path):
    code = """
from weft.multiprocessing import heap

def main():
    context = mp.get_context("fork")
    for _ in range(300):
        array = context.RawArray("b", 1000)
        process = context.Process(target=len, args=(array,))
        process.start()
        process.join()
        del array, process
    own = heap.BufferWrapper._heap
    print(len(own._arenas) < 8, sum(arena.size for arena in own._arenas) < 1 << 20)
"""
    assert prints(tmp_path, code) == ["True True"]


def test_a_large_array_that_only_children_have_goes_with_them(tmp_path):
    code = """
import gc
from weft._native import shared_memory_in_use, sweep_shared_memory

def hold(array, pipe):
    pipe.recv()
    array[5] = 7
    pipe.send(array[5])
    pipe.recv()

def main():
    for method in METHODS:
        context = mp.get_context(method)
        context.RawValue("i")
        before = shared_memory_in_use()
        here, there = context.Pipe()
        array = context.RawArray("b", 64 << 20)
        process = context.Process(target=hold, args=(array, there))
        process.start()
        del array
        gc.collect()
        here.send(None)
        print(here.recv(), shared_memory_in_use() - before >= 64 << 20)
        process.kill()
        process.join()
        print(shared_memory_in_use() - before < 64 << 20)
"""
    assert prints(tmp_path, code) == ["7 True", "True"] * 3
