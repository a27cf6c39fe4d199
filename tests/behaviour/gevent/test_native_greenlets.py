"""What gevent's own greenlets promise beyond the plain case."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import weft.gevent as gevent
from weft.gevent import Greenlet, GreenletExit, Timeout, get_hub, getcurrent, joinall, sleep, spawn, spawn_raw
from weft.gevent import _hub as native
from weft.gevent.event import Event
from weft.gevent.hub import Hub, set_default_hub_class
from weft.gevent.queue import Empty, Queue


def test_who_made_whom() -> None:
    def inner() -> Greenlet:
        return spawn(int)

    def outer() -> tuple[Greenlet, object]:
        return inner(), getcurrent()

    first, other = spawn(outer), spawn(outer)
    child, me = first.get()
    assert child.spawning_greenlet() is me is first
    assert child.spawn_tree_locals is first.spawn_tree_locals is not other.spawn_tree_locals
    first.spawn_tree_locals["mine"] = 1
    assert child.spawn_tree_locals == {"mine": 1}
    assert not hasattr(getcurrent(), "spawn_tree_locals")
    frame = child.spawning_stack
    assert (frame.f_code.co_name, frame.f_back.f_code.co_name) == ("inner", "outer")
    assert frame.f_lineno == inner.__code__.co_firstlineno + 1
    raw = spawn_raw(int)
    assert raw.spawning_greenlet() is getcurrent() and raw.spawn_tree_locals == {}
    native.track_tree(False)
    try:
        untracked = spawn(int)
        assert untracked.spawning_stack is None is untracked.spawn_tree_locals
    finally:
        native.track_tree(True)
    joinall([child, other, untracked])


def test_numbers_and_names() -> None:
    named = spawn(sleep, 0)
    assert named.minimal_ident == named.minimal_ident and named.name == f"Greenlet-{named.minimal_ident}"
    assert f'"{named.name}"' in repr(named)
    named.name = "mine"
    assert repr(named).startswith('<Greenlet "mine" at 0x') and repr(named).endswith("(0)>")
    named.join()
    number = named.minimal_ident
    del named
    gc.collect()
    assert spawn(int).minimal_ident <= number
    sleep(0)


def test_a_subclass_runs_its_own_or_what_it_was_given() -> None:
    class Own(Greenlet):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.started_by = "own"

        def _run(self, *args: object) -> object:  # type: ignore[override]
            return ("own", args)

    assert Own.spawn(None, 1).get() == ("own", (1,))
    assert Own.spawn(lambda *args: ("given", args), 2).get() == ("given", (2,))
    assert Own().started_by == "own"

    class Started(Own):
        def start(self) -> None:
            self.started_by = "start"
            super().start()

    started = Started.spawn(None)
    assert started.started_by == "start" and started.get() == ("own", ())
    assert Greenlet(run=divmod, *()).args == ()  # noqa: B026
    assert spawn(int, "11", base=2).get() == 3
    assert Greenlet.spawn(run=lambda: 4).get() == 4


def test_every_start_is_told() -> None:
    seen: list[Greenlet] = []
    Greenlet.add_spawn_callback(seen.append)
    try:
        first = spawn(int)
        later = gevent.spawn_later(0.001, int)
    finally:
        Greenlet.remove_spawn_callback(seen.append)
    third = spawn(int)
    joinall([first, later, third])
    assert seen == [first, later]


def test_states_from_birth_to_death() -> None:
    made = Greenlet(sleep, 0)
    assert (bool(made), made.started, made.dead, made.ready()) == (False, False, False, False)
    made.start()
    assert (bool(made), made.dead, made.successful()) == (True, False, False)
    made.join()
    assert (bool(made), made.dead, made.ready(), made.successful()) == (False, True, True, True)
    assert made.args == () and made.kwargs == {} and made.exc_info is None
    never = Greenlet(int)
    never.kill()
    assert (bool(never), never.dead, never.successful()) == (False, True, True)
    assert isinstance(never.value, GreenletExit)
    never.start()
    sleep(0)
    assert isinstance(never.value, GreenletExit)
    with pytest.raises(Timeout):
        spawn(sleep, 1).get(block=False)


def test_an_exception_comes_out_as_often_as_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise LookupError("on purpose")

    failed = spawn(fail)
    lengths = set()
    for _ in range(3):
        with pytest.raises(LookupError) as caught:
            failed.get()
        lengths.add(len(caught.traceback))
    assert len(lengths) == 1
    assert failed.exc_info[0] is LookupError and failed.exc_info[1] is failed.exception
    assert "fail" in capsys.readouterr().err


def test_going_through_those_that_end() -> None:
    slow, fast = spawn(sleep, 3600), spawn(int)
    with gevent.iwait([slow, fast]) as ended:
        assert next(ended) is fast
    assert slow.has_links() == 0
    assert gevent.wait([slow], timeout=0.001) == [] and slow.has_links() == 0
    assert list(gevent.iwait([slow], timeout=0.001)) == []
    waiting = spawn(joinall, [slow])
    sleep(0)
    assert slow.has_links() == 1
    waiting.kill()
    assert slow.has_links() == 0
    slow.kill()

    class Foreign:
        """Something else that has links."""

        def rawlink(self, callback: Any) -> None:
            get_hub().loop.run_callback(callback, self)

    foreign = Foreign()
    assert gevent.wait([foreign]) == [foreign]


def test_a_greenlet_is_not_held_by_who_started_it() -> None:
    """One that parks starts the next one; it may be away for long."""
    keep = spawn(sleep, 3600)
    gone = weakref.ref(spawn(sleep, 0))
    for _ in range(3):
        sleep(0)
    gc.collect()
    assert gone() is None
    keep.kill()


def test_a_hub_that_counts_sees_every_wait() -> None:
    class Counting(Hub):
        switches = 0

        def switch(self, *args: Any) -> Any:
            self.switches += 1
            return super().switch(*args)

    get_hub().destroy()
    set_default_hub_class(Counting)
    try:
        hub: Any = get_hub()
        sleep(0)
        spawn(sleep, 0.001).join()
        Event().wait(0.001)
        with pytest.raises(Empty):
            Queue().get(timeout=0.001)
        assert hub.switches == 5
        hub.destroy()
    finally:
        set_default_hub_class(Hub)


def test_who_is_switched_out_is_told() -> None:
    class Told(Greenlet):
        count = 0

        def switch_out(self) -> None:
            self.count += 1

    told = Told.spawn(lambda: (sleep(0), Event().wait(0.001)))
    told.join()
    assert told.count == 2
