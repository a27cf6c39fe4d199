"""What one can wait for: an object with links, which the hub calls once it is ready."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from weft.greenlet import getcurrent

from .exceptions import InvalidSwitchError
from .hub import Hub, get_hub
from .timeout import Timeout, start_or_never


class Linkable:
    """An object that becomes ready, and then has its links called in the hub, in order, once each."""

    __slots__ = ("__weakref__", "_links", "_notifier", "hub")

    def __init__(self, hub: Hub | None = None) -> None:
        self.hub = hub
        self._links: list[Callable[[Any], Any]] = []
        self._notifier: Any = None

    def ready(self) -> bool:
        """Whether links are called at once."""
        raise NotImplementedError

    def linkcount(self) -> int:
        """How many links there are."""
        return len(self._links)

    def rawlink(self, callback: Callable[[Any], Any]) -> None:
        """Have the hub call `callback(self)` when this is ready, or soon if it is."""
        if not callable(callback):
            raise TypeError(f"Expected callable: {callback!r}")
        self._links.append(callback)
        if self.ready():
            self._notify()

    def unlink(self, callback: Callable[[Any], Any]) -> None:
        """Do not call it."""
        if callback in self._links:
            self._links.remove(callback)
        if not self._links and self._notifier is not None:
            self._notifier.stop()
            self._notifier = None

    def _home(self) -> Hub:
        if self.hub is None:
            self.hub = get_hub()
        return self.hub

    def _notify(self) -> None:
        """Have the links called soon."""
        if self._links and not self._notifier:
            hub = self._home()
            here = hub is get_hub()
            post = hub.loop.run_callback if here else hub.loop.run_callback_threadsafe
            self._notifier = post(self._call_links, list(self._links))

    def _call_links(self, links: list[Callable[[Any], Any]]) -> None:
        self._notifier = None
        for link in links:
            if not self.ready():
                break
            # Another link may have taken it out.
            if link not in self._links:
                continue
            self._links.remove(link)
            self._call_link(link)
        if self._links and self.ready():
            self._notify()

    def _call_link(self, link: Callable[[Any], Any]) -> None:
        try:
            link(self)
        except BaseException:
            self._home().loop.handle_error((link, self), *_exc_info())

    def _park(self, timeout: float | None) -> bool:
        """Park the current greenlet until this is ready. Whether that was before the timeout."""
        hub = self._home()
        if hub is not get_hub():
            raise InvalidSwitchError(f"{self!r} belongs to the hub of another thread, {hub!r}")
        resume = getcurrent().switch
        self._links.append(resume)
        try:
            with start_or_never(timeout) as timer:
                try:
                    result = hub.switch()
                except Timeout as error:
                    if error is not timer:
                        raise
                    return False
            if result is not self:
                raise InvalidSwitchError(
                    f"Invalid switch into {getcurrent()!r}: got {result!r}, but it waits for {self!r}"
                )
            return True
        finally:
            self.unlink(resume)


def _exc_info() -> Any:
    return sys.exc_info()
