"""`gevent` itself is weft's where it is asked for; the standard library, where it is patched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from interpreter import prints, python

ASKED_FOR = ("-m", "weft", "--only", "gevent")


def test_gevent_has_to_be_asked_for() -> None:
    ask = "import sys, weft; weft.install(); print('gevent' in weft._install.parse_names(None))"
    assert prints("-c", ask) == ["False"]
    ask = "import gevent, weft.gevent as ours, greenlet, weft.greenlet as g; print(gevent is ours, greenlet is g)"
    assert prints(*ASKED_FOR, "-c", ask) == ["True True"]


def test_all_parts_have_both_names() -> None:
    ask = """
import weft; weft.install("gevent")
import gevent.socket, weft.gevent.socket, weft.gevent.monkey
from gevent import monkey, pool
print(gevent.socket is weft.gevent.socket, monkey is weft.gevent.monkey, pool.__name__)
print(gevent.config.loop is gevent.core.loop, gevent._hub.Loop is weft._native._hub.Loop)
"""
    assert prints("-c", ask) == ["True True gevent.pool", "True True"]


def test_children_have_it_too() -> None:
    child = "import gevent, weft.gevent as ours; print(gevent is ours)"
    ask = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    assert prints(*ASKED_FOR, "-c", ask) == ["True"]


@pytest.mark.parametrize("name", ["fileobject", "pywsgi", "subprocess"])
def test_what_is_not_there_says_what_there_is(name: str) -> None:
    ended = python("-c", f"import weft.gevent.{name}")
    assert (
        ended.code == 1
        and "ModuleNotFoundError: weft.gevent" in ended.err
        and f"(gevent.{name}). It has" in ended.err
    )


PATCHED = """
import warnings
from weft.gevent import monkey
with warnings.catch_warnings(record=True) as told:
    monkey.patch_all()
"""


def test_what_is_not_patched_is_said_once() -> None:
    ask = (
        PATCHED
        + """
print(*sorted(str(each.message).partition(" ")[0] for each in told))
print({each.category is monkey.MonkeyPatchWarning for each in told})
with warnings.catch_warnings(record=True) as told:
    monkey.patch_all()
print(len(told))
"""
    )
    assert prints("-c", ask) == ["subprocess", "{True}", "0"]


def test_patched_programs_wait_in_greenlets() -> None:
    ask = (
        PATCHED
        + """
import os, queue, select, socket, threading, time
order = []
near, far = socket.socketpair()
items = queue.Queue()
lock = threading.Lock()
event = threading.Event()

def first():
    with lock:
        order.append(near.recv(10).decode())
    items.put("item")

def second():
    time.sleep(0.001)
    order.append("second")
    far.send(b"first")
    order.append(items.get())
    with lock:
        event.set()

threads = [threading.Thread(target=work) for work in (first, second)]
for thread in threads:
    thread.start()
event.wait()
for thread in threads:
    thread.join()
print(*order, threading.active_count(), threading.current_thread() is threading.main_thread())
pid = os.fork()
if not pid:
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), select.select([near], [near], [], 1)[1] == [near])
"""
    )
    assert prints("-c", ask) == ["second first item 1 True", "3 True"]


def test_the_end_of_the_program_waits_for_its_threads() -> None:
    ask = (
        PATCHED
        + """
import threading, time
def work():
    threading.main_thread().join()
    time.sleep(0.001)
    print("thread")
threading.Thread(target=work).start()
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print("main")
"""
    )
    assert prints("-c", ask) == ["main", "thread"]


def test_a_thread_of_before_is_waited_for_by_its_greenlet_alone() -> None:
    ask = (
        """
import threading, time, _thread
go = _thread.allocate_lock()
go.acquire()
thread = threading.Thread(target=go.acquire)
thread.start()
"""
        + PATCHED
        + """
from weft.gevent import spawn, sleep
joining = spawn(thread.join)
sleep(0)
print(joining.ready())
go.release()
joining.join()
print(thread.is_alive())
"""
    )
    assert prints("-c", ask) == ["False", "False"]


def test_what_was_there_is_kept() -> None:
    ask = (
        PATCHED
        + """
import socket, time
from weft.gevent import socket as ours, time as our_time
print(socket.socket is ours.socket, time.sleep is our_time.sleep)
sleep, other = monkey.get_original("time", ["sleep", "time"])
print(sleep.__module__, other is time.time, monkey.get_original(["no_such", "socket"], "socket").__module__)
print(monkey.is_module_patched("time"), monkey.is_object_patched("time", "time"), monkey.is_anything_patched())
"""
    )
    assert prints("-c", ask) == ["True True", "time True socket", "True False True"]


def test_subscribers_may_refuse() -> None:
    ask = """
from weft.gevent import events, monkey
import time
seen = []
def veto(event):
    seen.append(type(event).__name__)
    if isinstance(event, events.GeventWillPatchModuleEvent) and event.module_name == "time":
        raise events.DoNotPatch
events.subscribers.append(veto)
before = time.sleep
monkey.patch_time()
print(time.sleep is before, seen)
monkey.patch_signal()
print(seen[1:])
"""
    assert prints("-c", ask) == [
        "True ['GeventWillPatchModuleEvent']",
        "['GeventWillPatchModuleEvent', 'GeventDidPatchModuleEvent']",
    ]


def test_a_program_is_patched_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import sys, socket, time\nfrom gevent import monkey\n"
        "print(sys.argv[1:], __name__, monkey.is_module_patched('socket'), monkey.is_module_patched('time'))\n"
    )
    run = (*ASKED_FOR, "-m", "gevent.monkey", "--socket", str(tmp_path / "program.py"), "--option")
    assert prints(*run) == ["['--option'] __main__ True False"]
    ended = python(*ASKED_FOR, "-m", "gevent.monkey", "--no-such", "x")
    assert ended.code == 1 and "Cannot patch 'no-such'" in ended.err
