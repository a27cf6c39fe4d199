"""The module `os`, with what waits for children letting other greenlets run. As gevent.os.

Reading and writing descriptors: `nb_read` and `nb_write` for those that are set not to block (pipes, terminals),
`tp_read` and `tp_write`, in the hub's threads, for all others.

Children: the kernel tells of a child's end by a descriptor, so `waitpid` needs nobody to watch it from the beginning, and a
child that nobody waits for is nobody's business, as in the standard library. `fork_and_watch` does watch: it takes
the child's status when it ends, keeps it for whoever calls `waitpid`, and calls a function.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import os as _os
import time
import warnings
from collections.abc import Callable
from typing import Any

from ._config import config
from ._hub_services import after_fork
from ._util import reexport
from .event import Event
from .hub import get_hub, get_hub_if_exists, reinit

_read = _os.read
_write = _os.write
_close = _os.close
_raw_fork = _os.fork
_raw_forkpty = _os.forkpty
_waitpid = _os.waitpid

_AGAIN = (errno.EAGAIN, errno.EINTR)

__implements__ = ["close", "fork", "forkpty"]
__extensions__ = [
    "fork_and_watch",
    "fork_gevent",
    "forkpty_and_watch",
    "forkpty_gevent",
    "make_nonblocking",
    "nb_read",
    "nb_write",
    "tp_read",
    "tp_write",
]
(__extensions__ if config.disable_watch_children else __implements__).append("waitpid")


# --- descriptors --------------------------------------------------------------------------------------------


def make_nonblocking(fd: int) -> bool | None:
    """Set a descriptor not to block. True if it was not so before."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & _os.O_NONBLOCK:
        return None
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | _os.O_NONBLOCK)
    return True


def nb_read(fd: int, n: int) -> bytes:
    """Read up to `n` bytes, waiting for the first; the descriptor must be set not to block."""
    return _until_done(fd, 1, lambda: _read(fd, n))  # type: ignore[no-any-return]


def nb_write(fd: int, buf: Any) -> int:
    """Write what there is room for, waiting for room for one byte; the descriptor must be set not to block."""
    return _until_done(fd, 2, lambda: _write(fd, buf))  # type: ignore[no-any-return]


def _until_done(fd: int, events: int, operation: Callable[[], Any]) -> Any:
    watcher = None
    try:
        while True:
            try:
                return operation()
            except OSError as error:
                if error.errno not in _AGAIN:
                    raise
            if watcher is None:
                hub = get_hub()
                watcher = hub.loop.io(fd, events)
            hub.wait(watcher)
    finally:
        if watcher is not None:
            watcher.close()


def tp_read(fd: int, n: int) -> bytes:
    """Read up to `n` bytes from any descriptor, in a thread."""
    return get_hub().threadpool.apply(_read, (fd, n))  # type: ignore[no-any-return]


def tp_write(fd: int, buf: Any) -> int:
    """Write to any descriptor, in a thread; how many bytes."""
    return get_hub().threadpool.apply(_write, (fd, buf))  # type: ignore[no-any-return]


def close(fd: int) -> None:
    """As os.close. Greenlets that wait for the descriptor go on, and find out."""
    hub = get_hub_if_exists()
    if hub is not None and hub.loop is not None:
        hub.loop.closing_fd(fd)
    _close(fd)


# --- forks --------------------------------------------------------------------------------------------------


def _go_on_in_the_child() -> None:
    try:
        reinit()
    except OSError:
        # There is no descriptor left for a set of its own. The child runs all the same, and where it waits for something it is
        # tried again, and said.
        hub = get_hub_if_exists()
        if hub is not None:
            after_fork(hub)


def fork_gevent() -> int:
    """Fork; in the child, this thread's hub goes on without the threads it had."""
    with warnings.catch_warnings():
        # From 3.12 on, of threads in general; those of the hub know of forks.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = _raw_fork()
    if not pid:
        _go_on_in_the_child()
    return pid


def forkpty_gevent() -> tuple[int, int]:
    """The same with a terminal for the child."""
    pid, terminal = _raw_forkpty()
    if not pid:
        _go_on_in_the_child()
    return pid, terminal


def fork(*args: Any, **kwargs: Any) -> int:
    """Fork. With arguments it is `fork_and_watch`."""
    pid = fork_and_watch(*args, **kwargs) if args or kwargs else fork_gevent()
    if pid:
        _children_changed()
    return pid


def forkpty(*args: Any, **kwargs: Any) -> tuple[int, int]:
    """Fork, with a terminal for the child. With arguments it is `forkpty_and_watch`."""
    result = forkpty_and_watch(*args, **kwargs) if args or kwargs else forkpty_gevent()
    if result[0]:
        _children_changed()
    return result


# Children of `fork_and_watch`: their watchers, and then (pid, status, when).
_watched_children: dict[int, Any] = {}
# Those that wait for any child to be forked, or for a watched one to end.
_interested: list[Event] = []


def _children_changed() -> None:
    for event in _interested:
        event.set()


def fork_and_watch(
    callback: Callable[[Any], Any] | None = None,
    loop: Any = None,
    ref: bool = False,
    fork: Callable[[], int] = fork_gevent,
) -> int:
    """Fork, and have `callback(watcher)` called in the parent when the child has ended: its status is the
    watcher's `rstatus`, and is kept for `waitpid` for a minute. With `ref`, the loop does not end before the child.

    Where SIGCHLD is ignored, or somebody else waits for the child, its status may be unknown. It is 255 << 8 then.
    """
    pid = fork()
    if pid:
        loop = loop or get_hub().loop
        watcher = loop.child(pid, ref=ref)
        try:
            watcher.start(_on_end, watcher, callback)
        except OSError:
            # There is no descriptor left to watch it by, or it is gone already. It was forked all the same.
            watcher.close()
            watcher = _PolledChild(loop, pid, ref)
            watcher.start(_on_end, watcher, callback)
        _watched_children[pid] = watcher
        _children_changed()
    return pid


# So often it is asked whether a child has ended, in seconds, where nothing says so.
_ASK_EVERY = 0.05

# The status of a child of which no more is known than that it has ended, as asyncio has it: exit code 255.
_UNKNOWN_STATUS = 0xFF00


class _PolledChild:
    """What stands for the watcher of a child where there is no descriptor left for one."""

    def __init__(self, loop: Any, pid: int, ref: bool) -> None:
        self.pid = pid
        self.rpid = self.rstatus = 0
        self._timer = loop.timer(_ASK_EVERY, _ASK_EVERY, ref=ref)

    @property
    def active(self) -> bool:
        """Whether it is started."""
        return bool(self._timer.active)

    def start(self, callback: Callable[..., Any], *args: Any) -> None:
        """Have it called when the child has ended."""
        self._timer.start(self._ask, callback, args)

    def _ask(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            found, status = _waitpid(self.pid, _os.WNOHANG)
        except ChildProcessError:
            found, status = self.pid, _UNKNOWN_STATUS
        if found:
            self.rpid, self.rstatus = found, status
            self.stop()
            callback(*args)

    def stop(self) -> None:
        """Ask no more."""
        self._timer.stop()

    def close(self) -> None:
        """Ask never again."""
        self._timer.close()


def forkpty_and_watch(
    callback: Callable[[Any], Any] | None = None,
    loop: Any = None,
    ref: bool = False,
    forkpty: Callable[[], tuple[int, int]] = forkpty_gevent,
) -> tuple[int, int]:
    """The same with a terminal for the child."""
    result = (0, -1)

    def fork() -> int:
        nonlocal result
        result = forkpty()
        return result[0]

    fork_and_watch(callback, loop, ref, fork)
    return result


def _on_end(watcher: Any, callback: Callable[[Any], Any] | None) -> None:
    watcher.stop()
    _watched_children[watcher.pid] = (watcher.pid, watcher.rstatus, time.monotonic())
    _children_changed()
    try:
        if callback is not None:
            callback(watcher)
    finally:
        _reap_children()
        watcher.close()


def _reap_children(timeout: float = 60) -> None:
    """Forget the status of children that nobody has asked for in so many seconds."""
    oldest = time.monotonic() - timeout
    for pid, known in list(_watched_children.items()):
        if isinstance(known, tuple) and known[2] < oldest:
            del _watched_children[pid]


def _take_status(pid: int) -> tuple[int, int] | None:
    """What a watcher has kept of a child, or of the first that ended of all (-1)."""
    if pid == -1:
        ended = [known for known in _watched_children.values() if isinstance(known, tuple)]
        if not ended:
            return None
        pid = min(ended, key=lambda known: known[2])[0]
    known = _watched_children.get(pid)
    if not isinstance(known, tuple):
        return None
    del _watched_children[pid]
    return known[:2]


# --- waiting for children -----------------------------------------------------------------------------------


def waitpid(pid: int, options: int) -> tuple[int, int]:
    """As os.waitpid: number and status of a child that has ended. Waiting for it, other greenlets run.

    Groups of processes (0, and below -1) are asked for by the system's own function, which blocks the thread.
    """
    if pid == 0 or pid < -1:
        return _waitpid(pid, options)
    while True:
        kept = _take_status(pid)
        if kept is not None:
            return kept
        watched = pid in _watched_children
        if not watched:
            try:
                found = _waitpid(pid, options | _os.WNOHANG)
            except ChildProcessError:
                # Its watcher has taken the status, or will.
                if pid != -1 or not _watched_children:
                    raise
            else:
                if found[0]:
                    return found
        if options & _os.WNOHANG:
            return 0, 0
        if options & ~_os.WNOHANG:
            # Stopped and continued children are told of by signals alone.
            return get_hub().threadpool.apply(_waitpid, (pid, options))  # type: ignore[no-any-return]
        _wait_for_change([pid] if pid > 0 and not watched else _unwatched_children() if pid == -1 else [])


def _unwatched_children() -> list[int]:
    """All children of this process but those that have a watcher."""
    children: list[int] = []
    for thread in _os.listdir("/proc/self/task"):
        try:
            with builtins.open(f"/proc/self/task/{thread}/children") as file:
                children += map(int, file.read().split())
        except FileNotFoundError:
            continue  # a thread that has ended
    return [pid for pid in children if pid not in _watched_children]


def _wait_for_change(pids: list[int]) -> None:
    """Wait until one of the children has ended, a watcher has kept a status, or there is another child."""
    loop = get_hub().loop
    changed = Event()
    watchers: list[Any] = []
    descriptors: list[int] = []
    _interested.append(changed)
    # A watcher that is waited for counts, even if it would let the loop end.
    loop.ref()
    try:
        for pid in pids:
            try:
                descriptor = _os.pidfd_open(pid)
                descriptors.append(descriptor)
                watcher = loop.io(descriptor, 1)
                watchers.append(watcher)
                watcher.start(changed.set)
            except ProcessLookupError:
                return  # somebody else has taken its status: look again
            except OSError:
                # There is no descriptor left: look again after a while.
                watcher = loop.timer(_ASK_EVERY)
                watchers.append(watcher)
                watcher.start(changed.set)
                break
        changed.wait()
    finally:
        loop.unref()
        _interested.remove(changed)
        for watcher in watchers:
            watcher.close()
        for descriptor in descriptors:
            _os.close(descriptor)


__imports__ = reexport(_os, globals(), without=[*__implements__, *__extensions__])
__all__ = [*__implements__, *__extensions__]
