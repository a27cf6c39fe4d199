"""Uses, good and bad, that must end as with the greenlet package: same results, same errors, same words."""

from __future__ import annotations

import json

import pytest
from programs import STOCK, WEFT, good, needs_stock, without_addresses

# Each is executed with `G` (the module), `main`, `dead`, `waiting` (suspended), `fresh`, `ended` (suspended in a thread
# that has ended), `never` (not started, made in that thread), `elsewhere` (suspended in a thread that runs) and
# `other_main` (the main greenlet of that thread); `r` is what it shows.
SNIPPETS = """
r = G.greenlet(1)
r = G.greenlet(None, None)
r = G.greenlet(1, 2)
r = G.greenlet(1, 2, 3)
r = G.greenlet(bad=1)
r = G.greenlet(run=1, parent=main, more=2)
r = G.greenlet(parent=dead).switch()
r = G.greenlet().switch()
r = G.greenlet(5).switch()
r = G.greenlet("text").switch(1)
r = G.greenlet(lambda: 0).switch(1)
r = G.greenlet(lambda a: a).switch(b=1)
r = fresh.switch(**{1: 2})
fresh.run = 7; r = fresh.run
del fresh.run; r = fresh.run
del fresh.run; fresh.switch()
r = waiting.run
waiting.run = 1
del waiting.run
r = dead.run
dead.run = 1
r = main.run
main.run = 1
del main.run
r = main.parent
main.parent = main
main.parent = fresh
main.parent = None
del main.parent
del fresh.parent
fresh.parent = None
fresh.parent = 5
fresh.parent = fresh
waiting.parent = waiting
child = G.greenlet(parent=fresh); fresh.parent = child
fresh.parent = other_main; r = fresh.parent is other_main
waiting.parent = other_main
waiting.parent = elsewhere
dead.parent = other_main
dead.parent = ended
fresh.parent = ended
fresh.parent = never
fresh.parent = dead; r = fresh.switch()
r = ended.switch()
r = ended.throw()
r = ended.throw(ValueError)
r = ended.dead, bool(ended), ended.gr_frame
r = ended.parent is None, ended.parent.dead, bool(ended.parent)
r = ended.gr_context
ended.gr_context = None
r = never.switch()
r = never.dead, bool(never)
r = never.throw()
r = elsewhere.switch()
r = elsewhere.throw(ValueError("x"))
r = elsewhere.dead, bool(elsewhere), elsewhere.gr_frame is None
r = elsewhere.gr_context
r = other_main.gr_frame
r = other_main.gr_context
other_main.gr_context = None
r = other_main.switch()
r = repr(other_main), repr(elsewhere)
r = repr(main), repr(fresh), repr(waiting), repr(dead), repr(ended), repr(never)
r = bool(main), bool(fresh), bool(waiting), bool(dead)
r = main.dead, fresh.dead, waiting.dead, dead.dead
main.dead = 1
main.gr_frame = 1
r = main.gr_frame, fresh.gr_frame, dead.gr_frame, waiting.gr_frame.f_code.co_name
r = fresh.gr_context, dead.gr_context
fresh.gr_context = 5
fresh.gr_context = None; r = fresh.gr_context
del fresh.gr_context
del main.gr_context
dead.gr_context = None
main.gr_context = 1
r = waiting.throw(5)
r = waiting.throw("text")
r = waiting.throw(None)
r = waiting.throw(ValueError, 1, 2)
r = waiting.throw(ValueError, 1, None)
r = waiting.throw(ValueError(1), 2)
r = waiting.throw(ValueError(1), None)
r = waiting.throw(ValueError, ValueError("inner"))
r = waiting.throw(ValueError, KeyError("other"))
r = waiting.throw(ValueError, (1, 2))
r = waiting.throw(ValueError, None, None)
r = waiting.throw(1, 2, 3, 4)
r = waiting.throw(typ=ValueError)
r = waiting.throw(int)
r = waiting.throw(UnicodeDecodeError)
r = waiting.throw(SystemExit, 3)
r = waiting.throw(G.GreenletExit, 5)
r = waiting.throw(G.GreenletExit(6, 7))
r = fresh.throw(ValueError, "fresh"), fresh.dead
r = fresh.throw(G.GreenletExit, "fresh")
r = dead.throw()
r = dead.throw(ValueError("dead"))
r = dead.throw(5)
r = main.throw(ValueError("main"))
r = main.throw()
fresh.__dict__ = 5
del fresh.__dict__
fresh.__dict__ = {"a": 1}; r = fresh.a, fresh.__dict__
r = fresh.nothing
G.greenlet.attribute = 1
r = G.greenlet.nothing
import copy; r = copy.copy(fresh)
import pickle; r = pickle.dumps(waiting)
r = fresh == fresh, fresh != waiting, hash(fresh) == hash(fresh)
r = fresh < waiting
r = len(fresh)
r = fresh()
r = isinstance(G.error(), Exception), G.GreenletExit.__mro__, G.error.__mro__
r = G.error.__module__, G.GreenletExit.__module__, G.greenlet.__module__, G.greenlet.__qualname__
r = G.getcurrent(1)
r = G.settrace()
r = G.settrace(1, 2)
r = G.settrace(None), G.gettrace()
G.settrace(5); r = fresh.switch()
r = G.gettrace()
G.settrace(lambda *a: 1/0); r = fresh.switch()
G.settrace(lambda *a: 1/0); waiting.switch()
log = []; G.settrace(lambda e, a: log.append(e)); waiting.switch(); fresh.throw(G.GreenletExit); G.settrace(None); r = log
log = []; G.settrace(lambda e, a: log.append(e)); main.switch(); dead.switch(); G.settrace(None); r = log
log = []; G.settrace(lambda e, a: log.append(e)); dead.throw(); G.settrace(None); r = log
r = G._greenlet.enable_optional_cleanup(False), G._greenlet.get_clocks_used_doing_optional_cleanup()
r = {"getcurrent", "greenlet", "error", "GreenletExit", "settrace", "gettrace", "CLOCKS_PER_SEC"} <= set(dir(G))
r = sorted(G.__all__), G.__version__
r = sorted(dir(G.greenlet))
r = G.greenlet.__init__(waiting, lambda: 0)
r = G.greenlet.__init__(dead, lambda: 0)
r = G.greenlet.__init__(main, lambda: 0)
r = G.greenlet.__init__(fresh, parent=waiting), fresh.parent is waiting
r = G.greenlet.__new__(int)
r = G.greenlet.__new__(G.greenlet).switch()
r = G.greenlet.switch()
r = G.greenlet.switch(5)
r = G.greenlet.throw(main)
class A(G.greenlet): run = 5\nr = A().switch()
class A(G.greenlet): pass\nr = A(lambda: 1).switch(), A.__name__, repr(A())[:3]
class A(G.greenlet):\n def run(self, *a): return a\nr = A().switch(1, 2)
class A(G.greenlet):\n def __init__(self): pass\nr = A().switch()
class A(G.greenlet):\n def __new__(cls): return object.__new__(cls)\nr = A().switch()
import abc\nclass A(G.greenlet, metaclass=abc.ABCMeta):\n @abc.abstractmethod\n def f(self): ...\nA()
class A(G.greenlet, list): pass
class A(G.greenlet): __slots__ = ()\nr = A(lambda: 1).switch()
class A(G.getcurrent().__class__): pass\nr = A.__bases__
child = G.greenlet(lambda: 1/0, waiting); r = child.switch()
child = G.greenlet(lambda: 1, fresh); r = child.switch(), fresh.dead
p = G.greenlet(); child = G.greenlet(lambda: 1, p); r = child.switch()
p = G.greenlet(); child = G.greenlet(lambda: 1/0, p); r = child.switch()
p = G.greenlet(lambda *a: a); d = G.greenlet(lambda: 0); d.switch(); d.parent = p; p.parent = other_main; r = d.switch()
def f(): raise G.GreenletExit\nr = G.greenlet(f).switch()
def f(): raise SystemExit(4)\nr = G.greenlet(f).switch()
def f(): raise KeyboardInterrupt\nr = G.greenlet(f).switch()
def f(): G.getcurrent().parent = waiting; return 9\nwaiting.parent = main; r = G.greenlet(f).switch()
def f(): return G.getcurrent().gr_frame, G.getcurrent().dead\nr = G.greenlet(f).switch()
import sys\ndef f(): return sys._getframe().f_back\nr = G.greenlet(f).switch()
import sys, contextvars\nv = contextvars.ContextVar("v"); v.set(1)\ndef f(): return v.get("unset"), G.getcurrent().gr_context\nr = G.greenlet(f).switch()
import gc\na = G.greenlet(lambda: 0); b = G.greenlet(lambda: 1, a); a.b = b; w = [x for x in (a, b)]; del a, b; gc.collect(); r = w[1].switch()
import sys\nbefore = sys.getrecursionlimit()\ndef f(n): return f(n + 1)\nr = G.greenlet(f).switch(0)
def f():\n try: main.switch()\n except ValueError as e: return e.args, e.__context__\ng = G.greenlet(f); g.switch(); r = g.throw(ValueError(3))
def f():\n yield main.switch(1)\ng = f(); h = G.greenlet(lambda: next(g)); h.switch(); g.close()
def f():\n yield main.switch(1)\ng = f(); h = G.greenlet(lambda: next(g)); h.switch(); r = g.gi_running, g.gi_frame is h.gr_frame
""".strip().splitlines()

PROGRAM = """
import json, threading
G = greenlet
SNIPPETS = json.loads(sys.argv[1])

def suspend():
    getcurrent().parent.switch()
    return "resumed"

ended_things, elsewhere_things = [], []
running, stop = threading.Event(), threading.Event()

def ends():
    made = Greenlet(suspend); made.switch()
    ended_things.extend([made, Greenlet(suspend)])

def stays():
    made = Greenlet(suspend); made.switch()
    elsewhere_things.extend([made, getcurrent()])
    running.set(); stop.wait()

import os
found = {}
keeper = threading.Thread(target=stays); keeper.start(); running.wait()
for snippet in SNIPPETS:
    ended_things.clear()
    before = set(os.listdir("/proc/self/task"))
    thread = threading.Thread(target=ends); thread.start(); thread.join()
    while set(os.listdir("/proc/self/task")) - before:
        pass
    dead = Greenlet(lambda: None); dead.switch()
    waiting = Greenlet(suspend); waiting.switch()
    names = dict(G=G, main=main, dead=dead, waiting=waiting, fresh=Greenlet(lambda *a: ("ran", a)),
        ended=ended_things[0], never=ended_things[1], elsewhere=elsewhere_things[0], other_main=elsewhere_things[1])
    try:
        exec(compile(snippet.replace("\\\\n", "\\n"), "<snippet>", "exec"), names)
        result = repr(names.get("r", "nothing"))
    except BaseException as error:
        result = f"{type(error).__module__}.{type(error).__qualname__}: {error}"
        if isinstance(error, RecursionError):
            result = "RecursionError"
    finally:
        G.settrace(None)
    found[snippet] = result
stop.set(); keeper.join()
print(json.dumps(found))
"""


def results(package: str) -> dict[str, str]:
    """What each snippet shows or raises under `package`."""
    [line] = good(PROGRAM, json.dumps(SNIPPETS), package=package)
    return {snippet: without_addresses(result) for snippet, result in json.loads(line).items()}


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, str], dict[str, str]]:
    """The results under the greenlet package, and under weft."""
    return results(STOCK), results(WEFT)


@needs_stock
@pytest.mark.parametrize("snippet", SNIPPETS)
def test_it_ends_as_with_the_greenlet_package(
    snippet: str, both: tuple[dict[str, str], dict[str, str]]
) -> None:
    stock, weft = both
    assert weft[snippet] == stock[snippet]
