"""The module `select`, whose `select` and `poll` let other greenlets run. As gevent.select.

Both ask the kernel first, by its own functions and without waiting. Only if nothing is ready the descriptors are watched,
and when one of them is, the kernel is asked again: so what is returned is what it says, with all its flags.
"""

from __future__ import annotations

import errno
import select as _select
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ._util import reexport
from .event import Event
from .hub import get_hub, sleep

_original_select = _select.select
_original_poll = _select.poll
_original_epoll = _select.epoll

__implements__ = ["poll", "select"]
__imports__ = reexport(_select, globals(), without=__implements__)
__all__ = ["error", *__implements__]
error = _select.error

# The loop's own.
_READ, _WRITE = 1, 2


def wait_for_any(interests: Mapping[int, int], timeout: float | None) -> bool:
    """Wait until one of the descriptors is ready for what is asked of it (1 read, 2 write, 3 both, 0 nothing), or closed by
    another greenlet; False at the timeout."""
    loop = get_hub().loop
    ready = Event()
    watchers = []
    try:
        for descriptor, events in interests.items():
            watcher = loop.io(descriptor, events)
            watchers.append(watcher)
            try:
                watcher.start(ready.set)
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                return True  # it was closed: the kernel says so to who asks
        return bool(ready.wait(timeout))
    finally:
        for watcher in watchers:
            watcher.close()


class _Edges:
    """What happens to descriptors from now on, if it is one of the kernel's `masks`: a set of the kernel's, which tells each
    change once. So what is there all the time, but was not asked for, as that the other end has hung up, wakes nobody again.
    """

    def __init__(self, masks: Mapping[int, int]) -> None:
        self._set = _original_epoll()
        # The others are watched for nothing but that another greenlet closes them.
        self._interests = {**dict.fromkeys(masks, 0), self._set.fileno(): _READ}
        for descriptor, mask in masks.items():
            try:
                self._set.register(descriptor, mask | _select.EPOLLET)
            except PermissionError:
                pass  # a file, which the kernel has said by now to be ready if it ever is
            except OSError as error:
                if error.errno != errno.EBADF:
                    self._set.close()
                    raise
                # it was closed: the kernel says so to who asks

    def wait(self, timeout: float | None) -> bool:
        """Wait for one; False at the timeout."""
        came = wait_for_any(self._interests, timeout)
        self._set.poll(0)
        return came

    def close(self) -> None:
        """Give the set back."""
        self._set.close()


def _until(ask: Callable[[], Any], end: float | None, wait: Callable[[float | None], bool]) -> Any:
    """What the kernel says when there is something, or at the end."""
    while True:
        left = None if end is None else max(0.0, end - time.monotonic())
        came = wait(left)
        found = ask()
        if found or not came or left == 0:
            return found


def select(
    rlist: Iterable[Any], wlist: Iterable[Any], xlist: Iterable[Any], timeout: float | None = None
) -> tuple[list[Any], list[Any], list[Any]]:
    """As select.select: those that are ready to be read, to be written, and those with something exceptional."""
    if timeout is not None and timeout < 0:
        raise ValueError("timeout must be non-negative")
    rlist, wlist, xlist = list(rlist), list(wlist), list(xlist)
    found = _original_select(rlist, wlist, xlist, 0)
    if any(found) or timeout == 0:
        sleep()
        return found
    end = None if timeout is None else time.monotonic() + timeout
    reading, writing = {_number(each) for each in rlist}, {_number(each) for each in wlist}
    exceptional = {_number(each) for each in xlist}

    def ask() -> tuple[list[Any], list[Any], list[Any]] | None:
        nonlocal found
        try:
            found = _original_select(rlist, wlist, xlist, 0)
        except (OSError, ValueError):
            # Another greenlet has closed one of them meanwhile. Those that are left are asked for one by one.
            found = _those_ready(rlist, _READ), _those_ready(wlist, _WRITE), []
            return found
        return found if any(found) else None

    if not exceptional:
        interests = {
            number: (_READ if number in reading else 0) | (_WRITE if number in writing else 0)
            for number in reading | writing
        }
        _until(ask, end, lambda left: wait_for_any(interests, left))
        return found
    edges = _Edges(
        {
            number: (_select.EPOLLIN if number in reading else 0)
            | (_select.EPOLLOUT if number in writing else 0)
            | (_select.EPOLLPRI if number in exceptional else 0)
            for number in reading | writing | exceptional
        }
    )
    try:
        _until(ask, end, edges.wait)
    finally:
        edges.close()
    return found


def _number(descriptor: Any) -> int:
    """The number of what has a descriptor, or is one."""
    if isinstance(descriptor, int):
        number = descriptor
    else:
        number = int(descriptor.fileno())
    if number < 0:
        raise ValueError(f"Invalid file descriptor: {number}")
    return number


def _those_ready(candidates: list[Any], direction: int) -> list[Any]:
    ready = []
    for each in candidates:
        try:
            found = _original_select(*(([each], []) if direction == _READ else ([], [each])), [], 0)
        except (OSError, ValueError):
            continue
        if any(found):
            ready.append(each)
    return ready


class poll:
    """As select.poll: descriptors, and what is asked of each."""

    def __init__(self) -> None:
        self._kernel = _original_poll()
        # What is asked, in the kernel's flags.
        self.fds: dict[int, int] = {}

    def register(self, fd: Any, eventmask: int = _select.POLLIN | _select.POLLPRI | _select.POLLOUT) -> None:
        """Ask for the events of a descriptor, in place of what was asked for before."""
        self._kernel.register(fd, eventmask)
        self.fds[_number(fd)] = eventmask

    def modify(self, fd: Any, eventmask: int) -> None:
        """Change what is asked of a descriptor that is registered."""
        self._kernel.modify(fd, eventmask)
        self.fds[_number(fd)] = eventmask

    def unregister(self, fd: Any) -> None:
        """Ask no more; KeyError if it is not registered."""
        self._kernel.unregister(fd)
        del self.fds[_number(fd)]

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """The descriptors with something to tell, and what; waiting for that for `timeout` milliseconds, or for ever if
        it is None or negative."""
        found = self._kernel.poll(0)
        if found or timeout == 0:
            sleep()
            return found
        end = None if timeout is None or timeout < 0 else time.monotonic() + timeout / 1000

        def ask() -> list[tuple[int, int]]:
            return self._kernel.poll(0)

        # What watchers do not tell of is told by the kernel's own set, in which the flags are the same.
        plain = _select.POLLIN | _select.POLLOUT
        if all(mask & plain and not mask & ~plain for mask in self.fds.values()):
            return _until(ask, end, lambda left: wait_for_any(self._interests(), left))  # type: ignore[no-any-return]
        edges = _Edges(self.fds)
        try:
            return _until(ask, end, edges.wait)  # type: ignore[no-any-return]
        finally:
            edges.close()

    def _interests(self) -> dict[int, int]:
        return {
            number: (_READ if mask & _select.POLLIN else 0) | (_WRITE if mask & _select.POLLOUT else 0)
            for number, mask in self.fds.items()
        }


def _gevent_do_monkey_patch(request: Any) -> None:
    """Other ways to ask the kernel block the thread: who looks for one is not to find them."""
    request.default_patch_items()
    if request.patch_kwargs.get("aggressive", True):
        request.remove_item("epoll", "kqueue", "kevent", "devpoll")
