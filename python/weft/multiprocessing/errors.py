"""What can happen to processes, as exceptions."""

from __future__ import annotations

import errno
import signal

__all__ = ["ManagerDied", "ManagerMissing", "ManagerRefused", "OwnerDied", "ProcessDied"]


class ProcessDied(Exception):
    """A process ended before it had done what was expected of it.

    `pid` and `name` say which one, `exitcode` how it ended: its exit code, minus the signal, or None if that is
    not known; `signal` is the signal that ended it, or None.
    """

    __module__ = "weft"
    _did = "process {who} ended"

    def __init__(self, pid: int | None, name: str | None = None, exitcode: int | None = None) -> None:
        super().__init__(pid, name, exitcode)
        self.pid = pid
        self.name = name
        self.exitcode = exitcode

    @property
    def signal(self) -> signal.Signals | int | None:
        """The signal that ended the process."""
        if self.exitcode is None or self.exitcode >= 0:
            return None
        try:
            return signal.Signals(-self.exitcode)
        except ValueError:
            return -self.exitcode  # a real-time signal has no name

    def __str__(self) -> str:
        who = " ".join(str(part) for part in (self.name, self.pid) if part is not None) or "of unknown id"
        cause = self.signal
        if cause is not None:
            how = f"killed by {cause.name if isinstance(cause, signal.Signals) else f'signal {cause}'}"
        elif self.exitcode is not None:
            how = f"exit code {self.exitcode}"
        else:
            how = "how is not known"
        return f"{self._did.format(who=who)} ({how})"


class OwnerDied(ProcessDied):
    """The process that held a lock, or worked on what the lock protects, ended without releasing it.

    Raised once, to one of those that wait. The lock is free then; what it protects may be half done. `exitcode` and `signal` are
    None if nobody can say any more how the process ended.
    """

    __module__ = "weft"
    _did = "process {who} ended while it held the lock"


class ManagerDied(ProcessDied, EOFError, ConnectionResetError):
    """The server process of a manager ended, and with it all objects that were in it.

    Raised by whatever is waiting for an answer of it, at once, and by every later use of a proxy. `exitcode` is 0 if the
    manager was shut down in good order. `address` is where it was to be reached. `pid` is None if nobody told this process who
    serves there. What the standard library raises in its place is what this is an instance of: where nobody can be reached,
    that is `weft.ManagerRefused` or `weft.ManagerMissing`.
    """

    __module__ = "weft"
    _did = "process {who}, the server of a manager, ended, and its objects with it"
    _errno = errno.ECONNRESET

    def __init__(
        self, pid: int | None, name: str | None = None, exitcode: int | None = None, address: object = None
    ) -> None:
        super().__init__(pid, name, exitcode)
        self.address = address
        self.errno = self._errno
        self.strerror = str(self)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.pid, self.name, self.exitcode, self.address)

    def __str__(self) -> str:
        if self.pid is None:
            where = "" if self.address is None else f" at {self.address!r}"
            return f"the manager{where} {self._lost()}"
        if self.exitcode == 0:
            return f"the manager with the server process {self.pid} was shut down, and its objects are gone"
        return super().__str__()

    def _lost(self) -> str:
        return "ended, and its objects with it: it ended the connection, and nobody answers there any more"


class ManagerRefused(ManagerDied, ConnectionRefusedError):
    """`ManagerDied` where the standard library says ConnectionRefusedError: nobody listens at the address."""

    __module__ = "weft"
    _errno = errno.ECONNREFUSED

    def _lost(self) -> str:
        return (
            "is not there: it ended, or was not started; nobody listens at this address (connection refused)"
        )


class ManagerMissing(ManagerDied, FileNotFoundError):
    """`ManagerDied` where the standard library says FileNotFoundError: the server's socket is gone."""

    __module__ = "weft"
    _errno = errno.ENOENT

    def _lost(self) -> str:
        return "is not there: it ended, or was not started; there is no socket at this address (no such file)"
