"""Frames of suspended greenlets, wherever their C stacks lie: gr_frame, f_back, tracebacks, tracing across switches."""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest
from programs import STOCK, WEFT, every_slot_count, good, needs_stock

NESTED = """
import gc, threading
def names(frame):
    found = []
    while frame is not None:
        found.append((frame.f_code.co_name, frame.f_lineno))
        frame = frame.f_back
    return found

def key(depth):
    # An entry into the interpreter loop from C, so that there are frames on the C stack.
    return sorted([1], key=lambda _: innermost(depth))

def innermost(depth):
    local = [depth]
    if depth:
        return key(depth - 1)
    return main.switch("suspended")

def outermost(depth):
    value = ("of", depth)
    return innermost(depth)

made = [Greenlet(outermost) for _ in range(12)]
for number, one in enumerate(made):
    assert one.switch(number % 5) == "suspended"
"""


@every_slot_count
def test_all_frames_of_all_suspended_greenlets(slots: int | None) -> None:
    program = NESTED + dedent("""
    for _ in range(3):
        for number, one in enumerate(made):
            found = [name for name, line in names(one.gr_frame)]
            depth = number % 5
            assert found == ["innermost"] + ["<lambda>", "key", "innermost"] * depth + ["outermost"], found
            frame = one.gr_frame
            assert frame is one.gr_frame
            while frame.f_back:
                frame = frame.f_back
            assert frame.f_locals == {"depth": depth, "value": ("of", depth)}, frame.f_locals
        # Moves them all round.
        for one in reversed(made):
            Greenlet(lambda: main.switch()).switch()
    print("good")
    """)
    assert good(program, slots=slots) == ["good"]


@every_slot_count
def test_frames_that_are_kept_stay_right(slots: int | None) -> None:
    program = NESTED + dedent("""
    kept = [one.gr_frame for one in made]
    before = [names(frame) for frame in kept]
    for _ in range(3):
        extra = [Greenlet(outermost) for _ in range(5)]
        for one in extra:
            one.switch(3)
        assert [names(frame) for frame in kept] == before
        del extra, one
        gc.collect()
    for one in made:
        one.throw()
        assert one.gr_frame is None
    for number, frame in enumerate(kept):
        assert frame.f_code.co_name == "innermost"
        # It has left; its variables are as they were.
        assert frame.f_locals["depth"] == 0
        frame.f_back
    frame.clear()
    print("good")
    """)
    assert good(program, slots=slots) == ["good"]


@every_slot_count
def test_tracebacks_and_currents_inside_a_switch(slots: int | None) -> None:
    program = NESTED + dedent("""
    import traceback
    def raises(depth):
        if depth:
            return sorted([1], key=lambda _: raises(depth - 1))
        found = names(sys._getframe())
        main.switch()
        assert names(sys._getframe())[1:] == found[1:]
        raise ValueError(depth)
    many = [Greenlet(raises) for _ in range(6)]
    for one in many:
        one.switch(2)
    for one in many:
        try:
            one.switch()
        except ValueError as error:
            found = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            assert found == ["<module>", "raises", "<lambda>", "raises", "<lambda>", "raises"], found
    print("good")
    """)
    assert good(program, slots=slots) == ["good"]


@every_slot_count
def test_another_thread_looks_at_the_frames(slots: int | None) -> None:
    program = NESTED + dedent("""
    found = []
    def looks():
        for one in made:
            frame = one.gr_frame
            found.append(names(frame))
            assert frame.f_locals["depth"] == 0
    thread = threading.Thread(target=looks)
    thread.start()
    thread.join()
    assert found == [names(one.gr_frame) for one in made]
    assert len(found[4]) == 2 + 3 * 4
    print("good")
    """)
    assert good(program, slots=slots) == ["good"]


@every_slot_count
def test_frames_through_executing_generators(slots: int | None) -> None:
    program = """
    def inner():
        yield main.switch()
    def outer():
        yield from inner()
    def run():
        return list(x for x in outer())
    made = [Greenlet(run) for _ in range(6)]
    for one in made:
        one.switch()
    for one in made:
        found, frame = [], one.gr_frame
        while frame:
            found.append(frame.f_code.co_name)
            frame = frame.f_back
        assert found == ["inner", "outer", "<genexpr>", "run"], found
    for one in made:
        assert one.switch(5) == [5]
    print("good")
    """
    assert good(program, slots=slots) == ["good"]


def test_frames_and_their_variables_outlive_their_thread() -> None:
    program = NESTED + dedent("""
    import os
    class Marker: pass
    kept, frames, alive = [], [], []
    def thread():
        main = getcurrent()
        def run():
            value, marker = "value", Marker()
            alive.append(__import__("weakref").ref(marker))
            def inner():
                local = [1, 2]
                main.switch()
            inner()
        for _ in range(4):
            one = Greenlet(run)
            one.switch()
            kept.append(one)
        frames.extend(one.gr_frame for one in kept[:2])
        frames.extend(one.gr_frame.f_back for one in kept[:2])
    before = set(os.listdir("/proc/self/task"))
    worker = threading.Thread(target=thread)
    worker.start(); worker.join()
    while set(os.listdir("/proc/self/task")) - before: pass
    assert all(one.dead for one in kept)
    assert all(one.gr_frame is None for one in kept)
    # Nobody looks at the third and the fourth: their variables are let go of.
    assert [bool(reference()) for reference in alive] == [True, True, False, False]
    kept.clear()
    gc.collect()
    junk = [bytearray(500) for _ in range(5000)]
    assert frames[0].f_locals["local"] == [1, 2]
    assert frames[0].f_back is frames[2] and frames[1].f_back is frames[3]
    assert frames[2].f_locals["value"] == "value"
    assert frames[2].f_lineno > 0
    frames.clear()
    gc.collect()
    assert not any(reference() for reference in alive)
    print("good")
    """)
    assert good(program) == ["good"]


def test_callers_of_a_kept_frame_outlive_their_thread() -> None:
    program = NESTED + dedent("""
    kept = []
    def thread():
        main = getcurrent()
        def inner():
            main.switch()
        def run():
            value = "of run"
            inner()
        one = Greenlet(run)
        one.switch()
        kept.append(one)
        kept.append(one.gr_frame)
    worker = threading.Thread(target=thread)
    worker.start(); worker.join()
    one, frame = kept
    while not one.dead: pass
    print(frame.f_code.co_name, frame.f_back and frame.f_back.f_code.co_name)
    """)
    assert good(program) == ["inner run"]


TRACED = """
import json
log = []
def tracer(frame, event, argument):
    if frame.f_code.co_filename == "<string>":
        log.append((frame.f_code.co_name, event, frame.f_lineno))
    return tracer
def generator():
    yield 1
    main.switch()
    yield 2
def run():
    x = 1
    main.switch()
    for y in generator():
        x = y
    return x
def other():
    main.switch()
    return 3
"""


@needs_stock
@pytest.mark.parametrize("how", ["sys.settrace", "sys.setprofile"])
@pytest.mark.parametrize("where", ["main", "greenlet", "between", "off inside", "off in main"])
def test_tracing_goes_on_across_switches(how: str, where: str) -> None:
    program = TRACED + dedent("""
    how, where = eval(sys.argv[1]), sys.argv[2]
    def inside():
        if where == "greenlet": how(tracer)
        result = run()
        if where == "off inside": how(None)
        return result
    one, two = Greenlet(inside), Greenlet(other)
    if where in ("main", "off inside"): how(tracer)
    one.switch()
    if where in ("between", "off in main"): how(tracer)
    two.switch()
    one.switch()
    two.switch()
    if where == "off in main": how(None)
    one.switch()
    how(None)
    print(json.dumps(log))
    """)
    assert good(program, how, where, package=WEFT) == good(program, how, where, package=STOCK)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in 3.12")
@needs_stock
def test_monitoring_sees_the_same_events() -> None:
    program = TRACED + dedent("""
    events = sys.monitoring.events
    sys.monitoring.use_tool_id(3, "test")
    def record(name):
        def callback(code, *arguments):
            if code.co_filename == "<string>":
                log.append((name, code.co_name, repr(arguments[0]) if type(arguments[0]) is int else ""))
        return callback
    wanted = ["PY_START", "PY_RETURN", "PY_YIELD", "PY_RESUME", "LINE", "RAISE", "PY_UNWIND", "PY_THROW"]
    for name in wanted:
        sys.monitoring.register_callback(3, getattr(events, name), record(name))
    one, two, three = Greenlet(run), Greenlet(other), Greenlet(run)
    sys.monitoring.set_events(3, sum(getattr(events, name) for name in wanted))
    one.switch(); two.switch(); three.switch(); one.switch(); two.switch()
    three.throw()
    one.switch()
    sys.monitoring.set_events(3, 0)
    print(json.dumps(log))
    """)
    assert good(program, package=WEFT) == good(program, package=STOCK)


@needs_stock
@pytest.mark.parametrize("event", ["call", "line", "return", "exception"])
@every_slot_count
def test_a_trace_function_that_switches(event: str, slots: int | None) -> None:
    program = TRACED + dedent("""
    wanted = sys.argv[1]
    def switches(frame, event, argument):
        log.append((frame.f_code.co_name, event))
        if event == wanted and frame.f_code.co_name == "traced":
            log.append(main.switch("from the tracer"))
        return switches
    def traced():
        try:
            raise KeyError
        except KeyError:
            return "result"
    def run(*_):
        sys.settrace(switches)
        result = traced()
        sys.settrace(None)
        return result
    made = [Greenlet(run) for _ in range(5)]
    for _ in range(10):
        for one in made:
            log.append((one.switch("go"), bool(one), sys.gettrace() is None))
    sys.settrace(None)
    print(json.dumps(log))
    """)
    assert good(program, event, slots=slots) == good(program, event, package=STOCK)


def test_a_thread_wide_trace_function_reaches_greenlets() -> None:
    program = TRACED + dedent("""
    import threading
    def thread():
        global main
        main = getcurrent()
        one = Greenlet(run)
        one.switch(); one.switch(); one.switch()
    threading.settrace(tracer)
    worker = threading.Thread(target=thread)
    worker.start(); worker.join()
    threading.settrace(None)
    print({name for name, *_ in log} >= {"thread", "run", "generator"})
    """)
    assert good(program) == ["True"]
