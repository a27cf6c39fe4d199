"""Sentinels that are opened when somebody looks at them.

`BaseProcess.start` stores its child's sentinel in `_sentinel` at once. A descriptor per process would
be the end at a thousand, so what is stored is the `Popen`, and `Sentinel`, an attribute of the class, asks it for the
descriptor on the first access.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from typing import Protocol, Self

    class _HasFileno(Protocol):
        """What can say its descriptor later."""

        def fileno(self) -> int: ...


NAME = "_sentinel"


class Sentinel:
    """The attribute `_sentinel` of processes: a descriptor, or what has one."""

    def __get__(self, process: BaseProcess | None, owner: type | None = None) -> int | Self:
        if process is None:
            return self
        try:
            stored: int | _HasFileno = process.__dict__[NAME]
        except KeyError:
            raise AttributeError(NAME) from None
        return stored if isinstance(stored, int) else stored.fileno()

    def __set__(self, process: BaseProcess, stored: int | _HasFileno) -> None:
        process.__dict__[NAME] = stored

    def __delete__(self, process: BaseProcess) -> None:
        try:
            del process.__dict__[NAME]
        except KeyError:
            raise AttributeError(NAME) from None


def interrupt(self: BaseProcess) -> None:
    """Send SIGINT to the process, as Ctrl-C does. In the standard library since 3.14."""
    self._check_closed()  # type: ignore[attr-defined]
    self._popen.interrupt()  # type: ignore[attr-defined]


sentinel = Sentinel()
