"""What the three start methods have in common once the process exists."""

from __future__ import annotations

import os
import signal

from weft import _native
from weft._native import _process
from weft.multiprocessing._stock import util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from weft.multiprocessing._stock import AnyProcess


class Popen:
    """A started process: what `BaseProcess` calls, as the standard library's `popen_fork.Popen`.

    A subclass starts the process in `_launch` and sets `pid`, or `_child` if the process is not this one's own child.
    """

    method = ""
    pid: int
    returncode: int | None

    def __init__(self, process_obj: AnyProcess) -> None:
        util._flush_std_streams()
        self.returncode = None
        self.finalizer: Callable[[], object] | None = None
        self._stored = False
        self._launch(process_obj)

    def _launch(self, process_obj: AnyProcess) -> None:
        raise NotImplementedError

    def duplicate_for_child(self, fd: int) -> int:
        """What stands for this descriptor in what the child gets."""
        return fd

    @property
    def _child(self) -> _process.Child:
        child: _process.Child | None = self.__dict__.get("_child")
        if child is None:
            child = self.__dict__["_child"] = _process.Child(self.pid)
        return child

    @_child.setter
    def _child(self, child: _process.Child) -> None:
        self.__dict__["_child"] = child
        self.pid = child.pid

    @property
    def sentinel(self) -> int | Popen:
        """A descriptor that is ready when the process has ended.

        The first to look is always `BaseProcess.start`, which only stores it: it gets this object, whose `fileno`
        is the descriptor, so that there is none before somebody needs it (see `_sentinel`).
        """
        if not self._stored:
            self._stored = True
            if "_child" in self.__dict__:
                # The process object has it now. Up to here an exception, as of Ctrl-C, ends the child, of which nobody
                # would know.
                self._child.claim()
            return self
        return self.fileno()

    @sentinel.setter
    def sentinel(self, descriptor: int) -> None:
        # For subclasses written for the standard library, which have a descriptor of their own.
        self.__dict__["_own_sentinel"] = descriptor

    def fileno(self) -> int:
        """A descriptor that is ready when the process has ended; open until `close`."""
        own: int | None = self.__dict__.get("_own_sentinel")
        return self._child.sentinel() if own is None else own

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, minus the signal, or None while it runs; waits for it if `flag` is 0."""
        if self.returncode is None:
            status = self._child.poll() if flag == os.WNOHANG else self._child.wait(None)
            if status is not None:
                self._ended(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """As `poll`, after at most that many seconds."""
        if self.returncode is None:
            status = self._child.wait(timeout)
            if status is not None:
                self._ended(status)
        return self.returncode

    def _ended(self, status: int) -> None:
        self.returncode = status
        # Shared memory that was kept for the child.
        self.__dict__.pop("_weft_passed_on", None)
        if status < 0:
            _native.sweep_shared_memory()

    def _send_signal(self, sig: int) -> None:
        if self.returncode is None:
            self._child.signal(sig)

    def interrupt(self) -> None:
        """Send SIGINT."""
        self._send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of what is held for the process, which has ended."""
        if self.finalizer is not None:
            self.finalizer()
        self.__dict__.pop("_child", None)
