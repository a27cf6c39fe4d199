"""How greenlets wait, and what ends a wait."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
from weft import gevent
from weft.gevent import Greenlet, get_hub, getcurrent, sleep, spawn, spawn_raw
from weft.gevent import _hub as native
from weft.gevent.event import Event
from weft.gevent.exceptions import BlockingSwitchOutError, InvalidSwitchError, LoopExit
from weft.gevent.hub import Hub, Waiter
from weft.greenlet import greenlet, settrace


@pytest.mark.parametrize("traced", [False, True])  # through the hub, and straight from one to the next
def test_turns_are_taken_in_order(traced: bool) -> None:
    order = []

    def run(name: str) -> None:
        for _ in range(3):
            order.append(name)
            sleep(0)

    before = settrace((lambda event, arguments: None) if traced else None)
    try:
        gevent.joinall([spawn(run, name) for name in "abc"])
    finally:
        settrace(before)
    assert "".join(order) == "abc" * 3


def test_sleepers_wake_in_the_order_of_their_times() -> None:
    woken = []

    def run(tenths: int) -> None:
        sleep(tenths / 200)
        woken.append(tenths)

    start = time.monotonic()
    gevent.joinall([spawn(run, tenths) for tenths in (3, 1, 2, 0)])
    assert woken == [0, 1, 2, 3]
    assert time.monotonic() - start >= 0.015


def test_ten_thousand_sleep_at_once() -> None:
    done = gevent.joinall([spawn(sleep, 0.01) for _ in range(10_000)])
    assert all(each.successful() for each in done)


def test_a_busy_greenlet_starves_nobody() -> None:
    """It ends only when the timer has fired and the other thread was heard."""
    seen = []
    loop = get_hub().loop
    timer = loop.timer(0.002)
    timer.start(seen.append, "timer")
    told = loop.async_()
    told.start(lambda: (seen.append("thread"), told.stop()))

    def busy() -> None:
        told.send()
        while len(seen) < 2:
            sleep(0)

    gevent.joinall([spawn(busy) for _ in range(10)])
    told.close()
    assert sorted(seen) == ["thread", "timer"]


def test_kill_ends_a_sleep_and_leaves_nothing() -> None:
    sleeper = spawn(sleep, 3600)
    sleep(0)
    sleeper.kill()
    assert isinstance(sleeper.value, gevent.GreenletExit)
    assert get_hub().loop.activecnt == 0


def test_what_was_woken_and_killed_before_it_ran_does_not_run_again() -> None:
    steps = []

    def run() -> None:
        try:
            sleep(0)
            steps.append("ran")
        finally:
            steps.append("ended")

    victim = spawn(run)
    sleep(0)
    victim.kill(block=False)
    victim.join()
    sleep(0)
    assert steps[-1] == "ended" and steps.count("ended") == 1


def test_a_switch_by_a_stranger_is_no_wake_up() -> None:
    sleeper = spawn(sleep, 3600)
    sleep(0)
    spawn_raw(sleeper.switch, "surprise")
    with pytest.raises(InvalidSwitchError, match="surprise"):
        sleeper.get()


def test_the_hub_itself_cannot_wait() -> None:
    failures = []

    def in_the_hub() -> None:
        for block in (lambda: sleep(0), lambda: sleep(1), get_hub().switch, Event().wait):
            try:
                block()
            except BlockingSwitchOutError as error:
                failures.append(error)

    get_hub().loop.run_callback(in_the_hub)
    sleep(0.001)
    assert len(failures) == 4


def test_loop_exit_says_who_waits() -> None:
    never = Event()
    waiter = spawn(never.wait)
    with pytest.raises(LoopExit) as caught:
        waiter.join()
    text = str(caught.value)
    assert "would block forever" in text and "wait" in text and repr(get_hub())[:20] in text
    assert caught.value.hub is get_hub()
    # It can be used as before.
    never.set()
    assert waiter.get() is True


def test_a_greenlet_that_nobody_holds_is_let_go_of() -> None:
    class Sentinel:
        pass

    sentinel = Sentinel()
    gone = weakref.ref(sentinel)

    def run(held: Sentinel) -> None:
        sleep(0.001)

    started = spawn(run, sentinel)
    started.join()
    del started, sentinel
    gc.collect()
    assert gone() is None


def test_plain_greenlets_may_be_children_of_those_that_wait() -> None:
    def inner() -> str:
        sleep(0.001)
        return "inner"

    def outer() -> object:
        return greenlet(inner).switch()

    assert spawn(outer).get() == "inner"


def test_errors_are_reported_with_whose_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    failed = spawn(fail)
    failed.join()
    assert isinstance(failed.exception, ValueError)
    get_hub().loop.run_callback(fail)
    spawn_raw(fail)
    sleep(0.001)
    err = capsys.readouterr().err
    assert err.count("ValueError: on purpose") == 3
    assert "Greenlet" in err and "<callback" in err


def test_system_exit_reaches_the_main_greenlet() -> None:
    def leave() -> None:
        raise SystemExit(3)

    spawn_raw(leave)
    with pytest.raises(SystemExit):
        sleep(1)


def test_a_hub_of_ones_own_class() -> None:
    seen = []

    class Mine(Hub):
        def handle_error(self, context: object, kind: object, value: object, tb: object) -> None:
            seen.append((context, kind))

    get_hub().destroy()
    gevent.hub.set_default_hub_class(Mine)
    try:
        hub = get_hub()
        assert type(hub) is Mine
        spawn_raw(lambda: 1 / 0)
        sleep(0.001)
        assert [kind for _, kind in seen] == [ZeroDivisionError]
        hub.destroy()
    finally:
        gevent.hub.set_default_hub_class(Hub)


def test_a_hub_that_never_ran_is_garbage_and_one_that_ended_runs_nothing() -> None:
    made = Hub(default=False)
    gone, loop = weakref.ref(made), made.loop
    del made
    gc.collect()
    assert gone() is not None  # its loop may be waited at
    del loop
    gc.collect()
    assert gone() is None
    ended = get_hub()
    sleep(0)
    left = ended.loop
    ended.destroy(destroy_loop=False)
    assert ended.loop is None and "destroyed" in repr(ended)
    with pytest.raises(RuntimeError, match="nobody runs this loop"):
        native.sleep(left, 0.001)
    # The thread's next hub takes it over.
    assert get_hub().loop is left
    sleep(0)
    get_hub().destroy(destroy_loop=True)
    with pytest.raises(ValueError, match="destroyed loop"):
        native.sleep(left, 0.001)


def test_idle_waits_until_there_is_nothing_else() -> None:
    order = []

    def busy() -> None:
        for _ in range(20):
            sleep(0)
        order.append("busy")

    spawn(busy)
    gevent.idle()
    order.append("idle")
    assert order == ["busy", "idle"]


def test_a_waiter_takes_what_came_first_and_only_one_greenlet() -> None:
    waiter = Waiter()
    waiter.switch(3)
    assert waiter.get() == 3 and waiter.successful()
    failed = Waiter()
    failed.throw(ValueError("early"))
    with pytest.raises(ValueError, match="early"):
        failed.get()
    waiting = Waiter()
    first = spawn(waiting.get)
    sleep(0)
    with pytest.raises(AssertionError, match="already used"):
        waiting.get()
    with pytest.raises(AssertionError, match="Hub greenlet"):
        waiting.switch(1)
    get_hub().loop.run_callback(waiting.switch, 4)
    assert first.get() == 4


def test_what_is_not_there_yet_says_so() -> None:
    with pytest.raises(AttributeError, match="no 'pywsgi', or it is a module that was not imported"):
        gevent.pywsgi  # type: ignore[attr-defined]
    assert getcurrent() is get_hub().parent
    assert isinstance(spawn(int), Greenlet)
    sleep(0)
