"""Greenlet-local objects, settings, and reports of who runs."""

from __future__ import annotations

import copy
import gc
import io
import threading
import weakref
from typing import Any

import pytest
from weft.gevent import _config, joinall, sleep, spawn, spawn_raw, util
from weft.gevent.local import all_local_dicts_for_greenlet, local


class Thing:
    pass


def test_each_greenlet_has_its_own() -> None:
    own: Any = local()
    own.name = "main"

    def work(name: str) -> str:
        assert not hasattr(own, "name") and own.__dict__ == {}
        own.name = name
        sleep(0)
        return str(own.name)

    names = ["a", "b", "c"]
    assert [each.value for each in joinall([spawn(work, name) for name in names])] == names
    assert own.name == "main" and own.__dict__ == {"name": "main"}
    del own.name
    with pytest.raises(AttributeError):
        _ = own.name
    for wrong in (lambda: setattr(own, "__dict__", {}), lambda: delattr(own, "__dict__")):
        with pytest.raises(AttributeError, match="read-only"):
            wrong()


def test_threads_have_their_own_at_the_same_time() -> None:
    own: Any = local()
    wrong: list[object] = []

    def work(number: int) -> None:
        for _ in range(20_000):
            own.number = number
            if own.number != number:
                wrong.append((number, own.number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_subclasses_are_filled_for_each_greenlet() -> None:
    class Own(local):
        kind = "class"
        __slots__ = ("shared",)
        shared: int

        def __init__(self, start: int) -> None:
            self.count = start

        @property
        def twice(self) -> int:
            return self.count * 2

    own = Own(5)
    own.count += 1
    own.shared = 1

    def work() -> tuple[int, int, int]:
        own.shared += 1
        return own.count, own.twice, own.shared

    greenlet = spawn(work)
    greenlet.join()
    assert greenlet.value == (5, 10, 2) and (own.count, own.shared, own.kind) == (6, 2, "class")
    own.kind = "own"
    assert own.kind == "own" and Own.kind == "class"
    with pytest.raises(AttributeError):
        own.twice = 3  # type: ignore[misc]
    other = copy.copy(own)
    other.count += 1
    assert (own.count, other.count) == (6, 7)
    with pytest.raises(TypeError, match="arguments"):
        local(1)


@pytest.mark.parametrize("start", [spawn, spawn_raw])
def test_what_is_local_goes_with_the_greenlet(start: Any) -> None:
    own: Any = local()
    things: list[weakref.ref[Thing]] = []

    def work() -> None:
        own.thing = Thing()
        things.append(weakref.ref(own.thing))

    greenlet = start(work)
    while not things:
        sleep(0)
    sleep(0)
    if start is spawn_raw:
        del greenlet
    gc.collect()
    assert things[0]() is None


def test_what_is_local_goes_with_the_object() -> None:
    def work() -> Any:
        own: Any = local()
        own.thing = Thing()
        seen = all_local_dicts_for_greenlet(greenlet)
        gone = weakref.ref(own.thing)
        del own
        return seen, gone()

    greenlet = spawn(work)
    (((kind, _), attributes),), gone = greenlet.get()
    assert kind is local and list(attributes) == ["thing"]
    assert gone is attributes["thing"] and not greenlet.has_links()
    assert all_local_dicts_for_greenlet(greenlet) == []


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEVENT_MAX_BLOCKING_TIME", "0.5")
    monkeypatch.setenv("GEVENT_MONITOR_MEMORY_MAX", "2mb")
    monkeypatch.setenv("GEVENT_RESOLVER", "no.such,block")
    config = _config.Config()
    assert (config.max_blocking_time, config.max_memory_usage) == (0.5, 2 << 20)
    assert config.resolver.__module__.endswith("resolver.blocking")
    config.monitor_thread = "yes"
    assert config.monitor_thread is True
    assert set(dir(config)) == set(config.settings)
    with pytest.raises(ValueError, match="boolean"):
        config.monitor_thread = "perhaps"
    with pytest.raises(ValueError, match="positive"):
        config.max_blocking_time = -1
    for wrong in (lambda: config.no_such, lambda: setattr(config, "no_such", 1)):
        with pytest.raises(AttributeError, match="no_such"):
            wrong()
    with pytest.raises(ImportError, match="resolver"):
        config.resolver = "gevent.resolver.no_such.Resolver"


def test_who_runs_is_shown() -> None:
    own: Any = local()
    own.colour = "blue"
    file = io.StringIO()
    waiting = spawn(sleep, 1000)
    sleep(0)
    util.print_run_info(file=file)
    waiting.kill()
    text = file.getvalue()
    for expected in (
        "* Threads",
        "* Greenlets",
        "(CURRENT",
        "Greenlet Locals:",
        "'colour': 'blue'",
        repr(waiting)[:20],
    ):
        assert expected in text


def test_a_block_that_keeps_others_from_running_is_an_error() -> None:
    with pytest.raises(AssertionError, match="To any greenlet"), util.assert_switches():
        pass
    with util.assert_switches():
        sleep(0)
    with pytest.raises(ZeroDivisionError), util.assert_switches():
        _ = 1 / 0


def test_errors_are_returned() -> None:
    safe = util.wrap_errors(ValueError, int)
    assert safe("3") == 3
    assert isinstance(safe("x"), ValueError)
    with pytest.raises(TypeError):
        safe(None)
