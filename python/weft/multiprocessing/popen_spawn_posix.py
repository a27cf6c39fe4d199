"""Starting a process by executing a fresh interpreter."""

from __future__ import annotations

import os

from weft._native import _process
from weft.multiprocessing import _payload, _popen
from weft.multiprocessing._running import this_process
from weft.multiprocessing._stock import resource_tracker, spawn, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weft.multiprocessing._stock import AnyProcess

__all__ = ["Popen"]

# The standard library's line in a child, and ours.
_STOCK_PROGRAM = "from multiprocessing.spawn import spawn_main; spawn_main("
_PROGRAM = (
    "import sys; sys.path.insert(0, {path!r}); from weft.multiprocessing._spawned import main; "
    "del sys.path[0]; main({numbers})"
)

# What a child waits for before it runs.
GO = b"\0"


class _DupFd:
    """A descriptor under the number it has in the child too."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        """The descriptor."""
        return self.fd


class Popen(_popen.Popen):
    """A spawned process: a fresh interpreter that is told what to run."""

    method = "spawn"
    DupFd = _DupFd

    def __init__(self, process_obj: AnyProcess) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _launch(self, process_obj: AnyProcess) -> None:
        tracker = resource_tracker.getfd()
        content = _payload.dump_all(self, process_obj)
        held: list[int] = []
        try:
            payload = os.memfd_create("weft-payload", os.MFD_CLOEXEC)
            held.append(payload)
            # The child runs when it is told to: not if an exception, as of Ctrl-C, comes before anybody knows its id.
            go, tell = os.pipe()
            held.extend((go, tell))
            with open(payload, "wb", closefd=False) as file:
                file.write(content)
            os.lseek(payload, 0, os.SEEK_SET)
            numbers = (payload, this_process(), tracker, _process.lifeline_ensure(), go)
            self._fds.extend(numbers)
            self.pid = util.spawnv_passfds(spawn.get_executable(), command_line(*numbers), self._fds)
            os.write(tell, GO)
        finally:
            for descriptor in held:
                os.close(descriptor)


def command_line(payload: int, parent: int, tracker: int, lifeline: int, go: int) -> list[str | bytes]:
    """How to execute the child; with weft's entry in the place of the standard library's."""
    # The executable may be bytes.
    line: list[str | bytes] = spawn.get_command_line(tracker_fd=tracker, pipe_handle=payload)
    numbers = f"{payload}, {parent}, {tracker}, {lifeline}, {go}"
    program = _PROGRAM.format(path=package_root(), numbers=numbers)
    return [program if isinstance(word, str) and word.startswith(_STOCK_PROGRAM) else word for word in line]


def package_root() -> str:
    """The directory that holds weft, which the child's own path need not have."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
