"""Generators and `async def` functions on the hub, beside greenlets."""

from __future__ import annotations

import contextvars
import gc
import os
import re
import socket
import sys
import threading
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import weft
from weft import coroutines, gevent
from weft.coroutines import (
    Coroutine,
    Timeout,
    current,
    joinall,
    killall,
    readable,
    sleep,
    spawn,
    until,
    writable,
)
from weft.gevent import Greenlet, GreenletExit, get_hub
from weft.gevent.event import AsyncResult, Event
from weft.gevent.exceptions import BlockingSwitchOutError, InvalidThreadUseError, LoopExit
from weft.gevent.queue import Queue

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from interpreter import prints


def test_all_that_spawn_takes() -> None:
    def function(number: int, more: int = 0) -> int:
        sleep(0)
        return number + more

    def generator(number: int, more: int = 0) -> Generator[Any, Any, int]:
        yield
        return number + more

    async def coroutine(number: int, more: int = 0) -> int:
        await sleep(0)
        return number + more

    class Made:
        def method(self, number: int) -> Generator[Any, Any, int]:
            yield
            return number

        async def __call__(self, number: int) -> int:
            return number

    started = [
        spawn(function, 1, more=1),
        spawn(generator, 1, more=1),
        spawn(coroutine, 1, more=1),
        spawn(generator(1, 1)),
        spawn(coroutine(1, 1)),
        spawn(partial(generator, 1), 1),
        spawn(partial(coroutine, 1), more=1),
        spawn(Made().method, 2),
        spawn(Made(), 2),
        weft.spawn(generator, 2),
    ]
    assert [type(each) for each in started] == [Greenlet] + [Coroutine] * 9
    assert [each.get() for each in started] == [2] * 10
    assert all(each.ready() and each.successful() and each.value == 2 for each in started)
    with pytest.raises(TypeError, match="no arguments"):
        spawn(generator(1), 1)
    for nothing in (3, None, [function]):
        with pytest.raises(TypeError, match="spawn needs a function, a generator or a coroutine, not "):
            spawn(nothing)


def test_spawn_refuses_async_generators() -> None:
    async def numbers() -> AsyncGenerator[int, None]:
        yield 1

    for each in (numbers, partial(numbers), numbers()):
        with pytest.raises(TypeError, match=r"async generator .*: spawn an `async def` function"):
            spawn(each)


def test_an_async_def_function_awaits_what_spawn_returned() -> None:
    def function() -> str:
        sleep(0)
        return "value"

    def fails() -> None:
        raise KeyError("key")

    async def coroutine() -> list[str]:
        with pytest.raises(KeyError, match="key"):
            await spawn(fails)
        return [await spawn(function), await spawn(inner)]

    async def inner() -> str:
        return "inner"

    assert spawn(coroutine).get() == ["value", "inner"]


def test_joinall_says_what_was_not_spawned() -> None:
    async def coroutine() -> None:
        pass

    def function() -> None:
        pass

    async def joins(objects: list[Any]) -> None:
        await joinall(objects)

    made = coroutine()
    for wrong in (made, function):
        pattern = f"joinall needs what spawn returned, not .*{wrong.__qualname__}.*: spawn it first"
        with pytest.raises(TypeError, match=pattern):
            joinall([spawn(function), wrong])
        with pytest.raises(TypeError, match=pattern):
            spawn(joins, [wrong]).get()
    made.close()
    with pytest.raises(TypeError, match=r"not 3$"):
        joinall([3])
    assert joinall([]) == []


def test_what_a_coroutine_forgot_to_wait_for_is_warned_of() -> None:
    left, right = socket.socketpair()
    with left, right:
        made: list[Callable[[], Any]] = [
            lambda: joinall([]),
            lambda: until(Event()),
            lambda: readable(left),
            lambda: writable(left),
            lambda: weft.offload(int),
        ]
        names = ["joinall", "until", "readable", "writable", "offload"]

        async def forgets() -> None:
            for make in made:
                make()

        def waits() -> Generator[Any, Any, None]:
            done = Event()
            done.set()
            yield joinall([])
            yield until(done)
            yield writable(left)
            yield weft.offload(int)
            yield left if right.send(b"x") else None

        async def awaits() -> None:
            await joinall([])
            await writable(left)
            await weft.offload(int)
            await until(left)

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            spawn(forgets).get()
            gc.collect()
        assert [each.category for each in told] == [RuntimeWarning] * 5
        for name, each in zip(names, told, strict=True):
            pattern = rf"{name}\(.*\) was never waited for: await it, or yield it$"
            assert re.match(pattern, str(each.message)) and each.filename == __file__
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            spawn(waits).get()
            spawn(awaits).get()
            gc.collect()
        assert told == []


def test_what_blocks_in_a_coroutine_says_what_to_do() -> None:
    event, result = Event(), AsyncResult()
    calls: list[Callable[[], Any]] = [event.wait, result.get, spawn(event.wait).get, spawn(event.wait).join]

    async def coroutine(call: Callable[[], Any]) -> None:
        call()

    for call in calls:
        with pytest.raises(BlockingSwitchOutError, match=r"a coroutine awaits or yields .*await until\(x\)"):
            spawn(coroutine, call).get()
    event.set()


def test_turns_are_taken_with_greenlets() -> None:
    order = []

    def generator(name: str) -> Generator[None, None, None]:
        for _ in range(3):
            order.append(name)
            yield

    async def coroutine(name: str) -> None:
        for _ in range(3):
            order.append(name)
            await sleep(0)

    def function(name: str) -> None:
        for _ in range(3):
            order.append(name)
            sleep(0)

    joinall([spawn(generator, "a"), spawn(coroutine, "b"), spawn(function, "c"), spawn(generator, "d")])
    assert "".join(order) == "abcd" * 3


def test_sleepers_wake_in_order() -> None:
    woken = []

    def run(tenths: int) -> Generator[float, None, None]:
        yield tenths / 500
        woken.append(tenths)

    async def run_async(tenths: int) -> None:
        await sleep(tenths / 500)
        woken.append(tenths)

    joinall([spawn(run, 3), spawn(run_async, 1), spawn(run, 2), spawn(run, 0)])
    assert woken == [0, 1, 2, 3]


def test_results_and_errors_of_others_come_back() -> None:
    def ends(value: Any) -> Generator[None, None, Any]:
        yield
        return value

    def fails() -> Generator[None, None, None]:
        yield
        raise ValueError("on purpose")

    def greenlet_fails() -> None:
        raise KeyError("on purpose")

    def main() -> Generator[Any, Any, list[Any]]:
        got: list[Any] = [(yield spawn(ends, 1)), (yield spawn(lambda: 2))]
        ended = spawn(ends, 3)
        yield 0.001
        got.append((yield ended))
        for failing, error in [(fails, ValueError), (greenlet_fails, KeyError)]:
            try:
                yield spawn(failing)
            except error as caught:
                got.append(str(caught))
        return got

    async def main_async() -> list[Any]:
        got: list[Any] = [await spawn(ends, 1), await until(spawn(lambda: 2)), await ends_async(3)]
        for failing, error in [(fails, ValueError), (greenlet_fails, KeyError)]:
            try:
                await until(spawn(failing))
            except error as caught:
                got.append(str(caught))
        return got

    async def ends_async(value: int) -> int:
        await sleep(0.001)
        return value

    expected = [1, 2, 3, "on purpose", "'on purpose'"]
    assert spawn(main).get() == expected
    assert spawn(main_async).get() == expected


def test_events_results_and_queues() -> None:
    event, result, items = Event(), AsyncResult(), Queue()
    failed = AsyncResult()

    def main() -> Generator[Any, Any, list[Any]]:
        got = [(yield event), (yield result), (yield items), (yield items), (yield event)]
        try:
            yield failed
        except OSError as error:
            got.append(error.args)
        return got

    running = spawn(main)
    for step in (event.set, partial(result.set, "r"), partial(items.put, 1), partial(items.put, 2)):
        sleep(0.001)
        assert not running.ready()
        step()
    failed.set_exception(OSError(5))
    assert running.get() == [True, "r", 1, 2, True, (5,)]


def test_a_process_queue() -> None:
    items: weft.Queue[int] = weft.Queue()
    others: list[int] = []

    def main() -> Generator[Any, Any, int]:
        total = 0
        for _ in range(4):
            total += yield items
        return total

    async def main_async() -> int:
        return sum([await until(items) for _ in range(4)])

    running = [spawn(main), spawn(main_async), spawn(lambda: sum(items.get() for _ in range(4)))]
    for number in range(12):
        sleep(0.0005)
        others.append(number)
        items.put(number)
    assert sum(each.get() for each in running) == sum(range(12))


def test_sockets_and_descriptors() -> None:
    near, far = socket.socketpair()

    def read() -> Generator[Any, Any, bytes]:
        assert (yield near) is near
        return near.recv(10)

    async def read_async() -> bytes:
        number = await readable(near.fileno())
        assert number == near.fileno()
        await writable(near)
        return near.recv(10)

    with near, far:
        for function in (read, read_async):
            reader = spawn(function)
            sleep(0.002)
            assert not reader.ready()
            far.send(b"bytes")
            assert reader.get() == b"bytes"
        waiter = gevent.spawn(readable, near)
        sleep(0.002)
        far.send(b"x")
        assert waiter.get() is near
        near.recv(1)
        # Closed behind its back: whoever tries learns of it.
        reader = spawn(read)
        sleep(0.001)
        far.close()
        assert reader.get() == b""
    with pytest.raises(ValueError, match="is closed"):
        spawn(read).get()


def test_what_cannot_be_waited_for_says_so() -> None:
    def wait(thing: object) -> Generator[Any, Any, str]:
        try:
            yield thing
        except TypeError as error:
            return str(error)
        return "waited"

    assert "cannot wait for [1]" in spawn(wait, [1]).get()
    assert "cannot wait for True" in spawn(wait, True).get()
    with pytest.raises(ValueError, match="no number"):
        spawn(wait, float("nan")).get()

    def wait_for_itself() -> Generator[Any, Any, None]:
        yield current()

    with pytest.raises(RuntimeError, match="its own end"):
        spawn(wait_for_itself).get()


def test_kill_ends_every_kind_of_wait_and_leaves_nothing() -> None:
    near, far = socket.socketpair()
    items: weft.Queue[int] = weft.Queue()
    never = Event()
    cleaned = []

    def wait(thing: Any) -> Generator[Any, Any, None]:
        try:
            yield thing
        finally:
            cleaned.append(thing)

    sleeper = gevent.spawn(gevent.sleep, 3600)
    things = [3600, never, Queue(), items, near, sleeper, AsyncResult(), spawn(wait, 3600)]
    with near, far:
        waits = [spawn(wait, thing) for thing in things]
        sleep(0.001)
        killall([things[-1], sleeper, *waits])
    assert all(isinstance(each.value, GreenletExit) and each.successful() for each in waits)
    assert len(cleaned) == len(things) + 1
    assert get_hub().loop.activecnt == 0 and not never.linkcount()
    unstarted = Coroutine(wait(1))
    unstarted.kill()
    assert unstarted.ready() and isinstance(unstarted.value, GreenletExit)
    with pytest.raises(ValueError, match="other"):
        other = spawn(wait, 1)
        other.kill(ValueError("other"))
        other.get()


def test_a_killed_one_does_not_take_an_item_along() -> None:
    process_items: weft.Queue[int] = weft.Queue()
    for items in (Queue(), process_items):
        got = []

        def get(items: Any = items, got: list[int] = got) -> Generator[Any, Any, None]:
            got.append((yield items))

        for number in range(30):
            victim = spawn(get)
            sleep(0 if number % 2 else 0.001)
            items.put(number)
            if number % 3:
                sleep(0)
            victim.kill()
            if items.qsize():
                got.append(items.get())
        assert got == list(range(30))


def test_a_kill_while_it_runs_comes_at_the_next_wait() -> None:
    steps = []

    def run() -> Generator[Any, Any, None]:
        itself: Any = current()
        itself.kill(block=False)
        steps.append("ran on")
        try:
            yield 3600
        finally:
            steps.append("ended")

    assert isinstance(spawn(run).get(), GreenletExit)
    assert steps == ["ran on", "ended"]


def test_timeouts() -> None:
    def run() -> Generator[Any, Any, list[str]]:
        got = []
        try:
            with Timeout(0.001):
                yield 3600
        except Timeout as error:
            got.append(str(error))
        with Timeout(0.001, False):
            yield Event()
            got.append("never")
        with Timeout(3600) as unused:
            yield 0.001
        assert not unused.pending
        started = Timeout.start_new(0.001, KeyError("later"))
        assert started.pending and Timeout.start_new(started) is started
        try:
            yield 3600
        except KeyError:
            got.append("later")
        Timeout(None).start()
        return got

    async def run_async() -> str:
        try:
            with Timeout(0.001, KeyError("mine")):
                await sleep(3600)
        except KeyError:
            return "mine"
        return "never"

    assert spawn(run).get() == ["0.001 seconds", "later"]
    assert spawn(run_async).get() == "mine"
    endless = spawn(run_for_ever)
    # One class for all, so that whoever expects one gets the other.
    assert Timeout is gevent.Timeout
    with pytest.raises(Timeout):
        endless.get(timeout=0.001)
    endless.join(timeout=0.001)
    assert not endless.ready()
    endless.kill()


def run_for_ever() -> Generator[Any, Any, None]:
    while True:
        yield 0.0005


def test_links_and_who_waits_for_the_end() -> None:
    called = []

    def run(value: Any) -> Generator[Any, Any, Any]:
        yield
        if value is None:
            raise ValueError("failed")
        return value

    good, bad = spawn(run, 5), spawn(run, None)
    for each in (good, bad):
        each.link(lambda source: called.append(("link", source.value)))
        each.link_value(lambda source: called.append(("value", source.value)))
        each.link_exception(lambda source: called.append(("exception", str(source.exception))))
        each.rawlink(called.append)
        each.unlink(called.append)
    joinall([good, bad])
    sleep(0.001)
    assert sorted(called, key=str) == [("exception", "failed"), ("link", 5), ("link", None), ("value", 5)]
    late: list[Any] = []
    good.rawlink(late.append)
    sleep(0)
    assert late == [good]
    assert good.exc_info == () and bad.exc_info[0] is ValueError
    waiters = [gevent.spawn(spawn(run, 7).get) for _ in range(5)]
    assert [each.get() for each in waiters] == [7] * 5
    assert "test_links" in repr(spawn(run, 1)) and "done" in repr(good)


def test_joinall_in_a_coroutine() -> None:
    def run(seconds: float) -> Generator[float, None, float]:
        yield seconds
        return seconds

    def main() -> Generator[Any, Any, list[Any]]:
        ended = yield joinall([spawn(run, 0.002), spawn(run, 0), gevent.spawn(gevent.sleep, 0.001)])
        return [each.value for each in ended]

    async def main_async() -> list[Any]:
        return [each.value for each in await joinall([spawn(run, 0.002), spawn(run, 0)])]

    assert spawn(main).get() == [0.002, 0, None]
    assert spawn(main_async).get() == [0.002, 0]


def test_errors_are_reported_and_reach_the_main_greenlet(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Generator[None, None, None]:
        yield
        raise ValueError("on purpose")

    def leave() -> Generator[None, None, None]:
        yield
        raise SystemExit(3)

    spawn(fail).join()
    err = capsys.readouterr().err
    assert "ValueError: on purpose" in err and "<Coroutine" in err
    spawn(leave)
    with pytest.raises(SystemExit):
        sleep(1)


def test_what_blocks_says_so_in_a_coroutine() -> None:
    others = [spawn(gevent.sleep, 3600), spawn(run_for_ever)]

    def run() -> Generator[None, None, int]:
        refused = 0
        for call in (Event().wait, partial(gevent.sleep, 1), others[0].get, others[1].join, others[1].kill):
            try:
                call()
            except BlockingSwitchOutError:
                refused += 1
            yield
        return refused

    assert spawn(run).get() == 5
    killall(others)


def test_a_busy_one_starves_nobody() -> None:
    seen = []
    timer = get_hub().loop.timer(0.002)
    timer.start(seen.append, "timer")

    def busy() -> Generator[None, None, None]:
        while not seen:
            yield

    done = Event()
    done.set()

    def always_ready() -> Generator[Any, None, None]:
        while not seen:
            yield done

    joinall([*[spawn(busy) for _ in range(10)], spawn(always_ready)])
    assert seen == ["timer"]


def test_fifty_thousand_at_once_and_none_is_kept() -> None:
    class Sentinel:
        pass

    sentinel = Sentinel()
    gone = weakref.ref(sentinel)

    def run(number: int, held: object) -> Generator[float, None, int]:
        yield 0.001
        yield
        return number

    started = [spawn(run, number, sentinel) for number in range(50_000)]
    del sentinel
    assert sum(each.get() for each in started) == sum(range(50_000))
    del started
    gc.collect()
    assert gone() is None


def test_a_destroyed_hub_lets_go_of_them() -> None:
    closed = []

    def run() -> Generator[Any, None, None]:
        try:
            yield Event()
        finally:
            closed.append("closed")

    spawn(run)
    sleep(0)
    get_hub().destroy(destroy_loop=True)
    gc.collect()
    assert closed == ["closed"]


def test_another_threads_is_refused_and_may_wake() -> None:
    event = Event()
    theirs: list[Any] = []
    made, over = threading.Event(), threading.Event()

    def in_a_thread() -> None:
        theirs.append(spawn(run_for_ever))
        made.set()
        while not over.is_set():
            gevent.sleep(0.001)
        killall(theirs)
        get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    made.wait()

    def run(thing: Any) -> Generator[Any, Any, Any]:
        return (yield thing)

    with pytest.raises(InvalidThreadUseError):
        theirs[0].join()
    with pytest.raises(InvalidThreadUseError):
        spawn(run, theirs[0]).get()
    waiter = spawn(run, event)
    keep = get_hub().loop.async_()  # something may come from outside
    keep.start(int)
    setter = threading.Thread(target=event.set)
    sleep(0.001)
    setter.start()
    assert waiter.get() is True
    setter.join()
    keep.close()
    over.set()
    thread.join()


def test_in_the_child_of_a_fork() -> None:
    def run() -> Generator[Any, Any, str]:
        yield 0.005
        return "slept"

    sleeper = spawn(run)
    sleep(0)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if sleeper.get() == "slept" and spawn(run).get() == "slept" else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert sleeper.get() == "slept"


def test_context_variables_are_those_of_the_generator() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    assert spawn(lambda: variable.get()).get() == 0


def test_loop_exit_lists_who_waits_for_what() -> None:
    never, nothing = Event(), Queue()

    def waits_in_a_call() -> None:
        never.wait()

    def generator_waits() -> Generator[Any, Any, None]:
        yield from inner_generator()

    def inner_generator() -> Generator[Any, Any, None]:
        yield never

    async def coroutine_waits() -> None:
        await until(nothing)

    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    started = [spawn(waits_in_a_call), spawn(generator_waits), spawn(coroutine_waits)]
    with pytest.raises(LoopExit) as caught:
        joinall(started)
    text = str(caught.value)
    assert "would block forever" in text
    for part in (
        "in test_loop_exit",
        "never.wait()",
        "inner_generator",
        "yield never",
    ):
        assert part in text, text
    assert re.search(r"<Greenlet .*> waits for .*Event at .* clear", text), text
    assert re.search(r"<Coroutine .*> waits for <.*Event at", text), text
    assert "waits for <Queue" in text and "await until(nothing)" in text, text
    more = [spawn(waits_in_a_call) for _ in range(30)]
    with pytest.raises(LoopExit) as caught:
        more[0].join()
    entries = list(caught.value.args[2])
    # The queue's own scout waits as well.
    assert len(entries) == 11 and entries[-1] == "and 24 more"
    assert all(len(entry) < 2000 for entry in entries)
    never.set()
    nothing.put(1)
    joinall([*started, *more])
    from weft.gevent._waits import shown

    assert "whose repr raised RuntimeError" in shown(Rude()) and len(shown("x" * 9999)) == 200


def test_the_modules_names_are_there() -> None:
    for name in coroutines.__all__:
        assert getattr(coroutines, name) is not None
    for name in ("Timeout", "coroutines", "joinall", "offload", "sleep", "spawn"):
        assert getattr(weft, name) is not None


def test_gevent_is_imported_when_it_is_used() -> None:
    ask = "import sys, weft; print('weft.gevent' in sys.modules, weft.gevent.__name__, 'gevent' in dir(weft))"
    assert prints("-c", ask) == ["False weft.gevent True"]
