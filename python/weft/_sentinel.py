"""What weft's processes have in common: sentinels that are opened when somebody looks at them, and the signals.

`BaseProcess.start` stores its child's sentinel in `_sentinel` at once. A descriptor per process would
be the end at a thousand, so what is stored is the `Popen`, and `Sentinel`, an attribute of the class, asks it for the
descriptor on the first access.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from typing import Any, Protocol, Self

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


def _started(process: Any, what: str) -> Any:
    """What stands for the process that was started; AttributeError, as in the standard library, if none was."""
    process._check_closed()
    if process._popen is None:
        raise AttributeError(f"can only {what} a started process")
    return process._popen


def interrupt(self: BaseProcess) -> None:
    """Send SIGINT to the process, as Ctrl-C does. In the standard library since 3.14."""
    _started(self, "interrupt").interrupt()


class Signals:
    """The methods of a process that end it."""

    interrupt = interrupt

    def terminate(self) -> None:
        """Send SIGTERM to the process."""
        _started(self, "terminate").terminate()

    def kill(self) -> None:
        """Send SIGKILL to the process."""
        _started(self, "kill").kill()


sentinel = Sentinel()
