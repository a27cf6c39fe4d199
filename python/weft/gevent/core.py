"""The event loop: callbacks, timers, descriptors, signals, child processes. As gevent.core."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from . import _hub
from .exceptions import HubDestroyed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["READ", "READWRITE", "WRITE", "callback", "loop", "watcher"]

callback = _hub.callback
watcher = _hub.watcher

READ = 1
WRITE = 2
READWRITE = READ | WRITE


class loop(_hub.Loop):
    """A loop. The hub of a thread runs its own; another one is run by `run`."""

    # Who is told of exceptions: an object with `handle_error`, or a function.
    error_handler: object = None
    # Whether the hub that runs it was told to end.
    ended = False
    MINPRI = -2
    MAXPRI = 2
    approx_timer_resolution = 0.00001

    def __new__(cls, flags: object = None, default: bool | None = None) -> loop:
        return super().__new__(cls, default is None or bool(default))

    @property
    def backend(self) -> str:
        """What asks the kernel."""
        return "epoll"

    @property
    def default(self) -> bool:
        """Whether it is the main thread's; not once it is destroyed."""
        return super().default and not self.destroyed

    @property
    def ptr(self) -> int:
        """A number that tells it from other loops, as gevent's; 0 once it is destroyed."""
        return 0 if self.destroyed else id(self)

    def run(self, nowait: bool = False, once: bool = False) -> None:
        """Run until nothing can come any more; or one turn, without sleeping (`nowait`) or with (`once`)."""
        _hub.run(self, nowait, once)

    def handle_error(
        self,
        context: object,
        kind: type[BaseException],
        value: BaseException,
        tb: TracebackType | None,
    ) -> None:
        """Called with what a callback raised."""
        if issubclass(kind, HubDestroyed):
            self._end()
            return
        handler = self.error_handler
        if handler is None:
            traceback.print_exception(kind, value, tb, file=sys.stderr)
            return
        handle: Any = getattr(handler, "handle_error", handler)
        try:
            handle(context, kind, value, tb)
        except HubDestroyed:  # while it waited in the handler
            self._end()

    def install_sigchld(self) -> None:
        """Nothing: the loop learns of the end of children without the signal."""

    reset_sigchld = install_sigchld

    def _end(self) -> None:
        self.ended = True
        self.break_()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {self._format()}>"

    def _format(self) -> str:
        if self.destroyed:
            return "destroyed"
        default = " default" if self.default else ""
        return (
            f"{self.backend}{default} pending={self.pendingcnt} ref={self.activecnt} fileno={self.fileno()}"
        )


# Its name until that became a word of the language.
setattr(loop, "async", loop.async_)


def get_version() -> str:
    """Which loop that is."""
    from weft import __version__

    return f"weft-{__version__}"


get_header_version = get_version


def supported_backends() -> list[str]:
    """What can ask the kernel."""
    return ["epoll"]


class _Events:
    """Stood, in gevent, for what happened, among a watcher's arguments."""

    def __repr__(self) -> str:
        return "gevent.core.EVENTS"


EVENTS = _Events()


def _events_to_str(events: int) -> str:
    return "|".join(name for bit, name in ((READ, "READ"), (WRITE, "WRITE")) if events & bit)
