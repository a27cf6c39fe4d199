"""Stacks when memory, address space or mappings are short: a MemoryError that says why, never a crash."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# The helper that runs programs belongs to the greenlet's behaviour suite.
sys.path.append(str(Path(__file__).parent.parent / "behaviour" / "greenlet"))
from programs import good, run


def address_space(size: int) -> Callable[[], None]:
    """Limits the child's address space to `size` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


def test_many_threads_with_many_greenlets() -> None:
    # 20,000 greenlets in 200 threads, all suspended at once, within the kernel's usual 65,530 mappings.
    program = """
    import threading
    threading.stack_size(512 << 10)
    THREADS, EACH = 200, 100
    all_suspended, all_looked = threading.Barrier(THREADS + 1), threading.Barrier(THREADS + 1)
    results, failures = [], []
    def nested(depth, number):
        return sorted([number], key=lambda _: nested(depth - 1, number) if depth else getcurrent().parent.switch(number))
    def thread(index):
        try:
            made = [Greenlet(nested) for _ in range(EACH)]
            assert [one.switch(number % 3, number) for number, one in enumerate(made)] == list(range(EACH))
            all_suspended.wait()
            all_looked.wait()
            results.append([one.switch(number) for number, one in enumerate(made)])
        except BaseException as error:
            failures.append(error)
            all_suspended.abort(); all_looked.abort()
    threads = [threading.Thread(target=thread, args=(index,)) for index in range(THREADS)]
    for one in threads: one.start()
    all_suspended.wait()
    mappings = open("/proc/self/maps").read().count("\\n")
    all_looked.wait()
    for one in threads: one.join()
    assert not failures, failures
    assert len(results) == THREADS and all(len(result) == EACH for result in results)
    assert mappings < 65_530
    print("good")
    """
    assert good(program) == ["good"]


def test_five_hundred_greenlets_in_four_gigabytes() -> None:
    program = """
    def nested(depth):
        return sorted([1], key=lambda _: nested(depth - 1) if depth else main.switch() and 0)
    made = [Greenlet(nested) for _ in range(500)]
    for number, one in enumerate(made): one.switch(number % 20)
    for one in made: assert one.switch(True) == [1]
    print("good")
    """
    assert good(program, before=address_space(4 << 30)) == ["good"]


@pytest.mark.parametrize("megabytes", [24, 32, 40, 48, 64, 96, 128, 256])
def test_a_tiny_address_space(megabytes: int) -> None:
    # The limit is set once the interpreter is up, and counts from what it has then.
    program = """
    import resource
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit = used + (int(sys.argv[1]) << 20)
    held = []
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    outcome = "good"
    def deep(depth):
        return deep(depth - 1) if depth else main.switch()
    try:
        for number in range(300):
            one = Greenlet(deep); one.switch(number % 50); held.append(one)
        for _ in range(3):
            for one in held[::7]: assert one
        for one in held: one.switch()
    except MemoryError as error:
        outcome = str(error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2) if False else None
    print(outcome)
    """
    program = program.replace(
        "    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2) if False else None\n", ""
    )
    ended = run(program, str(megabytes))
    assert (ended.code, ended.err) == (0, ""), ended
    message = ended.out.strip()
    assert message == "good" or "stack" in message, ended


def test_without_room_for_one_stack() -> None:
    program = """
    import resource
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    one = Greenlet(lambda *a, **k: (a, k))
    value = object()
    before = sys.getrefcount(value)
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 20), hard))
    for _ in range(5):
        try: one.switch(value, key=value)
        except MemoryError as error: message = str(error)
        else: raise AssertionError("there was room")
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert sys.getrefcount(value) == before
    assert not one and not one.dead
    print(one.switch(1, key=2))
    print(message)
    """
    result, message = good(program)
    assert result == "((1,), {'key': 2})"
    assert message.startswith("cannot map a coroutine stack of")


def test_no_memory_to_move_a_deep_stack() -> None:
    program = """
    import resource
    def deep(depth):
        return sorted([1], key=lambda _: deep(depth - 1) if depth else main.switch("deep") and 0)
    first, second = Greenlet(deep), Greenlet(deep)
    assert first.switch(150) == "deep"
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used, hard))
    for _ in range(3):
        try: second.switch(1)
        except MemoryError as error: message = str(error)
        else: raise AssertionError("there was room")
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert second.switch(1) == "deep"
    assert first.switch(True) == [1] and second.switch(True) == [1]
    print(message)
    """
    [message] = good(program, slots=1)
    assert "stack" in message


@pytest.mark.parametrize("slots", [1, 2, None])
def test_a_thousand_deep_greenlets_give_their_memory_back(slots: int | None) -> None:
    program = """
    import ctypes, gc, resource
    def resident():
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
    def deep(depth):
        return sorted([1], key=lambda _: deep(depth - 1) if depth else main.switch() and 0)
    def life():
        made = [Greenlet(deep) for _ in range(1000)]
        for number, one in enumerate(made): one.switch(100 if number % 20 == 0 else 1)
        for one in made: one.switch(True)
    life(); life()
    before = resident()
    for _ in range(5): life()
    after = resident()
    assert after < before * 1.2 + (16 << 20), (before, after)
    print("good")
    """
    assert good(program, slots=slots) == ["good"]
