"""The module `selectors`, whose default lets other greenlets run. As gevent.selectors.

A `GeventSelector` has a set of descriptors in the kernel, as the standard library's EpollSelector. The hub watches that set,
which is one descriptor however many there are in it.
"""

from __future__ import annotations

import select as _select
import selectors as _selectors
from typing import Any

from ._util import reexport
from .hub import sleep
from .select import _original_epoll, wait_for_any

__implements__ = ["DefaultSelector"]
__extra__ = ["GeventSelector"]
__imports__ = reexport(_selectors, globals(), without=[*__implements__, *__extra__])
__all__ = [*__implements__, *__extra__]

EVENT_READ = _selectors.EVENT_READ
EVENT_WRITE = _selectors.EVENT_WRITE
SelectorKey = _selectors.SelectorKey


class GeventSelector(_selectors._BaseSelectorImpl):
    """A selector that parks the greenlet which waits. Files, which are always ready, may be registered too."""

    _fd_to_key: dict[int, SelectorKey]

    def __init__(self, hub: Any = None) -> None:
        super().__init__()
        self.hub = hub
        self._set = _original_epoll()
        # What the kernel takes no interest in: it can be read and written at any time.
        self._always: dict[int, int] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """Watch something for events; `data` comes back with them."""
        key = super().register(fileobj, events, data)
        try:
            self._set.register(key.fd, _to_kernel(key.events))
        except PermissionError:
            self._always[key.fd] = key.events
        except OSError as error:
            super().unregister(fileobj)
            raise ValueError(f"Invalid file descriptor: {key.fd} ({error.strerror})") from error
        return key

    def unregister(self, fileobj: Any) -> SelectorKey:
        """Watch it no longer."""
        key = super().unregister(fileobj)
        if self._always.pop(key.fd, None) is None:
            try:
                self._set.unregister(key.fd)
            except OSError:
                pass  # closed already, by which the kernel has let go of it
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """Watch it for other events, or with other data."""
        key = self.get_key(fileobj)
        if events == key.events:
            if data != key.data:
                key = key._replace(data=data)
                self._fd_to_key[key.fd] = key
            return key
        self.unregister(fileobj)
        return self.register(fileobj, events, data)

    def fileno(self) -> int:
        """The kernel's set: readable when something is ready."""
        return self._set.fileno()

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """What is ready, and for what; waiting for that, unless the timeout is over, for `timeout` seconds or for ever."""
        found = self._look()
        if found or (timeout is not None and timeout <= 0):
            sleep()
            return found or self._look()
        # A file that is always ready would have been found.
        wait_for_any({self._set.fileno(): 1}, timeout)
        return self._look()

    def _look(self) -> list[tuple[SelectorKey, int]]:
        if self._set.closed:
            return []  # another greenlet closed it
        told = self._set.poll(0, max(len(self._fd_to_key), 1))
        ready = [(fd, _from_kernel(events)) for fd, events in told]
        ready += self._always.items()
        found = []
        for fd, events in ready:
            key = self._fd_to_key.get(fd)
            if key is not None and events & key.events:
                found.append((key, events & key.events))
        return found

    def close(self) -> None:
        """Give the set back."""
        self._set.close()
        self._always.clear()
        super().close()


def _to_kernel(events: int) -> int:
    return (_select.EPOLLIN if events & EVENT_READ else 0) | (_select.EPOLLOUT if events & EVENT_WRITE else 0)


def _from_kernel(events: int) -> int:
    # An error, or the end, is learned by reading as well as by writing.
    return (EVENT_WRITE if events & ~_select.EPOLLIN else 0) | (
        EVENT_READ if events & ~_select.EPOLLOUT else 0
    )


DefaultSelector = GeventSelector


def _gevent_do_monkey_patch(request: Any) -> None:
    """The selectors that would block the thread are not to be found, or are made of functions that do not."""
    from .select import poll, select

    request.default_patch_items()
    module = request.target_module

    def _select(self: Any, *args: Any, **kwargs: Any) -> Any:
        return select(*args, **kwargs)

    _select._gevent_monkey = True  # type: ignore[attr-defined]
    module.SelectSelector._select = _select
    if hasattr(module.PollSelector, "_selector_cls"):
        module.PollSelector._selector_cls = poll
    if request.patch_kwargs.get("aggressive", True):
        request.remove_item("EpollSelector", "KqueueSelector", "DevpollSelector")
