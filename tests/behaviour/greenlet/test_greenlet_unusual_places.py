"""Switches where one would rather not switch: deletions, callbacks, signal handlers, the interpreter's end."""

from __future__ import annotations

from programs import every_slot_count, good, run


@every_slot_count
def test_in_a_deletion(slots: int | None) -> None:
    program = """
    log = []
    class Switches:
        def __init__(self, number): self.number = number
        def __del__(self): log.append((self.number, main.switch(self.number)))
    def run(number):
        Switches(number)
        return "end"
    made = [Greenlet(run) for _ in range(8)]
    assert [one.switch(number) for number, one in enumerate(made)] == list(range(8))
    assert [one.switch(-number) for number, one in enumerate(made)] == ["end"] * 8
    assert log == [(number, -number) for number in range(8)], log
    print("good")
    """
    assert good(program, slots=slots) == ["good"]


@every_slot_count
def test_a_greenlet_dies_inside_a_deletion(slots: int | None) -> None:
    program = """
    log = []
    class Ends:
        def __del__(self):
            one = Greenlet(lambda: main.switch("suspended") and 0)
            one.switch.__self__.gr_context = None
            inner = Greenlet(lambda: getcurrent().parent.switch()); inner.switch()
            del inner
            log.append("deleted")
    def run():
        Ends()
        main.switch()
        Ends()
    for _ in range(10):
        one = Greenlet(run); one.switch()
        del one
    assert log == ["deleted"] * 10, log
    print("good")
    """
    assert good(program, slots=slots) == ["good"]


@every_slot_count
def test_in_nested_deallocations(slots: int | None) -> None:
    # Deeper than the interpreter's limit, so that it puts deallocations off while others are suspended in theirs.
    program = """
    log = []
    class Switches:
        def __init__(self, number): self.number = number
        def __del__(self): log.append(main.switch(self.number))
    def run(number):
        nested = None
        for depth in range(400):
            nested = (nested, Switches((number, depth))) if depth % 40 == 0 else [nested]
            nested = {"a": nested} if depth % 7 == 0 else (nested,)
        del nested
        return "end"
    made = [Greenlet(run) for _ in range(6)]
    seen = [one.switch(number) for number, one in enumerate(made)]
    while any(made):
        seen += [one.switch("on") for one in made if one]
    assert seen.count("end") == 6
    assert len({item for item in seen if item != "end"}) == 60, len(seen)
    assert log == ["on"] * 60
    # Deep ones that hold suspended greenlets.
    for _ in range(5):
        nested = None
        for depth in range(3000):
            nested = [nested]
            if depth % 100 == 0:
                one = Greenlet(lambda: main.switch()); one.switch()
                nested.append(one)
        del one, nested
    print("good")
    """
    assert good(program, slots=slots) == ["good"]


@every_slot_count
def test_in_callbacks_of_weak_references_and_of_the_collector(slots: int | None) -> None:
    program = """
    import gc, weakref
    log = []
    class Thing: pass
    others = [Greenlet(lambda: [main.switch() for _ in iter(int, 1)]) for _ in range(4)]
    for one in others: one.switch()
    def weak(reference):
        log.append("weak")
        getcurrent().parent.switch("from the callback") if getcurrent() is not main else others[0].switch()
    def collector(phase, info):
        log.append(phase)
        for one in others: one.switch() if getcurrent() is main else None
        if getcurrent() is not main and not getcurrent().dead:
            main.switch(phase)
    references = []
    def run():
        thing = Thing(); references.append(weakref.ref(thing, weak))
        del thing
        cycle = Thing(); cycle.itself = cycle; references.append(weakref.ref(cycle, weak))
        del cycle
        gc.collect()
        return "end"
    gc.disable()
    gc.callbacks.append(collector)
    made = [Greenlet(run) for _ in range(5)]
    for one in made:
        assert one.switch() == "from the callback"
        # One collection at a time: the next greenlet's must wait for this one's.
        steps = []
        while one: steps.append(one.switch())
        assert steps[-1] == "end" and "start" in steps and "stop" in steps, steps
    gc.callbacks.clear()
    print("good")
    """
    assert good(program, slots=slots) == ["good"]


def test_a_collection_during_switch_ends_the_target() -> None:
    # The switch itself may allocate something that the collector counts.
    program = """
    import gc
    armed, hold, results = [], [], []
    def callback(phase, info):
        if phase == "start" and armed:
            armed.clear()
            one.switch()
    gc.callbacks.append(callback)
    gc.set_threshold(1, 1, 1)
    enable = gc.enable
    for _ in range(30):
        one = Greenlet(lambda: main.switch("suspended"))
        assert one.switch() == "suspended"
        gc.disable()
        hold.extend([{} for _ in range(300)])
        armed.append(1)
        enable()
        results.append(one.switch())
        armed.clear()
    gc.callbacks.clear()
    print("good")
    """
    assert good(program) == ["good"]


@every_slot_count
def test_in_a_signal_handler(slots: int | None) -> None:
    program = """
    import os, signal
    log = []
    def handler(number, frame):
        log.append(frame.f_code.co_name)
        target = main if getcurrent() is not main else others[0]
        target.switch("from the handler")
    signal.signal(signal.SIGUSR1, handler)
    others = [Greenlet(lambda *a: [main.switch() for _ in iter(int, 1)]) for _ in range(3)]
    for one in others: one.switch()
    def run():
        os.kill(os.getpid(), signal.SIGUSR1)
        return "end"
    for _ in range(20):
        one = Greenlet(run)
        assert one.switch() == "from the handler"
        os.kill(os.getpid(), signal.SIGUSR1)
        assert one.switch() == "end"
    assert log == ["run", "<module>"] * 20, log
    print("good")
    """
    assert good(program, slots=slots) == ["good"]


@every_slot_count
def test_in_the_greenlet_tracer(slots: int | None) -> None:
    program = """
    log = []
    def tracer(event, arguments):
        log.append(event)
        if len(log) % 7 == 3:
            Greenlet(lambda: main.switch("made by the tracer")).switch()
        elif len(log) % 5 == 2 and getcurrent() is not main:
            main.switch("by the tracer")
    def run(*arguments):
        for _ in range(20): main.switch()
    made = [Greenlet(run) for _ in range(6)]
    greenlet.settrace(tracer)
    for _ in range(30):
        for one in made:
            one.switch()
    one = Greenlet(run); one.switch(); del one
    greenlet.settrace(None)
    assert len(log) > 100
    print("good")
    """
    assert good(program, slots=slots) == ["good"]


@every_slot_count
def test_while_the_dying_greenlets_parent_is_looked_up(slots: int | None) -> None:
    # `run` of a parent that was not started is looked up on the stack of the child that ends.
    program = """
    frames = []
    class Looks(Greenlet):
        def __getattribute__(self, name):
            if name == "run":
                held = [1, 2, 3]
                frames.append(sys._getframe())
                return main.switch("looking")
            return super().__getattribute__(name)
    children = []
    for number in range(20):
        parent = Looks()
        child = Greenlet(lambda: "result", parent)
        assert child.switch() == "looking"
        children.append(child)
    del parent, child
    def deep(depth):
        here = [depth] * 3
        return deep(depth - 1) if depth else 0
    for _ in range(5):
        Greenlet(deep).switch(30)
    assert [frame.f_locals["held"] for frame in frames] == [[1, 2, 3]] * 20
    # What the lookup returns still arrives, and it is the parent that takes the child's result.
    for number, child in enumerate(children):
        got = child.switch(lambda value: ("parent got", value))
        assert got in (("parent got", "result"), ("parent got",)), got
    children.clear(); frames.clear()
    print("good")
    """
    assert good(program, slots=slots)[-1:] == ["good"]


@every_slot_count
def test_a_result_that_holds_a_suspended_greenlet_is_dropped_on_the_way(slots: int | None) -> None:
    program = """
    import gc, weakref
    log, references = [], []
    def child():
        def waits():
            try: outer.switch()
            except GreenletExit: log.append("ended"); raise
        outer = getcurrent()
        held = Greenlet(waits); held.switch()
        references.append(weakref.ref(held))
        return held
    for _ in range(10):
        parent = Greenlet()  # without anything to run
        try:
            Greenlet(child, parent).switch()
        except AttributeError as error:
            assert "run" in str(error)
        references.append(weakref.ref(parent))
        del parent, error if False else parent
    gc.collect()
    assert log == ["ended"] * 10, log
    print(sum(reference() is not None for reference in references))
    """
    program = program.replace("del parent, error if False else parent", "del parent")
    assert good(program, slots=slots) == ["0"]


@every_slot_count
def test_suspended_greenlets_at_the_interpreters_end(slots: int | None) -> None:
    program = """
    import atexit, threading
    def key(depth):
        return sorted([depth], key=lambda _: key(depth - 1) if depth else main.switch())
    def run(depth):
        try:
            key(depth)
        finally:
            print("never")
    made = [Greenlet(run) for _ in range(10)]
    for number, one in enumerate(made): one.switch(number)
    def generator():
        yield main.switch()
    lists = [Greenlet(lambda: list(generator())) for _ in range(5)]
    for one in lists: one.switch()
    sys.modules["kept"] = made
    made[0].itself = made
    def thread():
        main = getcurrent()
        one = Greenlet(lambda: main.switch()); one.switch(); made.append(one)
    worker = threading.Thread(target=thread); worker.start(); worker.join()
    class Kept:
        def __del__(self):
            try: Greenlet(lambda: 0).switch()
            except BaseException: pass
    sys.kept = Kept()
    @atexit.register
    def last():
        sys.stdout.write("%s\\n" % Greenlet(lambda: main.switch("from atexit")).switch())
    print("end")
    """
    program = program.replace('print("never")', "pass")
    assert good(program, slots=slots) == ["end", "from atexit"]


@every_slot_count
def test_deletions_at_the_interpreters_end_drop_some_and_switch_to_others(slots: int | None) -> None:
    program = """
    def run():
        while True: main.switch()
    class Last:
        def __init__(self, made): self.made = made
        def __del__(self):
            made = self.made
            while len(made) > 20: made.pop()
            junk = [bytearray(b"x" * size) for size in range(100, 400) for _ in range(20)]
            for one in made: one.switch()
            for one in made: one.switch()
            print("switched", flush=True)
    made = [Greenlet(run) for _ in range(40)]
    for one in made: one.switch()
    del one
    sys.modules["kept"] = Last(made)
    del made
    print("end", flush=True)
    """
    assert good(program, slots=slots) == ["end", "switched"]


def test_sys_exit_inside_a_greenlet_ends_the_program() -> None:
    ended = run("Greenlet(lambda: sys.exit(7)).switch()")
    assert (ended.code, ended.out, ended.err) == (7, "", "")


def test_an_uncaught_exception_prints_the_whole_traceback() -> None:
    ended = run("def inner(): raise KeyError('gone')\nGreenlet(inner).switch()")
    assert ended.code == 1
    assert ended.err.splitlines()[-1] == "KeyError: 'gone'"
    assert "in inner" in ended.err


def test_keyboard_interrupt_reaches_the_main_greenlet() -> None:
    program = """
    import os, signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits it ignored
    def run():
        os.kill(os.getpid(), signal.SIGINT)
        while True: pass
    try: Greenlet(run).switch()
    except KeyboardInterrupt: print("interrupted")
    """
    assert good(program) == ["interrupted"]
