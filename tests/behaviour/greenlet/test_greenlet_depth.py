"""Deep recursion inside a greenlet ends as on the main stack: with a result or a RecursionError, never with a crash."""

from __future__ import annotations

from textwrap import dedent

import pytest
from programs import good, run

# Each gives a function of a depth; `below` is called at the bottom where the kind can.
KINDS = {
    "python": """
        def recurse(depth):
            return recurse(depth - 1) if depth else below()
    """,
    "sorted": """
        def recurse(depth):
            return sorted([1], key=lambda _: recurse(depth - 1) if depth else below() and 0)
    """,
    "getattr": """
        class Thing:
            def __getattr__(self, name):
                depth = int(name[1:])
                return getattr(self, f"a{depth - 1}") if depth else below()
        def recurse(depth): return getattr(Thing(), f"a{depth}")
    """,
    "init": """
        class Thing:
            def __init__(self, depth): self.inner = Thing(depth - 1) if depth else below()
        def recurse(depth): return Thing(depth) and 0
    """,
    "generators": """
        def nested(depth):
            yield from nested(depth - 1) if depth else [below()]
        def recurse(depth): return list(nested(depth))
    """,
    "eval": """
        def recurse(depth): return eval("recurse(depth - 1) if depth else below()")
    """,
    "compile": """
        def recurse(depth): return compile("(" * depth + "1" + ")" * depth, "<deep>", "eval") and below()
    """,
    "compile operators": """
        def recurse(depth): return compile("-" * depth + "1", "<deep>", "eval") and below()
    """,
    "json loads": """
        import json
        def recurse(depth): return len(json.loads("[" * depth + "]" * depth)) and below()
    """,
    "json dumps": """
        import json
        def recurse(depth):
            nested = []
            for _ in range(depth): nested = [nested]
            return len(json.dumps(nested))
    """,
    "repr": """
        def recurse(depth):
            nested = []
            for _ in range(depth): nested = [nested]
            return len(repr(nested))
    """,
    "equality": """
        def recurse(depth):
            one, two = [], []
            for _ in range(depth): one, two = [one], [two]
            return one == two
    """,
    "pickle": """
        import pickle
        def recurse(depth):
            nested = []
            for _ in range(depth): nested = [nested]
            return len(pickle.dumps(nested))
    """,
    "re": """
        import re
        def recurse(depth): return bool(re.match("(?:a|b)*c", "ab" * depth * 10 + "c")) and below()
    """,
    "re compile": """
        import re
        def recurse(depth): return bool(re.compile("(" * depth + ")" * depth))
    """,
    "isinstance": """
        def recurse(depth):
            nested = int
            for _ in range(depth): nested = (nested,)
            return isinstance("", nested)
    """,
    "dealloc": """
        def recurse(depth):
            nested = None
            for _ in range(depth * 10): nested = (nested,)
            del nested
            return 0
    """,
}

HARNESS = """
below = lambda: 1
{kind}
def outcome(depth):
    try:
        return repr(recurse(depth))[:40] and "a result"
    except (RecursionError, MemoryError) as error:
        # The parser's own limit is a MemoryError.
        return type(error).__name__
    except Exception as error:
        return type(error).__name__

def suspended():
    main.switch()

def many(call):
    # Suspended at the bottom, so that deep stacks are moved.
    global below
    below = lambda: getcurrent().parent.switch("bottom") and 1
    made = [Greenlet(call) for _ in range(3)]
    got = [one.switch() for one in made]
    for _ in range(3):
        for index, one in enumerate(made):
            if got[index] == "bottom":
                got[index] = one.switch(True)
    assert len(set(got)) == 1, got
    return got[0]

def in_thread(call):
    import threading
    box = []
    thread = threading.Thread(target=lambda: box.append(Greenlet(call).switch()))
    thread.start(); thread.join()
    return box[0]

def nested(call):
    return Greenlet(lambda: Greenlet(lambda: Greenlet(call).switch()).switch()).switch()

def survives(call):
    result = Greenlet(call).switch()
    assert Greenlet(call).switch() == result
    return result

WAYS = dict(main=lambda call: call(), greenlet=lambda call: survives(call), many=many, thread=in_thread, nested=nested)
limit, depth, way = int(sys.argv[1]), int(sys.argv[2]), WAYS[sys.argv[3]]
sys.setrecursionlimit(limit)
print(way(lambda: outcome(depth)))
"""

# (recursion limit, depth): below the limit, beyond it, and beyond a limit that was raised moderately.
DEPTHS = [(1000, 150), (1000, 20_000), (3000, 1200)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("limit", "depth"), DEPTHS, ids=lambda value: str(value))
def test_it_ends_as_on_the_main_stack(kind: str, limit: int, depth: int) -> None:
    program = HARNESS.format(kind=dedent(KINDS[kind]))
    expected = run(program, str(limit), str(depth), "main")
    if expected.code != 0:
        pytest.skip(f"on the main stack, the interpreter itself dies of it: {expected.code}")
    for way, slots in (("greenlet", None), ("nested", None), ("thread", None), ("many", None), ("many", 1)):
        found = good(program, str(limit), str(depth), way, slots=slots)
        assert found == expected.out.splitlines(), (way, slots)


@pytest.mark.parametrize("slots", [1, 2, None])
def test_a_recursion_error_leaves_every_greenlet_usable(slots: int | None) -> None:
    program = """
    def recurse(depth):
        try:
            return recurse(depth + 1)
        finally:
            depth
    def run():
        while True:
            try: recurse(0)
            except RecursionError: pass
            main.switch("survived")
    made = [Greenlet(run) for _ in range(6)]
    for _ in range(5):
        for one in made:
            assert one.switch() == "survived"
    def depth():
        frame, count = sys._getframe(), 0
        while frame: frame, count = frame.f_back, count + 1
        return count
    def count(so_far=0):
        try: return count(so_far + 1)
        except RecursionError: return so_far
    here = count()
    assert abs(Greenlet(count).switch() - here) < 5
    assert count() == here
    print("good")
    """
    assert good(program, slots=slots) == ["good"]


def test_the_limit_may_change_while_greenlets_are_suspended() -> None:
    program = """
    def count(so_far=0):
        try: return count(so_far + 1)
        except RecursionError: return so_far
    def down(depth):
        if depth: return down(depth - 1)
        main.switch()
        return count()
    one = Greenlet(down); one.switch(300)
    before = count()
    sys.setrecursionlimit(3000)
    assert count() - before == 2000
    there = one.switch()
    assert 2600 < there + 300 < 3010, there
    two = Greenlet(down); two.switch(500)
    sys.setrecursionlimit(100)
    assert two.switch() == 0 or True
    print("good")
    """
    program = program.replace(
        "    assert two.switch() == 0 or True\n", "    try: two.switch()\n    except RecursionError: pass\n"
    )
    assert good(program) == ["good"]
