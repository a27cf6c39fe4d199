"""Finalizers, and methods of somebody's own, that do the worst at the worst time: destroy the hub, or wait in it.

Each script runs in an interpreter of its own whose allocators overwrite what is freed, so that whoever looks there all the
same is found out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent

import pytest

_CHECKED = {
    **os.environ,
    "PYTHONMALLOC": "debug",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.perturb=165",
}

_PREAMBLE = """
import gc, sys, time
import weft.gevent as gevent
from weft.gevent import get_hub, hub as hubs
from weft.gevent.event import AsyncResult, Event
from weft.gevent.queue import Queue

hub = get_hub()


class Bomb:
    def __init__(self, deed=lambda: hub.loop.destroy()):
        self.deed = deed

    def __del__(self):
        try:
            self.deed()
        except BaseException as error:
            print("finalizer:", type(error).__name__)


class Collected:
    '''Whatever allocates next runs `deed`, in the collector.'''

    def __init__(self, deed):
        gc.collect()
        bomb = Bomb(deed)
        bomb.me = bomb

    def __enter__(self):
        gc.set_threshold(1)
        gc.enable()

    def __exit__(self, *error):
        gc.disable()


gc.disable()
"""


def run(script: str) -> list[str]:
    outcome = subprocess.run(
        [sys.executable, "-c", _PREAMBLE + dedent(script)],
        env=_CHECKED,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout.split("\n")[:-1]


DESTROYED = "operation on destroyed loop"


@pytest.mark.parametrize(
    "call",
    [
        "hub.loop.run_callback(int)",
        "gevent.spawn_raw(int, base=10)",
        "gevent.spawn(int)",
        "Event().wait(0.01)",
    ],
)
@pytest.mark.parametrize("allocation", [1, 2, 3])
def test_the_collector_destroys_the_hub_meanwhile(call: str, allocation: int) -> None:
    found = run(f"""
        destroys = Collected(lambda: hub.destroy(destroy_loop=True))
        held = []
        try:
            gc.set_threshold({allocation})
            gc.enable()
            {call}
            said = "fine"
        except BaseException as error:
            said = str(error)
        gc.disable()
        print(repr(said))
    """)[-1]
    assert any(
        said in found for said in ("fine", DESTROYED, "a hub whose loop runs", "nobody runs", "block forever")
    ), found


@pytest.mark.parametrize("kind", ["timer(100)", "io(0, 1)", "signal(10)", "prepare()"])
def test_the_old_function_of_a_watcher_destroys_the_loop(kind: str) -> None:
    assert run(f"""
        watcher = hub.loop.{kind}
        watcher.start(lambda bomb=Bomb(): None)
        watcher.stop()
        watcher.callback = lambda bomb=Bomb(): None
        try:
            watcher.start(print)
        except ValueError as error:
            print(error)
        print(watcher.active)
    """) == [DESTROYED, "False"]


@pytest.mark.parametrize("deed", ["put('item', timeout=0.1)", "get(timeout=0.1)"])
@pytest.mark.parametrize("look", [1, 2, 3])
def test_a_queues_own_size_destroys_the_hub(deed: str, look: int) -> None:
    [found] = run(f"""
        class Mine(Queue):
            looks = 0

            def _qsize(self):
                self.looks += armed
                if self.looks == {look}:
                    hub.destroy(destroy_loop=True)
                return 1 if {deed!r}.startswith("put") else 0

        armed = False
        queue = Mine(1)
        armed = True
        try:
            queue.{deed}
        except Exception as error:
            print(type(error).__name__)
    """)
    assert found in ("RuntimeError", "ValueError", "Full", "Empty")


def test_a_parent_that_vanishes_while_its_loop_is_looked_up() -> None:
    assert run("""
        from weft.greenlet import greenlet

        class Parent(greenlet):
            def __getattribute__(self, name):
                if name == "loop":
                    started.parent = hub
                    raise AttributeError(name)
                return super().__getattribute__(name)

            def __getattr__(self, name):
                return 7

        started = gevent.Greenlet(print)
        started.parent = Parent()
        try:
            started.start()
        except TypeError as error:
            print("parent of a Greenlet" in str(error))
    """) == ["True"]


@pytest.mark.parametrize("made", ["AsyncResult", "Queue"])
@pytest.mark.parametrize("deed", ["gevent.sleep(0.05)", "hub.loop.destroy()"])
def test_what_comes_as_its_only_waiter_gives_up_goes_in_the_hub(made: str, deed: str) -> None:
    found = run(f"""
        where = []

        def deed():
            where.append(gevent.getcurrent() is hub)
            {deed}

        held = [{made}()]

        def getter():
            mine = held[0]
            try:
                mine.get(timeout=0.006)
            except BaseException:
                pass
            del mine
            gevent.sleep(0.02)
            print("getter is back")

        def setter():
            gevent.sleep(0.005)
            mine = held.pop()
            mine.set(Bomb(deed)) if {made!r} == "AsyncResult" else mine.put(Bomb(deed))

        greenlets = [gevent.spawn(setter), gevent.spawn(getter), gevent.spawn(gevent.sleep, 0.03)]
        gevent.sleep(0)
        time.sleep(0.02)
        try:
            gevent.joinall(greenlets)
        except gevent.hub.LoopExit:
            print("nobody is left to run")
        print(where)
    """)
    assert found[-1] in ("[True]", "[]")
    if "sleep" in deed:
        assert "getter is back" in found


@pytest.mark.parametrize("what", ["Event()", "gevent.spawn(gate.wait)"])
def test_an_iwait_that_was_left_half_way_goes_in_the_hub(what: str) -> None:
    assert run(f"""
        where = []

        class Waited:
            def rawlink(self, callback): pass
            def unlink(self, callback): pass
            def __del__(self): where.append(gevent.getcurrent() is hub)

        gate = Event()
        one = {what}

        def left():
            two = Event()
            waiting = gevent.iwait([one, two, Waited()])
            two.set()
            assert next(waiting) is two
            del waiting
            (one if isinstance(one, Event) else gate).set()
            gevent.sleep(0.01)

        gevent.joinall([gevent.spawn(left), gevent.spawn(gevent.sleep, 0.02)])
        print(where)
    """) == ["[True]"]


def test_a_deque_that_is_asked_for_twice_at_once_has_the_items() -> None:
    assert run("""
        queue = Queue()
        for number in range(5):
            queue.put(number)
        seen = []
        with Collected(lambda: seen.append(queue.queue)):
            mine = queue.queue
        print(list(mine), queue.qsize(), all(each is mine for each in seen))
    """) == ["[0, 1, 2, 3, 4] 5 True"]


def test_a_key_in_a_greenlets_dictionary_that_raises() -> None:
    assert run("""
        class Key(str):
            def __hash__(self): return hash("switch_out")
            def __eq__(self, other): raise KeyError("of the key")

        def odd():
            vars(gevent.getcurrent())[Key("x")] = 1
            try:
                gevent.sleep(0.01)
            except KeyError as error:
                print(error)

        gevent.joinall([gevent.spawn(odd), gevent.spawn(lambda: print(list(range(2))))])
    """) == ["'of the key'", "[0, 1]"]


@pytest.mark.parametrize("answer", [False, True])
def test_a_ready_of_somebodys_own_takes_the_hub_away(answer: bool) -> None:
    assert run(f"""
        from weft.gevent.exceptions import InvalidThreadUseError
        from weft.gevent.lock import Semaphore

        class Odd(Semaphore):
            asked = 0

            def __init__(self): pass

            def ready(self):
                self.asked += 1
                if self.asked == 1:
                    hub.destroy(destroy_loop=True)
                    gc.collect()
                return {answer}

        odd = Odd()
        try:
            odd.wait()
        except (ValueError, InvalidThreadUseError) as error:
            print(error)
        print(odd.asked > 0)
        gevent.sleep(0.001)
        print("another hub works")
    """) == ["the hub that this belongs to is gone" if answer else DESTROYED, "True", "another hub works"]


def test_an_end_after_the_hub_is_told_to_those_that_wait_elsewhere() -> None:
    assert (
        run("""
        import threading

        ended, waiting = threading.Event(), threading.Event()
        made = []

        def other():
            made.append(gevent.spawn(gevent.sleep, 1000))
            gevent.sleep(0)
            ended.set()
            waiting.wait()
            get_hub().destroy(destroy_loop=True)
            made[0].throw(KeyError("late"))

        thread = threading.Thread(target=other)
        thread.start()
        ended.wait()

        def wait():
            made[0].join(timeout=30)
            print(made[0].ready())

        waiter = gevent.spawn(wait)
        gevent.sleep(0)
        waiting.set()
        waiter.join()
        thread.join()
    """)[-1]
        == "True"
    )


def test_a_loop_in_which_another_thread_sleeps_is_destroyed() -> None:
    assert run("""
        import threading

        asleep, made = threading.Event(), []

        def other():
            made.append(get_hub())
            get_hub().loop.timer(0).start(asleep.set)
            try:
                gevent.sleep(600)
            except BaseException as error:
                print(type(error).__name__)
            print("over")

        thread = threading.Thread(target=other)
        thread.start()
        asleep.wait()
        time.sleep(0.01)
        made[0].loop.destroy()
        thread.join(30)
        print(thread.is_alive())
    """)[-2:] == ["over", "False"]


def test_a_hub_that_is_destroyed_in_itself() -> None:
    assert (
        run("""
        hub.loop.run_callback(hub.destroy, True)
        try:
            gevent.sleep(10)
        except BaseException as error:
            print(type(error).__name__)
        gevent.sleep(0.001)
        print("another hub works")
    """)[-1]
        == "another hub works"
    )


@pytest.mark.parametrize("wait", ["queue.get", "near.recv", "lock.acquire", "event.wait"])
@pytest.mark.parametrize("in_thread", [False, True])
def test_a_greenlet_still_waits_for_a_process_when_its_thread_ends(wait: str, in_thread: bool) -> None:
    assert run(f"""
        import threading, datetime, weft

        queue, (near, far), lock, event = weft.Queue(), weft.Pipe(), weft.Lock(), weft.Event()
        lock.acquire()
        other = weft.Queue()

        def main():
            # Picklers are kept for the thread's next message.
            other.put(datetime.date(2020, 1, 1))
            near.send(datetime.date(2020, 1, 1))
            far.recv()
            weft.spawn({wait})
            weft.sleep(0.01)

        if {in_thread}:
            thread = threading.Thread(target=main)
            thread.start()
            thread.join()
        else:
            main()
        # Made anew here, which drops those that were left behind.
        far.send(datetime.date(2020, 1, 2))
        print("end")
    """) == ["end"]
