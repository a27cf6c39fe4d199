"""The loop's watchers: descriptors, timers, threads, children, signals, and the points of a turn."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from weft.gevent.core import READ, READWRITE, WRITE, loop


@pytest.fixture
def own() -> Iterator[Any]:
    made = loop()
    yield made
    made.destroy()


def test_a_loop_with_nothing_to_wait_for_ends(own: Any) -> None:
    own.run()
    seen: list[int] = []
    own.run_callback(seen.append, 1)
    own.run_callback(lambda: own.run_callback(seen.append, 2))
    stopped = own.run_callback(seen.append, 3)
    stopped.stop()
    own.run()
    assert seen == [1, 2]
    assert not stopped.pending and stopped.callback is None


def test_an_io_watcher_is_told_as_long_as_its_descriptor_is_ready(own: Any) -> None:
    near, far = socket.socketpair()
    with near, far:
        seen: list[tuple[str, int]] = []
        reader = own.io(near.fileno(), READ)
        both = own.io(near.fileno(), READWRITE)

        def read(name: str, events: int) -> None:
            seen.append((name, events))
            if len(seen) >= 4:
                near.recv(1)
                reader.stop()
                both.stop()

        far.send(b"x")
        reader.start(read, "reader", 0)
        both.start(lambda events: read("both", events), 0, pass_events=True)
        own.run()
        assert ("reader", 0) in seen and ("both", READ | WRITE) in seen
        assert not reader.active and reader.fd == near.fileno() and both.events == READWRITE


def test_files_are_always_ready(own: Any) -> None:
    with open(__file__) as source:
        watcher = own.io(source.fileno(), READ)
        watcher.start(watcher.stop)
        own.run()
    assert not watcher.active


def test_what_cannot_be_watched_is_refused(own: Any) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        own.io(-1, READ)
    with pytest.raises(ValueError, match="event mask"):
        own.io(1, 8)
    with pytest.raises(ValueError, match="signal"):
        own.signal(1000)
    near, far = socket.socketpair()
    watcher = own.io(near.fileno(), READ)
    near.close()
    far.close()
    with pytest.raises(OSError, match="cannot watch descriptor"):
        watcher.start(int)
    assert not watcher.active and watcher.callback is None
    with pytest.raises(TypeError, match="Expected callable"):
        own.timer(0).start(None)


def test_timers_fire_once_or_again_and_again(own: Any) -> None:
    seen: list[str] = []
    once = own.timer(0.001)
    once.start(seen.append, "once")
    rounds = own.timer(0.0, repeat=0.001)

    def tick() -> None:
        seen.append("tick")
        if seen.count("tick") == 3:
            rounds.stop()

    rounds.start(tick)
    never = own.timer(3600, ref=False)
    never.start(seen.append, "never")
    own.run()
    assert sorted(seen) == ["once", "tick", "tick", "tick"]
    assert not once.active and never.active
    never.stop()


def test_a_timer_stopped_by_an_earlier_callback_does_not_fire(own: Any) -> None:
    seen: list[str] = []
    first, second, third = own.timer(0.001), own.timer(0.001), own.timer(0.001)
    # Of one instant, so that all are due in one turn; in this order.
    first.start(lambda: (seen.append("first"), second.stop()), update=False)
    second.start(seen.append, "second", update=False)
    third.start(seen.append, "third", update=False)
    own.run()
    assert seen == ["first", "third"]


def test_threads_wake_a_loop(own: Any) -> None:
    seen: list[str] = []
    told = own.async_()
    told.start(lambda: (seen.append("async"), told.stop()))
    threads = [
        threading.Thread(target=told.send),
        threading.Thread(target=lambda: own.run_callback_threadsafe(seen.append, "callback")),
    ]
    for thread in threads:
        thread.start()
    own.run()
    for thread in threads:
        thread.join()
    own.run()
    assert sorted(seen) == ["async", "callback"]


def test_the_end_of_a_child_is_told_with_its_status(own: Any) -> None:
    ends = []
    for code in ("raise SystemExit(3)", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"):
        child = subprocess.Popen([sys.executable, "-c", code])
        watcher = own.child(child.pid)
        watcher.start(lambda watcher=watcher: ends.append((watcher.rpid, watcher.rstatus)))
        own.run()
        assert ends[-1][0] == child.pid and not watcher.active
        child.returncode = os.waitstatus_to_exitcode(ends[-1][1])
    assert [os.waitstatus_to_exitcode(status) for _, status in ends] == [3, -signal.SIGTERM]


def test_other_children_are_left_alone(own: Any) -> None:
    mine = subprocess.Popen([sys.executable, "-c", "raise SystemExit(4)"])
    watched = subprocess.Popen([sys.executable, "-c", ""])
    watcher = own.child(watched.pid)
    watcher.start(lambda: None)
    own.run()
    watched.returncode = 0
    assert mine.wait() == 4


def test_signals_are_told_and_what_was_there_before_comes_back(own: Any) -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
    try:
        seen: list[str] = []
        watcher = own.signal(signal.SIGUSR1)
        watcher.start(lambda: (seen.append("signal"), watcher.stop()))
        own.run_callback(os.kill, os.getpid(), signal.SIGUSR1)
        own.run()
        assert seen == ["signal"] and caught == []
        os.kill(os.getpid(), signal.SIGUSR1)
        assert caught == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_points_of_a_turn_come_in_order(own: Any) -> None:
    seen: list[str] = []
    watchers = [own.check(), own.prepare()]
    for watcher, name in zip(watchers, ("check", "prepare"), strict=True):
        watcher.start(seen.append, name)
    own.run_callback(seen.append, "callback")
    own.run(nowait=True)
    for watcher in watchers:
        watcher.stop()
    assert seen == ["prepare", "callback", "check"]


def test_an_exception_goes_to_whoever_handles_errors(own: Any) -> None:
    seen = []
    own.error_handler = lambda context, kind, value, tb: seen.append((context, kind))
    timer = own.timer(0)
    timer.start(lambda: 1 / 0)
    callback = own.run_callback(lambda: [][0])
    own.run()
    assert dict(seen) == {callback: IndexError, timer: ZeroDivisionError}


def test_a_destroyed_loop_says_so(own: Any) -> None:
    timer = own.timer(1)
    timer.start(int)
    assert own.destroy() and not own.destroy()
    assert not timer.active and own.fileno() is None and "destroyed" in repr(own)
    for use in (own.run, own.now, lambda: own.timer(0), lambda: own.run_callback(int)):
        with pytest.raises(ValueError, match="destroyed loop"):
            use()


def test_stopped_watchers_are_garbage(own: Any) -> None:
    watcher = own.timer(1)
    watcher.start(lambda: watcher)
    gone = weakref.ref(watcher)
    watcher.stop()
    del watcher
    gc.collect()
    assert gone() is None


def test_a_forked_child_has_a_loop_of_its_own(own: Any) -> None:
    near, far = socket.socketpair()
    with near, far:
        seen: list[str] = []
        reader = own.io(near.fileno(), READ)
        reader.start(lambda: (seen.append("read"), reader.stop()))
        forked = own.fork(ref=False)
        forked.start(seen.append, "fork")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                far.send(b"x")
                own.run()
                status = 0 if seen == ["fork", "read"] else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        own.run()  # the byte is still there
        assert seen == ["read"]
        forked.stop()
