"""The loop's watchers of files: changes, comings and goings under a name."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import weft.gevent
from weft.gevent.core import loop

# So long that no test ever comes to it: what is told is told by the kernel.
NEVER = 24 * 3600.0
SHORTEST = 0.1074891


@pytest.fixture
def own() -> Iterator[Any]:
    made = loop()
    yield made
    made.destroy()


def told(own: Any, watcher: Any, change: Callable[[], object]) -> None:
    """Run the loop until the watcher, which is not started, was told of what `change` does."""
    watcher.start(watcher.stop)
    change()
    own.run()
    assert not watcher.active and not watcher.pending


def same(status: os.stat_result | None, path: Path) -> bool:
    assert status is not None
    found = path.lstat()
    names = [name for name in dir(found) if name.startswith("st_") and not name.startswith("st_atime")]
    assert names and isinstance(status, os.stat_result)
    return all(getattr(status, name) == getattr(found, name) for name in names) and status[:7] == found[:7]


def test_comings_goings_and_changes_are_told(own: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    watcher = own.stat(str(path), NEVER)
    assert (watcher.path, watcher._paths, watcher.interval) == (str(path), bytes(path), NEVER)
    assert watcher.attr is None and watcher.prev is None and not watcher.active
    told(own, watcher, path.touch)
    assert same(watcher.attr, path) and watcher.attr.st_size == 0 and watcher.prev is None
    told(own, watcher, lambda: path.write_text("four"))
    assert same(watcher.attr, path) and (watcher.prev.st_size, watcher.attr.st_size) == (0, 4)
    told(own, watcher, lambda: path.chmod(0o400))
    assert watcher.attr.st_mode & 0o777 == 0o400 and watcher.prev.st_mode & 0o777 != 0o400
    new = tmp_path / "new"
    new.write_text("longer")
    told(own, watcher, lambda: new.rename(path))
    assert watcher.attr.st_ino != watcher.prev.st_ino and watcher.attr.st_size == 6
    told(own, watcher, path.unlink)
    assert watcher.attr is None and watcher.prev.st_size == 6
    # What happens while it is stopped is no change: it begins with what it finds.
    path.touch()
    told(own, watcher, path.unlink)
    assert watcher.attr is None and watcher.prev.st_size == 0
    watcher.close()


def test_a_directory_that_vanishes_takes_its_files_along(own: Any, tmp_path: Path) -> None:
    parent = tmp_path / "some" / "where"
    parent.mkdir(parents=True)
    path = parent / "file"
    path.touch()
    watcher = own.stat(bytes(path), NEVER)
    told(own, watcher, lambda: (tmp_path / "some").rename(tmp_path / "else"))
    assert watcher.attr is None and watcher.prev is not None and watcher.path == bytes(path)

    def come_again() -> None:
        parent.mkdir(parents=True)
        path.write_text("again")

    told(own, watcher, come_again)
    assert same(watcher.attr, path)
    told(own, watcher, lambda: subprocess.run(["rm", "-r", str(tmp_path / "some")], check=True))
    assert watcher.attr is None


def test_each_change_is_told_as_long_as_it_is_active(own: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    seen: list[object] = []
    watcher = own.stat(path, NEVER)

    def note(name: str) -> None:
        seen.append((name, watcher.attr.st_size))
        if len(seen) == 3:
            watcher.close()
        else:
            path.write_text("x" * len(seen))

    watcher.start(note, "told")
    path.touch()
    own.run()
    assert seen == [("told", 0), ("told", 1), ("told", 2)]
    with pytest.raises(ValueError, match="closed"):
        watcher.start(note)


def test_a_relative_name_begins_where_the_process_was(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    watcher = own.stat("file", NEVER)
    watcher.start(watcher.stop)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    (tmp_path / "file").touch()
    own.run()
    assert same(watcher.attr, tmp_path / "file")


def test_what_it_has_of_other_watchers(own: Any, tmp_path: Path) -> None:
    watcher = own.stat(tmp_path, 0, ref=False)
    watcher.start(int)
    assert not watcher.ref and own.activecnt == 0 and watcher.interval == 0
    own.run()
    with pytest.raises(AttributeError, match="priority"):
        watcher.priority = 1
    watcher.feed(1, watcher.stop)
    assert watcher.pending and "stat" in repr(watcher) and str(tmp_path) in repr(watcher)
    watcher.ref = True
    own.run()
    assert not watcher.active and watcher.loop is own
    for wrong in ("with\0null", b"with\0null"):
        with pytest.raises(ValueError, match="null byte"):
            own.stat(wrong)
    with pytest.raises(TypeError):
        own.stat(3)
    with pytest.raises(ValueError, match="number of seconds"):
        own.stat("x", float("nan"))
    quick = own.stat("", -1)
    quick.start(int)
    assert quick.interval == pytest.approx(SHORTEST) and quick.attr is None
    quick.stop()


def test_a_destroyed_loop_leaves_its_watchers_what_they_knew(tmp_path: Path) -> None:
    own: Any = loop()
    watcher = own.stat(tmp_path)
    told(own, watcher, (tmp_path / "file").touch)
    watcher.start(int)
    own.destroy()
    assert not watcher.active and watcher.prev is not None
    with pytest.raises(ValueError, match="destroyed"):
        watcher.start(int)


def test_it_holds_nothing_that_a_circle_would_keep(own: Any, tmp_path: Path) -> None:
    class Named(str):
        pass

    name = Named(tmp_path)
    watcher = own.stat(name)
    name.watcher = watcher  # type: ignore[attr-defined]
    gone = weakref.ref(watcher)
    del watcher, name
    gc.collect()
    assert gone() is None


def test_a_greenlet_waits_for_a_file_while_others_run(tmp_path: Path) -> None:
    path = tmp_path / "file"
    hub = weft.gevent.get_hub()
    order = []

    def wait() -> None:
        with hub.loop.stat(path, NEVER) as watcher:
            order.append("waits")
            hub.wait(watcher)
            order.append("told")
            assert watcher.attr is not None

    waiting = weft.gevent.spawn(wait)
    weft.gevent.sleep(0)
    order.append("makes")
    path.touch()
    waiting.get()
    assert order == ["waits", "makes", "told"]
    # Killed, it watches no more.
    waiting = weft.gevent.spawn(lambda: hub.wait(hub.loop.stat(path, NEVER)))
    weft.gevent.sleep(0)
    before = hub.loop.activecnt
    waiting.kill()
    assert hub.loop.activecnt == before - 1


def test_threads_change_files_while_a_loop_sleeps(own: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    watcher = own.stat(path, NEVER)
    watcher.start(watcher.stop)
    sleeps = threading.Event()
    own.run_callback(sleeps.set)
    changes = threading.Thread(target=lambda: (sleeps.wait(), path.touch()))
    changes.start()
    own.run()
    changes.join()
    assert watcher.attr is not None


# In processes of their own: what runs out there is theirs, and so is a fork.

_PRELUDE = """
import os, resource, sys
from weft.gevent.core import loop
path = sys.argv[1]
own = loop()
def limit(to):
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (to, most))
    return before
"""


def run(source: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _PRELUDE + source, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_where_no_inotify_is_to_be_had_it_is_looked(tmp_path: Path) -> None:
    ended = run(
        """
watcher = own.stat(path, 0.01)
before = limit(0)
watcher.start(watcher.stop)
limit(before)
made = os.open(path, os.O_CREAT | os.O_WRONLY)
limit(0)
own.run()
assert watcher.attr is not None, "found by looking"
print(watcher.interval)
""",
        tmp_path / "file",
    )
    assert ended.stderr == "" and float(ended.stdout) == pytest.approx(SHORTEST)


def test_where_no_watches_are_left_it_is_looked(tmp_path: Path) -> None:
    ended = run(
        """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
try:
    if libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "no namespace of users")
    with open("/proc/sys/user/max_inotify_watches", "w") as limit_of_watches:
        limit_of_watches.write("1")
except OSError as error:
    print("skipped:", error)
    sys.exit()
watcher = own.stat(path, 0.01)
watcher.start(watcher.stop)
open(path, "w").close()
own.run()
assert watcher.attr is not None
print("found")
""",
        tmp_path / "file",
    )
    if ended.stdout.startswith("skipped"):
        pytest.skip(ended.stdout)
    assert (ended.stdout, ended.stderr) == ("found\n", "")


def test_a_forked_child_watches_for_itself(tmp_path: Path) -> None:
    ended = run(
        """
watcher = own.stat(path, 24 * 3600)
watcher.start(watcher.stop)
child = os.fork()
open(path, "a").close()
own.run()
assert watcher.attr is not None
if child:
    assert os.waitpid(child, 0)[1] == 0
    watcher.start(watcher.stop)
    os.unlink(path)
    own.run()
    assert watcher.attr is None
    print("fine")
""",
        tmp_path / "file",
    )
    assert (ended.stdout, ended.stderr) == ("fine\n", "")
