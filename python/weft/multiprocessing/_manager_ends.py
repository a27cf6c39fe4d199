"""Which servers this process knows, and how they ended.

A server is known by its address to the process that started it, to those that were introduced to it or told its name by it, and to
those that got a proxy from one of these. What somebody knew stays known after the server's end, and through forks: an error can
then say which process it was, and how it ended. The parent knows that for certain; others ask the desk, in which whoever
has found out leaves it, or the kernel, which keeps it until the parent has waited.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from multiprocessing import reduction, util
from typing import TYPE_CHECKING, Any

from weft import _native
from weft.multiprocessing.errors import ManagerDied, ManagerMissing, ManagerRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "NO_DESCRIPTORS",
    "Known",
    "answers",
    "code_of_ended",
    "find",
    "forget_ended",
    "identity",
    "identity_of",
    "learn",
    "naming",
    "server_gone",
    "start_of",
    "started",
]

# What the system says when there is no descriptor left.
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)

# How long the system may take between a server's last sign of life and telling how it ended, in seconds.
_GRACE = 2.0

# How long, in seconds, one waits for somebody who knows more, and how often it looks.
_COURTESY = 0.25
_STEP = 0.005

# Where a server's desk is in shared memory.
_Place = tuple[int, int, int]

# Who a process is to others on any machine: its id, its start, where these count; of a server also how it ended, if it has, and
# where its desk is.
Identity = tuple[int, int, str, int | None, _Place | None]

# What a connection raises whose other end is not there, or not any more.
_LOST = (ConnectionError, FileNotFoundError, EOFError)


class Known:
    """What is known of a server."""

    def __init__(self, pid: int, start: int, is_near: bool) -> None:
        self.pid = pid
        self.start = start
        # Whether the kernel of this process can be asked about it.
        self.is_near = is_near
        # In the process that started it, and its forks.
        self.process: Any = None
        self.desk: Any = None
        self.place: _Place | None = None
        self.code: int | None = None
        self.was_awaited = False

    def told_as(self, in_full: bool) -> Identity:
        """What another process has to be told of it; `in_full` whether it has ended."""
        if in_full and self.is_near and not self.lives():
            _exit_code(self)
        return self.pid, self.start, _here() if self.is_near else "", self.code, self.place

    def attach(self, place: _Place) -> None:
        """Have its desk, in which whoever finds out how it ended says so. Its shared memory may not have reached this process."""
        self.place = place
        desk = _native.ManagerDesk()
        try:
            desk.attach(place)
        except (OSError, RuntimeError) as error:
            util.debug("the desk of server %s is out of reach: %s", self.pid, error)
        else:
            self.desk = desk

    def lives(self, grace: float = 0) -> bool:
        """Whether it runs, as far as this process can see; `grace` is how many seconds its end may take to be seen."""
        if self.code is not None:
            return False
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return start_of(self.pid) == self.start and not poll.poll(grace * 1000)
        finally:
            os.close(descriptor)


# Without a lock: who is told twice of one server learns the same.
_known: dict[Any, Known] = {}
# A thread may need it in its own midst: finalizers of proxies run wherever the interpreter collects garbage.
_ending = threading.RLock()
os.register_at_fork(after_in_child=_ending._at_fork_reinit)  # type: ignore[attr-defined]


_place: list[str] = []
# A child may be in another namespace.
os.register_at_fork(after_in_child=_place.clear)


def _here() -> str:
    """Where process ids mean what they mean here: this boot of this machine, and this PID namespace."""
    if _place:
        return _place[0]
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    _place.append(f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}")
    return _place[0]


def start_of(pid: int) -> int:
    """When a process started, as the engine's identities have it: ticks since boot, cut to 32 bits; 0 if nobody knows.

    OSError if this process has no descriptor left to look."""
    fields = _stat(pid)
    return int(fields[19]) & 0xFFFFFFFF if fields else 0


def _stat(pid: int) -> list[str]:
    """What `/proc` says of a process, from its state on; nothing if it says nothing."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            raise
        return []


def identity(place: _Place | None = None) -> Identity:
    """Who this process is to others, on any machine, and where its desk is if it is a server."""
    return identity_of(os.getpid(), place)


def identity_of(pid: int, place: _Place | None = None) -> Identity:
    """Who a process is that this one's kernel can be asked about."""
    return pid, start_of(pid), _here(), None, place


def is_near(other: Identity) -> bool:
    """Whether the process is one that this process's kernel can be asked about."""
    return other[2] == _here()


def learn(address: Any, other: Identity) -> None:
    """The server at `address` is this process."""
    pid, start, _where, code, place = other
    known = _known.get(address)
    if known is None or (known.pid, known.start) != (pid, start):
        known = Known(pid, start, is_near(other))
    if code is not None:
        known.code = code
    if place is not None and known.is_near and known.desk is None:
        known.attach(place)
    _known[address] = known


def started(address: Any, process: Any, who: Identity | None) -> None:
    """This process started the server at `address`, which says that it is `who`, if it says so."""
    learn(address, who or identity_of(process.pid))
    find(address).process = process


def find(address: Any) -> Any:
    """What is known of the server at `address`, or None."""
    return _known.get(address)


def forget_ended(address: Any) -> None:
    """Somebody serves at `address`: it is not one of whose end this process knows."""
    known = _known.get(address)
    if known is not None and (not known.is_near or not known.lives()):
        _known.pop(address, None)


def ended(address: Any) -> None:
    """The server at `address`, which this process started, has ended and been waited for: let others know how."""
    known = find(address)
    if known is not None and known.process is not None:
        _exit_code(known)


class Introduction:
    """What a process that has a proxy tells another one of its server, with the proxy."""

    def __init__(self, known: Known, starting: Any) -> None:
        """`starting` is the process that is being started with the proxy, if that is so: then it gets the shared memory, too."""
        self.told = known.told_as(in_full=starting is not None)
        self.memory: Any = None
        if starting is not None and known.desk is not None and known.place is not None:
            arena = known.place[0]
            segments: dict[int, Any] = starting.__dict__.setdefault("_weft_segments", {})
            if arena not in segments:
                segments[arena] = reduction.DupFd(_native.arena_descriptor(arena))
            self.memory = segments[arena]

    def make(self, address: Any) -> None:
        """In the other process."""
        known, place = find(address), self.told[4]
        if known is not None and (known.pid == self.told[0] or known.lives()):
            return
        if self.memory is not None and place is not None:
            _native.attach_arena(place[0], self.memory.detach)
        learn(address, self.told)


# -- Errors that say who ended, and how


@contextmanager
def naming(address: Any) -> Iterator[None]:
    """Turn the loss of a connection to the server at `address` into `ManagerDied`, unless that server lives."""
    try:
        yield
    except ManagerDied:
        raise
    except _LOST as error:
        known = find(address)
        if _serves(address, known, error):
            raise
        raise _named(address, known, error) from error


def _serves(address: Any, known: Known | None, error: BaseException) -> bool:
    """Whether there is a server, although a connection to it was lost by `error`."""
    if known is not None and known.is_near:
        if not known.lives():
            return False
        return answers(address) or known.lives(_GRACE)
    return not isinstance(error, (ConnectionRefusedError, FileNotFoundError)) and answers(address)


def answers(address: Any, patience: float = _GRACE) -> bool:
    """Whether somebody at `address` begins a handshake within `patience` seconds."""
    family = socket.AF_UNIX if isinstance(address, (str, bytes)) else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.settimeout(patience)
            probe.connect(address)
            return bool(probe.recv(1))
    except OSError:
        return False


def _named(address: Any, known: Known | None, error: BaseException) -> ManagerDied:
    kinds: dict[type, type[ManagerDied]] = {
        ConnectionRefusedError: ManagerRefused,
        FileNotFoundError: ManagerMissing,
    }
    made = kinds.get(type(error), ManagerDied)
    if known is None:
        return made(None, "manager", None, address)
    return made(known.pid, "manager", _exit_code(known) if known.is_near else known.code, address)


def server_gone(pid: int, died: bool) -> BaseException:
    """The exception for calls through a lane to a server that serves no more: it died, or was closed in good order."""
    found = ((address, known) for address, known in _known.copy().items() if known.pid == pid)
    address, known = next(found, (None, None))
    if not died:
        return ManagerDied(pid, "manager", 0, address)
    return ManagerDied(pid, "manager", _exit_code(known or Known(pid, start_of(pid), True)), address)


def _exit_code(known: Known) -> int | None:
    """How the server ended, as far as anybody can know, and tell the others who use it."""
    # One at a time: of two threads that wait for one child the second learns nothing.
    with _ending:
        # The kernel first: when the parent has waited, it knows no more, and others have to be told before that.
        for source in (_of_desk, _of_zombie, _of_child, _awaited):
            if known.code is None:
                known.code = source(known)
        if known.code is not None and known.desk is not None:
            known.desk.cause = known.code
    return known.code


def _of_desk(known: Known) -> int | None:
    """What somebody has left there of how a server ended."""
    code: int | None = None if known.desk is None else known.desk.cause
    return code


def _awaited(known: Known) -> int | None:
    """As `_of_desk`, after a moment for whoever has waited for the server to say so. Nobody does if it does not use the server."""
    end = time.monotonic() + _COURTESY
    while known.desk is not None and not known.was_awaited and time.monotonic() < end:
        code = _of_desk(known)
        if code is not None:
            return code
        time.sleep(_STEP)
    known.was_awaited = True
    return None


def _of_zombie(known: Known) -> int | None:
    return of_zombie(known.pid, known.start)


def _of_child(known: Known) -> int | None:
    """How a process ended that this one, or the one that it was forked from, started."""
    if known.process is None:
        return None
    if known.process._parent_pid == os.getpid():
        # It was closed if somebody else waited for it, and let it go.
        with suppress(ValueError):
            known.process.join(_GRACE)
            code: int | None = known.process.exitcode
            return code
    found: int | None = getattr(known.process._popen, "returncode", None)
    return found


def of_zombie(pid: int, start: int) -> int | None:
    """How a process ended that its parent has not waited for yet. None if that cannot be known."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        if start_of(pid) != start:
            return None
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(_GRACE * 1000)
        fields = _stat(pid)
    finally:
        os.close(descriptor)
    return _code_of_zombie(fields)


def _code_of_zombie(fields: list[str]) -> int | None:
    """How a process ended, by what `/proc` says of it; None if it says nothing of that."""
    if not fields or fields[0] not in "ZX":
        return None
    return os.waitstatus_to_exitcode(int(fields[49]))


# What the kernel tells of a process by its descriptor, `struct pidfd_info` of linux/pidfd.h: the first 64 bytes, of which these
# are the first eight and the last four. How it ended is there as soon as somebody has waited for it; since Linux 6.15.
_GET_INFO = 0xC040FF0B
_INFO = struct.Struct("=Q52xi")
_INFO_EXIT = 1 << 3


def code_of_ended(descriptor: int, pid: int, start: int) -> int | None:
    """How the process ended that `descriptor` has been of since it lived. None if that cannot be known.

    `/proc` knows until its parent has waited for it, the descriptor from then on."""
    fields = _stat(pid)
    if fields and int(fields[19]) & 0xFFFFFFFF == start:
        code = _code_of_zombie(fields)
        if code is not None:
            return code
    info = bytearray(_INFO.pack(_INFO_EXIT, 0))
    try:
        fcntl.ioctl(descriptor, _GET_INFO, info)
    except OSError as error:
        util.debug("the kernel does not tell how process %s ended: %s", pid, error)
        return None
    told, status = _INFO.unpack(info)
    return os.waitstatus_to_exitcode(status) if told & _INFO_EXIT else None
